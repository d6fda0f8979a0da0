//! What `skep explain` and `skep rebalance` do: they ask a manager, and say it in words.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use crate::{
    config::{engine::Engine, tls::EngineTls},
    engine::{
        client::{Client, encode},
        pool::Pool,
        transport::{Fence, Limits, Transport},
    },
    model::address::EngineAddr,
    tls::Reloader,
};

/// How long the manager may take: a rebalance stops containers, one after the other.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is asked, and of whom.
#[derive(Debug)]
pub struct Ask {
    /// Who is asked.
    pub manager: Manager,
    /// What is asked.
    pub what: What,
    /// Whether the answer shall stay as it is.
    pub json: bool,
}

/// How a manager is reached.
#[derive(Debug)]
pub struct Manager {
    /// Where it listens: `host:port` or `unix:///path`.
    pub host: String,
    /// How TLS is spoken with it, if it is.
    pub tls: Option<EngineTls>,
}

/// What a manager is asked.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// Where a container that is there would go now.
    ExplainContainer(String),
    /// Where one would go that is not there.
    ExplainCreate {
        /// Its name; empty if it has none.
        name: String,
        /// The body of the request that would make it.
        body: String,
    },
    /// To move containers to better nodes.
    Rebalance {
        /// Only to tell which.
        dry_run: bool,
        /// Most moves.
        max_moves: u32,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    chosen: Option<Node>,
    error: Option<String>,
    closed: Vec<Node>,
    filters: Vec<Step>,
    full: Vec<Node>,
    ranking: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    name: String,
    addr: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    score: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Step {
    filter: String,
    conditions: Vec<String>,
    soft: bool,
    dropped: bool,
    refused: Vec<Node>,
}

/// One move of a rebalance.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Moved {
    name: String,
    from: String,
    to: String,
    score: u64,
    containers: u32,
    error: Option<String>,
}

/// Asks the manager and returns what is to be printed.
///
/// # Errors
///
/// The manager cannot be reached, or refuses.
pub async fn ask(ask: Ask) -> anyhow::Result<String> {
    let host = &ask.manager.host;
    let client = connect(&ask.manager)?;
    let asked = match &ask.what {
        What::ExplainContainer(name) => {
            let path = format!("/skep/explain?container={}", encode(name));
            client.call(Method::GET, &path).await
        }
        What::ExplainCreate { name, body } => {
            let path = format!("/skep/explain?name={}", encode(name));
            client.post(&path, Bytes::from(body.clone())).await
        }
        What::Rebalance { dry_run, max_moves } => {
            let path = format!("/skep/rebalance?dry-run={dry_run}&max-moves={max_moves}");
            client.call(Method::POST, &path).await
        }
    };
    let answer = asked.with_context(|| format!("the manager at {host} was asked"))?;
    if ask.json {
        return Ok(String::from_utf8_lossy(&answer).into_owned());
    }
    let is_odd = || format!("what answers at {host} is no Skep manager");
    if let What::Rebalance { dry_run, .. } = ask.what {
        let moves: Vec<Moved> = serde_json::from_slice(&answer).with_context(is_odd)?;
        return Ok(moves_in_words(&moves, dry_run));
    }
    let answer: Answer = serde_json::from_slice(&answer).with_context(is_odd)?;
    Ok(answer.in_words())
}

fn connect(manager: &Manager) -> anyhow::Result<Client> {
    let host = &manager.host;
    let addr: EngineAddr = host
        .parse()
        .map_err(|error| anyhow!("`{host}` is no address of a manager: {error}"))?;
    let limits = Limits::new(Duration::from_secs(10), 1, 0);
    let engine = Engine {
        tls: manager.tls.clone(),
        ..Engine::default()
    };
    let tls = Reloader::default().engines(&engine)?.client(&addr);
    let transport = Transport::with_tls(addr, &limits, tls, Fence::default(), &Pool::default());
    Ok(Client::new(Arc::new(transport), PATIENCE))
}

fn moves_in_words(moves: &[Moved], dry_run: bool) -> String {
    if moves.is_empty() {
        return "Nothing would be better elsewhere.".to_owned();
    }
    let rows: Vec<[String; 5]> = moves
        .iter()
        .map(|one| {
            // The score decides; where it is the same, the number of containers does.
            let gain = match one.score {
                0 => format!("{} containers", one.containers),
                score => score.to_string(),
            };
            let outcome = match (&one.error, dry_run) {
                (_, true) => String::new(),
                (None, false) => "moved".to_owned(),
                (Some(reason), false) => format!("stays: {reason}"),
            };
            [
                one.name.clone(),
                one.from.clone(),
                one.to.clone(),
                gain,
                outcome,
            ]
        })
        .collect();
    let mut text = String::new();
    table(&mut text, ["CONTAINER", "FROM", "TO", "GAIN", ""], &rows);
    text.trim_start().to_owned()
}

impl Answer {
    fn in_words(&self) -> String {
        let names = |nodes: &[Node]| {
            let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            names.join(", ")
        };
        let mut text = String::new();
        // Writing to a text cannot fail.
        match (&self.chosen, &self.error) {
            (Some(node), _) => _ = writeln!(text, "It goes to {} ({}).", node.name, node.addr),
            (None, Some(error)) => _ = writeln!(text, "It goes nowhere: {error}"),
            (None, None) => _ = writeln!(text, "It goes nowhere."),
        }
        for node in &self.closed {
            _ = writeln!(text, "{} takes none: it is {}.", node.name, node.status);
        }
        let rows: Vec<[String; 3]> = self
            .filters
            .iter()
            .map(|step| {
                let wish = match (step.soft, step.dropped) {
                    (true, true) => " (a wish, and no node meets it)",
                    (true, false) => " (a wish)",
                    _ => "",
                };
                let conditions = format!("{}{wish}", step.conditions.join(", "));
                [step.filter.clone(), conditions, names(&step.refused)]
            })
            .collect();
        table(&mut text, ["FILTER", "CONDITIONS", "REFUSED"], &rows);
        if !self.full.is_empty() {
            _ = writeln!(text, "\nNo room: {}", names(&self.full));
        }
        let ranked = self.ranking.iter();
        let rows: Vec<[String; 3]> = ranked
            .map(|node| [node.name.clone(), node.score.to_string(), node.addr.clone()])
            .collect();
        table(&mut text, ["NODE", "SCORE", "ADDRESS"], &rows);
        text
    }
}

/// Writes rows in columns, unless there are none.
fn table<const N: usize>(text: &mut String, head: [&str; N], rows: &[[String; N]]) {
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.fold(head[column].len(), usize::max)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let head = head.map(str::to_owned);
    text.push('\n');
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        // Writing to a text cannot fail.
        _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
}
