//! Cargo, then the encoder, then the digest.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wit_component::ComponentEncoder;

use crate::{Error, Plugin, section, sources};

/// Most plugins import nothing of WASI.
const BARE: &str = "wasm32-unknown-unknown";
/// Cargo makes components for this target itself.
const WASI: &str = "wasm32-wasip2";

/// Builds plugins and writes their components into the tree.
///
/// # Errors
///
/// Cargo fails, or what it built is no plugin.
pub fn build(root: &Path, plugins: &[Plugin]) -> Result<(), Error> {
    for target in [BARE, WASI] {
        let plugins: Vec<_> = plugins
            .iter()
            .filter(|plugin| target_of(plugin) == target)
            .collect();
        if plugins.is_empty() {
            continue;
        }
        let modules = compile(root, target, &plugins)?;
        for plugin in plugins {
            let module_path = modules.join(format!("{}.wasm", plugin.package.replace('-', "_")));
            let module = fs::read(&module_path).map_err(Error::io(&module_path))?;
            let mut component = if target == WASI {
                module
            } else {
                encode(&module_path, &module)?
            };
            section::append(&mut component, &sources::digest(root, plugin)?);
            let path = plugin.component(root);
            let dist = root.join(plugin.group.dist());
            fs::create_dir_all(&dist).map_err(Error::io(&dist))?;
            fs::write(&path, &component).map_err(Error::io(&path))?;
            println!("{:>8} bytes  {}", component.len(), path.display());
        }
    }
    Ok(())
}

fn target_of(plugin: &Plugin) -> &'static str {
    if plugin.name.starts_with("wasi-") {
        WASI
    } else {
        BARE
    }
}

/// Runs cargo once for all plugins of a target and returns where the modules are.
fn compile(root: &Path, target: &str, plugins: &[&Plugin]) -> Result<PathBuf, Error> {
    // Apart from the daemon's: other flags would make cargo build everything twice in turns.
    let target_dir = root.join("target/plugins");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args([
            "build",
            "--locked",
            "--profile",
            "plugin",
            "--target",
            target,
            "--target-dir",
        ])
        .arg(&target_dir)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", remapped(root));
    for plugin in plugins {
        cargo.args(["-p", &plugin.package]);
    }
    let names = || {
        plugins
            .iter()
            .map(|plugin| plugin.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match cargo.status() {
        Ok(status) if status.success() => Ok(target_dir.join(target).join("plugin")),
        Ok(_) => Err(Error::Cargo(names())),
        Err(source) => Err(Error::Io {
            path: "cargo".into(),
            source,
        }),
    }
}

/// Compiler flags that keep this machine's paths out of panic messages, so that every machine
/// builds the same bytes.
fn remapped(root: &Path) -> String {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let rustup_home =
        env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    [
        (root, "/skep"),
        (&cargo_home, "/cargo"),
        (&rustup_home, "/rustup"),
    ]
    .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
    .join("\x1f")
}

fn encode(path: &Path, module: &[u8]) -> Result<Vec<u8>, Error> {
    ComponentEncoder::default()
        .validate(true)
        .module(module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| Error::Encode {
            path: path.to_owned(),
            reason: format!("{error:#}"),
        })
}
