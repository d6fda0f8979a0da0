//! The `skep` program: reads the command line and the configuration, then runs the daemon.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use tracing::warn;

use skep::cli::{self, Environment, Invocation, Join, List, Manage};
use skep::signal::Shutdown;
use skep::{app, telemetry};

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os(), &Environment::from_process()) {
        Ok(invocation) => invocation,
        Err(error) => return fail(&error.to_string()),
    };
    let result = match invocation {
        Invocation::Print(text) => print(&text),
        Invocation::Manage(manage) => run(*manage),
        Invocation::List(list) => nodes(*list),
        Invocation::Join(join) => register(*join),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn run(manage: Manage) -> anyhow::Result<()> {
    telemetry::init(&manage.config.log)?;
    for warning in &manage.warnings {
        warn!(%warning, "the command line may not mean what it says");
    }
    // The first caller in the process decides, and only this function may be that one.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("a TLS provider is already installed");
    }
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        app::run(manage.config, shutdown).await
    });
    // Everything that matters has ended; a blocked look-up must not hold the exit up.
    runtime.shutdown_background();
    result
}

fn nodes(list: List) -> anyhow::Result<()> {
    telemetry::init(&list.config.log)?;
    let runtime = runtime()?;
    let result = runtime.block_on(app::list(list.config, list.timeout));
    runtime.shutdown_background();
    let lines = result?;
    if lines.is_empty() {
        return Ok(());
    }
    print(&lines.join("\n"))
}

fn register(join: Join) -> anyhow::Result<()> {
    telemetry::init(&join.config.log)?;
    runtime()?.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        app::join(join.heartbeat, shutdown).await;
        Ok(())
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Prints `text` on standard output. A reader such as `head` may close the pipe early, which is
/// not a reason to panic.
fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).context("cannot print")
}

fn fail(message: &str) -> ExitCode {
    for line in message.lines() {
        eprintln!("skep: {line}");
    }
    ExitCode::FAILURE
}
