//! Volumes in a directory that is the same on every node, such as a mounted cluster file system.
//!
//! A volume that is made on one node is there on all, so a container can be made again elsewhere
//! with its data. The driver's root has to be where a file system is mounted: without it a
//! container would write to the disk of its node and nobody would know. Where the root is shared in
//! another way, `require-mount = false` says so.
//!
//! Options: `uid`, `gid` and `mode` of a new directory.

use serde::Deserialize;

use skep_plugin_sdk::volume::directories::{self, Ownership};
use skep_plugin_sdk::volume::{Info, Options, Scope};
use skep_plugin_sdk::{Attr, Error, Result, Volume, host};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    #[serde(default = "yes")]
    require_mount: bool,
}

fn yes() -> bool {
    true
}

struct Shared {
    require_mount: bool,
}

impl Volume for Shared {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"properties":{"require-mount":{"type":"boolean","default":true}}}"#,
    );
    const SCOPE: Scope = Scope::Global;

    fn new(settings: Settings) -> Result<Self> {
        Ok(Self {
            require_mount: settings.require_mount,
        })
    }

    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()> {
        let mut options = Options::new(options)?;
        let owner = Ownership::take(&mut options)?;
        options.finish()?;
        self.check()?;
        directories::create(name, owner)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        self.check()?;
        directories::remove(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        self.check()?;
        Ok(directories::get(name)?.name)
    }

    fn path(&mut self, name: &str) -> Result<Option<String>> {
        self.check()?;
        Ok(Some(directories::get(name)?.name))
    }

    fn get(&mut self, name: &str) -> Result<Info> {
        self.check()?;
        directories::get(name)
    }

    fn list(&mut self) -> Result<Vec<Info>> {
        self.check()?;
        directories::list()
    }
}

impl Shared {
    /// A file system can be gone at any time.
    fn check(&self) -> Result<()> {
        if self.require_mount && !host::root_is_mounted()? {
            return Err(Error::Unavailable(
                "no file system is mounted on the driver's root".into(),
            ));
        }
        Ok(())
    }
}

skep_plugin_sdk::export_volume!(Shared);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::Host;
    use skep_plugin_sdk::volume::configure;

    #[test]
    fn nothing_is_done_while_the_file_system_is_away() {
        let host = Host::install();
        let mut driver: Shared = configure("{}").unwrap();
        assert!(driver.create("data", &[]).is_err());
        host.set_root_is_mounted(true);
        driver.create("data", &[]).unwrap();
        assert_eq!(driver.mount("data").unwrap(), "data");
        host.set_root_is_mounted(false);
        assert!(driver.mount("data").is_err());
        assert!(driver.list().is_err());
        assert!(driver.remove("data").is_err());
        assert_eq!(host.directories().len(), 1);
    }

    #[test]
    fn a_root_that_is_shared_otherwise_needs_no_mount() {
        let _host = Host::install();
        let mut driver: Shared = configure(r#"{"require-mount":false}"#).unwrap();
        driver.create("data", &[]).unwrap();
        assert_eq!(driver.get("data").unwrap().name, "data");
    }
}
