//! Output of containers: logs, stats, attach.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::Call;
use crate::body::{self, Answer};
use crate::container::Container;
use crate::engine::Engine;
use crate::render;
use crate::state::Chunk;

const RAW_STREAM: &str = "application/vnd.docker.raw-stream";

pub(super) fn logs(call: Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    let (stdout, stderr) = (call.query.flag("stdout"), call.query.flag("stderr"));
    if !stdout && !stderr {
        return Err(super::bad_request(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let timestamps = call.query.flag("timestamps");
    let tty = container.spec.tty;
    let wanted = move |kind: u8| if kind == 2 { stderr } else { stdout };
    let encode = move |nanos: i64, (kind, bytes): Chunk| {
        let bytes = match timestamps {
            true => [format!("{} ", render::time(nanos)).as_bytes(), &bytes]
                .concat()
                .into(),
            false => bytes,
        };
        if tty {
            bytes
        } else {
            body::frame(kind, &bytes)
        }
    };
    let since = call
        .query
        .get("since")
        .and_then(|text| text.parse::<f64>().ok())
        .unwrap_or(0.0);
    let tail = call
        .query
        .get("tail")
        .and_then(|text| text.parse().ok())
        .unwrap_or(usize::MAX);
    let engine = call.engine;
    let (past, receiver) = engine.change(|state| {
        let kept = state
            .outputs
            .get(&container.id)
            .map(|output| output.kept.clone())
            .unwrap_or_default();
        let follows = call.query.flag("follow") && container.phase.is_running();
        (kept, follows.then(|| state.follow(container.id)))
    });
    let past: Vec<_> = past
        .into_iter()
        .filter(|(nanos, (kind, _))| wanted(*kind) && *nanos as f64 >= since * 1e9)
        .collect();
    let skip = past.len().saturating_sub(tail);
    let past = past
        .into_iter()
        .skip(skip)
        .map(move |(nanos, chunk)| Ok(encode(nanos, chunk)));
    let live = stream::unfold((receiver, engine), move |(receiver, engine)| async move {
        let mut receiver = receiver?;
        loop {
            let chunk = receiver.recv().await?;
            if wanted(chunk.0) {
                let encoded = encode(engine.now(), chunk);
                return Some((Ok(encoded), (Some(receiver), engine)));
            }
        }
    });
    Ok(body::with(
        StatusCode::OK,
        Some(RAW_STREAM),
        body::streamed(stream::iter(past).chain(live)),
    ))
}

pub(super) fn stats(call: Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    let once = call
        .query
        .get("stream")
        .is_some_and(|_| !call.query.flag("stream"))
        || call.query.flag("one-shot");
    if once {
        return Ok(body::json(
            StatusCode::OK,
            sample(&container, &call.engine, 1),
        ));
    }
    let engine = call.engine;
    let samples = stream::unfold(1_u64, move |serial| {
        let (engine, container) = (Arc::clone(&engine), container.clone());
        async move {
            if serial > 1 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            engine.container(&container.id.to_string())?;
            Some((
                Ok(Bytes::from(sample(&container, &engine, serial) + "\n")),
                serial + 1,
            ))
        }
    });
    Ok(body::with(
        StatusCode::OK,
        Some("application/json"),
        body::streamed(samples),
    ))
}

fn sample(container: &Container, engine: &Engine, serial: u64) -> String {
    let cpu = |serial: u64| {
        json!({
            "cpu_usage": {"total_usage": serial * 10_000_000, "percpu_usage": [serial * 10_000_000],
                          "usage_in_kernelmode": 0, "usage_in_usermode": serial * 10_000_000},
            "system_cpu_usage": serial * 4_000_000_000_u64, "online_cpus": engine.seed.shape.cpus,
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        })
    };
    let now = render::time(engine.now());
    json!({
        "read": now, "preread": if serial > 1 { now.clone() } else { render::time(0) }, "num_procs": 0,
        "name": format!("/{}", container.name), "id": container.id.to_string(),
        "pids_stats": {"current": 1, "limit": 4915}, "storage_stats": {},
        "blkio_stats": {"io_service_bytes_recursive": [], "io_serviced_recursive": null},
        "cpu_stats": cpu(serial), "precpu_stats": cpu(serial - 1),
        "memory_stats": {"usage": 1_048_576, "max_usage": 2_097_152, "stats": {"cache": 0},
                         "limit": engine.seed.shape.memory_bytes},
        "networks": {"eth0": {"rx_bytes": 656, "rx_packets": 8, "rx_errors": 0, "rx_dropped": 0,
                              "tx_bytes": 0, "tx_packets": 0, "tx_errors": 0, "tx_dropped": 0}},
    })
    .to_string()
}

/// Connects the client to the container: output comes as it is written, input is echoed.
pub(super) fn attach(mut call: Call) -> Result<Answer, Answer> {
    let container = call.container()?;
    let (id, engine) = (container.id, Arc::clone(&call.engine));
    let (past, receiver) = engine.change(|state| {
        let kept = state
            .outputs
            .get(&id)
            .map(|output| output.kept.clone())
            .unwrap_or_default();
        let receiver = state.follow(id);
        if let Some(at) = state.find(&id.to_string()) {
            state.emit_container(at, "attach", &[], engine.now());
        }
        (kept, receiver)
    });
    let past = if call.query.flag("logs") {
        past
    } else {
        Vec::new()
    };
    let past = past.into_iter().map(|(_, chunk)| chunk).collect();
    let plan = Plan {
        id,
        tty: container.spec.tty,
        stdin: call.query.flag("stdin"),
        once: container.spec.stdin_once,
    };
    upgrade(&mut call, move |io| async move {
        pump(io, engine, plan, past, receiver).await
    })
}

struct Plan {
    id: crate::ident::Ident,
    tty: bool,
    stdin: bool,
    once: bool,
}

async fn pump(
    io: TokioIo<Upgraded>,
    engine: Arc<Engine>,
    plan: Plan,
    past: Vec<Chunk>,
    mut receiver: mpsc::Receiver<Chunk>,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let encode = |(kind, bytes): Chunk| {
        if plan.tty {
            bytes
        } else {
            body::frame(kind, &bytes)
        }
    };
    for chunk in past {
        writer.write_all(&encode(chunk)).await?;
    }
    let running = engine.until_state(|state| {
        let found = state
            .containers
            .iter()
            .find(|container| container.id == plan.id);
        found
            .is_none_or(|container| container.phase.is_running())
            .then_some(())
    });
    tokio::pin!(running);
    let (mut started, mut reading) = (false, plan.stdin);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            // Output first: what was written before the end must not be lost to it.
            biased;
            chunk = receiver.recv() => match chunk {
                Some(chunk) => writer.write_all(&encode(chunk)).await?,
                None => break,
            },
            () = &mut running, if !started => started = true,
            read = reader.read(&mut buffer), if reading && started => {
                let read = read?;
                if read > 0 {
                    // Written straight back, not through the queue, so that nothing is lost to its limit.
                    let chunk = (1, Bytes::copy_from_slice(&buffer[..read]));
                    writer.write_all(&encode(chunk)).await?;
                    continue;
                }
                reading = false;
                if plan.once {
                    engine.exit(&plan.id.to_string(), 0);
                }
            }
        }
    }
    writer.shutdown().await
}

/// Switches the connection to raw bytes and runs `work` on it, until the connection must end.
pub(super) fn upgrade<F, W>(call: &mut Call, work: F) -> Result<Answer, Answer>
where
    F: FnOnce(TokioIo<Upgraded>) -> W + Send + 'static,
    W: Future<Output = std::io::Result<()>> + Send,
{
    if call.request.headers().get(http::header::UPGRADE).is_none() {
        return Err(super::bad_request(
            "the stand-in attaches to upgraded connections only",
        ));
    }
    let upgraded = hyper::upgrade::on(&mut call.request);
    let (end, open) = (call.end.clone(), Arc::clone(&call.open));
    tokio::spawn(async move {
        let _open = open;
        let Ok(io) = upgraded.await else { return };
        tokio::select! {
            // A client that goes away is no error worth telling.
            _ = work(TokioIo::new(io)) => {}
            () = end.reached() => {}
        }
    });
    let answer = body::with(
        StatusCode::SWITCHING_PROTOCOLS,
        Some(RAW_STREAM),
        body::full(""),
    );
    let answer = body::header(answer, "connection", "Upgrade");
    Ok(body::header(answer, "upgrade", "tcp"))
}
