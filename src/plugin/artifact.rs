//! From a source to a component of the right kind: read, check the digest, encode, check what it
//! exports and needs.

use std::{borrow::Cow, fmt::Write as _, fs::File, io::Read as _};

use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, component::Component};

use super::{Kind, LoadFailure, Source, Spec, builtin};

/// Largest file taken.
pub(super) const MAX_BYTES: u64 = 32 << 20;

/// The version of the plugin interface spoken here; patches only add to it.
const TRACK: &str = "0.1";
const PACKAGE: &str = "skep:plugin/";
const PREAMBLE: &[u8] = b"\0asm";

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Core,
    Component,
}

/// Bytes whose digest was checked.
pub(super) struct Artifact {
    bytes: Cow<'static, [u8]>,
    form: Form,
    pub(super) digest: [u8; 32],
}

impl Artifact {
    /// Reads the component of a plugin.
    pub(super) fn read(spec: &Spec) -> Result<Self, LoadFailure> {
        let bytes = match &spec.source {
            Source::Builtin(name) => {
                Cow::Borrowed(builtin::bytes(name).ok_or(LoadFailure::NoBuiltin)?)
            }
            Source::File(path) => {
                let file = File::open(path).map_err(LoadFailure::Read)?;
                let mut bytes = Vec::new();
                file.take(MAX_BYTES + 1)
                    .read_to_end(&mut bytes)
                    .map_err(LoadFailure::Read)?;
                Cow::Owned(bytes)
            }
        };
        if bytes.len() as u64 > MAX_BYTES {
            return Err(LoadFailure::TooLarge(bytes.len() as u64));
        }
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        if let Some(wanted) = spec.sha256
            && wanted != digest
        {
            return Err(LoadFailure::Digest {
                wanted: hex(&wanted),
                found: hex(&digest),
            });
        }
        let form = sniff(&bytes).map_err(LoadFailure::NotWasm)?;
        Ok(Self {
            bytes,
            form,
            digest,
        })
    }

