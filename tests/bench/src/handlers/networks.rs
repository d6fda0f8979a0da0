//! Networks: the three every engine has, and those that are created.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::{Call, bad_request};
use crate::body::{self, Answer};
use crate::event::Event;
use crate::render;
use crate::state::{Network, State};

pub(super) fn list(call: &Call) -> Result<Answer, Answer> {
    let filters = call.query.filters().map_err(bad_request)?;
    let state = call.engine.state();
    let wanted = state.networks.iter().filter(|network| {
        filters.any("name", |name| network.name.contains(name))
            && filters.any("id", |id| network.id.starts_with(id))
            && filters.any("driver", |driver| network.driver == driver)
            && filters.labels(|key| network.labels[key].as_str())
    });
    let networks: Vec<Value> = wanted.map(|network| describe(network, json!({}))).collect();
    Ok(body::json(
        StatusCode::OK,
        Value::from(networks).to_string(),
    ))
}

pub(super) fn inspect(call: &Call) -> Answer {
    let state = call.engine.state();
    let Some(network) = position(&state, &call.target).map(|at| &state.networks[at]) else {
        return missing(&call.target);
    };
    let joined = state.containers.iter().filter(|container| {
        let mode = container.spec.network_mode.as_str();
        container.phase.is_running()
            && (mode == network.name || mode == "default" && network.name == "bridge")
    });
    let joined: serde_json::Map<String, Value> = joined
        .map(|container| {
            let address = format!("172.17.{}.{}/16", container.host_number >> 8, container.host_number & 255);
            let id = container.id.to_string();
            let entry = json!({"Name": &*container.name, "EndpointID": id, "MacAddress": "02:42:ac:11:00:02",
                               "IPv4Address": address, "IPv6Address": ""});
            (id, entry)
        })
        .collect();
    body::json(StatusCode::OK, describe(network, joined.into()).to_string())
}

pub(super) async fn create(mut call: Call) -> Answer {
    let raw = call.body().await;
    let asked: Value = match serde_json::from_slice(&raw) {
        Ok(asked) => asked,
        Err(error) => return bad_request(error),
    };
    let Some(name) = asked["Name"].as_str().filter(|name| !name.is_empty()) else {
        return bad_request("network name must not be empty");
    };
    let driver = asked["Driver"]
        .as_str()
        .filter(|driver| !driver.is_empty())
        .unwrap_or("bridge");
    let now = call.engine.now();
    call.engine.change(|state| {
        if state.networks.iter().any(|network| network.name == name) {
            let text = format!("network with name {name} already exists");
            return body::error(StatusCode::CONFLICT, &text);
        }
        let id = state.next_id();
        let labels = if asked["Labels"].is_object() {
            asked["Labels"].clone()
        } else {
            json!({})
        };
        let network = Network {
            id,
            name: name.to_owned(),
            driver: driver.to_owned(),
            labels,
        };
        Arc::make_mut(&mut state.networks).push(network);
        state.emit(
            Event::new("network", "create", id.to_string())
                .with("name", name)
                .with("type", driver),
            now,
        );
        body::json(
            StatusCode::CREATED,
            json!({"Id": id.to_string(), "Warning": ""}).to_string(),
        )
    })
}

/// Connect and disconnect are told, not kept: an inspect shows the networks of the create call.
pub(super) async fn join(mut call: Call) -> Answer {
    let raw = call.body().await;
    let asked: Value = serde_json::from_slice(&raw).unwrap_or_default();
    let container = asked["Container"].as_str().unwrap_or_default().to_owned();
    let action = if call.route.ends_with("/connect") {
        "connect"
    } else {
        "disconnect"
    };
    let now = call.engine.now();
    call.engine.change(|state| {
        let Some(network) = position(state, &call.target).map(|at| state.networks[at].clone())
        else {
            return missing(&call.target);
        };
        let Some(at) = state.find(&container) else {
            return super::no_container(&container);
        };
        let event = Event::new("network", action, network.id.to_string())
            .with("container", state.containers[at].id.to_string())
            .with("name", network.name)
            .with("type", network.driver);
        state.emit(event, now);
        body::empty(StatusCode::OK)
    })
}

pub(super) fn remove(call: &Call) -> Answer {
    let now = call.engine.now();
    call.engine.change(|state| {
        let Some(at) = position(state, &call.target) else {
            return missing(&call.target);
        };
        if at < 3 {
            let text = format!(
                "{} is a pre-defined network and cannot be removed",
                state.networks[at].name
            );
            return body::error(StatusCode::FORBIDDEN, &text);
        }
        let network = Arc::make_mut(&mut state.networks).remove(at);
        let event = Event::new("network", "destroy", network.id.to_string());
        state.emit(
            event
                .with("name", network.name)
                .with("type", network.driver),
            now,
        );
        body::empty(StatusCode::NO_CONTENT)
    })
}

fn position(state: &State, wanted: &str) -> Option<usize> {
    let named = state
        .networks
        .iter()
        .position(|network| network.name == wanted);
    named.or_else(|| {
        state
            .networks
            .iter()
            .position(|network| network.id.starts_with(wanted))
    })
}

fn missing(wanted: &str) -> Answer {
    body::error(
        StatusCode::NOT_FOUND,
        &format!("network {wanted} not found"),
    )
}

fn describe(network: &Network, containers: Value) -> Value {
    let subnets = match network.driver.as_str() {
        "bridge" => json!([{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]),
        _ => json!([]),
    };
    json!({
        "Name": network.name, "Id": network.id.to_string(), "Created": render::time(1_700_000_000_000_000_000),
        "Scope": "local", "Driver": network.driver, "EnableIPv6": false,
        "IPAM": {"Driver": "default", "Options": null, "Config": subnets}, "Internal": false, "Attachable": false,
        "Ingress": false, "ConfigFrom": {"Network": ""}, "ConfigOnly": false, "Containers": containers,
        "Options": {}, "Labels": network.labels,
    })
}
