//! A volume driver whose volumes are directories, and that misbehaves when one of certain names is
//! mounted.

use skep_plugin_sdk::volume::directories::{self, Ownership};
use skep_plugin_sdk::volume::{Info, Options, Scope};
use skep_plugin_sdk::{Attr, Error, NoSettings, Result, Volume, host};

struct Unruly;

impl Volume for Unruly {
    type Settings = NoSettings;
    const SCOPE: Scope = Scope::Local;

    fn new(_settings: NoSettings) -> Result<Self> {
        Ok(Self)
    }

    fn create(&mut self, name: &str, options: &[Attr]) -> Result<()> {
        let mut options = Options::new(options)?;
        let owner = Ownership::take(&mut options)?;
        options.finish()?;
        directories::create(name, owner)
    }

    fn remove(&mut self, name: &str) -> Result<()> {
        directories::remove(name)
    }

    fn mount(&mut self, name: &str) -> Result<String> {
        match name {
            "trap" => panic!("this volume traps"),
            "loop" => loop {
                core::hint::black_box(());
            },
            "bomb" => {
                let mut all = Vec::new();
                loop {
                    all.push(vec![1_u8; 1 << 20]);
                }
            }
            "fail" => Err(Error::Other("this volume fails".into())),
            "escape" => Ok("../..".into()),
            "absolute" => Ok("/etc".into()),
            "proc" => {
                host::mount("proc", "proc", name, &[])?;
                Ok(name.into())
            }
            "secret" => host::secret("none"),
            _ => Ok(directories::get(name)?.name),
        }
    }

    fn get(&mut self, name: &str) -> Result<Info> {
        directories::get(name)
    }

    fn list(&mut self) -> Result<Vec<Info>> {
        directories::list()
    }
}

skep_plugin_sdk::export_volume!(Unruly);
