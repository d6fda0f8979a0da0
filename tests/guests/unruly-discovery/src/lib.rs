//! A discovery backend that misbehaves in one way, chosen by `settings.mode`.

use std::time::Duration;

use serde::Deserialize;

use skep_plugin_sdk::discovery::{Batch, unchanged, whole_list};
use skep_plugin_sdk::{Discovery, Error, Result, host};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    mode: Mode,
    /// What is listed first, whatever follows.
    #[serde(default)]
    addresses: Vec<String>,
}

/// How the backend misbehaves.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Lists the addresses, then says that nothing changes.
    Behave,
    /// Panics.
    Trap,
    /// Lists the addresses, then panics.
    TrapLater,
    /// Never returns.
    Loop,
    /// Lists the addresses, then never returns.
    LoopLater,
    /// Takes memory until it is stopped.
    Bomb,
    /// Says at once, again and again, that nothing changed.
    Busy,
    /// Fails.
    Fail,
    /// Lists the addresses, then fails.
    FailLater,
    /// Lists what is no address.
    BadAddress,
    /// Lists a million addresses.
    HugeList,
    /// Answers with a cursor of 16 MiB.
    HugeCursor,
    /// Lists the addresses, then an empty fleet.
    Empties,
    /// Reads a file that no configuration allows.
    ReadFile,
    /// Refuses its settings.
    DenyConfig,
}

struct Unruly(Settings);

impl Discovery for Unruly {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self> {
        if settings.mode == Mode::DenyConfig {
            return Err(Error::InvalidConfig("this plugin likes no settings".into()));
        }
        Ok(Self(settings))
    }

    fn next(&mut self, cursor: Option<&[u8]>, max_wait: Duration) -> Result<Batch> {
        let first = cursor.is_none();
        let listed = whole_list(self.0.addresses.iter().cloned(), vec![1]);
        match self.0.mode {
            Mode::Trap => panic!("unruly in next"),
            Mode::Loop => spin(),
            Mode::Bomb => bomb(),
            Mode::Fail => Err(Error::Unavailable("unruly cannot".into())),
            Mode::BadAddress => Ok(whole_list(
                ["no address".to_owned(), String::new()],
                vec![1],
            )),
            Mode::HugeList => Ok(whole_list(
                (0..1_000_000).map(|n| format!("n{n}:2375")),
                vec![1],
            )),
            Mode::HugeCursor => Ok(Batch {
                cursor: vec![1; 16 << 20],
                ..listed
            }),
            Mode::ReadFile => {
                let (content, _) = host::read_file("/etc/passwd")?;
                Err(Error::Other(format!("unruly read {} bytes", content.len())))
            }
            _ if first => Ok(listed),
            Mode::TrapLater => panic!("unruly in next"),
            Mode::LoopLater => spin(),
            Mode::FailLater => Err(Error::Unavailable("unruly cannot".into())),
            Mode::Busy => Ok(unchanged(&[1], None)),
            Mode::Empties => Ok(whole_list([], vec![1])),
            Mode::Behave | Mode::DenyConfig => Ok(unchanged(&[1], Some(max_wait))),
        }
    }
}

skep_plugin_sdk::export_discovery!(Unruly);

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn bomb() -> ! {
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
        std::hint::black_box(&held);
    }
}
