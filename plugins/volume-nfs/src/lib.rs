//! Volumes on NFS servers, mounted while a container uses them.
//!
//! Options: `share`, as `nas:/exports/data`, and `options`, as mount(8) knows them. With a `share`
//! in the settings a volume without one of its own is the directory of its name in that one. What
//! is in a share stays when its volume is removed.

use skep_plugin_sdk::volume::remote::{Protocol, Shares};

struct Nfs;

impl Protocol for Nfs {
    const KIND: &'static str = "nfs";
    const HAS_CREDENTIALS: bool = false;

    /// A host and an absolute path.
    fn check_share(share: &str) -> Result<(), String> {
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
}

skep_plugin_sdk::export_volume!(Shares<Nfs>);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::Volume;
    use skep_plugin_sdk::testing::{Host, attrs};
    use skep_plugin_sdk::volume::configure;

    #[test]
    fn a_volume_is_mounted_from_its_share() {
        let host = Host::install();
        let mut driver: Shares<Nfs> = configure("{}").unwrap();
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
        let mut driver: Shares<Nfs> =
            configure(r#"{"share":"nas:/exports/","options":"hard"}"#).unwrap();
        driver.create("data", &[]).unwrap();
        driver.mount("data").unwrap();
        let mounted = host.mounted("data").unwrap();
        assert_eq!(mounted.source, "nas:/exports/data");
        assert_eq!(mounted.options, ["hard"]);
    }

    #[test]
    fn shares_and_options_that_make_no_sense_are_refused() {
        let _host = Host::install();
        let mut driver: Shares<Nfs> = configure("{}").unwrap();
        for share in ["", "nas", "nas:", ":/a", "/a:/b", "nas:a"] {
            let options = attrs(&[("share", share)]);
            assert!(driver.create("data", &options).is_err(), "{share}");
        }
        assert!(driver.create("data", &[]).is_err());
        let options = attrs(&[("share", "[fe80::1]:/a"), ("credentials", "x")]);
        assert!(driver.create("data", &options).is_err());
        assert!(driver.create("data", &options[..1]).is_ok());
        for settings in [r#"{"share":"nas"}"#, r#"{"credentials":"nas"}"#] {
            assert!(configure::<Shares<Nfs>>(settings).is_err(), "{settings}");
        }
    }
}
