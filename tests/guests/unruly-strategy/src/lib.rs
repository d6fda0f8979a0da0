//! A strategy that misbehaves in one way, chosen by `settings.mode`. The SDK lets a strategy do
//! all of that, so this one uses it as an author would.

use serde::Deserialize;

use skep_plugin_sdk::strategy::Ranked;
use skep_plugin_sdk::{Error, NodeSet, Nodes, Request, Result, Strategy};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    mode: Mode,
}

/// How the strategy misbehaves.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    /// Ranks the candidates by slot.
    Behave,
    /// Ranks a slot that no node has, before the candidates.
    UnknownSlot,
    /// Ranks a slot that is no candidate, before the candidates.
    NotACandidate,
    /// Ranks the first candidate twice.
    Duplicates,
    /// Ranks nothing.
    Nothing,
    /// Ranks the worst first, by its own scores.
    Unsorted,
    /// Panics.
    Trap,
    /// Never returns.
    Loop,
    /// Takes memory until it is stopped.
    Bomb,
    /// Answers that its node table is stale, always.
    StaleForever,
    /// Refuses the request.
    Deny,
    /// Refuses its settings.
    DenyConfig,
}

struct Unruly(Mode);

impl Strategy for Unruly {
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self> {
        if settings.mode == Mode::DenyConfig {
            return Err(Error::InvalidConfig("this plugin likes no settings".into()));
        }
        Ok(Self(settings.mode))
    }

    fn rank(
        &self,
        _request: &Request,
        _nodes: &Nodes,
        candidates: &NodeSet,
        _limit: usize,
    ) -> Result<Vec<Ranked>> {
        let mut ranked: Vec<_> = candidates
            .iter()
            .map(|slot| Ranked { slot, score: 0 })
            .collect();
        match self.0 {
            Mode::Behave | Mode::DenyConfig => {}
            Mode::UnknownSlot => ranked.insert(
                0,
                Ranked {
                    slot: 4_000_000_000,
                    score: 1,
                },
            ),
            Mode::NotACandidate => {
                let other = (0..)
                    .find(|slot| !candidates.contains(*slot))
                    .unwrap_or_default();
                ranked.insert(
                    0,
                    Ranked {
                        slot: other,
                        score: 1,
                    },
                );
            }
            Mode::Duplicates => {
                if let Some(&first) = ranked.first() {
                    ranked.insert(0, first);
                }
            }
            Mode::Nothing => ranked.clear(),
            Mode::Unsorted => {
                for (entry, score) in ranked.iter_mut().zip(0..) {
                    entry.score = score;
                }
            }
            Mode::Trap => panic!("unruly in rank"),
            Mode::Loop => loop {
                std::hint::black_box(&ranked);
            },
            Mode::Bomb => loop {
                let more = ranked.clone();
                ranked.extend(more);
                ranked.push(Ranked { slot: 0, score: 0 });
            },
            Mode::StaleForever => return Err(Error::Stale(0)),
            Mode::Deny => return Err(Error::Denied("unruly says no".into())),
        }
        Ok(ranked)
    }
}

skep_plugin_sdk::export_strategy!(Unruly);
