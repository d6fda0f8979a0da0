//! Which mounts a volume driver may make, and how they are made.

use std::{fs, net::ToSocketAddrs as _, path::Path};

use glob::{MatchOptions, Pattern};
use nix::mount::MsFlags;

use super::bindings::waiting::skep::plugin::types::Error;

/// What may be mounted. Nothing by default.
#[derive(Clone, Debug, Default)]
pub struct MountsGrant {
    /// Types of file systems: `nfs`.
    pub kinds: Vec<String>,
    /// What may be mounted, with `*` for any text: `nas:/exports/*`.
    pub sources: Vec<String>,
    /// The options that may be given, without their values: `vers`.
    pub options: Vec<String>,
}

/// A grant in use.
pub(super) struct Mounting {
    grant: MountsGrant,
    sources: Vec<Pattern>,
}

/// A mount that is allowed.
pub(super) struct Mount {
    kind: String,
    source: String,
    flags: MsFlags,
    data: Vec<String>,
}

/// Options that are flags of the system call: whether they set or clear it.
const FLAGS: [(&str, MsFlags, bool); 18] = [
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("nodev", MsFlags::MS_NODEV, true),
    ("dev", MsFlags::MS_NODEV, false),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("atime", MsFlags::MS_NOATIME, false),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
];

/// Longest text of options that the kernel takes.
const MAX_DATA: usize = 4000;

impl Mounting {
    pub(super) fn new(grant: &MountsGrant) -> Self {
        let sources = grant.sources.iter();
        Self {
            sources: sources.filter_map(|text| Pattern::new(text).ok()).collect(),
            grant: grant.clone(),
        }
    }

    /// Whether a guest may mount this.
    pub(super) fn permit(
        &self,
        kind: &str,
        source: &str,
        options: &[String],
    ) -> Result<Mount, Error> {
        let refuse = |what: String| {
            Err(Error::Denied(format!(
                "{what} is not allowed by the configuration"
            )))
        };
        if !self.grant.kinds.iter().any(|known| known == kind) {
            return refuse(format!("mounting file systems of type `{kind}`"));
        }
        let anywhere = MatchOptions {
            require_literal_separator: false,
            ..MatchOptions::default()
        };
        let goes_up = source.split('/').any(|name| name == "..");
        let is_known = |pattern: &Pattern| pattern.matches_with(source, anywhere);
        if goes_up || !self.sources.iter().any(is_known) {
            return refuse(format!("mounting `{source}`"));
        }
        // What a volume holds shall not make anybody root, unless the operator wants it to.
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let mut data = Vec::new();
        for option in options {
            let key = option.split('=').next().unwrap_or_default();
            if option.contains(['\0', '\n']) || !self.grant.options.iter().any(|known| known == key)
            {
                return refuse(format!("mount option `{key}`"));
            }
            match FLAGS.iter().find(|(name, ..)| name == option) {
                Some((_, flag, is_set)) => flags.set(*flag, *is_set),
                None => data.push(option.clone()),
            }
        }
        Ok(Mount {
            kind: kind.to_owned(),
            source: source.to_owned(),
            flags,
            data,
        })
    }
}

impl Mount {
    /// Mounts on a directory; asks the name server where the server is if the kernel has to know.
    pub(super) fn mount(mut self, target: &Path) -> Result<(), Error> {
        let (own, port) = match self.kind.as_str() {
            "nfs" | "nfs4" => ("addr", 2049),
            "cifs" | "smb3" => ("ip", 445),
            _ => ("", 0),
        };
        let is_said = self.data.iter().any(|option| {
            let key = option.split('=').next().unwrap_or_default();
            key == own
        });
        if !own.is_empty() && !is_said {
            let addr = resolve(server(&self.source), port)?;
            self.data.push(format!("{own}={addr}"));
        }
        let data = self.data.join(",");
        if data.len() > MAX_DATA {
            return Err(Error::InvalidRequest("too many mount options".to_owned()));
        }
        let data = (!data.is_empty()).then_some(data.as_str());
        nix::mount::mount(
            Some(self.source.as_str()),
            target,
            Some(self.kind.as_str()),
            self.flags,
            data,
        )
        .map_err(|error| {
            let Self { kind, source, .. } = &self;
            let text = format!("mounting `{source}`: {error}");
            match error {
                nix::Error::ENODEV => Error::Unsupported(format!(
                    "this host cannot mount file systems of type `{kind}`"
                )),
                nix::Error::ENOENT => Error::NotFound(text),
                _ => Error::Unavailable(text),
            }
        })
    }

