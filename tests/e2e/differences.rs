//! What a client is told when it errs: the same by an engine and by Skep over that engine alone.
//!
//! Statuses and the form of errors are compared, not their words, which name nodes and come from
//! different parsers. Where Skep answers another status on purpose, [`DELIBERATE`] says which and
//! why.

use std::fmt::Write as _;

use crate::{
    bed::Bed,
    fleet::{Fleet, IMAGE},
    http::{Reply, exchange},
};

/// Method, path, and body of a request that changes nothing.
type Row = (&'static str, &'static str, &'static str);

/// Requests that both answer with the same status. `web` runs, `idle` was never started, `web` is
/// on network `lan` and uses volume `data`.
const SAME: &[Row] = &[
    // Containers that are not there.
    ("GET", "/containers/nobody/json", ""),
    ("GET", "/containers/nobody/logs?stdout=1", ""),
    ("GET", "/containers/nobody/top", ""),
    ("GET", "/containers/nobody/stats?stream=0", ""),
    ("GET", "/containers/nobody/changes", ""),
    ("GET", "/containers/nobody/export", ""),
    ("GET", "/containers/nobody/archive?path=/x", ""),
    ("PUT", "/containers/nobody/archive?path=/", "x"),
    ("POST", "/containers/nobody/start", ""),
    ("POST", "/containers/nobody/stop", ""),
    ("POST", "/containers/nobody/kill", ""),
    ("POST", "/containers/nobody/restart", ""),
    ("POST", "/containers/nobody/pause", ""),
    ("POST", "/containers/nobody/unpause", ""),
    ("POST", "/containers/nobody/wait", ""),
    ("POST", "/containers/nobody/resize?h=1&w=1", ""),
    ("POST", "/containers/nobody/rename?name=x", ""),
    ("POST", "/containers/nobody/update", "{}"),
    ("POST", "/containers/nobody/exec", r#"{"Cmd":["x"]}"#),
    ("POST", "/commit?container=nobody", ""),
    ("DELETE", "/containers/nobody", ""),
    // Containers in another state than they should be.
    ("GET", "/containers/web/logs", ""),
    ("GET", "/containers/web/archive", ""),
    ("GET", "/containers/web/archive?path=/nowhere", ""),
    ("PUT", "/containers/web/archive?path=/nowhere", "x"),
    ("GET", "/containers/idle/top", ""),
    ("POST", "/containers/idle/kill", ""),
    ("POST", "/containers/idle/pause", ""),
    ("POST", "/containers/web/unpause", ""),
    ("POST", "/containers/web/start", ""),
    ("POST", "/containers/idle/stop", ""),
    ("POST", "/containers/web/kill?signal=NOSUCH", ""),
    ("POST", "/containers/web/rename", ""),
    ("POST", "/containers/web/rename?name=idle", ""),
    ("POST", "/containers/web/rename?name=-bad!", ""),
    ("POST", "/containers/web/resize", ""),
    ("POST", "/containers/web/update", "{"),
    ("POST", "/containers/web/exec", "{"),
    ("POST", "/containers/web/exec", "{}"),
    ("POST", "/containers/idle/exec", r#"{"Cmd":["x"]}"#),
    ("DELETE", "/containers/web", ""),
    ("GET", "/exec/nothing/json", ""),
    ("POST", "/exec/nothing/start", "{}"),
    ("POST", "/exec/nothing/resize?h=1&w=1", ""),
    // Containers that cannot be made.
    ("POST", "/containers/create", "{}"),
    (
        "POST",
        "/containers/create?name=web",
        r#"{"Image":"busybox"}"#,
    ),
    (
        "POST",
        "/containers/create?name=bad!",
        r#"{"Image":"busybox"}"#,
    ),
    (
        "POST",
        "/containers/create?name=new",
        r#"{"Image":"BAD NAME"}"#,
    ),
    (
        "POST",
        "/containers/create?name=new",
        r#"{"Image":"busybox","HostConfig":{"Memory":1}}"#,
    ),
    (
        "POST",
        "/containers/create?name=new",
        r#"{"Image":"busybox","HostConfig":{"Binds":["x:y"]}}"#,
    ),
    (
        "POST",
        "/containers/create?name=new",
        r#"{"Image":"busybox","HostConfig":{"RestartPolicy":{"Name":"sometimes"}}}"#,
    ),
    // Lists: {"nonsense":["x"]}, {"status":["sideways"]}, {"health":["so-so"]}, {"dangling":["x"]}.
    (
        "GET",
        "/containers/json?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D",
        "",
    ),
    (
        "GET",
        "/images/json?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D",
        "",
    ),
    (
        "GET",
        "/networks?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D",
        "",
    ),
    (
        "GET",
        "/volumes?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D",
        "",
    ),
    (
        "GET",
        "/containers/json?filters=%7B%22status%22%3A%5B%22sideways%22%5D%7D",
        "",
    ),
    (
        "GET",
        "/containers/json?filters=%7B%22health%22%3A%5B%22so-so%22%5D%7D",
        "",
    ),
    (
        "GET",
        "/images/json?filters=%7B%22dangling%22%3A%5B%22x%22%5D%7D",
        "",
    ),
    (
        "GET",
        "/volumes?filters=%7B%22dangling%22%3A%5B%22x%22%5D%7D",
        "",
    ),
    (
        "POST",
        "/containers/prune?filters=%7B%22nonsense%22%3A%5B%22x%22%5D%7D",
        "",
    ),
    // Images.
    ("GET", "/images/nothing/json", ""),
    ("GET", "/images/nothing/history", ""),
    ("GET", "/images/nothing/get", ""),
    ("POST", "/images/nothing/tag?repo=a&tag=b", ""),
    ("POST", "/images/busybox/tag?repo=BAD&tag=b", ""),
    ("DELETE", "/images/nothing", ""),
    ("DELETE", "/images/busybox", ""),
    ("POST", "/commit?container=web&repo=BAD", ""),
    ("POST", "/build?version=9", ""),
    // Networks.
    ("GET", "/networks/nothing", ""),
    ("POST", "/networks/create", "{"),
    (
        "POST",
        "/networks/create",
        r#"{"Name":"lan","Driver":"bridge","CheckDuplicate":true}"#,
    ),
    (
        "POST",
        "/networks/create",
        r#"{"Name":"new","Driver":"bridge","IPAM":{"Config":[{"Subnet":"x"}]}}"#,
    ),
    (
        "POST",
        "/networks/create",
        r#"{"Name":"bridge","Driver":"bridge"}"#,
    ),
    ("DELETE", "/networks/nothing", ""),
    ("DELETE", "/networks/bridge", ""),
    ("DELETE", "/networks/lan", ""),
    ("POST", "/networks/lan/connect", r#"{"Container":"nobody"}"#),
    ("POST", "/networks/lan/connect", r#"{"Container":"web"}"#),
    (
        "POST",
        "/networks/lan/disconnect",
        r#"{"Container":"nobody"}"#,
    ),
    (
        "POST",
        "/networks/nothing/connect",
        r#"{"Container":"web"}"#,
    ),
    // Volumes.
    ("GET", "/volumes/nothing", ""),
    ("POST", "/volumes/create", "{"),
    ("POST", "/volumes/create", r#"{"Name":"b!d"}"#),
    ("DELETE", "/volumes/nothing", ""),
    ("DELETE", "/volumes/data", ""),
    // Paths and methods that mean nothing, and versions that nobody speaks.
    ("GET", "/", ""),
    ("GET", "/unknown", ""),
    ("GET", "/v1.41/unknown", ""),
    ("GET", "/vx/info", ""),
    ("GET", "/v9.99/info", ""),
    ("GET", "/v1.1/info", ""),
    ("GET", "/containers/web", ""),
    ("GET", "/containers", ""),
    ("GET", "/containers/create", ""),
    ("GET", "/build", ""),
    ("PUT", "/info", ""),
    ("PUT", "/containers/web/start", ""),
    ("PATCH", "/containers/web", ""),
    ("POST", "/containers/json", ""),
    ("POST", "/_ping", ""),
    ("DELETE", "/version", ""),
    // Swarm mode.
    ("GET", "/services", ""),
    ("GET", "/secrets", ""),
    ("GET", "/configs", ""),
    ("GET", "/swarm", ""),
    ("GET", "/services/x", ""),
    ("POST", "/services/create", "{}"),
    ("POST", "/secrets/create", "{}"),
];

/// Requests that Skep answers with a status of its own, and why.
const DELIBERATE: &[(Row, u16, &str)] = &[
    (
        ("POST", "/containers/create", "{"),
        400,
        "engines since 23 say 400 to broken JSON, 20.10 says 500",
    ),
    (
        ("POST", "/containers/create", ""),
        400,
        "as with broken JSON",
    ),
    (
        ("GET", "/containers/json?filters=%7B", ""),
        400,
        "as with broken JSON",
    ),
    (
        ("GET", "/images/json?filters=%7B", ""),
        400,
        "as with broken JSON",
    ),
    (
        ("GET", "/networks?filters=%7B", ""),
        400,
        "as with broken JSON",
    ),
    (
        ("GET", "/events?until=abc", ""),
        400,
        "classic's; the client's fault, so no 500",
    ),
    (
        ("POST", "/build/cancel", ""),
        400,
        "classic's; the client's fault, so no 500",
    ),
    (
        (
            "POST",
            "/containers/create?name=new",
            r#"{"Image":"busybox","HostConfig":{"VolumesFrom":["nobody"]}}"#,
        ),
        500,
        "no node can satisfy it, which is classic's 500 and its text",
    ),
    (
        (
            "POST",
            "/containers/create?name=new",
            r#"{"Image":"busybox","HostConfig":{"NetworkMode":"container:nobody"}}"#,
        ),
        500,
        "no node can satisfy it; an engine notices only when the container starts",
    ),
    (
        ("POST", "/containers/nobody/exec", "{}"),
        404,
        "which engine would check the body is not known without the container",
    ),
    (("GET", "/containers/nobody/logs", ""), 404, "as with exec"),
    (
        ("DELETE", "/containers/", ""),
        404,
        "classic's: an empty name is one that no container has",
    ),
    (
        ("POST", "/networks/lan/connect", "{"),
        404,
        "classic's: without a container no engine is meant",
    ),
    (
        ("POST", "/networks/lan/disconnect", "{}"),
        404,
        "classic's: without a container no engine is meant",
    ),
    (("GET", "/images/viz", ""), 501, "classic's one refusal"),
];

#[test]
fn a_client_that_errs_is_told_the_same_as_by_an_engine() {
    let bed = Bed::over(Fleet::of_this_slot().narrowed(1), &[]);
    bed.docker.ok(&["network", "create", "-d", "bridge", "lan"]);
    bed.docker.ok(&["volume", "create", "data"]);
    bed.sleeper("web", &["--net", "lan", "-v", "data:/data"]);
    bed.docker.ok(&["create", "--name", "idle", IMAGE]);

    let (engine, skep) = (&*bed.fleet.addresses()[0], bed.manager.address());
    let mut differences = String::new();
    for row @ &(method, path, body) in SAME {
        let expected = exchange(engine, method, path, body);
        let got = exchange(skep, method, path, body);
        if got.status != expected.status || !is_well_formed(&got) {
            writeln!(differences, "{row:?}\n  {expected:?}\n  {got:?}").expect("text grows");
        }
    }
    for (row @ (method, path, body), status, why) in DELIBERATE {
        let got = exchange(skep, method, path, body);
        if got.status != *status || !is_well_formed(&got) {
            writeln!(differences, "{row:?}: {status}, {why}\n  {got:?}").expect("text grows");
        }
    }
    assert!(differences.is_empty(), "{differences}");
    // None of them did anything.
    assert_eq!(bed.ps(&["-a"]), ["node-0/idle", "node-0/web"]);
    assert_eq!(bed.inspect("web", "{{.State.Status}}"), "running");
}

/// Whether an answer is no error, or one in the form that engines give.
fn is_well_formed(reply: &Reply) -> bool {
    reply.status < 400 || reply.error_message().is_some_and(|text| !text.is_empty())
}
