//! Volumes that are directories of one node, each under its name below the driver's root.
//!
//! Options: `uid`, `gid` and `mode` of the directory, and `size`, where the file system can enforce
//! one: ext4 and xfs with project quotas in force. Elsewhere a size is refused.

use skep_plugin_sdk::volume::directories::{self, Ownership};
use skep_plugin_sdk::volume::{Info, Options, Scope};
use skep_plugin_sdk::{Attr, NoSettings, Result, Volume};

struct Local;

impl Volume for Local {
    type Settings = NoSettings;
    const SCOPE: Scope = Scope::Local;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()> {
        let mut options = Options::new(options)?;
        let owner = Ownership::take(&mut options)?;
        let size = options.size("size")?;
        options.finish()?;
        directories::create_within(name, owner, size)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        directories::remove(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        Ok(directories::get(name)?.name)
    }

    fn path(&mut self, name: &str) -> Result<Option<String>> {
        Ok(Some(directories::get(name)?.name))
    }

    fn get(&mut self, name: &str) -> Result<Info> {
        directories::get(name)
    }

    fn list(&mut self) -> Result<Vec<Info>> {
        directories::list()
    }
}

skep_plugin_sdk::export_volume!(Local);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::Error;
    use skep_plugin_sdk::testing::{Host, attrs};
    use skep_plugin_sdk::volume::configure;

    fn names(driver: &mut Local) -> Vec<String> {
        driver
            .list()
            .unwrap()
            .into_iter()
            .map(|info| info.name)
            .collect()
    }

    #[test]
    fn a_volume_is_a_directory_with_its_owner() {
        let host = Host::install();
        let mut driver: Local = configure("{}").unwrap();
        let options = attrs(&[("uid", "1000"), ("gid", "50"), ("mode", "0700")]);
        host.set_now_ms(1000);
        driver.create("data", &options).unwrap();
        driver.create("data", &options).unwrap();
        driver.create("logs", &[]).unwrap();
        assert_eq!(names(&mut driver), ["data", "logs"]);
        let made = host.directories();
        assert_eq!(made[0], ("data".to_owned(), (0o700, 1000, 50)));
        assert_eq!(made[1], ("logs".to_owned(), (0o755, 0, 0)));
        assert_eq!(driver.get("data").unwrap().created_at_ms, Some(1000));
        assert_eq!(driver.mount("data").unwrap(), "data");
        driver.remove("data").unwrap();
        driver.remove("data").unwrap();
        assert_eq!(names(&mut driver), ["logs"]);
        assert!(matches!(driver.mount("data"), Err(Error::NotFound(_))));
        assert!(matches!(driver.get("data"), Err(Error::NotFound(_))));
    }

    #[test]
    fn a_size_is_the_file_systems_business() {
        let host = Host::install();
        let mut driver: Local = configure("{}").unwrap();
        let options = attrs(&[("size", "1g")]);
        driver.create("data", &options).unwrap();
        assert_eq!(host.max_bytes("data"), Some(1 << 30));
        host.fail_next_change(Error::Unsupported("no quotas".into()));
        assert!(driver.create("more", &options).is_err());
        assert_eq!(names(&mut driver), ["data"]);
    }

    #[test]
    fn a_removal_that_was_cut_off_leaves_no_volume() {
        let host = Host::install();
        let mut driver: Local = configure("{}").unwrap();
        driver.create("data", &[]).unwrap();
        host.make_directory(".going-data");
        assert_eq!(names(&mut driver), ["data"]);
        driver.remove("data").unwrap();
        assert!(host.directories().is_empty());
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        let host = Host::install();
        let mut driver: Local = configure("{}").unwrap();
        for (key, value) in [("size", "x"), ("uid", "root"), ("color", "red")] {
            assert!(
                driver.create("data", &attrs(&[(key, value)])).is_err(),
                "{key}"
            );
        }
        assert!(host.directories().is_empty());
    }
}
