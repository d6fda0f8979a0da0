//! Where a build runs.
//!
//! A build is placed like a container without a name or an image: the directives among its build
//! arguments and the processor time and memory it asks for decide. Its room is held until the
//! caller drops the reservation, because no container of the build ever shows up in the inventory
//! under an ID that was known before.

use std::sync::Arc;

use super::{
    Cluster,
    create::CreateError,
    placement::{Reservation, Wanted},
};
use crate::{
    engine::inventory::{
        Container,
        container::{CpuShares, HostConfig},
    },
    model::directive::Directives,
    scheduler::request::Request,
};

/// What a build asks of its node.
#[derive(Clone, Debug, Default)]
pub struct BuildNeeds {
    /// The directives among the build arguments.
    pub directives: Directives,
    /// `cpushares`, as the client wrote it; cores or shares, as the cluster is configured.
    pub cpu_shares: i64,
    /// `memory`, in bytes.
    pub memory_bytes: i64,
}

impl BuildNeeds {
    fn wanted(&self, shares: CpuShares) -> Wanted {
        let limits = HostConfig {
            cpu_shares: self.cpu_shares,
            memory: self.memory_bytes,
            ..HostConfig::default()
        };
        let need = limits.need(shares);
        let mut request = Request {
            need,
            ..Request::default()
        };
        request.set_directives(&self.directives);
        let container = Arc::new(Container {
            reserved: need,
            ..Container::default()
        });
        Wanted {
            request,
            container,
            instead_of: None,
            avoid: Vec::new(),
        }
    }
}

impl Cluster {
    /// Chooses a node for a build and holds room there until the reservation is dropped.
    ///
    /// # Errors
    ///
    /// [`CreateError::Schedule`] if no node will do, [`CreateError::Policy`] if a reschedule
    /// policy among the directives makes no sense.
    ///
    /// # Cancel safety
    ///
    /// Nothing stays reserved if the future is dropped.
    pub async fn place_build(&self, needs: &BuildNeeds) -> Result<Reservation, CreateError> {
        needs.directives.reschedule_policy()?;
        let wanted = needs.wanted(self.options().cpu_shares);
        Ok(self.inner.placement.place(wanted).await?)
    }
}
