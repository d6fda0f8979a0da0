//! Which route a request means.

use http::Method;
use percent_encoding::percent_decode_str;

/// A request's path, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `1.41`, if the path begins with `/v1.41`.
    pub version: Option<String>,
    /// What is asked for.
    pub route: Route,
}

/// What a request asks for. Names are decoded and may contain slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET|HEAD /_ping`
    Ping,
    /// `GET /info`
    Info,
    /// `GET /version`
    Version,
    /// `GET /events`
    Events,
    /// `GET /containers/json`
    Containers,
    /// `POST /containers/create`
    Create,
    /// `GET /containers/{name}/json`
    Inspect(String),
    /// `POST /containers/{name}/rename`
    Rename(String),
    /// `DELETE /containers/{name}`
    Remove(String),
    /// `POST /containers/{name}/exec`
    ExecCreate(String),
    /// Anything else about one container that its engine answers.
    Container(String, Operation),
    /// `/exec/{id}/start`, `/exec/{id}/json`, `/exec/{id}/resize`
    Exec(String, &'static str),
    /// `GET /images/json`
    Images,
    /// `POST /images/create`
    ImagePull,
    /// `GET /images/{name}/json`, `/history`, `/get`
    Image(String, &'static str),
    /// `GET /images/get`
    ImagesSave,
    /// `POST /images/load`
    ImageLoad,
    /// `POST /images/{name}/push`
    ImagePush(String),
    /// `POST /images/{name}/tag`
    ImageTag(String),
    /// `DELETE /images/{name}`
    ImageRemove(String),
    /// `GET /networks`
    Networks,
    /// `GET /networks/{name}`
    Network(String),
    /// `GET /volumes`
    Volumes,
    /// `GET /volumes/{name}`
    Volume(String),
    /// `POST /networks/create`
    NetworkCreate,
    /// `DELETE /networks/{name}`
    NetworkRemove(String),
    /// `POST /networks/{name}/connect`
    NetworkConnect(String),
    /// `POST /networks/{name}/disconnect`
    NetworkDisconnect(String),
    /// `POST /volumes/create`
    VolumeCreate,
    /// `DELETE /volumes/{name}`
    VolumeRemove(String),
    /// `PUT /volumes/{name}`
    VolumeUpdate,
    /// `POST /{build,containers,images,networks,volumes}/prune`
    Prune(Prunable),
    /// `GET /plugins`
    Plugins,
    /// `GET /system/df`
    DiskUsage,
    /// `POST /build`
    Build,
    /// `POST /build/cancel`
    BuildCancel,
    /// `POST /session`
    Session,
    /// `POST /grpc`
    Grpc,
    /// `POST /commit`
    Commit,
    /// A question that any healthy node can answer; its decoded path with the first slash.
    Anywhere(String),
    /// `GET /nodes`
    Nodes,
    /// `GET /nodes/{id}`
    Node(String),
    /// `POST /nodes/{id}/update`
    NodeUpdate(String),
    /// `DELETE /nodes/{id}`
    NodeRemove,
    /// `POST /skep/agents/{addr}/lease`
    AgentLease(String),
    /// `POST /skep/agents/{addr}/fenced`
    AgentFenced(String),
    /// `POST /skep/rebalance`
    Rebalance,
    /// `/skep/explain`
    Explain,
    /// `/v1/clusters/...`, with what follows
    Tokens(String),
    /// `GET /tasks`
    Tasks,
    /// `GET /tasks/{id}`
    Task(String),
    /// A route of swarm mode, which this cluster is not.
    SwarmMode,
    /// `OPTIONS` of anything
    Options,
    /// What classic Swarm refused with words of its own.
    NotInCluster,
    /// A route of the Docker API that is not there yet; its decoded path without the version and
    /// the first slash.
    Unsupported(String),
    /// No route of the Docker API.
    Unknown,
    /// The path is not written the one right way; this is how it should be.
    Redirect(String),
}

/// What a prune removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prunable {
    /// What builds keep to be faster the next time.
    BuildCache,
    /// Containers that do not run.
    Containers,
    /// Images that nothing uses.
    Images,
    /// Networks that nothing uses.
    Networks,
    /// Volumes that nothing uses.
    Volumes,
}

/// What a proxied container route does, as far as the cluster cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The path behind the name: `logs`, `attach/ws`.
    pub path: &'static str,
    /// What it leaves behind.
    pub effect: Effect,
}

