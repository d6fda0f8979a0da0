//! Commands run in containers: acted out like a container's own, or echoing their input.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::streams::upgrade;
use super::{Call, bad_request};
use crate::body::{self, Answer};
use crate::state::{Exec, act};

/// Commands kept per engine; the oldest are forgotten.
const EXECS_KEPT: usize = 1024;

pub(super) async fn create(mut call: Call) -> Result<Answer, Answer> {
    let raw = call.body().await;
    let asked: Value = serde_json::from_slice(&raw).map_err(bad_request)?;
    let command: Vec<String> = asked["Cmd"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if command.is_empty() {
        return Err(bad_request("No exec command specified"));
    }
    Ok(call.change(|state, at, now| {
        let container = &state.containers[at];
        if !container.phase.is_running() {
            let text = format!("Container {} is not running", container.id);
            return body::error(StatusCode::CONFLICT, &text);
        }
        let container = container.id;
        let id = state.next_id();
        let extra = [("execID", id.to_string())];
        state.emit_container(
            at,
            &format!("exec_create: {}", command.join(" ")),
            &extra,
            now,
        );
        if state.execs.len() >= EXECS_KEPT {
            state.execs.remove(0);
        }
        let flag = |key: &str| asked[key].as_bool().unwrap_or(false);
        let (tty, stdin) = (flag("Tty"), flag("AttachStdin"));
        state.execs.push(Exec {
            id,
            container,
            command,
            tty,
            stdin,
            running: false,
            exit_code: None,
        });
        body::json(
            StatusCode::CREATED,
            json!({"Id": id.to_string()}).to_string(),
        )
    }))
}

pub(super) async fn start(mut call: Call) -> Result<Answer, Answer> {
    // With an upgrade the body has a length, so reading it leaves the raw bytes behind it alone.
    let raw = call.body().await;
    let asked: Value = serde_json::from_slice(&raw).unwrap_or_default();
    let exec = find(&call)?;
    if exec.running || exec.exit_code.is_some() {
        let text = format!("Error: Exec command {} is already running", exec.id);
        return Err(body::error(StatusCode::CONFLICT, &text));
    }
    let engine = call.engine.clone();
    engine.change(|state| {
        if let Some(exec) = state.execs.iter_mut().find(|other| other.id == exec.id) {
            exec.running = true;
        }
        tell(
            state,
            &exec,
            &format!("exec_start: {}", exec.command.join(" ")),
            &[],
            engine.now(),
        );
    });
    let echoes = exec.stdin;
    let (output, exit_code) = act(&exec.command).unwrap_or_else(|| {
        if echoes {
            (Bytes::new(), 0)
        } else {
            (exec.command.join(" ").into(), 0)
        }
    });
    let finish = {
        let (engine, exec) = (engine.clone(), exec.clone());
        move || {
            engine.change(|state| {
                if let Some(exec) = state.execs.iter_mut().find(|other| other.id == exec.id) {
                    (exec.running, exec.exit_code) = (false, Some(exit_code));
                }
                tell(
                    state,
                    &exec,
                    "exec_die",
                    &[("exitCode", exit_code.to_string())],
                    engine.now(),
                );
            });
        }
    };
    let tty = exec.tty;
    let encode = move |bytes: &[u8]| {
        if tty {
            Bytes::copy_from_slice(bytes)
        } else {
            body::frame(1, bytes)
        }
    };
    if asked["Detach"].as_bool() == Some(true) {
        finish();
        return Ok(body::empty(StatusCode::OK));
    }
    if call.request.headers().get(http::header::UPGRADE).is_none() {
        finish();
        return Ok(body::with(
            StatusCode::OK,
            Some("application/vnd.docker.raw-stream"),
            body::full(encode(&output)),
        ));
    }
    upgrade(&mut call, move |io| async move {
        let (mut reader, mut writer) = tokio::io::split(io);
        if !output.is_empty() {
            writer.write_all(&encode(&output)).await?;
        }
        let mut buffer = vec![0; 16 * 1024];
        while echoes {
            let read = reader.read(&mut buffer).await?;
            if read == 0 {
                break;
            }
            writer.write_all(&encode(&buffer[..read])).await?;
        }
        finish();
        writer.shutdown().await
    })
}

pub(super) fn resize(call: &Call) -> Result<Answer, Answer> {
    find(call).map(|_| body::empty(StatusCode::OK))
}

pub(super) fn inspect(call: &Call) -> Result<Answer, Answer> {
    let exec = find(call)?;
    let (entry, arguments) = exec
        .command
        .split_first()
        .map_or(("", &[][..]), |(entry, rest)| (entry.as_str(), rest));
    let answer = json!({
        "ID": exec.id.to_string(), "Running": exec.running, "ExitCode": exec.exit_code,
        "ProcessConfig": {"tty": exec.tty, "entrypoint": entry, "arguments": arguments, "privileged": false},
        "OpenStdin": exec.stdin, "OpenStderr": true, "OpenStdout": true, "CanRemove": exec.exit_code.is_some(),
        "ContainerID": exec.container.to_string(), "DetachKeys": "", "Pid": if exec.running { 4242 } else { 0 },
    });
    Ok(body::json(StatusCode::OK, answer.to_string()))
}

fn find(call: &Call) -> Result<Exec, Answer> {
    let state = call.engine.state();
    state
        .execs
        .iter()
        .find(|exec| exec.id.starts_with(&call.target))
        .cloned()
        .ok_or_else(|| {
            body::error(
                StatusCode::NOT_FOUND,
                &format!("No such exec instance: {}", call.target),
            )
        })
}

fn tell(
    state: &mut crate::state::State,
    exec: &Exec,
    action: &str,
    extra: &[(&str, String)],
    now: i64,
) {
    let Some(at) = state
        .containers
        .iter()
        .position(|container| container.id == exec.container)
    else {
        return;
    };
    let mut attributes = vec![("execID", exec.id.to_string())];
    attributes.extend(extra.iter().cloned());
    state.emit_container(at, action, &attributes, now);
}
