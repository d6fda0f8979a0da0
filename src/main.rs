//! The `skep` program: reads the command line and the configuration, then runs the daemon.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use tracing::{error, warn};

use skep::cli::{self, Environment, Invocation, Join, List, Manage};
use skep::config::Config;
use skep::config::log::LogFormat;
use skep::signal::Shutdown;
use skep::{app, telemetry};

/// A daemon that serves creates and lists makes many short-lived allocations on all its threads,
/// which this allocator does faster than the C library's, and gives memory back in between.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by the allocator when the process starts: memory that is free for half a second goes back
/// to the system, by a thread of its own, whether or not anything else happens.
#[expect(unsafe_code, reason = "the allocator looks for a symbol of this name")]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static ALLOCATOR_OPTIONS: &[u8; 59] =
    b"background_thread:true,dirty_decay_ms:500,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os(), &Environment::from_process()) {
        Ok(invocation) => invocation,
        Err(error) => return fail(&error.to_string()),
    };
    let (result, format) = match invocation {
        Invocation::Print(text) => (print(&text), LogFormat::Text),
        Invocation::Manage(manage) => {
            let format = manage.config.log.format;
            (run(*manage), format)
        }
        Invocation::List(list) => {
            let format = list.config.log.format;
            (nodes(*list), format)
        }
        Invocation::Ask(what) => (ask(*what), LogFormat::Text),
        Invocation::Simulate(what) => {
            let format = what.config.log.format;
            (simulate(*what), format)
        }
        Invocation::Join(join) => {
            let format = join.config.log.format;
            (register(*join), format)
        }
    };
    match (result, format) {
        (Ok(()), _) => ExitCode::SUCCESS,
        (Err(error), LogFormat::Text) => fail(&format!("{error:#}")),
        // Whoever collects the log as JSON gets its last line so, too.
        (Err(error), LogFormat::Json) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(manage: Manage) -> anyhow::Result<()> {
    telemetry::init(&manage.config.log)?;
    for warning in &manage.warnings {
        warn!(%warning, "the command line may not mean what it says");
    }
    provide_tls()?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        app::run(manage.config, Box::new(read_again), shutdown).await
    });
    // Everything that matters has ended; a blocked look-up must not hold the exit up.
    runtime.shutdown_background();
    result
}

/// What the command line means now.
fn read_again() -> Result<Config, String> {
    match cli::parse(std::env::args_os(), &Environment::from_process()) {
        Ok(Invocation::Manage(manage)) => Ok(manage.config),
        Ok(_) => Err("the command line asks for something else".to_owned()),
        Err(error) => Err(error.to_string()),
    }
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

fn ask(what: app::Ask) -> anyhow::Result<()> {
    provide_tls()?;
    let runtime = runtime()?;
    let answer = runtime.block_on(app::ask(what));
    runtime.shutdown_background();
    print(&answer?)
}

fn simulate(what: app::Simulate) -> anyhow::Result<()> {
    telemetry::init(&what.config.log)?;
    print(&app::simulate(what)?)
}

fn register(join: Join) -> anyhow::Result<()> {
    telemetry::init(&join.config.log)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        app::join(join.config, join.membership, shutdown).await
    });
    runtime.shutdown_background();
    result
}

/// The first caller in the process decides which provider counts, and only this program may.
fn provide_tls() -> anyhow::Result<()> {
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    installed.map_err(|_| anyhow::anyhow!("a TLS provider is already installed"))
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
    for line in message.lines().filter(|line| !line.is_empty()) {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "skep: {line}");
    }
    ExitCode::FAILURE
}
