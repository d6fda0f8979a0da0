//! Volumes on SMB servers, mounted while a container uses them.
//!
//! Options: `share`, as `//nas/data`, `options`, as mount(8) knows them, and `credentials`, the
//! name of a secret of the configuration: a file with lines `username=`, `password=` and `domain=`,
//! as mount.cifs reads it. With a `share` in the settings a volume without one of its own is the
//! directory of its name in that one. What is in a share stays when its volume is removed.

use skep_plugin_sdk::volume::remote::{Protocol, Shares};
use skep_plugin_sdk::{Error, Result};

struct Cifs;

impl Protocol for Cifs {
    const KIND: &'static str = "cifs";
    const HAS_CREDENTIALS: bool = true;

    /// A server and a name on it.
    fn check_share(share: &str) -> Result<(), String> {
        let rest = share
            .strip_prefix("//")
            .and_then(|rest| rest.split_once('/'));
        match rest {
            Some((server, name)) if !server.is_empty() && !name.trim_matches('/').is_empty() => {
                Ok(())
            }
            _ => Err(format!("share must be such as //nas/data, not `{share}`")),
        }
    }

    fn check_options(options: &[String]) -> Result<(), String> {
        let is_secret = |one: &String| one.starts_with("pass") || one.starts_with("cred");
        if options.iter().any(is_secret) {
            return Err(
                "a password does not belong into the options, where everybody can read it: name a \
                 secret with the option `credentials`"
                    .into(),
            );
        }
        Ok(())
    }

    /// The lines of a credentials file.
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
}

skep_plugin_sdk::export_volume!(Shares<Cifs>);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::Volume;
    use skep_plugin_sdk::testing::{Host, attrs};
    use skep_plugin_sdk::volume::configure;

    #[test]
    fn a_volume_is_mounted_with_its_credentials() {
        let host = Host::install();
        host.set_secret("nas", "username=ann\n password=a,b=c\n\ndomain=HOME\n");
        let mut driver: Shares<Cifs> = configure(r#"{"credentials":"nas"}"#).unwrap();
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
        let mut driver: Shares<Cifs> = configure("{}").unwrap();
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
