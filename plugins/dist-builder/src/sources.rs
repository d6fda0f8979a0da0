//! What a component is built from, as one digest.
//!
//! That is: the plugin's own files, the SDK with its WIT, the versions of all dependencies in
//! `Cargo.lock`, and the parts of the workspace manifest that change the output. A new version of a
//! crate that no plugin uses changes no digest.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::{Error, Plugin};

/// Returns the digest of the sources of a plugin, in hexadecimal digits.
///
/// # Errors
///
/// A source cannot be read, or the lock file lacks the plugin.
pub fn digest(root: &Path, plugin: &Plugin) -> Result<String, Error> {
    let mut hash = Sha256::new();
    let sdk = Path::new("plugin-sdk");
    for below in [
        plugin.directory.join("Cargo.toml"),
        plugin.directory.join("src"),
        sdk.join("Cargo.toml"),
        sdk.join("src"),
        sdk.join("wit"),
    ] {
        for file in files(&root.join(&below))? {
            let content = fs::read(&file).map_err(Error::io(&file))?;
            let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy();
            add(&mut hash, name.as_bytes());
            add(&mut hash, &content);
        }
    }
    let locked = locked(root, &plugin.package)?;
    for text in locked.values() {
        add(&mut hash, text.as_bytes());
    }
    add(&mut hash, workspace(root, &locked)?.as_bytes());
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Lengths keep `ab` + `c` apart from `a` + `bc`.
fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

/// All files at or below a path, in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(Error::io(path))? {
        found.extend(files(&entry.map_err(Error::io(path))?.path())?);
    }
    found.sort();
    Ok(found)
}

/// The entries of the lock file that `package` needs, itself included, by name and version.
fn locked(root: &Path, package: &str) -> Result<BTreeMap<String, String>, Error> {
    let lock = read_toml(&root.join("Cargo.lock"))?;
    let packages = lock.get("package").and_then(toml::Value::as_array);
    let packages: &[toml::Value] = packages.map_or(&[], Vec::as_slice);
    let text = |entry: &toml::Value, key| {
        entry
            .get(key)
            .and_then(toml::Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };

    let mut closure = BTreeMap::new();
    let mut open = vec![package.to_owned()];
    while let Some(wanted) = open.pop() {
        // `name`, and `name version` where several versions are locked.
        let mut words = wanted.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let mut matching = packages.iter().filter(|entry| {
            text(entry, "name") == name
                && version.is_none_or(|version| text(entry, "version") == version)
        });
        let (Some(entry), None) = (matching.next(), matching.next()) else {
            return Err(Error::Locked(wanted));
        };
        let key = format!("{name} {}", text(entry, "version"));
        if closure.insert(key, entry.to_string()).is_none() {
            let dependencies = entry.get("dependencies").and_then(toml::Value::as_array);
            let names = dependencies
                .into_iter()
                .flatten()
                .filter_map(toml::Value::as_str);
            open.extend(names.map(str::to_owned));
        }
    }
    Ok(closure)
}

/// The profile, and the workspace's features for the dependencies in `locked`.
fn workspace(root: &Path, locked: &BTreeMap<String, String>) -> Result<String, Error> {
    let manifest = read_toml(&root.join("Cargo.toml"))?;
    let get = |keys: &[&str]| {
        keys.iter()
            .try_fold(&manifest, |value, key| value.get(key))
            .map(ToString::to_string)
    };
    let mut parts = vec![
        get(&["profile", "plugin"]).unwrap_or_default(),
        get(&["profile", "release"]).unwrap_or_default(),
        get(&["workspace", "package"]).unwrap_or_default(),
    ];
    for package in locked.keys() {
        let name = package.split(' ').next().unwrap_or_default();
        parts.extend(get(&["workspace", "dependencies", name]));
    }
    Ok(parts.join("\n"))
}

pub(crate) fn read_toml(path: &Path) -> Result<toml::Value, Error> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let table: toml::Table = text.parse().map_err(|source| Error::Toml {
        path: path.to_owned(),
        source,
    })?;
    Ok(toml::Value::Table(table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Group;

    const LOCK: &str = r#"
        [[package]]
        name = "rack"
        version = "0.1.0"
        dependencies = ["sdk", "twice 2.0.0"]
        [[package]]
        name = "sdk"
        version = "0.1.0"
        [[package]]
        name = "twice"
        version = "1.0.0"
        [[package]]
        name = "twice"
        version = "2.0.0"
        [[package]]
        name = "daemon"
        version = "0.1.0"
    "#;

    /// A tree of one plugin; removed when dropped.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("skep-dist-{name}-{}", std::process::id()));
            let tree = Self(root);
            for (path, text) in [
                (
                    "Cargo.toml",
                    "[profile.plugin]\nlto = true\n[workspace.dependencies]\ntwice = \"2\"\n",
                ),
                ("Cargo.lock", LOCK),
                ("rack/Cargo.toml", ""),
                ("rack/src/lib.rs", "fn a() {}"),
                ("plugin-sdk/Cargo.toml", ""),
                ("plugin-sdk/src/lib.rs", ""),
                ("plugin-sdk/wit/plugin.wit", ""),
            ] {
                tree.write(path, text);
            }
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn digest(&self) -> String {
            let plugin = Plugin {
                name: "rack".into(),
                package: "rack".into(),
                directory: "rack".into(),
                group: Group::FirstParty,
            };
            digest(&self.0, &plugin).unwrap()
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn every_source_changes_the_digest() {
        for (path, text) in [
            ("rack/src/lib.rs", "fn b() {}"),
            ("rack/src/new.rs", ""),
            ("rack/Cargo.toml", "# changed"),
            ("plugin-sdk/src/lib.rs", "fn b() {}"),
            ("plugin-sdk/wit/plugin.wit", "// changed"),
            ("Cargo.lock", &LOCK.replace("2.0.0", "2.0.1")),
            (
                "Cargo.toml",
                "[profile.plugin]\nlto = false\n[workspace.dependencies]\ntwice = \"2\"\n",
            ),
        ] {
            let tree = Tree::new("changes");
            let before = tree.digest();
            tree.write(path, text);
            assert_ne!(tree.digest(), before, "{path}");
        }
    }

    #[test]
    fn what_the_plugin_does_not_use_changes_nothing() {
        let tree = Tree::new("same");
        let before = tree.digest();
        tree.write("Cargo.lock", &LOCK.replace("1.0.0", "1.0.1"));
        tree.write("rack/README.md", "changed");
        assert_eq!(tree.digest(), before);
    }
}
