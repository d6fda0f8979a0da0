//! Which call a request is: the routes of the API, by their patterns.

use percent_encoding::percent_decode_str;

/// Every route answered, by method and pattern: `{x}` stands for one segment, `{x...}` for one or more.
///
/// The pattern without its parameter values is also the name by which calls are counted. The most
/// frequent come first, because the table is searched in order.
const ROUTES: &[&str] = &[
    "GET /containers/json",
    "GET /containers/{id}/json",
    "POST /containers/create",
    "POST /containers/{id}/start",
    "GET /info",
    "GET /version",
    "GET /_ping",
    "HEAD /_ping",
    "GET /events",
    "GET /images/json",
    "GET /images/{name...}/json",
    "POST /images/create",
    "GET /networks",
    "GET /networks/{name}",
    "POST /networks/create",
    "POST /networks/{name}/connect",
    "POST /networks/{name}/disconnect",
    "DELETE /networks/{name}",
    "GET /volumes",
    "POST /volumes/create",
    "GET /volumes/{name}",
    "DELETE /volumes/{name}",
    "DELETE /containers/{id}",
    "POST /containers/{id}/stop",
    "POST /containers/{id}/kill",
    "POST /containers/{id}/restart",
    "POST /containers/{id}/pause",
    "POST /containers/{id}/unpause",
    "POST /containers/{id}/rename",
    "POST /containers/{id}/update",
    "POST /containers/{id}/wait",
    "POST /containers/{id}/resize",
    "POST /containers/{id}/attach",
    "POST /containers/{id}/exec",
    "GET /containers/{id}/top",
    "GET /containers/{id}/logs",
    "GET /containers/{id}/stats",
    "GET /containers/{id}/export",
    "GET /containers/{id}/changes",
    "GET /containers/{id}/archive",
    "HEAD /containers/{id}/archive",
    "PUT /containers/{id}/archive",
    "POST /exec/{id}/start",
    "POST /exec/{id}/resize",
    "GET /exec/{id}/json",
];

/// Finds the route of a request and the value of its parameter (empty if it has none).
pub(crate) fn find(method: &str, path: &str) -> Option<(&'static str, String)> {
    let path = strip_version(path);
    ROUTES.iter().find_map(|route| {
        let pattern = route.strip_prefix(method)?.strip_prefix(' ')?;
        let value = matches(pattern, path)?;
        Some((
            *route,
            percent_decode_str(value).decode_utf8_lossy().into_owned(),
        ))
    })
}

fn strip_version(path: &str) -> &str {
    let Some(rest) = path.strip_prefix("/v") else {
        return path;
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let is_version =
        rest[..end].contains('.') && rest[..end].bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_version { &rest[end..] } else { path }
}

fn matches<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return (pattern == path).then_some("");
    };
    let (parameter, after) = rest.split_once('}')?;
    let value = path.strip_prefix(before)?.strip_suffix(after)?;
    let fits = !value.is_empty() && (parameter.ends_with("...") || !value.contains('/'));
    fits.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, wanted: Option<(&str, &str)>) {
        let found = find(method, path);
        assert_eq!(
            found
                .as_ref()
                .map(|(route, value)| (*route, value.as_str())),
            wanted,
            "{method} {path}"
        );
    }

    #[test]
    fn finds_routes_with_and_without_a_version() {
        check("GET", "/v1.41/info", Some(("GET /info", "")));
        check("GET", "/info", Some(("GET /info", "")));
        check("GET", "/vast/info", None);
        check("POST", "/info", None);
    }

    #[test]
    fn parameters_do_not_swallow_other_segments() {
        check(
            "GET",
            "/containers/a/json",
            Some(("GET /containers/{id}/json", "a")),
        );
        check("GET", "/containers/a/b/json", None);
        check(
            "GET",
            "/images/host:5000/a/b/json",
            Some(("GET /images/{name...}/json", "host:5000/a/b")),
        );
        check(
            "GET",
            "/images/a%2Fb/json",
            Some(("GET /images/{name...}/json", "a/b")),
        );
        check(
            "GET",
            "/containers/json",
            Some(("GET /containers/json", "")),
        );
    }
}
