//! The engine itself: ping, info, version.

use http::StatusCode;
use serde_json::json;

use super::Call;
use crate::body::{self, Answer};
use crate::render;

pub(super) fn ping(call: &Call) -> Answer {
    let shape = &call.engine.seed.shape;
    let mut answer = body::with(
        StatusCode::OK,
        Some("text/plain; charset=utf-8"),
        body::full("OK"),
    );
    for (name, value) in [
        ("api-version", shape.api_version.as_str()),
        ("builder-version", "1"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("docker-experimental", "false"),
        ("ostype", "linux"),
        ("pragma", "no-cache"),
    ] {
        answer = body::header(answer, name, value);
    }
    body::header(
        answer,
        "server",
        &format!("Docker/{} (linux)", shape.server_version),
    )
}

pub(super) fn info(call: &Call) -> Answer {
    body::json(
        StatusCode::OK,
        render::info(&call.engine.state(), &call.engine),
    )
}

pub(super) fn version(call: &Call) -> Answer {
    let shape = &call.engine.seed.shape;
    let details = json!({
        "ApiVersion": shape.api_version, "Arch": "amd64", "BuildTime": "2023-04-04T18:17:00.000000000+00:00",
        "Experimental": "false", "GitCommit": "5d6db84", "GoVersion": "go1.19.7",
        "KernelVersion": "5.10.0-28-amd64", "MinAPIVersion": "1.12", "Os": "linux",
    });
    let version = json!({
        "Platform": {"Name": "Docker Engine - Community"},
        "Components": [{"Name": "Engine", "Version": shape.server_version, "Details": details}],
        "Version": shape.server_version, "ApiVersion": shape.api_version, "MinAPIVersion": "1.12",
        "GitCommit": "5d6db84", "GoVersion": "go1.19.7", "Os": "linux", "Arch": "amd64",
        "KernelVersion": "5.10.0-28-amd64", "BuildTime": "2023-04-04T18:17:00.000000000+00:00",
    });
    body::json(StatusCode::OK, version.to_string())
}
