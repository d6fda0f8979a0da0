//! `skep-fleet`: runs a simulated fleet until SIGTERM or Ctrl-C.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use skep_fleet::{Fault, Fleet, Shape, control};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Runs N stand-in Docker engines, each with M containers, and prints their addresses.
#[derive(Debug, Parser)]
struct Options {
    /// Number of engines.
    #[arg(long, default_value_t = 3)]
    engines: usize,
    /// Running containers each engine has at first.
    #[arg(long, default_value_t = 5)]
    containers: usize,
    /// Port of all engines, on 127.1.0.1 and following; 0 picks one.
    #[arg(long, default_value_t = 4243)]
    port: u16,
    /// Time each call takes, such as `1ms`.
    #[arg(long, value_parser = humantime::parse_duration)]
    latency: Option<Duration>,
    /// Most time that is added to the latency, such as `500us`.
    #[arg(long, value_parser = humantime::parse_duration, requires = "latency")]
    jitter: Option<Duration>,
    /// Where to serve the control endpoint, such as `127.0.0.1:4242`.
    #[arg(long)]
    control: Option<SocketAddr>,
    /// Events each engine keeps for `since`.
    #[arg(long, default_value_t = 32)]
    events_kept: usize,
    /// Create bodies each engine keeps.
    #[arg(long, default_value_t = 1)]
    create_bodies_kept: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let mut terminated = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let shape = Shape {
        events_kept: options.events_kept,
        create_bodies_kept: options.create_bodies_kept,
        ..Shape::default()
    };
    let fleet = Fleet::builder()
        .engines(options.engines)
        .containers(options.containers)
        .port(options.port)
        .shape(shape)
        .start()
        .await?;
    if let Some(base) = options.latency {
        let fault = Fault::Latency {
            base,
            jitter: options.jitter.unwrap_or_default(),
        };
        fleet
            .engines()
            .iter()
            .for_each(|engine| engine.set_fault(fault.clone()));
    }
    let control = match options.control {
        Some(addr) => Some(
            TcpListener::bind(addr)
                .await
                .with_context(|| format!("cannot listen on `{addr}`"))?,
        ),
        None => None,
    };
    for pattern in fleet.address_patterns() {
        println!("{pattern}");
    }
    let serving = async {
        match control {
            Some(listener) => control::serve(listener, &fleet).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = serving => {}
        _ = terminated.recv() => {}
        result = tokio::signal::ctrl_c() => result.context("cannot listen for Ctrl-C")?,
    }
    Ok(())
}
