//! `cargo run --release -p skep-dist`: builds the plugins whose components are stale.
//!
//! With `--guests` the misbehaving plugins of the tests as well, with `--all` those that are not
//! stale too, with `--check` only lists what is stale.

use std::env;
use std::error::Error as _;
use std::path::Path;
use std::process::ExitCode;

use skep_dist::{Error, Group, build, plugins, stale};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("skep-dist: {error}");
            if let Some(cause) = error.source() {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Error> {
    let mut groups = vec![Group::FirstParty];
    let (mut all, mut check) = (false, false);
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--guests" => groups.push(Group::Guests),
            "--all" => all = true,
            "--check" => check = true,
            other => {
                eprintln!("skep-dist: unknown option `{other}`; known: --guests --all --check");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    // This crate lies two directories below the root.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root
        .canonicalize()
        .map_err(|source| Error::Io { path: root, source })?;

    let stale = stale(&root)?;
    let is_stale = |path: &Path| stale.iter().any(|name| path == root.join(name));
    if check {
        stale.iter().for_each(|name| println!("{name}"));
        return Ok(if stale.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let mut wanted = plugins(&root)?;
    wanted.retain(|plugin| {
        groups.contains(&plugin.group) && (all || is_stale(&plugin.component(&root)))
    });
    build(&root, &wanted)?;
    Ok(ExitCode::SUCCESS)
}
