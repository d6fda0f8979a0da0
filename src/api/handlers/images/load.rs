//! Uploads for every node: `POST /images/load`, `POST /images/create?fromSrc=…`.
//!
//! The upload is written to a file first and every node reads that file at its own pace: one that
//! is slow or stops reading holds up nobody, each of the others gets every byte, and memory holds
//! one chunk for each node. The file has no name once the request ends.

use std::{io, sync::Arc, time::Duration};

use http::{HeaderValue, Request, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

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
    },
};

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
    path: &'static str,
    query: &Query,
    title: &str,
    request: Request<Incoming>,
) -> Answer {
    let snapshot = context.cluster.snapshot();
    let nodes = fanout::some_healthy(&snapshot)?;
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let upload = Upload {
        file: spool(request.into_body()).await?,
        content_type,
    };
    let target = Target {
        version: version.map(str::to_owned),
        path,
        query: query.clone(),
    };
    let cluster = context.cluster.clone();
    Ok(Progress::start(title, |progress| async move {
        let job = |node: Arc<Node>| {
            let (progress, cluster, upload, target) = (&progress, &cluster, &upload, &target);
            async move {
                let mut lines = upload.send(&node.client, &target.on(&node)).await?;
                progress.relay(&node, &mut lines).await?;
                cluster.refresh(&node.inventory.addr, Refresh::Images).await;
                Ok(())
            }
        };
        progress.on_each(&cluster, &snapshot, nodes, job).await;
    }))
}

/// What the client called, for as long as the job lasts.
struct Target {
    version: Option<String>,
    path: &'static str,
    query: Query,
}

impl Target {
    fn on(&self, node: &Node) -> String {
        engine_path(node, self.version.as_deref(), self.path, &self.query)
    }
}

/// An upload that is here whole.
struct Upload {
    file: NamedTempFile,
    content_type: Option<HeaderValue>,
}

impl Upload {
    async fn send(&self, client: &Client, path: &str) -> Result<Lines, ClientError> {
        let broken = |error: io::Error| ClientError::Answer {
            addr: client.transport().url(),
            reason: format!("the upload cannot be read: {error}"),
        };
        let file = tokio::fs::File::from_std(self.file.reopen().map_err(broken)?);
        let length = file.metadata().await.map_err(broken)?.len();
        let content_type = self.content_type.as_ref();
        client.upload(path, content_type, length, file).await
    }
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
