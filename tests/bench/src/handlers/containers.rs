//! Containers at rest: list, inspect, create, update, rename, remove, top.

use std::sync::Arc;

use http::StatusCode;
use serde_json::json;

use super::{Call, bad_request};
use crate::body::{self, Answer};
use crate::container::{Container, Phase, Spec};
use crate::query::Filters;
use crate::render;

pub(super) fn list(call: &Call) -> Result<Answer, Answer> {
    let filters = call.query.filters().map_err(bad_request)?;
    let limit = call
        .query
        .get("limit")
        .and_then(|text| text.parse().ok())
        .filter(|&limit: &usize| limit > 0);
    let all =
        call.query.flag("all") || limit.is_some() || filters.has("status") || filters.has("exited");
    let with_size = call.query.flag("size");
    let now = call.engine.now();
    let state = call.engine.state();
    let mut out = String::with_capacity(2 + state.containers.len() * 1024);
    out.push('[');
    let wanted = state
        .containers
        .iter()
        .rev()
        .filter(|c| (all || c.phase.is_running()) && matches(c, &filters));
    for (at, container) in wanted.take(limit.unwrap_or(usize::MAX)).enumerate() {
        if at > 0 {
            out.push(',');
        }
        render::list_entry(&mut out, container, &state, now, with_size);
    }
    out.push(']');
    Ok(body::json(StatusCode::OK, out))
}

fn matches(container: &Container, filters: &Filters) -> bool {
    filters.any("id", |id| container.id.starts_with(id))
        // dockerd matches names by regular expression; clients send parts of names, at times anchored.
        && filters.any("name", |name| {
            let (name, end) = name.strip_suffix('$').map_or((name, false), |name| (name, true));
            let (name, start) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
            let name = name.strip_prefix('/').unwrap_or(name);
            match (start, end) {
                (true, true) => *container.name == *name,
                (true, false) => container.name.starts_with(name),
                (false, true) => container.name.ends_with(name),
                (false, false) => container.name.contains(name),
            }
        })
        && filters.any("status", |status| status == container.phase.as_str())
        && filters.any("exited", |code| {
            container.phase == Phase::Exited && code.parse() == Ok(container.exit_code)
        })
        && filters.any("ancestor", |image| container.spec.image == image)
        && filters.labels(|key| container.spec.label(key))
}

pub(super) fn inspect(call: &Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    let state = call.engine.state();
    let text = render::inspect(&container, &state, &call.engine, call.query.flag("size"));
    Ok(body::json(StatusCode::OK, text))
}

pub(super) async fn create(mut call: Call) -> Answer {
    let raw = call.body().await;
    let spec = match Spec::parse(raw.clone()) {
        Ok(spec) => spec,
        Err(error) => return bad_request(error),
    };
    let now = call.engine.now();
    let kept = call.engine.seed.shape.create_bodies_kept;
    call.engine.change(|state| {
        if state.create_bodies.len() >= kept.max(1) {
            state.create_bodies.remove(0);
        }
        state.create_bodies.push(raw);
        if spec.image.is_empty() {
            return bad_request("No image was specified");
        }
        if state.find_image(&spec.image).is_none() {
            return body::error(
                StatusCode::NOT_FOUND,
                &format!("No such image: {}", crate::state::with_tag(&spec.image)),
            );
        }
        let id = state.next_id();
        let name = match call
            .query
            .get("name")
            .map(|name| name.trim_start_matches('/'))
        {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => format!("quiet_{}", &id.to_string()[..10]),
        };
        if let Some(refusal) = refuse_name(state, &name) {
            return refusal;
        }
        for (volume, driver) in &spec.volumes {
            if let Err(text) = state.make_volume(volume, driver, &json!({}), now) {
                return body::error(StatusCode::NOT_FOUND, &text);
            }
        }
        state.containers.push(Container {
            id,
            name: name.into(),
            spec: Arc::new(spec),
            phase: Phase::Created,
            exit_code: 0,
            oom_killed: false,
            exits: 0,
            created_nanos: now,
            started_nanos: 0,
            finished_nanos: 0,
            host_number: u16::try_from(state.serial % 65_000 + 2).unwrap_or(2),
        });
        state.emit_container(state.containers.len() - 1, "create", &[], now);
        body::json(
            StatusCode::CREATED,
            format!("{{\"Id\":\"{id}\",\"Warnings\":[]}}\n"),
        )
    })
}

/// Why a name cannot be given, if so.
fn refuse_name(state: &crate::state::State, name: &str) -> Option<Answer> {
    let valid = name.len() > 1
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !valid {
        let text =
            format!("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed");
        return Some(bad_request(text));
    }
    let owner = state
        .containers
        .iter()
        .find(|container| *container.name == *name)?;
    let text = format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove \
         (or rename) that container to be able to reuse that name.",
        owner.id
    );
    Some(body::error(StatusCode::CONFLICT, &text))
}

pub(super) async fn update(mut call: Call) -> Answer {
    let raw = call.body().await;
    call.change(
        |state, at, now| match state.containers[at].spec.updated(&raw) {
            Ok(spec) => {
                state.containers[at].spec = Arc::new(spec);
                state.emit_container(at, "update", &[], now);
                body::json(StatusCode::OK, json!({"Warnings": []}).to_string())
            }
            Err(error) => bad_request(error),
        },
    )
}

pub(super) fn rename(call: &Call) -> Answer {
    let name = call
        .query
        .get("name")
        .unwrap_or_default()
        .trim_start_matches('/')
        .to_owned();
    call.change(|state, at, now| {
        if let Some(refusal) = refuse_name(state, &name) {
            return refusal;
        }
        let old = std::mem::replace(&mut state.containers[at].name, name.into());
        state.emit_container(at, "rename", &[("oldName", format!("/{old}"))], now);
        body::empty(StatusCode::NO_CONTENT)
    })
}

pub(super) fn remove(call: &Call) -> Answer {
    call.change(|state, at, now| {
        let container = &state.containers[at];
        let (id, auto_remove) = (container.id, container.spec.auto_remove);
        if container.phase.is_running() {
            if !call.query.flag("force") {
                let text = format!(
                    "You cannot remove a running container {id}. Stop the container before attempting removal or force remove"
                );
                return body::error(StatusCode::CONFLICT, &text);
            }
            state.emit_container(at, "kill", &[("signal", "9".to_owned())], now);
            state.die(at, 137, now);
        }
        // A container that removes itself is gone after its death.
        if !auto_remove || state.find(&id.to_string()).is_some() {
            state.destroy(at, now);
        }
        body::empty(StatusCode::NO_CONTENT)
    })
}

pub(super) fn top(call: &Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    if !container.phase.is_running() {
        let text = format!("Container {} is not running", container.id);
        return Err(body::error(StatusCode::CONFLICT, &text));
    }
    let pid = (1000 + u32::from(container.host_number)).to_string();
    let process = json!([
        "root",
        pid,
        "1",
        "0",
        "12:00",
        "?",
        "00:00:00",
        container.spec.command.join(" ")
    ]);
    let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
    Ok(body::json(
        StatusCode::OK,
        json!({"Titles": titles, "Processes": [process]}).to_string(),
    ))
}
