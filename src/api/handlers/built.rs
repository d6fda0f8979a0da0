//! Images that a build has made without a word to the daemon.
//!
//! buildx and Compose speak BuildKit's own protocol through a tunnel, so nothing shows when their
//! build has ended, and the engine's event may come after the client's next request: `docker buildx
//! build` and `docker inspect` of the image in one line of shell. So whoever builds that way gets
//! the images of its node brought up to date before it is told of any.

use http::Extensions;

use super::Context;
use crate::{
    api::{
        builders::{Key, Peer},
        router::Route,
    },
    engine::monitor::Refresh,
};

/// Asks the node where the client builds for its images, if it builds and `route` is about them.
///
/// Costs one call to an engine for a client that has used BuildKit's protocol within the hour, and
/// nothing for all others.
pub async fn note(context: &Context, route: &Route, client: &Extensions) {
    let is_affected = matches!(
        route,
        Route::Images
            | Route::Image(..)
            | Route::ImagesSave
            | Route::ImagePush(_)
            | Route::ImageTag(_)
            | Route::ImageRemove(_)
            // Networks of a Compose project go where its images are.
            | Route::NetworkCreate
    );
    if !is_affected {
        return;
    }
    let peer = client.get::<Peer>().copied().unwrap_or(Peer(None));
    if let Some(addr) = context.builders.peek(&Key::Client(peer)) {
        context.cluster.refresh(&addr, Refresh::Images).await;
    }
}
