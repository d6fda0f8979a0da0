//! Volumes on SMB servers, mounted while a container uses them.
//!
//! Options: `share`, as `//nas/data`, `options`, as mount(8) knows them, and `credentials`, the
//! name of a secret of the configuration: a file with lines `username=`, `password=` and `domain=`,
//! as mount.cifs reads it. With a `share` in the settings a volume without one of its own is the
//! directory of its name in that one. What is in a share stays when its volume is removed.

use skep_plugin_sdk::volume::remote::{self, Defaults, Remote};
use skep_plugin_sdk::volume::{Info, Options, Scope, records};
use skep_plugin_sdk::{Attr, Error, Result, Volume, host};

struct Cifs {
    defaults: Defaults,
}

impl Volume for Cifs {
    type Settings = Defaults;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"properties":{"share":{"type":"string"},"options":{"type":"string"},"credentials":{"type":"string"}}}"#,
    );
    const SCOPE: Scope = Scope::Global;

    fn new(defaults: Defaults) -> Result<Self> {
        if let Some(share) = &defaults.share {
            check(share).map_err(Error::InvalidConfig)?;
        }
        Ok(Self { defaults })
    }

    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()> {
        let mut options = Options::new(options)?;
        let volume = Remote::take(name, &mut options, &self.defaults)?;
        options.finish()?;
        check(&volume.share).map_err(Error::InvalidRequest)?;
        let is_secret = |one: &String| one.starts_with("pass") || one.starts_with("cred");
        if volume.options.iter().any(is_secret) {
            let text = "a password does not belong into the options, where everybody can read it: \
                        name a secret with the option `credentials`";
            return Err(Error::InvalidRequest(text.into()));
        }
        records::create(name, volume)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        remote::remove(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        let mut volume: Remote = records::get(name)?.volume;
        if let Some(secret) = &volume.credentials {
            volume.options.extend(credentials(&host::secret(secret)?)?);
        }
        remote::mount("cifs", name, &volume.share, &volume.options)
    }

    fn unmount(&mut self, name: &str) -> Result<()> {
        remote::unmount(name)
    }

    fn get(&mut self, name: &str) -> Result<Info> {
        remote::get(name)
    }

    fn list(&mut self) -> Result<Vec<Info>> {
        remote::list()
    }
}

/// The mount options in the lines of a credentials file.
fn credentials(text: &str) -> Result<Vec<String>> {
    let mut options = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let key = match key.trim() {
            "username" | "user" => "username",
            "password" | "pass" => "password",
            "domain" | "dom" => "domain",
            _ => {
                return Err(Error::InvalidConfig(
                    "credentials must be lines of username=, password= and domain=".into(),
                ));
            }
        };
        // The kernel takes two commas for one inside of a value.
        options.push(format!("{key}={}", value.replace(',', ",,")));
    }
    Ok(options)
}

/// Checks that a share is a server and a name on it.
fn check(share: &str) -> Result<(), String> {
    let rest = share
        .strip_prefix("//")
        .and_then(|rest| rest.split_once('/'));
    match rest {
        Some((server, name)) if !server.is_empty() && !name.trim_matches('/').is_empty() => Ok(()),
        _ => Err(format!("share must be such as //nas/data, not `{share}`")),
    }
}

skep_plugin_sdk::export_volume!(Cifs);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Host, attrs};
    use skep_plugin_sdk::volume::configure;

    #[test]
    fn a_volume_is_mounted_with_its_credentials() {
        let host = Host::install();
        host.set_secret("nas", "username=ann\n password=a,b=c\n\ndomain=HOME\n");
        let mut driver: Cifs = configure(r#"{"credentials":"nas"}"#).unwrap();
        let options = attrs(&[("share", "//nas/data"), ("options", "vers=3.1.1")]);
        driver.create("data", &options).unwrap();
        driver.mount("data").unwrap();
        let mounted = host.mounted("data").unwrap();
        assert_eq!((&*mounted.kind, &*mounted.source), ("cifs", "//nas/data"));
        let expected = [
            "vers=3.1.1",
            "username=ann",
            "password=a,,b=c",
            "domain=HOME",
        ];
        assert_eq!(mounted.options, expected);
        assert!(
            host.records()
                .iter()
                .all(|(_, record)| !record.contains("a,b"))
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let host = Host::install();
        let mut driver: Cifs = configure("{}").unwrap();
        for share in ["", "nas:/a", "//nas", "//nas/", "///a"] {
            let options = attrs(&[("share", share)]);
            assert!(driver.create("data", &options).is_err(), "{share}");
        }
        let options = attrs(&[("share", "//nas/a"), ("options", "password=x")]);
        assert!(driver.create("data", &options).is_err());
        let options = attrs(&[("share", "//nas/a"), ("credentials", "none")]);
        driver.create("data", &options).unwrap();
        assert!(driver.mount("data").is_err());
        host.set_secret("none", "who=ann");
        assert!(driver.mount("data").is_err());
        assert_eq!(host.mounted("data"), None);
    }
}
