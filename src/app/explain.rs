//! What `skep explain` does: it asks a manager, and says it in words.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::Method;
use serde::Deserialize;

use crate::{
    config::{engine::Engine, tls::EngineTls},
    engine::{
        client::{Client, encode},
        transport::{Fence, Limits, Transport},
    },
    model::address::EngineAddr,
    tls::Reloader,
};

/// How long the manager may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked, and of whom.
#[derive(Debug)]
pub struct Explain {
    /// Where the manager listens: `host:port` or `unix:///path`.
    pub host: String,
    /// How TLS is spoken with it, if it is.
    pub tls: Option<EngineTls>,
    /// What shall be explained.
    pub what: ExplainWhat,
    /// Whether the answer shall stay as it is.
    pub json: bool,
}

/// What shall be explained.
#[derive(Debug, PartialEq, Eq)]
pub enum ExplainWhat {
    /// A container that is there.
    Container(String),
    /// One that is not.
    Create {
        /// Its name; empty if it has none.
        name: String,
        /// The body of the request that would make it.
        body: String,
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

/// Asks the manager and returns what is to be printed.
///
/// # Errors
///
/// The manager cannot be reached, or refuses.
pub async fn explain(explain: Explain) -> anyhow::Result<String> {
    let client = connect(&explain)?;
    let asked = match &explain.what {
        ExplainWhat::Container(name) => {
            let path = format!("/skep/explain?container={}", encode(name));
            client.call(Method::GET, &path).await
        }
        ExplainWhat::Create { name, body } => {
            let path = format!("/skep/explain?name={}", encode(name));
            client.post(&path, Bytes::from(body.clone())).await
        }
    };
    let answer = asked.with_context(|| format!("the manager at {} was asked", explain.host))?;
    if explain.json {
        return Ok(String::from_utf8_lossy(&answer).into_owned());
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .with_context(|| format!("what answers at {} is no Skep manager", explain.host))?;
    Ok(answer.in_words())
}

fn connect(explain: &Explain) -> anyhow::Result<Client> {
    let host = &explain.host;
    let addr: EngineAddr = host
        .parse()
        .map_err(|error| anyhow!("`{host}` is no address of a manager: {error}"))?;
    let limits = Limits {
        connect_timeout: Duration::from_secs(10),
        max_connections: 1,
        max_idle: 0,
    };
    let engine = Engine {
        tls: explain.tls.clone(),
        ..Engine::default()
    };
    let tls = Reloader::default().engines(&engine)?.client(&addr);
    let transport = Transport::with_tls(addr, &limits, tls, Fence::default());
    Ok(Client::new(Arc::new(transport), PATIENCE))
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
fn table(text: &mut String, head: [&str; 3], rows: &[[String; 3]]) {
    if rows.is_empty() {
        return;
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.fold(head[column].len(), usize::max)
    };
    let (first, second) = (width(0), width(1));
    _ = writeln!(
        text,
        "\n{:first$}  {:second$}  {}",
        head[0], head[1], head[2]
    );
    for [a, b, c] in rows {
        let line = format!("{a:first$}  {b:second$}  {c}");
        _ = writeln!(text, "{}", line.trim_end());
    }
}