/// When a proxied call changes the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Never.
    None,
    /// When the answer begins.
    AtHead,
    /// When the answer ends.
    AtEnd,
}

/// The container routes that the owner's engine answers, longest path first.
const OPERATIONS: [(&str, &str, Effect); 22] = [
    ("GET", "attach/ws", Effect::None),
    ("POST", "attach", Effect::None),
    ("GET", "archive", Effect::None),
    ("HEAD", "archive", Effect::None),
    ("PUT", "archive", Effect::None),
    ("GET", "changes", Effect::None),
    ("GET", "export", Effect::None),
    ("GET", "logs", Effect::None),
    ("GET", "stats", Effect::None),
    ("GET", "top", Effect::None),
    ("POST", "resize", Effect::None),
    ("POST", "copy", Effect::None),
    ("GET", "checkpoints", Effect::None),
    ("POST", "checkpoints", Effect::AtHead),
    ("POST", "start", Effect::AtHead),
    ("POST", "stop", Effect::AtHead),
    ("POST", "kill", Effect::AtHead),
    ("POST", "restart", Effect::AtHead),
    ("POST", "pause", Effect::AtHead),
    ("POST", "unpause", Effect::AtHead),
    ("POST", "update", Effect::AtHead),
    ("POST", "wait", Effect::AtEnd),
];

/// Routes that the Docker API has and this one has not; `*` is any text that is not empty.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("POST", "plugins/create"),
    ("GET", "plugins/privileges"),
    ("POST", "plugins/pull"),
    ("GET", "plugins/*/json"),
    ("DELETE", "plugins/*"),
    ("POST", "plugins/*"),
    ("GET", "configs"),
    ("POST", "configs/create"),
    ("GET", "configs/*"),
    ("DELETE", "configs/*"),
    ("POST", "configs/*/update"),
    ("GET", "secrets"),
    ("POST", "secrets/create"),
    ("GET", "secrets/*"),
    ("DELETE", "secrets/*"),
    ("POST", "secrets/*/update"),
    ("GET", "services"),
    ("POST", "services/create"),
    ("GET", "services/*"),
    ("DELETE", "services/*"),
    ("POST", "services/*/update"),
    ("GET", "swarm"),
    ("POST", "swarm/init"),
    ("POST", "swarm/join"),
    ("POST", "swarm/leave"),
    ("POST", "swarm/unlock"),
    ("GET", "swarm/unlockkey"),
    ("POST", "swarm/update"),
    ("GET", "tasks/*/logs"),
];

/// What the routes of swarm mode begin with.
const SWARM_MODE: [&str; 5] = ["configs", "secrets", "services", "swarm", "tasks"];

/// Finds the route of a method and an encoded path.
pub fn route(method: &Method, path: &str) -> Target {
    if let Some(clean) = canonical(path) {
        return Target {
            version: None,
            route: Route::Redirect(clean),
        };
    }
    let (version, rest) = split_version(path);
    let decoded = percent_decode_str(rest).decode_utf8_lossy();
    Target {
        version: version.map(str::to_owned),
        route: find(method, decoded.trim_start_matches('/')),
    }
}

