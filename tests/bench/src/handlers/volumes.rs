//! Volumes: names with a driver and labels.

use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, bad_request};
use crate::body::{self, Answer};
use crate::render;
use crate::volume::Volume;

pub(super) fn list(call: &Call) -> Result<Answer, Answer> {
    let filters = call.query.filters().map_err(bad_request)?;
    let all = call.engine.state().list_volumes();
    let wanted = all.iter().filter(|volume| {
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
    let mut all = call.engine.state().list_volumes().into_iter();
    match all.find(|volume| volume.name == call.target) {
        Some(volume) => body::json(StatusCode::OK, describe(&volume).to_string()),
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
        let labels = if asked["Labels"].is_object() {
            asked["Labels"].clone()
        } else {
            json!({})
        };
        let driver = asked["Driver"].as_str().unwrap_or_default();
        match state.make_volume(&name, driver, &labels, now) {
            Ok(volume) => body::json(StatusCode::CREATED, describe(&volume).to_string()),
            Err(text) => body::error(StatusCode::NOT_FOUND, &text),
        }
    })
}

pub(super) fn remove(call: &Call) -> Answer {
    let now = call.engine.now();
    let name = &call.target;
    call.engine.change(|state| {
        if let Some(user) = state.volume_user(name) {
            let text = format!("remove {name}: volume is in use - [{user}]");
            return body::error(StatusCode::CONFLICT, &text);
        }
        match state.remove_volume(name, now) {
            true => body::empty(StatusCode::NO_CONTENT),
            false => missing(name),
        }
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
        "Options": {}, "Scope": volume.scope,
    })
}
