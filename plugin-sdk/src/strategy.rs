//! Plugins that order the nodes that are left.

mod load;

use std::cmp::Ordering;

use serde::de::DeserializeOwned;

pub use crate::bindings::plugin::exports::skep::plugin::plugin::{Description, Expressions, Feeds};
pub use crate::bindings::strategy::exports::skep::plugin::strategy::Ranked;

pub use load::{Load, has_room, loads};

use crate::filter::configured;
use crate::nodes::Change;
use crate::{NodeSet, Nodes, Request, Result, settings};

/// Orders the nodes that are left after all filters.
pub trait Strategy: Sized + 'static {
    /// The plugin's table in `config.toml`; [`NoSettings`](crate::NoSettings) if it has none.
    type Settings: DeserializeOwned;

    /// The parts of the node table this strategy reads. Default: both.
    const FEEDS: Feeds = Feeds::all();

    /// JSON Schema of the settings, for documentation. Default: none.
    const SETTINGS_SCHEMA: Option<&'static str> = None;

    /// Makes the strategy from its settings, once, when the daemon starts.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) if the settings make no sense: the
    /// daemon then does not start.
    fn new(settings: Self::Settings) -> Result<Self>;

    /// Returns the candidates with room for the request, best first, at most `limit`.
    ///
    /// Equal inputs should give equal answers: order equal nodes by
    /// [`Figures::name_rank`](crate::nodes::Figures::name_rank). [`best`] does the choosing.
    ///
    /// # Errors
    ///
    /// Refuses the request. No room is no error but an empty answer.
    fn rank(
        &self,
        request: &Request,
        nodes: &Nodes,
        candidates: &NodeSet,
        limit: usize,
    ) -> Result<Vec<Ranked>>;
}

/// Returns the `limit` first items in the given order, sorted. Looks at the others once each, so a
/// small limit over many nodes is cheap.
pub fn best<T>(
    mut items: Vec<T>,
    limit: usize,
    mut order: impl FnMut(&T, &T) -> Ordering,
) -> Vec<T> {
    if limit == 0 {
        return Vec::new();
    }
    if limit < items.len() {
        items.select_nth_unstable_by(limit - 1, &mut order);
        items.truncate(limit);
    }
    items.sort_unstable_by(order);
    items
}

/// One running strategy: the calls of the daemon, in terms of [`Strategy`].
///
/// [`export_strategy!`](crate::export_strategy) makes one for each instance of the component; a
/// native test may drive it the same way.
#[derive(Debug)]
pub struct Instance<S> {
    strategy: Option<S>,
    nodes: Nodes,
}

impl<S: Strategy> Instance<S> {
    /// Returns an instance that still lacks its settings.
    #[expect(
        clippy::new_without_default,
        reason = "an instance is useless until configured"
    )]
    pub fn new() -> Self {
        Self {
            strategy: None,
            nodes: Nodes::new(),
        }
    }

    /// Makes the strategy from its settings as JSON text.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) with the reason.
    pub fn configure(&mut self, json: &str) -> Result<()> {
        self.strategy = Some(S::new(settings::parse(json)?)?);
        Ok(())
    }

    /// Forgets the node table.
    pub fn reset(&mut self, expected_nodes: u32) {
        self.nodes.reset(expected_nodes);
    }

    /// Applies changes of the node table.
    pub fn apply(&mut self, generation: u64, changes: impl IntoIterator<Item = Change>) {
        self.nodes.apply(generation, changes);
        self.nodes.rank_names();
    }

    /// Ranks the candidates.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`](crate::Error::Stale) if the node table is another version, or what
    /// [`Strategy::rank`] returns.
    pub fn rank(
        &self,
        request: &Request,
        generation: u64,
        candidates: Vec<u64>,
        limit: u32,
    ) -> Result<Vec<Ranked>> {
        let strategy = configured(&self.strategy)?;
        if !S::FEEDS.is_empty() {
            self.nodes.check(generation)?;
        }
        let mut ranked = strategy.rank(
            request,
            &self.nodes,
            &NodeSet::from_words(candidates),
            limit as usize,
        )?;
        ranked.truncate(limit as usize);
        Ok(ranked)
    }
}

/// Keeps the compiler from calling a plugin unused where nothing is exported.
#[doc(hidden)]
pub const fn used<P: Strategy>() {}

/// Makes a type that implements [`Strategy`] the plugin that this crate builds.
///
/// Expands to the exports of a strategy component for WebAssembly, and to nothing elsewhere. The
/// plugin's name and version are the crate's.
#[macro_export]
macro_rules! export_strategy {
    ($strategy:ty) => {
        #[cfg(not(target_family = "wasm"))]
        const _: () = $crate::strategy::used::<$strategy>();
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::strategy::exports::skep::plugin::strategy as kind;
            use $crate::strategy::{Description, Expressions, Instance, Ranked, Strategy};

            $crate::__export_instance!($strategy, Instance, Expressions::empty());

            impl kind::Guest for Exports {
                fn rank(
                    request: $crate::Request,
                    generation: u64,
                    candidates: Vec<u64>,
                    limit: u32,
                ) -> $crate::Result<Vec<Ranked>> {
                    INSTANCE.with_borrow(|instance| {
                        instance.rank(&request, generation, candidates, limit)
                    })
                }
            }

    $crate::bindings::strategy::export!(Exports with_types_in $crate::bindings::strategy);
        };
    };
}