fn find(method: &Method, path: &str) -> Route {
    if method == Method::OPTIONS {
        return Route::Options;
    }
    let get = method == Method::GET;
    let post = method == Method::POST;
    let missing = || unserved(method, path);
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match (first, rest) {
        ("_ping", "") if get || method == Method::HEAD => Route::Ping,
        ("info", "") if get => Route::Info,
        ("version", "") if get => Route::Version,
        ("events", "") if get => Route::Events,
        ("containers", "json" | "ps") if get => Route::Containers,
        ("containers", "create") if post => Route::Create,
        ("containers", "prune") if post => Route::Prune(Prunable::Containers),
        ("containers", rest) => container(method, rest).unwrap_or_else(missing),
        ("exec", rest) => exec(method, rest).unwrap_or_else(missing),
        ("images", "json") if get => Route::Images,
        ("images", "create") if post => Route::ImagePull,
        ("images", "prune") if post => Route::Prune(Prunable::Images),
        ("images", "viz") => Route::NotInCluster,
        ("images", "get") if get => Route::ImagesSave,
        ("images", "load") if post => Route::ImageLoad,
        ("images", "search") if get => Route::Anywhere(format!("/{path}")),
        ("auth", "") if post => Route::Anywhere(format!("/{path}")),
        ("distribution", rest) if get && named(rest, "json").is_some_and(|n| !n.is_empty()) => {
            Route::Anywhere(format!("/{path}"))
        }
        ("build", "") if post => Route::Build,
        ("build", "cancel") if post => Route::BuildCancel,
        ("build", "prune") if post => Route::Prune(Prunable::BuildCache),
        ("session", "") if post => Route::Session,
        ("grpc", "") if post => Route::Grpc,
        ("commit", "") if post => Route::Commit,
        ("plugins", "") if get => Route::Plugins,
        ("images", rest) if get => named(rest, "json")
            .map(|name| Route::Image(name, "json"))
            .or_else(|| named(rest, "history").map(|name| Route::Image(name, "history")))
            .or_else(|| named(rest, "get").map(|name| Route::Image(name, "get")))
            .unwrap_or_else(missing),
        ("images", rest) if post => named(rest, "push")
            .map(Route::ImagePush)
            .or_else(|| named(rest, "tag").map(Route::ImageTag))
            .unwrap_or_else(missing),
        ("images", name) if method == Method::DELETE && !name.is_empty() => {
            Route::ImageRemove(name.to_owned())
        }
        ("networks", "") if get => Route::Networks,
        ("networks", name) if get => Route::Network(name.to_owned()),
        ("networks", rest) => network(method, rest).unwrap_or_else(missing),
        ("volumes", "") if get => Route::Volumes,
        ("volumes", name) if get => Route::Volume(name.to_owned()),
        ("volumes", rest) => volume(method, rest).unwrap_or_else(missing),
        ("system", "df") if get => Route::DiskUsage,
        ("nodes", "") if get => Route::Nodes,
        ("nodes", id) if get => Route::Node(id.to_owned()),
        ("nodes", rest) if post && named(rest, "update").is_some_and(|id| !id.is_empty()) => {
            named(rest, "update").map_or_else(missing, Route::NodeUpdate)
        }
        ("nodes", id) if method == Method::DELETE && !id.is_empty() => Route::NodeRemove,
        ("tasks", "") if get => Route::Tasks,
        ("tasks", id) if get && !id.contains('/') => Route::Task(id.to_owned()),
        ("skep", rest) if post && rest.starts_with("agents/") => {
            let rest = &rest["agents/".len()..];
            named(rest, "lease")
                .map(Route::AgentLease)
                .or_else(|| named(rest, "fenced").map(Route::AgentFenced))
                .unwrap_or_else(missing)
        }
        ("skep", "rebalance") if post => Route::Rebalance,
        ("skep", "explain") if get || post => Route::Explain,
        ("v1", "clusters") => Route::Tokens(String::new()),
        ("v1", rest) if rest.starts_with("clusters/") => {
            Route::Tokens(rest["clusters/".len()..].to_owned())
        }
        _ => missing(),
    }
}

/// Tells a route that is not there yet from one that never was.
fn unserved(method: &Method, path: &str) -> Route {
    let fits = |pattern: &str| match pattern.split_once('*') {
        Some((before, after)) => path
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|name| !name.is_empty()),
        None => path == pattern,
    };
    let known = UNSUPPORTED
        .iter()
        .any(|(wanted, pattern)| method.as_str() == *wanted && fits(pattern));
    let first = path.split('/').next().unwrap_or_default();
    if known && SWARM_MODE.contains(&first) {
        Route::SwarmMode
    } else if known {
        Route::Unsupported(path.to_owned())
    } else {
        Route::Unknown
    }
}

fn container(method: &Method, rest: &str) -> Option<Route> {
    if *method == Method::DELETE {
        return Some(Route::Remove(rest.to_owned()));
    }
    let post = *method == Method::POST;
    if *method == Method::GET
        && let Some(name) = named(rest, "json")
    {
        return Some(Route::Inspect(name));
    }
    if post && let Some(name) = named(rest, "rename") {
        return Some(Route::Rename(name));
    }
    if post && let Some(name) = named(rest, "exec") {
        return Some(Route::ExecCreate(name));
    }
    for (wanted, path, effect) in OPERATIONS {
        if method.as_str() == wanted
            && let Some(name) = named(rest, path)
        {
            return Some(Route::Container(name, Operation { path, effect }));
        }
    }
    None
}

