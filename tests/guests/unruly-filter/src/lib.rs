//! A filter that misbehaves in one way, chosen by `settings.mode`. It goes around the SDK where
//! the SDK would not let a plugin do that.

use std::cell::RefCell;
use std::hint::black_box;

use serde::Deserialize;

use skep_plugin_sdk::{Attr, Error, log};

/// `{"mode": "loop"}`. What needs the settings cannot happen before `configure`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    mode: Mode,
}

/// How the filter misbehaves.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Passes every candidate.
    #[default]
    Behave,
    /// Panics in `filter`.
    Trap,
    /// Panics in `prepare`.
    TrapInPrepare,
    /// Panics in `apply`.
    TrapInApply,
    /// Panics in `explain`; no candidate passes.
    TrapInExplain,
    /// Panics in `filter` when the request's name is `poison`.
    TrapOnPoison,
    /// Never returns from `filter`.
    Loop,
    /// Never returns from `prepare`.
    LoopInPrepare,
    /// Never returns from `apply`.
    LoopInApply,
    /// Never returns from `explain`; no candidate passes.
    LoopInExplain,
    /// Never returns from `configure`.
    LoopInConfigure,
    /// Takes memory in `filter` until it is stopped.
    Bomb,
    /// Takes memory in `configure` until it is stopped.
    BombInConfigure,
    /// Recurses in `filter` until the stack is full.
    Recurse,
    /// Passes slots that are no candidates.
    WrongNode,
    /// Answers one word more than there are candidate words.
    TooLong,
    /// Answers one word less than there are candidate words.
    TooShort,
    /// Logs 100,000 lines in `filter`.
    LogFlood,
    /// Logs one line of 1 MiB in `filter`.
    LogLong,
    /// Answers with 64 MiB of words.
    HugeOutput,
    /// Explains with 16 MiB of text; no candidate passes.
    HugeExplain,
    /// Explains with a million empty texts; no candidate passes.
    ManyExplain,
    /// Refuses with a text of 16 MiB.
    HugeError,
    /// Answers that its node table is stale, always.
    StaleForever,
    /// Refuses its settings.
    DenyConfig,
    /// Refuses the request.
    Deny,
    /// Fails without refusing.
    Fail,
    /// Works for about 50 ms in `configure` and `filter` of a usual machine, and then behaves.
    Slow,
}

thread_local! {
    static STATE: RefCell<(Mode, String)> = RefCell::default();
}

fn mode() -> Mode {
    STATE.with_borrow(|(mode, _)| *mode)
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn bomb() -> ! {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
        black_box(&held);
    }
}

fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    if depth == u64::MAX {
        0
    } else {
        recurse(depth + 1) + frame[0]
    }
}

fn work() {
    (0..50_000_000_u64).for_each(|turn| {
        black_box(turn);
    });
}

