//! Plugins that narrow the nodes a container may run on.

use serde::de::DeserializeOwned;

pub use crate::bindings::plugin::exports::skep::plugin::plugin::{Description, Expressions, Feeds};

use crate::nodes::Change;
use crate::{Error, Expression, NodeSet, Nodes, Operator, Request, Result, settings};

/// Narrows the nodes a container may run on.
///
/// For each request the daemon asks [`applies`](Filter::applies) once, and if so
/// [`filter`](Filter::filter). A filter that fails refuses the request; it is never skipped.
///
/// A filter may be called twice for one request: with the hard expressions first, and then with
/// one soft expression at a time, which is dropped if no node is left. It enforces what is in the
/// request and need not know the difference.
pub trait Filter: Sized + 'static {
    /// The plugin's table in `config.toml`; [`NoSettings`](crate::NoSettings) if it has none.
    type Settings: DeserializeOwned;

    /// The parts of the node table this filter reads. Default: both.
    const FEEDS: Feeds = Feeds::all();

    /// The expressions this filter is there for: it is only called for requests that carry one.
    /// Default: none, so [`applies`](Filter::applies) decides.
    const EXPRESSIONS: Expressions = Expressions::empty();

    /// JSON Schema of the settings, for documentation. Default: none.
    const SETTINGS_SCHEMA: Option<&'static str> = None;

    /// Makes the filter from its settings, once, when the daemon starts.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] if the settings make no sense: the daemon then does not start.
    fn new(settings: Self::Settings) -> Result<Self>;

    /// Tells whether this filter has anything to say to the request. Default: yes.
    ///
    /// # Errors
    ///
    /// Refuses the request.
    fn applies(&self, request: &Request, nodes: &Nodes) -> Result<bool> {
        let _ = (request, nodes);
        Ok(true)
    }

    /// Takes the nodes that do not pass out of `keep`. None left is no error.
    ///
    /// # Errors
    ///
    /// Refuses the request; [`Error::Denied`] with the whole message the client shall see.
    fn filter(&self, request: &Request, nodes: &Nodes, keep: &mut NodeSet) -> Result<()>;

    /// What the request asks of this filter, for the message when no node is left. Default:
    /// nothing.
    fn explain(&self, request: &Request) -> Vec<String> {
        let _ = request;
        Vec::new()
    }
}

/// One running filter: the calls of the daemon, in terms of [`Filter`].
///
/// [`export_filter!`](crate::export_filter) makes one for each instance of the component; a
/// native test may drive it the same way.
#[derive(Debug)]
pub struct Instance<F> {
    filter: Option<F>,
    nodes: Nodes,
    request: Option<Request>,
}

impl<F: Filter> Instance<F> {
    /// Returns an instance that still lacks its settings.
    #[expect(
        clippy::new_without_default,
        reason = "an instance is useless until configured"
    )]
    pub fn new() -> Self {
        Self {
            filter: None,
            nodes: Nodes::new(),
            request: None,
        }
    }

    /// Makes the filter from its settings as JSON text.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] with the reason.
    pub fn configure(&mut self, json: &str) -> Result<()> {
        self.filter = Some(F::new(settings::parse(json)?)?);
        Ok(())
    }

    /// Forgets the node table.
    pub fn reset(&mut self, expected_nodes: u32) {
        self.nodes.reset(expected_nodes);
    }

    /// Applies changes of the node table.
    pub fn apply(&mut self, generation: u64, changes: impl IntoIterator<Item = Change>) {
        self.nodes.apply(generation, changes);
    }

    /// Takes the request the next calls are about.
    ///
    /// # Errors
    ///
    /// What [`Filter::applies`] returns.
    pub fn prepare(&mut self, request: Request) -> Result<bool> {
        let filter = configured(&self.filter)?;
        let applies = filter.applies(&request, &self.nodes);
        self.request = Some(request);
        applies
    }

    /// Returns the candidates that pass: always a subset, of the same length.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] if the node table is another version, or what [`Filter::filter`] returns.
    pub fn filter(&self, generation: u64, candidates: Vec<u64>) -> Result<Vec<u64>> {
        let filter = configured(&self.filter)?;
        // A filter without feeds gets no node table, so it has no version.
        if !F::FEEDS.is_empty() {
            self.nodes.check(generation)?;
        }
        let request = self.request.as_ref().ok_or_else(unprepared)?;
        let candidates = NodeSet::from_words(candidates);
        let mut keep = candidates.clone();
        filter.filter(request, &self.nodes, &mut keep)?;
        keep.intersect(&candidates);
        keep.resize(candidates.words().len());
        Ok(keep.into_words())
    }

    /// Returns what the prepared request asks of this filter.
    pub fn explain(&self) -> Vec<String> {
        match (&self.filter, &self.request) {
            (Some(filter), Some(request)) => filter.explain(request),
            _ => Vec::new(),
        }
    }
}

pub(crate) fn configured<P>(plugin: &Option<P>) -> Result<&P> {
    plugin
        .as_ref()
        .ok_or_else(|| Error::Other("the plugin was called before `configure`".into()))
}

fn unprepared() -> Error {
    Error::Other("the filter was called before `prepare`".into())
}

/// Keeps the compiler from calling a plugin unused where nothing is exported.
#[doc(hidden)]
pub const fn used<P: Filter>() {}

/// Makes a type that implements [`Filter`] the plugin that this crate builds.
///
/// Expands to the exports of a filter component for WebAssembly, and to nothing elsewhere. The
/// plugin's name and version are the crate's.
#[macro_export]
macro_rules! export_filter {
    ($filter:ty) => {
        #[cfg(not(target_family = "wasm"))]
        const _: () = $crate::filter::used::<$filter>();
        #[cfg(target_family = "wasm")]
        const _: () = {
            use $crate::bindings::filter::exports::skep::plugin::filter as kind;
            use $crate::filter::{Description, Filter, Instance};

            $crate::__export_instance!($filter, Instance, <$filter as Filter>::EXPRESSIONS);

            impl kind::Guest for Exports {
                fn prepare(request: $crate::Request) -> $crate::Result<bool> {
                    INSTANCE.with_borrow_mut(|instance| instance.prepare(request))
                }

                fn filter(generation: u64, candidates: Vec<u64>) -> $crate::Result<Vec<u64>> {
                    INSTANCE.with_borrow(|instance| instance.filter(generation, candidates))
                }

                fn explain() -> Vec<String> {
                    INSTANCE.with_borrow(|instance| instance.explain())
                }
            }

    $crate::bindings::filter::export!(Exports with_types_in $crate::bindings::filter);
        };
    };
}

impl std::fmt::Display for Expression {
    /// Writes `key==value` or `key!=value`, as messages to clients quote it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let operator = match self.operator {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
        };
        write!(f, "{}{operator}{}", self.key, self.value)
    }
}
