//! What a guest can ask the daemon: log lines, the clock, random bytes, what runs where.
//!
//! One [`Host`] belongs to one instance. What a guest may import is decided when its linker is
//! made (`loader`): a filter has no random bytes, only discovery has files, stores and names, and
//! only volume drivers have directories, mounts, records and secrets.

use std::{
    sync::{Arc, LazyLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tracing::{debug, error, info, trace, warn};
use wasmtime::component::{HasData, ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{
    bindings::scheduling::skep::plugin::{
        clock, inventory,
        log::{self, Level},
        random, types,
    },
    bindings::waiting::skep::plugin::types as io,
    fault::clip,
    grants::Grants,
    http::Http,
    names::Names,
    quota::Quota,
    rate::{LineGate, Verdict},
    records::{Records, Secrets},
    root::Root,
    stores::Keys,
};
use crate::{
    model::pattern::Pattern,
    scheduler::{Inventory, node_set::NodeSet},
};

const MAX_RANDOM_BYTES: u32 = 1 << 20;
const MAX_RESOURCES: usize = 1024;

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The daemon's side of one instance.
pub(super) struct Host {
    plugin: Arc<str>,
    pub(super) quota: Quota,
    /// Present only while a call is under way.
    pub(super) inventory: Option<Arc<dyn Inventory>>,
    pub(super) grants: Grants,
    /// Whether the guest has taken its settings: before, it runs where nothing may wait for a
    /// network.
    pub(super) is_configured: bool,
    /// Ticks of computing in the call under way.
    pub(super) ticks: u64,
    random: StdRng,
    lines: LineGate,
    last_error: Option<String>,
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    context: WasiCtx,
    resources: ResourceTable,
}

/// Tells the linker that a store's data is its own host.
pub(super) struct OwnHost;

impl HasData for OwnHost {
    type Data<'a> = &'a mut Host;
}

impl Host {
    pub(super) fn new(plugin: Arc<str>, quota: Quota, grants: Grants) -> Self {
        Self {
            plugin,
            inventory: None,
            grants,
            is_configured: false,
            ticks: 0,
            random: rand::make_rng(),
            lines: LineGate::new(quota.limits().log_lines_per_second),
            last_error: None,
            wasi: None,
            quota,
        }
    }

    pub(super) fn granted_store(&self) -> Result<Keys, io::Error> {
        self.granted("store", self.grants.store.as_ref())
    }

    pub(super) fn granted_http(&self) -> Result<Http, io::Error> {
        self.granted("server", self.grants.http.as_ref())
    }

    pub(super) fn granted_names(&self) -> Result<Names, io::Error> {
        self.granted("name", self.grants.names.as_ref())
    }

    pub(super) fn granted_root(&self) -> Result<Root, io::Error> {
        self.granted("directory", self.grants.root.as_ref())
    }

    pub(super) fn granted_records(&self) -> Result<Records, io::Error> {
        self.granted("record", self.grants.records.as_ref())
    }

    pub(super) fn granted_secrets(&self) -> Result<Secrets, io::Error> {
        self.granted("secret", self.grants.secrets.as_ref())
    }

    fn granted<T: Clone>(&self, what: &str, grant: Option<&T>) -> Result<T, io::Error> {
        let refuse = |reason| Err(io::Error::Unavailable(reason));
        match grant {
            Some(_) if !self.is_configured => {
                refuse(format!("no {what} can be asked during configuration"))
            }
            Some(grant) => Ok(grant.clone()),
            None => refuse(format!("no {what} is allowed by the configuration")),
        }
    }

    /// Makes the random bytes follow from `seed`.
    pub(super) fn seed(&mut self, seed: u64) {
        self.random = StdRng::seed_from_u64(seed);
    }

    /// The last error the guest logged since this was last asked.
    pub(super) fn take_last_error(&mut self) -> Option<String> {
        self.last_error.take()
    }

    pub(super) fn log<'a>(
        &mut self,
        level: Level,
        message: String,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        let message = clip(message);
        if level == Level::Error {
            self.last_error = Some(message.clone());
        }
        if !enabled(level) {
            return;
        }
        let plugin = &*self.plugin;
        match self.lines.admit(Instant::now()) {
            Verdict::Drop => return,
            Verdict::Keep { suppressed: 0 } => {}
            Verdict::Keep { suppressed } => warn_missing(plugin, suppressed),
        }
        let mut line = message;
        for (key, value) in fields {
            line.push(' ');
            line.push_str(key);
            line.push('=');
            line.push_str(value);
        }
        let line = clip(line);
        match level {
            Level::Error => error!(plugin, line, "plugin says"),
            Level::Warn => warn!(plugin, line, "plugin says"),
            Level::Info => info!(plugin, line, "plugin says"),
            Level::Debug => debug!(plugin, line, "plugin says"),
            Level::Trace => trace!(plugin, line, "plugin says"),
        }
    }

    /// Says how many lines are missing if no line of the guest did: it may never log again.
    pub(super) fn end_call(&mut self) {
        if let Some(suppressed) = self.lines.overdue(Instant::now) {
            warn_missing(&self.plugin, suppressed);
        }
    }

    fn ask(
        &self,
        question: impl FnOnce(&dyn Inventory) -> NodeSet,
    ) -> Result<Vec<u64>, types::Error> {
        match &self.inventory {
            Some(inventory) => Ok(question(&**inventory).words().to_vec()),
            None => Err(types::Error::Unavailable(
                "the inventory can be asked only while a placement is under way".to_owned(),
            )),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        match self.lines.rest() {
            0 => {}
            suppressed => warn_missing(&self.plugin, suppressed),
        }
    }
}

fn warn_missing(plugin: &str, suppressed: u64) {
    warn!(
        plugin,
        suppressed, "plugin logged too much, lines are missing"
    );
}

/// Whether a line of this level would be kept.
pub(super) fn enabled(level: Level) -> bool {
    match level {
        Level::Error => tracing::enabled!(tracing::Level::ERROR),
        Level::Warn => tracing::enabled!(tracing::Level::WARN),
        Level::Info => tracing::enabled!(tracing::Level::INFO),
        Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
        Level::Trace => tracing::enabled!(tracing::Level::TRACE),
    }
}

impl WasiView for Host {
    /// A context that grants nothing: no file, socket, argument, or variable; output vanishes.
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| {
            let mut resources = ResourceTable::new();
            resources.set_max_capacity(MAX_RESOURCES);
            Box::new(Wasi {
                context: WasiCtx::builder().allow_tcp(false).allow_udp(false).build(),
                resources,
            })
        });
        WasiCtxView {
            ctx: &mut wasi.context,
            table: &mut wasi.resources,
        }
    }
}

impl types::Host for Host {}

impl log::Host for Host {
    fn enabled(&mut self, level: Level) -> bool {
        enabled(level)
    }

    fn log(&mut self, level: Level, message: String, fields: Vec<log::Attr>) {
        let fields = fields.iter().map(|f| (f.key.as_str(), f.value.as_str()));
        Self::log(self, level, message, fields);
    }
}

impl clock::Host for Host {
    fn now_ms(&mut self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            })
    }

    fn monotonic_ns(&mut self) -> u64 {
        u64::try_from(STARTED.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl random::Host for Host {
    fn bytes(&mut self, count: u32) -> Vec<u8> {
        let mut bytes = vec![0; count.min(MAX_RANDOM_BYTES) as usize];
        self.random.fill_bytes(&mut bytes);
        bytes
    }
}

impl inventory::Host for Host {
    fn nodes_with_reference(&mut self, reference: String) -> Result<Vec<u64>, types::Error> {
        self.ask(|inventory| inventory.nodes_with_reference(&reference))
    }

    fn nodes_with_container(
        &mut self,
        pattern: inventory::Pattern,
    ) -> Result<Vec<u64>, types::Error> {
        self.ask(|inventory| inventory.nodes_with_container(&pattern.into()))
    }

    fn nodes_with_label(
        &mut self,
        key: String,
        pattern: inventory::Pattern,
    ) -> Result<Vec<u64>, types::Error> {
        self.ask(|inventory| inventory.nodes_with_label(&key, &pattern.into()))
    }

    fn nodes_with_image(&mut self, pattern: inventory::Pattern) -> Result<Vec<u64>, types::Error> {
        self.ask(|inventory| inventory.nodes_with_image(&pattern.into()))
    }

    fn nodes_with_host_ports(
        &mut self,
        host_ip: String,
        first: u16,
        last: u16,
        protocol: String,
    ) -> Result<Vec<u64>, types::Error> {
        self.ask(|inventory| inventory.nodes_with_host_ports(&host_ip, first, last, &protocol))
    }

    fn nodes_with_host_mode_port(&mut self, port: String) -> Result<Vec<u64>, types::Error> {
        self.ask(|inventory| inventory.nodes_with_host_mode_port(&port))
    }
}

impl From<inventory::Pattern> for Pattern {
    fn from(pattern: inventory::Pattern) -> Self {
        match pattern {
            inventory::Pattern::Exact(text) => Self::Exact(text),
            inventory::Pattern::Glob(text) => Self::Glob(text),
            inventory::Pattern::Regex(text) => Self::regex(&text),
        }
    }
}
