//! Uploads for every node: `POST /images/load`, `POST /images/create?fromSrc=…`.
//!
//! The upload is written to a file first and every node reads that file at its own pace: one that
//! is slow or stops reading holds up nobody, each of the others gets every byte, and memory holds
//! one chunk for each node. The file has no name once the request ends.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use http::{Request, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use crate::{
    api::{
        error::ApiError,
        fanout,
        handlers::{Answer, Context, engine_path},
        progress::Progress,
        query::Query,
    },
    cluster::snapshot::Node,
    engine::{
        client::{Client, ClientError},
        lines::Lines,
        monitor::Refresh,
        transport::{Body, BodyError},
    },
};

/// How much of the file a node is given at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// How long a client may keep an upload waiting for its next bytes.
const SILENCE: Duration = Duration::from_secs(60);

/// `POST /images/load`
pub async fn load(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let title = "Loading Image...";
    upload(context, version, "/images/load", query, title, request).await
}

/// `POST /images/create?fromSrc=…`, of a body or of a URL that each node fetches.
pub async fn import(
    context: &Context,
    version: Option<&str>,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    upload(
        context,
        version,
        "/images/create",
        query,
        "Importing...",
        request,
    )
    .await
}

async fn upload(
    context: &Context,
    version: Option<&str>,
    path: &str,
    query: &Query,
    title: &str,
    request: Request<Incoming>,
) -> Answer {
    let snapshot = context.cluster.snapshot();
    let nodes = fanout::healthy(&snapshot);
    if nodes.is_empty() {
        return Err(ApiError::internal(
            "No healthy node available in the cluster",
        ));
    }
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let spool = Arc::new(spool(request.into_body()).await?);
    let paths: Vec<String> = nodes
        .iter()
        .map(|node| engine_path(node, version, path, query))
        .collect();
    let path_of = move |node: &Node, nodes: &[Arc<Node>]| {
        let at = nodes
            .iter()
            .position(|other| other.inventory.addr == node.inventory.addr);
        at.and_then(|at| paths.get(at).cloned()).unwrap_or_default()
    };
    let cluster = context.cluster.clone();
    Ok(Progress::start(title, |progress| async move {
        let all = nodes.clone();
        let job = |node: Arc<Node>| {
            let (progress, cluster) = (&progress, &cluster);
            let path = path_of(&node, &all);
            let mut sent = Request::new(());
            *sent.method_mut() = http::Method::POST;
            if let Some(value) = &content_type {
                sent.headers_mut()
                    .insert(header::CONTENT_TYPE, value.clone());
            }
            let spool = Arc::clone(&spool);
            async move {
                let mut lines = send(&node.client, &spool, sent, &path).await?;
                progress.relay(&node, &mut lines).await?;
                cluster.refresh(&node.inventory.addr, Refresh::Images).await;
                Ok(())
            }
        };
        progress.on_each(&cluster, &snapshot, nodes, job).await;
    }))
}

/// Writes an upload to a file.
async fn spool(mut body: Incoming) -> Result<NamedTempFile, ApiError> {
    let unwritable =
        |error: io::Error| ApiError::internal(format!("cannot keep the upload: {error}"));
    let file = NamedTempFile::new().map_err(unwritable)?;
    let mut out = tokio::fs::File::from_std(file.reopen().map_err(unwritable)?);
    loop {
        let frame = tokio::time::timeout(SILENCE, body.frame())
            .await
            .map_err(|_| ApiError::bad_request("the upload stopped"))?;
        let Some(frame) = frame else { break };
        let frame = frame
            .map_err(|error| ApiError::bad_request(format!("the upload broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            out.write_all(&data).await.map_err(unwritable)?;
        }
    }
    out.flush().await.map_err(unwritable)?;
    Ok(file)
}

/// Sends the whole file to one engine and returns what it tells. An engine that takes no bytes and
/// says nothing for as long as a pull may be silent has failed.
async fn send(
    client: &Client,
    spool: &NamedTempFile,
    request: Request<()>,
    path: &str,
) -> Result<Lines, ClientError> {
    let taken = Arc::new(AtomicU64::new(0));
    let broken = |error: io::Error| ClientError::Answer {
        addr: client.transport().url(),
        reason: format!("the upload cannot be read: {error}"),
    };
    let file = tokio::fs::File::from_std(spool.reopen().map_err(broken)?);
    let length = file.metadata().await.map_err(broken)?.len();
    let counter = Arc::clone(&taken);
    let chunks = ReaderStream::with_capacity(file, CHUNK_BYTES).map(move |chunk| {
        counter.fetch_add(1, Ordering::Relaxed);
        chunk.map(Frame::data).map_err(BodyError::from)
    });
    let body: Body = StreamBody::new(chunks).boxed_unsync();
    let mut request = request.map(|()| body);
    request
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length.into());
    let mut answer = std::pin::pin!(client.send_stream(request, path));
    let patience = client.patient().timeout();
    let mut before = 0;
    loop {
        match tokio::time::timeout(patience, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) => {
                let now = taken.load(Ordering::Relaxed);
                if now == before {
                    return Err(client.silent_for(patience));
                }
                before = now;
            }
        }
    }
}
