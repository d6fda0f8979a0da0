//! `POST /images/create?fromImage=…`: every healthy node pulls, and tells how it goes.

use http::HeaderMap;

use super::{Answer, Context, candidates};
use crate::{
    api::{fanout, progress::Progress, query::Query},
    engine::{client::PullRequest, monitor::Refresh},
    model::directive::{Directives, Kind},
    registry::REGISTRY_AUTH,
    scheduler::request::Request as PlacementRequest,
};

/// Starts the pulls and streams their progress. They end if the client goes away.
///
/// The parameters `constraint`, `affinity`, and `whitelist`, which may be repeated and which no
/// engine sees, name the nodes that pull, in the words that creates use: `constraint=storage==ssd`.
pub async fn pull(context: &Context, query: &Query, headers: &HeaderMap) -> Answer {
    let image = query.get("fromImage");
    // A name alone means every tag of the repository, as `docker pull --all-tags` sends it.
    let reference = match query.get("tag") {
        "" => image.to_owned(),
        digest if digest.contains(':') => format!("{image}@{digest}"),
        tag => format!("{image}:{tag}"),
    };
    let (directives, query) = take_directives(query);
    let snapshot = context.cluster.snapshot();
    let nodes = if directives == Directives::default() {
        fanout::some_healthy(&snapshot)?
    } else {
        let mut nodes =
            candidates(context, None, PlacementRequest::of_directives(&directives)).await?;
        nodes.retain(|node| node.inventory.is_healthy());
        nodes
    };
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

/// The parameters that say which nodes are meant, and the query without them.
fn take_directives(query: &Query) -> (Directives, Query) {
    let mut directives = Directives::default();
    let mut rest = query.clone();
    for (name, kind) in [
        ("constraint", Kind::Constraint),
        ("affinity", Kind::Affinity),
        ("whitelist", Kind::Whitelist),
    ] {
        for text in query.all(name) {
            directives.push(kind, text);
        }
        rest = Query::parse(Some(&rest.without(name)));
    }
    (directives, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_that_choose_nodes_do_not_reach_the_engines() {
        let query = "fromImage=a&constraint=node%3D%3Dn1&tag=1&constraint=disk==ssd&affinity=x==y";
        let (directives, rest) = take_directives(&Query::parse(Some(query)));
        assert_eq!(
            directives.texts(Kind::Constraint),
            ["node==n1", "disk==ssd"]
        );
        assert_eq!(directives.texts(Kind::Affinity), ["x==y"]);
        assert_eq!(rest.suffix(), "?fromImage=a&tag=1");
    }
}
