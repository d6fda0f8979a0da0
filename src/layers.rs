//! Enforces the layer table of the crate's front page: who may import whom.

use std::{collections::BTreeMap, fs, path::Path};

/// What each module may import, as the front page says.
fn table() -> BTreeMap<&'static str, Vec<&'static str>> {
    let layers_0_to_2 = [
        "model",
        "signal",
        "unix_socket",
        "atomic_file",
        "boot",
        "config",
        "registry",
        "tls",
        "telemetry",
        "store",
        "scheduler",
        "discovery",
        "engine",
        "volume",
    ];
    let with = |more: &[&'static str]| {
        let mut all = layers_0_to_2.to_vec();
        all.extend_from_slice(more);
        all
    };
    BTreeMap::from([
        ("model", vec![]),
        ("signal", vec![]),
        ("unix_socket", vec![]),
        ("atomic_file", vec![]),
        ("boot", vec![]),
        ("config", vec!["model"]),
        ("registry", vec!["model", "config"]),
        ("tls", vec!["model", "config"]),
        ("telemetry", vec!["model", "config"]),
        ("store", vec!["model", "config", "tls"]),
        ("scheduler", vec!["model"]),
        ("discovery", vec!["model", "config", "tls"]),
        ("engine", vec!["model", "config", "registry", "tls"]),
        (
            "volume",
            vec![
                "model",
                "config",
                "tls",
                "unix_socket",
                "atomic_file",
                "boot",
            ],
        ),
        ("cluster", layers_0_to_2.to_vec()),
        ("plugin", layers_0_to_2.to_vec()),
        ("api", with(&["cluster"])),
        ("admin", with(&["cluster"])),
        ("simulate", with(&["cluster"])),
        ("agent", layers_0_to_2.to_vec()),
        (
            "app",
            with(&["cluster", "plugin", "api", "admin", "agent", "simulate"]),
        ),
        ("cli", vec!["config", "app", "telemetry", "signal"]),
        ("main", vec!["cli", "config", "app", "telemetry", "signal"]),
    ])
}

/// Every `.rs` file below `directory`.
fn sources(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The modules of this crate that a source text names: `crate::model`, `crate::{model::…, tls}`,
/// and `skep::…` in the binary.
fn imports(text: &str) -> Vec<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for root in ["crate::", "skep::"] {
        for (position, _) in code.match_indices(root) {
            let before = code[..position].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let rest = &code[position + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(top_level_names(group)),
                None => found.push(first_name(rest)),
            }
        }
    }
    found
}

/// The first names of the items of a `use` group, nested groups left aside.
fn top_level_names(group: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut depth = 1;
    let mut item = String::new();
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if c == ',' && depth == 1 {
            names.push(first_name(item.trim()));
            item.clear();
        } else {
            item.push(c);
        }
    }
    names.push(first_name(item.trim()));
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn every_import_is_allowed_by_the_layer_table() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table = table();
    let mut wrong = Vec::new();
    for file in sources(&source) {
        let relative = file.strip_prefix(&source).unwrap();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if ["lib", "layers"].contains(&module) {
            continue;
        }
        let Some(allowed) = table.get(module) else {
            wrong.push(format!(
                "{}: `{module}` is not in the table",
                relative.display()
            ));
            continue;
        };
        for name in imports(&fs::read_to_string(&file).unwrap()) {
            if name != module
                && table.contains_key(name.as_str())
                && !allowed.contains(&name.as_str())
            {
                wrong.push(format!(
                    "{}: `{module}` imports `{name}`",
                    relative.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_groups_and_paths() {
    let text = "use crate::{\n    engine::{client, raw},\n    model,\n};\nlet x = crate::api::serve();\n// crate::app";
    assert_eq!(imports(text), ["engine", "model", "api"]);
}
