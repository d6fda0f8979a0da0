//! `POST /images/create?fromImage=…`: every healthy node pulls, and tells how it goes.

use http::HeaderMap;

use super::{Answer, Context};
use crate::{
    api::{fanout, progress::Progress, query::Query},
    engine::{client::PullRequest, monitor::Refresh},
    registry::REGISTRY_AUTH,
};

/// Starts the pulls and streams their progress. They end if the client goes away.
pub async fn pull(context: &Context, query: &Query, headers: &HeaderMap) -> Answer {
    let image = query.get("fromImage");
    // A name alone means every tag of the repository, as `docker pull --all-tags` sends it.
    let reference = match query.get("tag") {
        "" => image.to_owned(),
        digest if digest.contains(':') => format!("{image}@{digest}"),
        tag => format!("{image}:{tag}"),
    };
    let snapshot = context.cluster.snapshot();
    let nodes = fanout::some_healthy(&snapshot)?;
    let wanted = PullRequest {
        query: query.suffix(),
        auth: context
            .cluster
            .options()
            .registries
            .auth_for(image, headers.get(REGISTRY_AUTH))
            .await?,
    };
    let cluster = context.cluster.clone();
    let title = format!("Pulling {reference}...");
    Ok(Progress::start(&title, |progress| async move {
        let job = |node: std::sync::Arc<crate::cluster::snapshot::Node>| {
            let (progress, wanted, cluster) = (&progress, &wanted, &cluster);
            async move {
                let mut lines = node.client.start_pull_request(wanted).await?;
                progress.relay(&node, &mut lines).await?;
                cluster.refresh(&node.inventory.addr, Refresh::Images).await;
                progress.say(node.inventory.name(), "downloaded").await;
                Ok(())
            }
        };
        progress.on_each(&cluster, &snapshot, nodes, job).await;
    }))
}