    /// Checks that this is what is mounted on a directory already.
    pub(super) fn check(&self, target: &Path) -> Result<(), Error> {
        let table = fs::read_to_string("/proc/self/mountinfo");
        let table = table.map_err(|error| Error::Unavailable(error.to_string()))?;
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let there = mounted_on(&table, &target);
        let kinds = [self.kind.as_str(), &format!("{}4", self.kind)];
        match there {
            Some((kind, source)) if kinds.contains(&&*kind) && source == self.source => Ok(()),
            Some((kind, source)) => Err(Error::Denied(format!(
                "`{source}` of type {kind} is mounted there"
            ))),
            None => Err(Error::Unavailable("the mount cannot be found".to_owned())),
        }
    }
}

/// The type and source of what was mounted last on a directory.
fn mounted_on(table: &str, target: &Path) -> Option<(String, String)> {
    let mut found = None;
    for line in table.lines() {
        let (before, after) = line.split_once(" - ")?;
        let point = before.split(' ').nth(4)?;
        if Path::new(&unescaped(point)) == target {
            let mut fields = after.split(' ');
            found = Some((fields.next()?.to_owned(), unescaped(fields.next()?)));
        }
    }
    found
}

/// A field of the kernel's mount table: spaces and others are octal numbers there.
fn unescaped(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let number = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match number {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The host in `nas:/exports`, `[fe80::1]:/exports` or `//nas/share`.
fn server(source: &str) -> &str {
    let host = match source.strip_prefix("//") {
        Some(rest) => rest.split('/').next(),
        None => source.split(":/").next(),
    };
    host.unwrap_or_default().trim_matches(['[', ']'])
}

fn resolve(host: &str, port: u16) -> Result<std::net::IpAddr, Error> {
    let unknown = |reason: String| Error::Unavailable(format!("server `{host}`: {reason}"));
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| unknown(error.to_string()))?;
    let first = found.next();
    let first = first.ok_or_else(|| unknown("it has no address".to_owned()))?;
    Ok(first.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounting() -> Mounting {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Mounting::new(&MountsGrant {
            kinds: texts(&["nfs"]),
            sources: texts(&["nas:/exports/*", "other:/data"]),
            options: texts(&["vers", "ro", "suid"]),
        })
    }

    fn permit(kind: &str, source: &str, options: &[&str]) -> Result<Mount, String> {
        let options: Vec<_> = options.iter().map(|text| (*text).to_owned()).collect();
        mounting()
            .permit(kind, source, &options)
            .map_err(|error| match error {
                Error::Denied(text) => text,
                other => panic!("{other:?}"),
            })
    }

    #[test]
    fn only_what_the_configuration_names_is_mounted() {
        assert!(permit("nfs", "nas:/exports/a/b", &["vers=4.2"]).is_ok());
        assert!(permit("nfs", "other:/data", &[]).is_ok());
        for (kind, source, options) in [
            ("tmpfs", "nas:/exports/a", &[][..]),
            ("nfs4", "nas:/exports/a", &[]),
            ("nfs", "nas:/exports", &[]),
            ("nfs", "nas:/exports/../etc", &[]),
            ("nfs", "evil:/exports/a", &[]),
            ("nfs", "other:/data/a", &[]),
            ("nfs", "nas:/exports/a", &["dev"]),
            ("nfs", "nas:/exports/a", &["vers=4\0"]),
            ("nfs", "nas:/exports/a", &["addr=10.0.0.1"]),
        ] {
            assert!(
                permit(kind, source, options).is_err(),
                "{kind} {source} {options:?}"
            );
        }
    }

    #[test]
    fn options_become_flags_and_data() {
        let mount = permit("nfs", "other:/data", &["ro", "vers=4.2"]).unwrap();
        assert!(mount.flags.contains(MsFlags::MS_RDONLY));
        assert!(mount.flags.contains(MsFlags::MS_NOSUID | MsFlags::MS_NODEV));
        assert_eq!(mount.data, ["vers=4.2"]);
        let mount = permit("nfs", "other:/data", &["suid"]).unwrap();
        assert!(!mount.flags.contains(MsFlags::MS_NOSUID));
    }

    #[test]
    fn the_mount_table_is_understood() {
        let table = "22 1 0:21 / /a\\040b rw shared:1 - nfs4 nas:/x\\040y rw,addr=1.2.3.4\n\
                     23 1 0:22 / /c rw - tmpfs tmpfs rw\n";
        let found = mounted_on(table, Path::new("/a b")).unwrap();
        assert_eq!(found, ("nfs4".to_owned(), "nas:/x y".to_owned()));
        assert_eq!(mounted_on(table, Path::new("/a")), None);
    }

    #[test]
    fn the_server_is_found_in_a_source() {
        assert_eq!(server("nas:/exports/a"), "nas");
        assert_eq!(server("[fe80::1]:/a"), "fe80::1");
        assert_eq!(server("//nas/share/a"), "nas");
    }
}
