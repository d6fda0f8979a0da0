//! Volumes in memory: what is in one is gone when its last container stops.
//!
//! Options: `size`, by default that of the settings, and `uid`, `gid` and `mode`.

use serde::{Deserialize, Serialize};

use skep_plugin_sdk::volume::directories::Ownership;
use skep_plugin_sdk::volume::{Info, Options, Scope, parse_size, records};
use skep_plugin_sdk::{Attr, Error, Result, Volume, host};

/// The size of a volume for which nobody chose one.
const DEFAULT_SIZE: &str = "64m";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// Of volumes that are created without one: `64m`.
    #[serde(default)]
    size: Option<String>,
}

struct Tmpfs {
    size: u64,
}

/// What a volume is made of.
#[derive(PartialEq, Serialize, Deserialize)]
struct Memory {
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Volume for Tmpfs {
    type Settings = Settings;
    const SETTINGS_SCHEMA: Option<&'static str> = Some(
        r#"{"type":"object","additionalProperties":false,"properties":{"size":{"type":"string","default":"64m"}}}"#,
    );
    const SCOPE: Scope = Scope::Local;

    fn new(settings: Settings) -> Result<Self> {
        let size = settings.size.as_deref().unwrap_or(DEFAULT_SIZE);
        let size = parse_size(size).ok_or_else(|| {
            Error::InvalidConfig(format!("size must be such as 64m or 10g, not `{size}`"))
        })?;
        Ok(Self { size })
    }

    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()> {
        let mut options = Options::new(options)?;
        let size = options.size("size")?.unwrap_or(self.size);
        let Ownership { mode, uid, gid } = Ownership::take(&mut options)?;
        options.finish()?;
        records::create(
            name,
            Memory {
                size,
                mode,
                uid,
                gid,
            },
        )
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        self.unmount(name)?;
        host::forget_record(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        let Memory {
            size,
            mode,
            uid,
            gid,
        } = records::get(name)?.volume;
        host::make_directory(name, 0o700, 0, 0, None)?;
        let options = [
            format!("size={size}"),
            format!("mode={mode:o}"),
            format!("uid={uid}"),
            format!("gid={gid}"),
        ];
        host::mount("tmpfs", "tmpfs", name, &options)?;
        Ok(name.to_owned())
    }

    fn unmount(&mut self, name: &str) -> Result<()> {
        host::unmount(name)?;
        host::remove_directory(name)
    }

    fn path(&mut self, name: &str) -> Result<Option<String>> {
        records::get::<Memory>(name)?;
        Ok(Some(name.to_owned()))
    }

    fn get(&mut self, name: &str) -> Result<Info> {
        Ok(info(name, &records::get(name)?))
    }

    fn list(&mut self) -> Result<Vec<Info>> {
        let all = records::all()?;
        Ok(all
            .iter()
            .map(|(name, record)| info(name, record))
            .collect())
    }
}

fn info(name: &str, record: &records::Record<Memory>) -> Info {
    let mut info = record.info(name);
    info.status.push(Attr {
        key: "size".into(),
        value: record.volume.size.to_string(),
    });
    info
}

skep_plugin_sdk::export_volume!(Tmpfs);

#[cfg(test)]
mod tests {
    use super::*;
    use skep_plugin_sdk::testing::{Host, attrs};
    use skep_plugin_sdk::volume::configure;

    #[test]
    fn a_volume_is_memory_while_it_is_mounted() {
        let host = Host::install();
        host.set_now_ms(7);
        let mut driver: Tmpfs = configure(r#"{"size":"1m"}"#).unwrap();
        driver.create("data", &attrs(&[("mode", "1777")])).unwrap();
        assert_eq!(host.mounted("data"), None);
        assert_eq!(driver.mount("data").unwrap(), "data");
        driver.mount("data").unwrap();
        let mounted = host.mounted("data").unwrap();
        assert_eq!(mounted.kind, "tmpfs");
        let options = ["size=1048576", "mode=1777", "uid=0", "gid=0"];
        assert_eq!(mounted.options, options);
        let info = driver.get("data").unwrap();
        assert_eq!(info.created_at_ms, Some(7));
        driver.unmount("data").unwrap();
        driver.unmount("data").unwrap();
        assert_eq!(host.mounted("data"), None);
        assert!(host.directories().is_empty());
        driver.remove("data").unwrap();
        assert!(host.records().is_empty());
        assert!(driver.list().unwrap().is_empty());
    }

    #[test]
    fn a_name_belongs_to_one_volume() {
        let _host = Host::install();
        let mut driver: Tmpfs = configure("{}").unwrap();
        driver.create("data", &[]).unwrap();
        driver.create("data", &attrs(&[("size", "64m")])).unwrap();
        let other = driver.create("data", &attrs(&[("size", "1m")]));
        assert!(matches!(other, Err(Error::Denied(_))));
    }

    #[test]
    fn a_record_that_cannot_be_kept_is_no_volume() {
        let host = Host::install();
        let mut driver: Tmpfs = configure("{}").unwrap();
        host.fail_next_change(Error::Unavailable("disk full".into()));
        assert!(driver.create("data", &[]).is_err());
        assert!(driver.list().unwrap().is_empty());
    }

    #[test]
    fn a_size_that_is_none_is_refused() {
        assert!(configure::<Tmpfs>(r#"{"size":"big"}"#).is_err());
    }
}
