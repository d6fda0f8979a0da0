//! Volumes on NFS servers, mounted while a container uses them.
//!
//! Options: `share`, as `nas:/exports/data`, and `options`, as mount(8) knows them. With a `share`
//! in the settings a volume without one of its own is the directory of its name in that one. What
//! is in a share stays when its volume is removed.

use skep_plugin_sdk::volume::remote::{self, Defaults, Remote};
use skep_plugin_sdk::volume::{Info, Options, Scope, records};
use skep_plugin_sdk::{Attr, Error, Result, Volume};

struct Nfs {
    defaults: Defaults,
}

impl Volume for Nfs {
    type Settings = Defaults;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"properties":{"share":{"type":"string"},"options":{"type":"string"}}}"#,
    );
    const SCOPE: Scope = Scope::Global;

    fn new(defaults: Defaults) -> Result<Self> {
        if defaults.credentials.is_some() {
            return Err(Error::InvalidConfig(
                "`credentials` has no meaning for NFS".into(),
            ));
        }
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
        if volume.credentials.is_some() {
            let text = "option `credentials` has no meaning for NFS";
            return Err(Error::InvalidRequest(text.into()));
        }
        records::create(name, volume)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        remote::remove(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        let volume: Remote = records::get(name)?.volume;
        remote::mount("nfs", name, &volume.share, &volume.options)
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

/// Checks that a share is a host and an absolute path.
fn check(share: &str) -> Result<(), String> {
    // An IPv6 address is in brackets and has colons of its own.
    let is_share = share
        .split_once(":/")
        .is_some_and(|(host, _)| !host.is_empty() && !host.contains('/'));
    if is_share {
        Ok(())
    } else {
        Err(format!(
            "share must be such as nas:/exports/data, not `{share}`"
        ))
    }
}

skep_plugin_sdk::export_volume!(Nfs);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Host, attrs};
    use skep_plugin_sdk::volume::configure;

    #[test]
    fn a_volume_is_mounted_from_its_share() {
        let host = Host::install();
        let mut driver: Nfs = configure("{}").unwrap();
        let options = attrs(&[("share", "nas:/a/b"), ("options", "vers=4.2, ro")]);
        driver.create("data", &options).unwrap();
        assert_eq!(driver.mount("data").unwrap(), "data");
        let mounted = host.mounted("data").unwrap();
        assert_eq!((&*mounted.kind, &*mounted.source), ("nfs", "nas:/a/b"));
        assert_eq!(mounted.options, ["vers=4.2", "ro"]);
        driver.unmount("data").unwrap();
        assert!(host.directories().is_empty());
        assert_eq!(driver.list().unwrap().len(), 1);
        driver.remove("data").unwrap();
        assert!(driver.list().unwrap().is_empty());
    }

    #[test]
    fn a_volume_without_a_share_is_a_directory_of_the_default() {
        let host = Host::install();
        let mut driver: Nfs = configure(r#"{"share":"nas:/exports/","options":"hard"}"#).unwrap();
        driver.create("data", &[]).unwrap();
        driver.mount("data").unwrap();
        let mounted = host.mounted("data").unwrap();
        assert_eq!(mounted.source, "nas:/exports/data");
        assert_eq!(mounted.options, ["hard"]);
    }

    #[test]
    fn shares_and_options_that_make_no_sense_are_refused() {
        let _host = Host::install();
        let mut driver: Nfs = configure("{}").unwrap();
        for share in ["", "nas", "nas:", ":/a", "/a:/b", "nas:a"] {
            let options = attrs(&[("share", share)]);
            assert!(driver.create("data", &options).is_err(), "{share}");
        }
        assert!(driver.create("data", &[]).is_err());
        let options = attrs(&[("share", "[fe80::1]:/a"), ("credentials", "x")]);
        assert!(driver.create("data", &options).is_err());
        assert!(driver.create("data", &options[..1]).is_ok());
        assert!(configure::<Nfs>(r#"{"share":"nas"}"#).is_err());
    }
}
