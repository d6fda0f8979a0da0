//! Engines listed in a file, one address or range on each line; `#` starts a comment.
//!
//! The file is read again whenever it changes. A line that is wrong fails the whole read, so a
//! half-edited file never looks like a smaller fleet: the daemon keeps the list it has.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use skep_plugin_sdk::discovery::{Batch, unchanged, whole_list};
use skep_plugin_sdk::{Discovery, Error, Result, address, host};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// Path of the file. The daemon must allow it under `allow.files`.
    location: String,
}

struct File {
    path: String,
}

impl Discovery for File {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"required":["location"],"properties":{"location":{"type":"string"}}}"#,
    );

    fn new(settings: Settings) -> Result<Self> {
        if settings.location.is_empty() {
            return Err(Error::InvalidConfig("`location` names no file".into()));
        }
        Ok(Self {
            path: settings.location,
        })
    }

    fn next(&mut self, cursor: Option<&[u8]>, max_wait: Duration) -> Result<Batch> {
        // The cursor is the revision of the file that was read.
        let seen = cursor
            .and_then(|cursor| cursor.try_into().ok())
            .map(u64::from_le_bytes);
        if let (Some(seen), Some(cursor)) = (seen, cursor) {
            let stamp = host::wait_for_file(&self.path, seen, max_wait)
                .map_err(|error| self.unreadable(error))?;
            if stamp.exists && stamp.revision == seen {
                return Ok(unchanged(cursor, None));
            }
        }
        let (content, revision) =
            host::read_file(&self.path).map_err(|error| self.unreadable(error))?;
        let addresses = self.parse(&content)?;
        Ok(whole_list(addresses, revision.to_le_bytes().to_vec()))
    }
}

skep_plugin_sdk::export_discovery!(File);

impl File {
    fn parse(&self, content: &[u8]) -> Result<Vec<String>> {
        let content = str::from_utf8(content).map_err(|error| {
            Error::Unavailable(format!("failed to read '{}': {error}", self.path))
        })?;
        let mut seen = BTreeSet::new();
        let mut addresses = Vec::new();
        for (line, number) in content.lines().zip(1_u32..) {
            let pattern = line.split('#').next().unwrap_or_default().trim();
            if pattern.is_empty() {
                continue;
            }
            let listed = address::parse(pattern).map_err(|error| {
                Error::Unavailable(format!(
                    "failed to read '{}': line {number}: {}",
                    self.path,
                    text(error)
                ))
            })?;
            for address in listed {
                if seen.insert(address.clone()) {
                    addresses.push(address);
                }
            }
        }
        Ok(addresses)
    }

    fn unreadable(&self, error: Error) -> Error {
        Error::Unavailable(format!("failed to read '{}': {}", self.path, text(error)))
    }
}

/// The reason without its kind, which would say the same twice.
fn text(error: Error) -> String {
    match error {
        Error::InvalidConfig(text)
        | Error::InvalidRequest(text)
        | Error::Denied(text)
        | Error::NotFound(text)
        | Error::Unavailable(text)
        | Error::Unsupported(text)
        | Error::Other(text) => text,
        Error::Timeout => "timed out".into(),
        Error::Stale(_) => "stale".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::discovery::configure;
    use skep_plugin_sdk::testing::{Host, addresses};

    const WAIT: Duration = Duration::from_secs(1);

    fn file() -> File {
        configure(r#"{"location":"/etc/fleet"}"#).unwrap()
    }

    #[track_caller]
    fn check_fails(content: &str, reason: &str) {
        let host = Host::install();
        host.write_file("/etc/fleet", content);
        assert_eq!(
            file().next(None, WAIT),
            Err(Error::Unavailable(reason.into()))
        );
    }

    #[test]
    fn reads_addresses_ranges_and_comments() {
        let host = Host::install();
        host.write_file(
            "/etc/fleet",
            "# fleet\n\n a:1 # first\nb[1:2]:2375\r\na:1\n#c:1\n",
        );
        let batch = file().next(None, WAIT).unwrap();
        assert!(batch.full);
        assert_eq!(addresses(&batch), ["a:1", "b1:2375", "b2:2375"]);
    }

    #[test]
    fn an_empty_file_is_an_empty_fleet() {
        let host = Host::install();
        host.write_file("/etc/fleet", "");
        let batch = file().next(None, WAIT).unwrap();
        assert!(batch.full && batch.changes.is_empty());
    }

    #[test]
    fn one_bad_line_fails_the_whole_read() {
        check_fails(
            "a:1\n\nb\n",
            "failed to read '/etc/fleet': line 3: address `b` is not of the form host:port",
        );
        check_fails(
            "a[2:1]:1",
            "failed to read '/etc/fleet': line 1: range `[2:1]` of `a[2:1]:1` is empty",
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_unavailable() {
        let host = Host::install();
        let absent = "failed to read '/etc/fleet': no such file: `/etc/fleet`";
        assert_eq!(
            file().next(None, WAIT),
            Err(Error::Unavailable(absent.into()))
        );
        host.break_file("/etc/fleet", Error::Denied("not allowed".into()));
        let denied = "failed to read '/etc/fleet': not allowed";
        assert_eq!(
            file().next(None, WAIT),
            Err(Error::Unavailable(denied.into()))
        );
    }

    #[test]
    fn waits_with_the_revision_it_has_and_reads_what_changed() {
        let host = Host::install();
        host.write_file("/etc/fleet", "a:1\n");
        let mut file = file();
        let first = file.next(None, WAIT).unwrap();
        assert!(host.waited().is_empty());

        let same = file.next(Some(&first.cursor), WAIT).unwrap();
        assert!(!same.full && same.changes.is_empty());
        assert_eq!(host.waited(), [("/etc/fleet".to_owned(), 1)]);

        host.write_file("/etc/fleet", "b:1\n");
        let changed = file.next(Some(&same.cursor), WAIT).unwrap();
        assert!(changed.full);
        assert_eq!(addresses(&changed), ["b:1"]);
    }

    #[test]
    fn settings_must_name_a_file() {
        for settings in [
            "{}",
            r#"{"location":""}"#,
            r#"{"location":"/a","path":"/b"}"#,
        ] {
            assert!(
                matches!(configure::<File>(settings), Err(Error::InvalidConfig(_))),
                "{settings}"
            );
        }
    }
}