/// Takes the settings.
///
/// # Errors
///
/// They are wrong, or the mode says so.
pub fn configure(json: &str) -> Result<(), Error> {
    log::log_panics();
    let settings: Settings = skep_plugin_sdk::settings::parse(json)?;
    STATE.with_borrow_mut(|(mode, _)| *mode = settings.mode);
    match settings.mode {
        Mode::LoopInConfigure => spin(),
        Mode::BombInConfigure => bomb(),
        Mode::DenyConfig => Err(Error::InvalidConfig("this plugin likes no settings".into())),
        Mode::Slow => {
            work();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Takes changes of the node table.
pub fn apply() {
    match mode() {
        Mode::TrapInApply => panic!("unruly in apply"),
        Mode::LoopInApply => spin(),
        _ => {}
    }
}

/// Takes a request by its name.
pub fn prepare(name: String) -> bool {
    STATE.with_borrow_mut(|state| state.1 = name);
    match mode() {
        Mode::TrapInPrepare => panic!("unruly in prepare"),
        Mode::LoopInPrepare => spin(),
        _ => true,
    }
}

/// Answers, or does not.
///
/// # Errors
///
/// As the mode says.
pub fn filter(mut candidates: Vec<u64>) -> Result<Vec<u64>, Error> {
    match mode() {
        Mode::Trap => panic!("unruly in filter"),
        Mode::TrapOnPoison if STATE.with_borrow(|(_, name)| name == "poison") => {
            panic!("unruly about poison")
        }
        Mode::Loop => spin(),
        Mode::Bomb => bomb(),
        Mode::Recurse => candidates.push(recurse(0)),
        Mode::WrongNode => candidates.iter_mut().for_each(|word| *word = !*word),
        Mode::TooLong => candidates.push(1),
        Mode::TooShort => {
            candidates.pop();
        }
        Mode::LogFlood => {
            for line in 0..100_000 {
                log::warn("unruly line", &[("line", &line.to_string())]);
            }
        }
        Mode::LogLong => log::warn(
            &"unruly ".repeat(150_000),
            &[("long", &"x".repeat(1 << 20))],
        ),
        Mode::HugeOutput => return Ok(vec![u64::MAX; 8 << 20]),
        Mode::HugeError => return Err(Error::Denied("unruly ".repeat(2_400_000))),
        Mode::StaleForever => return Err(Error::Stale(0)),
        Mode::Deny => return Err(Error::Denied("unruly says no".into())),
        Mode::Fail => return Err(Error::Other("unruly cannot".into())),
        Mode::Slow => work(),
        Mode::TrapInExplain | Mode::LoopInExplain | Mode::HugeExplain | Mode::ManyExplain => {
            candidates.fill(0);
        }
        _ => {}
    }
    Ok(candidates)
}

/// Explains, or does not.
pub fn explain() -> Vec<String> {
    match mode() {
        Mode::TrapInExplain => panic!("unruly in explain"),
        Mode::LoopInExplain => spin(),
        Mode::HugeExplain => vec!["unruly ".repeat(2_400_000)],
        Mode::ManyExplain => vec![String::new(); 1_000_000],
        mode => vec![format!("unruly {mode:?}")],
    }
}

/// An `extra` entry that no host knows, which must not disturb it.
pub fn extra() -> Vec<Attr> {
    vec![Attr {
        key: "unruly".into(),
        value: "yes".into(),
    }]
}

#[cfg(target_family = "wasm")]
mod exports {
    use skep_plugin_sdk::bindings;
    use skep_plugin_sdk::bindings::filter::exports::skep::plugin::filter;
    use skep_plugin_sdk::bindings::mirror::exports::skep::plugin::mirror::{self, Delta};
    use skep_plugin_sdk::bindings::plugin::exports::skep::plugin::plugin;
    use skep_plugin_sdk::filter::{Description, Expressions, Feeds};
    use skep_plugin_sdk::{Error, Request};

    struct Unruly;

    impl plugin::Guest for Unruly {
        fn describe() -> Description {
            Description {
                name: "unruly-filter".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                feeds: Feeds::all(),
                expressions: Expressions::empty(),
                settings_schema: None,
                extra: super::extra(),
            }
        }

        fn configure(settings: String) -> Result<(), Error> {
            super::configure(&settings)
        }
    }

    impl mirror::Guest for Unruly {
        fn reset(_expected_nodes: u32) {}

        fn apply(_generation: u64, _deltas: Vec<Delta>) {
            super::apply();
        }
    }

    impl filter::Guest for Unruly {
        fn prepare(request: Request) -> Result<bool, Error> {
            Ok(super::prepare(request.name))
        }

        fn filter(_generation: u64, candidates: Vec<u64>) -> Result<Vec<u64>, Error> {
            super::filter(candidates)
        }

        fn explain() -> Vec<String> {
            super::explain()
        }
    }

    bindings::plugin::export!(Unruly with_types_in skep_plugin_sdk::bindings::plugin);
    bindings::mirror::export!(Unruly with_types_in skep_plugin_sdk::bindings::mirror);
    bindings::filter::export!(Unruly with_types_in skep_plugin_sdk::bindings::filter);
}