    /// The component; a core module is wrapped into one.
    pub(super) fn component(&self) -> Result<Cow<'_, [u8]>, LoadFailure> {
        match self.form {
            Form::Component => Ok(Cow::Borrowed(&self.bytes)),
            Form::Core => wit_component::ComponentEncoder::default()
                .validate(true)
                .module(&self.bytes)
                .and_then(|mut encoder| encoder.encode())
                .map(Cow::Owned)
                .map_err(|error| LoadFailure::NotWasm(format!("{error:#}"))),
        }
    }

    /// Checks that the component exports what its kind needs and asks for nothing it cannot have.
    pub(super) fn check(
        &self,
        kind: Kind,
        wasm: &Engine,
        component: &Component,
    ) -> Result<(), LoadFailure> {
        let ty = component.component_type();
        let exports: Vec<_> = ty.exports(wasm).map(|(name, _)| name.to_owned()).collect();
        let imports: Vec<_> = ty.imports(wasm).map(|(name, _)| name.to_owned()).collect();
        check_exports(kind, &exports, self.form)?;
        imports
            .iter()
            .try_for_each(|import| check_import(kind, import))
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Tells a core module from a component by the layer in its preamble.
fn sniff(bytes: &[u8]) -> Result<Form, String> {
    match bytes.get(..8) {
        Some([magic @ .., _, _, 0, 0]) if magic == PREAMBLE => Ok(Form::Core),
        Some([magic @ .., _, _, 1, 0]) if magic == PREAMBLE => Ok(Form::Component),
        Some([magic @ .., _, _, _, _]) if magic == PREAMBLE => {
            Err("its layer is neither module nor component".to_owned())
        }
        _ => Err("it does not start as WebAssembly does".to_owned()),
    }
}

fn check_exports(kind: Kind, exports: &[String], form: Form) -> Result<(), LoadFailure> {
    let wanted: &[&str] = match kind {
        Kind::Filter => &["plugin", "mirror", "filter"],
        Kind::Strategy => &["plugin", "mirror", "strategy"],
        Kind::Discovery => &["plugin", "discovery"],
        Kind::Volume => &["plugin", "volume"],
    };
    let ours: Vec<_> = exports.iter().filter_map(|name| split(name)).collect();
    if ours.is_empty() {
        return Err(LoadFailure::Interface(match form {
            Form::Core => {
                "is a core module without component metadata: build it with the SDK, and \
                           keep its custom sections when stripping it"
                    .to_owned()
            }
            Form::Component if exports.is_empty() => "exports nothing".to_owned(),
            Form::Component => format!(
                "exports nothing of `{PACKAGE}`, only `{}`",
                exports.join("`, `")
            ),
        }));
    }
    if let Some((_, version)) = ours.iter().find(|(_, version)| !compatible(version)) {
        return Err(LoadFailure::Interface(format!(
            "is built for version {version} of the plugin interface, this daemon speaks {TRACK}"
        )));
    }
    let found = ours
        .iter()
        .find_map(|(interface, _)| kind_of_export(interface));
    for interface in wanted {
        if ours.iter().any(|(name, _)| name == interface) {
            continue;
        }
        return Err(LoadFailure::Interface(match found {
            Some(other) if other != kind => format!("is a {other} plugin, not a {kind} plugin"),
            _ => format!("does not export `{PACKAGE}{interface}`, which a {kind} plugin must"),
        }));
    }
    Ok(())
}

fn check_import(kind: Kind, import: &str) -> Result<(), LoadFailure> {
    // WASI is linked to a context that grants nothing; what is missing there the linker names.
    if import.starts_with("wasi:") {
        return Ok(());
    }
    let Some((interface, version)) = split(import) else {
        return Err(LoadFailure::Interface(format!(
            "needs `{import}`, which this daemon does not have"
        )));
    };
    if !compatible(version) {
        return Err(LoadFailure::Interface(format!(
            "needs `{import}`, this daemon speaks version {TRACK} of the plugin interface"
        )));
    }
    let allowed: &[&str] = match kind {
        Kind::Filter => &["types", "log", "clock", "inventory"],
        Kind::Strategy => &["types", "log", "clock", "inventory", "random"],
        Kind::Discovery => &[
            "types", "log", "clock", "random", "files", "store", "http", "names",
        ],
        Kind::Volume => &[
            "types",
            "log",
            "clock",
            "random",
            "http",
            "state",
            "secrets",
            "directories",
            "mounts",
        ],
    };
    // Types alone bring no power: an export may use those of any interface.
    if allowed.contains(&interface) {
        Ok(())
    } else {
        Err(LoadFailure::Interface(format!(
            "needs interface `{import}`, which a {kind} plugin cannot have"
        )))
    }
}

/// Splits `skep:plugin/filter@0.1.0`.
fn split(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

/// Whether a version is of the track spoken here.
fn compatible(version: &str) -> bool {
    version
        .strip_prefix(TRACK)
        .is_some_and(|rest| rest.starts_with('.'))
}

fn kind_of_export(interface: &str) -> Option<Kind> {
    match interface {
        "filter" => Some(Kind::Filter),
        "strategy" => Some(Kind::Strategy),
        "discovery" => Some(Kind::Discovery),
        "volume" => Some(Kind::Volume),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exports(kind: Kind, names: &[&str]) -> String {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        check_exports(kind, &names, Form::Component)
            .map_or_else(|error| error.to_string(), |()| "fits".to_owned())
    }

    #[test]
    fn says_what_is_wrong_with_the_exports() {
        let filter = [
            "skep:plugin/plugin@0.1.0",
            "skep:plugin/mirror@0.1.7",
            "skep:plugin/filter@0.1.0",
        ];
        assert_eq!(exports(Kind::Filter, &filter), "fits");
        assert_eq!(
            exports(Kind::Strategy, &filter),
            "is a filter plugin, not a strategy plugin"
        );
        assert_eq!(
            exports(Kind::Filter, &filter[..2]),
            "does not export `skep:plugin/filter`, which a filter plugin must"
        );
        assert_eq!(
            exports(Kind::Filter, &["skep:plugin/plugin@0.2.0"]),
            "is built for version 0.2.0 of the plugin interface, this daemon speaks 0.1"
        );
        assert_eq!(exports(Kind::Filter, &[]), "exports nothing");
        assert_eq!(
            exports(Kind::Filter, &["wasi:cli/run@0.2.0"]),
            "exports nothing of `skep:plugin/`, only `wasi:cli/run@0.2.0`"
        );
    }

    #[test]
    fn a_plugin_gets_only_what_its_kind_may_have() {
        let import = |kind, name: &str| check_import(kind, name).map_err(|e| e.to_string());
        assert_eq!(import(Kind::Filter, "skep:plugin/log@0.1.0"), Ok(()));
        assert_eq!(import(Kind::Filter, "wasi:cli/stderr@0.2.6"), Ok(()));
        assert_eq!(
            import(Kind::Filter, "skep:plugin/files@0.1.0").unwrap_err(),
            "needs interface `skep:plugin/files@0.1.0`, which a filter plugin cannot have"
        );
        assert_eq!(
            import(Kind::Discovery, "acme:db/query@1.0.0").unwrap_err(),
            "needs `acme:db/query@1.0.0`, which this daemon does not have"
        );
    }

    #[test]
    fn tells_modules_from_components() {
        assert_eq!(sniff(b"\0asm\x01\0\0\0"), Ok(Form::Core));
        assert_eq!(sniff(b"\0asm\x0d\0\x01\0"), Ok(Form::Component));
        assert!(sniff(b"\0asm\x0d\0\x02\0").is_err());
        assert!(sniff(b"#!/bin/sh").is_err());
        assert!(sniff(b"\0asm").is_err());
    }
}
