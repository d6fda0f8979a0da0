//! Volumes: names with a driver and labels.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, bad_request};
use crate::body::{self, Answer};
use crate::event::Event;
use crate::render;
use crate::state::Volume;

pub(super) fn list(call: &Call) -> Result<Answer, Answer> {
    let filters = call.query.filters().map_err(bad_request)?;
    let state = call.engine.state();
    let wanted = state.volumes.iter().filter(|volume| {
        filters.any("name", |name| volume.name.contains(name))
            && filters.any("driver", |driver| volume.driver == driver)
            && filters.labels(|key| volume.labels[key].as_str())
    });
    let volumes: Vec<Value> = wanted.map(describe).collect();
    Ok(body::json(
        StatusCode::OK,
        json!({"Volumes": volumes, "Warnings": null}).to_string(),
    ))
}

pub(super) fn inspect(call: &Call) -> Answer {
    let state = call.engine.state();
    match state
        .volumes
        .iter()
        .find(|volume| volume.name == call.target)
    {
        Some(volume) => body::json(StatusCode::OK, describe(volume).to_string()),
        None => missing(&call.target),
    }
}

pub(super) async fn create(mut call: Call) -> Answer {
    let raw = call.body().await;
    let asked: Value = match serde_json::from_slice(&raw) {
        Ok(asked) => asked,
        Err(error) => return bad_request(error),
    };
    let now = call.engine.now();
    call.engine.change(|state| {
        let name = match asked["Name"].as_str() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => state.next_id().to_string(),
        };
        // Creating a volume that exists gives the one there is, as with dockerd.
        if let Some(volume) = state.volumes.iter().find(|volume| volume.name == name) {
            return body::json(StatusCode::CREATED, describe(volume).to_string());
        }
        let driver = asked["Driver"]
            .as_str()
            .filter(|driver| !driver.is_empty())
            .unwrap_or("local")
            .to_owned();
        let labels = if asked["Labels"].is_object() {
            asked["Labels"].clone()
        } else {
            json!({})
        };
        let volume = Volume {
            name,
            driver,
            labels,
            created_nanos: now,
        };
        let answer = body::json(StatusCode::CREATED, describe(&volume).to_string());
        state.emit(
            Event::new("volume", "create", &volume.name).with("driver", &volume.driver),
            now,
        );
        state.volumes.push(volume);
        answer
    })
}

pub(super) fn remove(call: &Call) -> Answer {
    let now = call.engine.now();
    call.engine.change(|state| {
        let Some(at) = state
            .volumes
            .iter()
            .position(|volume| volume.name == call.target)
        else {
            return missing(&call.target);
        };
        let volume = state.volumes.remove(at);
        state.emit(
            Event::new("volume", "destroy", volume.name).with("driver", volume.driver),
            now,
        );
        body::empty(StatusCode::NO_CONTENT)
    })
}

fn missing(wanted: &str) -> Answer {
    body::error(
        StatusCode::NOT_FOUND,
        &format!("get {wanted}: no such volume"),
    )
}

fn describe(volume: &Volume) -> Value {
    json!({
        "CreatedAt": render::time(volume.created_nanos), "Driver": volume.driver, "Labels": volume.labels,
        "Mountpoint": format!("/var/lib/docker/volumes/{}/_data", volume.name), "Name": volume.name,
        "Options": {}, "Scope": "local",
    })
}
