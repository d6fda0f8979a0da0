//! A filter built for `wasm32-wasip2`, where the standard library imports WASI although nothing
//! here uses it: such a plugin must run without being granted anything. It keeps every candidate
//! and tells what it sees of the outside.

use skep_plugin_sdk::{Filter, NoSettings, NodeSet, Nodes, Request, Result};

struct Wasi;

impl Filter for Wasi {
    type Settings = NoSettings;

    fn new(_settings: NoSettings) -> Result<Self> {
        // Nothing must come of it: the daemon grants no output, environment or files.
        println!("a plugin wrote to its standard output");
        Ok(Self)
    }

    fn filter(&self, _request: &Request, _nodes: &Nodes, _keep: &mut NodeSet) -> Result<()> {
        Ok(())
    }

    fn explain(&self, _request: &Request) -> Vec<String> {
        let variables = std::env::vars_os().count();
        let files = std::fs::read_dir("/").map_or(0, Iterator::count);
        vec![format!(
            "wasi filter that sees {variables} variables and {files} files"
        )]
    }
}

skep_plugin_sdk::export_filter!(Wasi);