fn network(method: &Method, rest: &str) -> Option<Route> {
    match (method.as_str(), rest) {
        (_, "") => None,
        ("DELETE", name) => Some(Route::NetworkRemove(name.to_owned())),
        ("POST", "create") => Some(Route::NetworkCreate),
        ("POST", "prune") => Some(Route::Prune(Prunable::Networks)),
        ("POST", rest) => named(rest, "connect")
            .map(Route::NetworkConnect)
            .or_else(|| named(rest, "disconnect").map(Route::NetworkDisconnect)),
        _ => None,
    }
}

fn volume(method: &Method, rest: &str) -> Option<Route> {
    match (method.as_str(), rest) {
        (_, "") => None,
        ("DELETE", name) => Some(Route::VolumeRemove(name.to_owned())),
        ("PUT", _) => Some(Route::VolumeUpdate),
        ("POST", "create") => Some(Route::VolumeCreate),
        ("POST", "prune") => Some(Route::Prune(Prunable::Volumes)),
        _ => None,
    }
}

fn exec(method: &Method, rest: &str) -> Option<Route> {
    for (wanted, path) in [("POST", "start"), ("POST", "resize"), ("GET", "json")] {
        if method.as_str() == wanted
            && let Some(id) = named(rest, path)
        {
            return Some(Route::Exec(id, path));
        }
    }
    None
}

/// The name in front of `/<path>`; it may be empty and may contain slashes.
fn named(rest: &str, path: &str) -> Option<String> {
    let name = rest.strip_suffix(path)?.strip_suffix('/')?;
    Some(name.to_owned())
}

/// Splits `/v1.41/info` into `1.41` and `/info`.
fn split_version(path: &str) -> (Option<&str>, &str) {
    let Some(rest) = path.strip_prefix("/v") else {
        return (None, path);
    };
    let (version, rest) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match version.split_once('.') {
        Some((major, minor)) if is_number(major) && is_number(minor) => (Some(version), rest),
        _ => (None, path),
    }
}

