//! Containers in motion: start, stop, kill, restart, pause, wait.

use futures_util::stream;
use http::StatusCode;

use super::Call;
use crate::body::{self, Answer};
use crate::container::Phase;

pub(super) fn start(call: &Call) -> Answer {
    call.change(|state, at, now| match state.containers[at].phase {
        Phase::Paused => body::error(
            StatusCode::CONFLICT,
            "cannot start a paused container, try unpause instead",
        ),
        phase if phase.is_running() => body::empty(StatusCode::NOT_MODIFIED),
        _ => {
            state.start(at, now);
            body::empty(StatusCode::NO_CONTENT)
        }
    })
}

pub(super) fn stop(call: &Call) -> Answer {
    call.change(|state, at, now| {
        if !state.containers[at].phase.is_running() {
            return body::empty(StatusCode::NOT_MODIFIED);
        }
        // `stop` is told before the container can go, so that it still has its name.
        state.emit_container(at, "kill", &[("signal", "15".to_owned())], now);
        let id = state.containers[at].id;
        state.die(at, 143, now);
        if let Some(at) = state.find(&id.to_string()) {
            state.emit_container(at, "stop", &[], now);
        }
        body::empty(StatusCode::NO_CONTENT)
    })
}

pub(super) fn kill(call: &Call) -> Answer {
    let signal = signal_number(call.query.get("signal").unwrap_or("KILL"));
    call.change(|state, at, now| {
        let container = &state.containers[at];
        if !container.phase.is_running() {
            let text = format!(
                "Cannot kill container: {}: Container {} is not running",
                call.target, container.id
            );
            return body::error(StatusCode::CONFLICT, &text);
        }
        state.emit_container(at, "kill", &[("signal", signal.to_string())], now);
        // A signal that is not meant to end a process leaves the stand-in as it is.
        if matches!(signal, 2 | 3 | 6 | 9 | 15) {
            state.die(at, 128 + signal, now);
        }
        body::empty(StatusCode::NO_CONTENT)
    })
}

fn signal_number(name: &str) -> i64 {
    match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "USR1" => 10,
        "USR2" => 12,
        "TERM" => 15,
        other => other.parse().unwrap_or(9),
    }
}

pub(super) fn restart(call: &Call) -> Answer {
    call.change(|state, at, now| {
        if state.containers[at].phase.is_running() {
            let spec = &state.containers[at].spec;
            if spec.auto_remove {
                return body::error(
                    StatusCode::CONFLICT,
                    "cannot restart a container that is removed when it stops",
                );
            }
            state.emit_container(at, "kill", &[("signal", "15".to_owned())], now);
            state.die(at, 143, now);
            state.emit_container(at, "stop", &[], now);
        }
        let id = state.containers[at].id;
        state.start(at, now);
        if let Some(at) = state.find(&id.to_string()) {
            state.emit_container(at, "restart", &[], now);
        }
        body::empty(StatusCode::NO_CONTENT)
    })
}

pub(super) fn pause(call: &Call) -> Answer {
    switch(call, Phase::Running, Phase::Paused, "pause")
}

pub(super) fn unpause(call: &Call) -> Answer {
    switch(call, Phase::Paused, Phase::Running, "unpause")
}

fn switch(call: &Call, from: Phase, to: Phase, action: &str) -> Answer {
    call.change(|state, at, now| {
        let container = &mut state.containers[at];
        if container.phase != from {
            let text = format!("Container {} is not {from}", container.id);
            return body::error(StatusCode::CONFLICT, &text);
        }
        container.phase = to;
        state.emit_container(at, action, &[], now);
        body::empty(StatusCode::NO_CONTENT)
    })
}

/// The head goes out at once and the body when the wait is over, as `docker run` relies on.
pub(super) fn wait(call: Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    let condition = call.query.get("condition").unwrap_or_default().to_owned();
    let engine = call.engine;
    let waited = async move {
        let code = engine
            .until_state(|state| {
                let Some(now) = state.containers.iter().find(|c| c.id == container.id) else {
                    let departed = state.departed.iter().find(|(id, _)| *id == container.id);
                    return Some(departed.map_or(container.exit_code, |(_, code)| *code));
                };
                let over = match condition.as_str() {
                    "removed" => false,
                    "next-exit" => now.exits > container.exits,
                    _ => !now.phase.is_running(),
                };
                over.then_some(now.exit_code)
            })
            .await;
        Ok(format!("{{\"Error\":null,\"StatusCode\":{code}}}\n").into())
    };
    Ok(body::with(
        StatusCode::OK,
        Some("application/json"),
        body::streamed(stream::once(waited)),
    ))
}

pub(super) fn resize(call: &Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    if !container.phase.is_running() {
        let text = format!("Container {} is not running", container.id);
        return Err(body::error(StatusCode::CONFLICT, &text));
    }
    Ok(call.change(|state, at, now| {
        let size = |key: &str| call.query.get(key).unwrap_or_default().to_owned();
        state.emit_container(
            at,
            "resize",
            &[("height", size("h")), ("width", size("w"))],
            now,
        );
        body::empty(StatusCode::OK)
    }))
}
