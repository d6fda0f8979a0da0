//! Images: list, inspect, pull. A pull always succeeds, unless the name starts with `missing`.

use std::sync::Arc;

use futures_util::stream;
use http::StatusCode;
use serde_json::{Value, json};

use super::Call;
use crate::body::{self, Answer};
use crate::event::Event;
use crate::render;
use crate::state::{Image, with_tag};

pub(super) fn list(call: &Call) -> Answer {
    let filters = match call.query.filters() {
        Ok(filters) => filters,
        Err(error) => return super::bad_request(error),
    };
    let state = call.engine.state();
    let images = state.images.iter().filter(|image| {
        filters.any("reference", |wanted| {
            image.tag == with_tag(wanted) || image.tag.split(':').next() == Some(wanted)
        })
    });
    let images: Vec<Value> = images
        .map(|image| {
            json!({
                "Containers": -1, "Created": image.created, "Id": format!("sha256:{}", image.id), "Labels": null,
                "ParentId": "", "RepoDigests": [digest(image)], "RepoTags": [image.tag], "SharedSize": -1,
                "Size": 4_261_888, "VirtualSize": 4_261_888,
            })
        })
        .collect();
    body::json(StatusCode::OK, Value::from(images).to_string())
}

pub(super) fn inspect(call: &Call) -> Answer {
    let state = call.engine.state();
    let Some(image) = state.find_image(&call.target) else {
        return body::error(
            StatusCode::NOT_FOUND,
            &format!("No such image: {}", with_tag(&call.target)),
        );
    };
    let config = json!({
        "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false,
        "AttachStderr": false, "Tty": false, "OpenStdin": false, "StdinOnce": false,
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"], "Image": "",
        "Volumes": null, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": null,
    });
    let answer = json!({
        "Id": format!("sha256:{}", image.id), "RepoTags": [image.tag], "RepoDigests": [digest(image)], "Parent": "",
        "Comment": "", "Created": render::time(image.created * 1_000_000_000), "Container": "",
        "ContainerConfig": config.clone(), "DockerVersion": "20.10.24", "Author": "", "Config": config,
        "Architecture": "amd64", "Os": "linux", "Size": 4_261_888, "VirtualSize": 4_261_888,
        "GraphDriver": {"Data": {}, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": [format!("sha256:{}", image.id)]},
        "Metadata": {"LastTagTime": render::time(0)},
    });
    body::json(StatusCode::OK, answer.to_string())
}

pub(super) fn pull(call: Call) -> Answer {
    let name = call.query.get("fromImage").unwrap_or_default();
    if name.is_empty() {
        return super::bad_request("the stand-in can pull, but not import");
    }
    let reference = match call.query.get("tag").filter(|tag| !tag.is_empty()) {
        Some(tag) if tag.contains(':') => format!("{name}@{tag}"),
        Some(tag) => format!("{name}:{tag}"),
        None => with_tag(name),
    };
    if name.starts_with("missing") {
        let text = format!(
            "pull access denied for {name}, repository does not exist or may require 'docker login'"
        );
        return body::error(StatusCode::NOT_FOUND, &text);
    }
    let now = call.engine.now();
    let tag = call.query.get("tag").unwrap_or("latest").to_owned();
    let (name, engine) = (name.to_owned(), call.engine);
    let steps = [
        json!({"status": format!("Pulling from {name}"), "id": tag}),
        json!({"status": "Pulling fs layer", "progressDetail": {}, "id": "5cc84ad355aa"}),
        json!({"status": "Downloading", "progressDetail": {"current": 1_048_576, "total": 2_097_152},
               "progress": "[=====>     ]  1.049MB/2.097MB", "id": "5cc84ad355aa"}),
        json!({"status": "Pull complete", "progressDetail": {}, "id": "5cc84ad355aa"}),
        json!({"status": format!("Status: Downloaded newer image for {reference}")}),
    ];
    engine.change(|state| {
        if state.find_image(&reference).is_none() {
            let id = state.next_id();
            let image = Image {
                id,
                tag: reference.clone(),
                created: now.div_euclid(1_000_000_000),
            };
            Arc::make_mut(&mut state.images).push(image);
        }
        state.emit(
            Event::new("image", "pull", &reference).with("name", &name),
            now,
        );
    });
    let lines = steps.map(|step| Ok(format!("{step}\r\n").into()));
    body::with(
        StatusCode::OK,
        Some("application/json"),
        body::streamed(stream::iter(lines)),
    )
}

fn digest(image: &Image) -> String {
    let name = image
        .tag
        .rsplit_once(':')
        .map_or(image.tag.as_str(), |(name, _)| name);
    format!("{name}@sha256:{}", image.id)
}