/// The path with `//`, `/./`, and `/../` resolved, if there are any.
fn canonical(path: &str) -> Option<String> {
    let odd = path.contains("//") || path.split('/').any(|part| part == "." || part == "..");
    if !odd {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    Some(format!("/{}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &Method, path: &str, version: Option<&str>, expected: &Route) {
        let target = route(method, path);
        assert_eq!(target.route, *expected, "{method} {path}");
        assert_eq!(target.version.as_deref(), version, "{method} {path}");
    }

    fn operation(path: &'static str, effect: Effect) -> Operation {
        Operation { path, effect }
    }

    #[test]
    fn routes_exist_with_and_without_a_version() {
        check(&Method::GET, "/info", None, &Route::Info);
        check(&Method::GET, "/v1.41/info", Some("1.41"), &Route::Info);
        check(&Method::HEAD, "/_ping", None, &Route::Ping);
        check(&Method::GET, "/vX/info", None, &Route::Unknown);
    }

    #[test]
    fn names_may_look_like_anything() {
        let json = |name: &str| Route::Inspect(name.to_owned());
        check(
            &Method::GET,
            "/v1.41/containers/web/json",
            Some("1.41"),
            &json("web"),
        );
        check(
            &Method::GET,
            "/containers/node-1/web/json",
            None,
            &json("node-1/web"),
        );
        check(
            &Method::GET,
            "/containers/node-1%2Fweb/json",
            None,
            &json("node-1/web"),
        );
        check(&Method::GET, "/containers/json/json", None, &json("json"));
        check(
            &Method::GET,
            "/containers/containers/logs",
            None,
            &Route::Container("containers".to_owned(), operation("logs", Effect::None)),
        );
        check(
            &Method::GET,
            "/v1.24/containers/v1/attach/ws",
            Some("1.24"),
            &Route::Container("v1".to_owned(), operation("attach/ws", Effect::None)),
        );
        check(
            &Method::DELETE,
            "/containers/",
            None,
            &Route::Remove(String::new()),
        );
        check(
            &Method::GET,
            "/images/registry:5000/a/b:tag/json",
            None,
            &Route::Image("registry:5000/a/b:tag".to_owned(), "json"),
        );
        check(
            &Method::GET,
            "/networks/n0/bridge",
            None,
            &Route::Network("n0/bridge".to_owned()),
        );
        check(
            &Method::GET,
            "/v1.41/plugins",
            Some("1.41"),
            &Route::Plugins,
        );
    }

    #[test]
    fn what_is_missing_is_told_from_what_never_was() {
        let unsupported = |path: &str| Route::Unsupported(path.to_owned());
        check(
            &Method::POST,
            "/plugins/pull",
            None,
            &unsupported("plugins/pull"),
        );
        let push = "plugins/registry:5000/a/b/push";
        check(&Method::POST, &format!("/{push}"), None, &unsupported(push));
        check(&Method::GET, "/swarm", None, &Route::SwarmMode);
        check(&Method::GET, "/tasks/web/logs", None, &Route::SwarmMode);
        check(&Method::GET, "/services/web/logs", None, &Route::SwarmMode);
        check(&Method::GET, "/swarm/nonsense", None, &Route::Unknown);
        check(&Method::PUT, "/info", None, &Route::Unknown);
        check(&Method::GET, "/containers/web/stop", None, &Route::Unknown);
        check(&Method::GET, "/favicon.ico", None, &Route::Unknown);
        check(&Method::GET, "/images/viz", None, &Route::NotInCluster);
    }

    #[test]
    fn names_of_images_may_have_slashes() {
        let name = || "registry:5000/a/b".to_owned();
        let path = |rest: &str| format!("/images/registry:5000/a/b{rest}");
        for (method, rest, route) in [
            (Method::POST, "/tag", Route::ImageTag(name())),
            (Method::POST, "/push", Route::ImagePush(name())),
            (Method::DELETE, "", Route::ImageRemove(name())),
            (Method::GET, "/get", Route::Image(name(), "get")),
        ] {
            check(&method, &path(rest), None, &route);
        }
        check(&Method::GET, "/images/get", None, &Route::ImagesSave);
    }

    #[test]
    fn networks_and_volumes_may_be_named_like_a_route() {
        let node_net = || "n0/net".to_owned();
        for (method, path, expected) in [
            (Method::POST, "networks/create", Route::NetworkCreate),
            (
                Method::POST,
                "networks/n0/net/connect",
                Route::NetworkConnect(node_net()),
            ),
            (
                Method::POST,
                "networks/n0%2Fnet/disconnect",
                Route::NetworkDisconnect(node_net()),
            ),
            (
                Method::DELETE,
                "networks/prune",
                Route::NetworkRemove("prune".to_owned()),
            ),
            (
                Method::POST,
                "networks/prune",
                Route::Prune(Prunable::Networks),
            ),
            (
                Method::DELETE,
                "volumes/create",
                Route::VolumeRemove("create".to_owned()),
            ),
            (Method::PUT, "volumes/data", Route::VolumeUpdate),
            (
                Method::POST,
                "containers/prune",
                Route::Prune(Prunable::Containers),
            ),
            (Method::DELETE, "networks/", Route::Unknown),
            (Method::POST, "volumes/data", Route::Unknown),
        ] {
            check(&method, &format!("/{path}"), None, &expected);
        }
    }

    #[test]
    fn builds_and_questions_for_any_node_have_routes() {
        let anywhere = |path: &str| Route::Anywhere(path.to_owned());
        check(&Method::POST, "/v1.41/build", Some("1.41"), &Route::Build);
        check(&Method::POST, "/build/cancel", None, &Route::BuildCancel);
        check(&Method::POST, "/session", None, &Route::Session);
        check(&Method::POST, "/auth", None, &anywhere("/auth"));
        let path = "/distribution/host:5000/a/b:1/json";
        check(&Method::GET, path, None, &anywhere(path));
        check(
            &Method::GET,
            "/images/search",
            None,
            &anywhere("/images/search"),
        );
    }

    #[test]
    fn odd_paths_are_redirected() {
        let to = |path: &str| Route::Redirect(path.to_owned());
        check(&Method::GET, "/v1.41//info", None, &to("/v1.41/info"));
        check(&Method::GET, "/a/../info", None, &to("/info"));
    }

    #[test]
    fn effects_are_known() {
        for (path, effect) in [
            ("start", Effect::AtHead),
            ("wait", Effect::AtEnd),
            ("resize", Effect::None),
        ] {
            check(
                &Method::POST,
                &format!("/containers/x/{path}"),
                None,
                &Route::Container("x".to_owned(), operation(path, effect)),
            );
        }
    }
}
