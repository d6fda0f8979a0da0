//! What a volume driver keeps on its node: records in a directory of its own, and secrets that it
//! may read.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use tracing::warn;

use super::{
    bindings::waiting::skep::plugin::{
        secrets::Host as SecretsHost,
        state::{Host as StateHost, Pair},
        types::Error,
    },
    host::Host,
};
use crate::atomic_file::{self, Durability};

/// Longest key, in bytes.
const MAX_KEY: usize = 255;

/// Longest value, in bytes.
const MAX_VALUE: usize = 1 << 20;

/// Longest secret, in bytes.
const MAX_SECRET: u64 = 64 << 10;

/// Longest name of a file, in bytes.
const MAX_FILE_NAME: usize = 250;

/// What stays as it is in the name of a file.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The records of one driver. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Records {
    directory: Arc<Path>,
}

/// The files with secrets that one driver may read, by name.
#[derive(Clone, Debug)]
pub(super) struct Secrets(Arc<BTreeMap<String, PathBuf>>);

impl Records {
    /// Takes the records in `directory`. Nobody else may write there.
    pub(super) fn new(directory: &Path) -> Self {
        match atomic_file::clear_drafts(directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                warn!(directory = %directory.display(), %error, "cannot clear what is half written");
            }
            _ => {}
        }
        Self {
            directory: directory.into(),
        }
    }

    fn path(&self, key: &str) -> Result<PathBuf, Error> {
        if key.is_empty() || key.len() > MAX_KEY {
            let text = format!("a key has 1 to {MAX_KEY} bytes");
            return Err(Error::InvalidRequest(text));
        }
        let name = utf8_percent_encode(key, KEPT).to_string();
        // A long name is split into directories: the file system has a limit of its own.
        let mut path = self.directory.to_path_buf();
        let mut rest = name.as_str();
        while rest.len() > MAX_FILE_NAME {
            let (first, after) = rest.split_at(MAX_FILE_NAME);
            path.push(format!("{first}.d"));
            rest = after;
        }
        path.push(rest);
        Ok(path)
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        match fs::read(self.path(key)?) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading", key, &error)),
        }
    }

    /// Writes a record beside the old one and puts it in its place: there is one or the other.
    fn put(&self, key: &str, value: &[u8]) -> Result<(), Error> {
        if value.len() > MAX_VALUE {
            let text = format!("a record has at most {} KiB", MAX_VALUE >> 10);
            return Err(Error::InvalidRequest(text));
        }
        let path = self.path(key)?;
        fs::create_dir_all(path.parent().unwrap_or(&self.directory))
            .and_then(|()| atomic_file::replace(&path, value, Durability::Machine))
            .map_err(|error| failed("writing", key, &error))
    }

    fn delete(&self, key: &str) -> Result<(), Error> {
        match fs::remove_file(self.path(key)?) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("deleting", key, &error)),
        }
    }

    fn list(&self) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        read_below(&self.directory, "", &mut pairs)
            .map_err(|error| Error::Unavailable(format!("reading the records: {error}")))?;
        pairs.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        Ok(pairs)
    }
}

/// Adds the records in a directory whose names begin with `before`.
fn read_below(directory: &Path, before: &str, pairs: &mut Vec<Pair>) -> std::io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if let Some(first) = name.strip_suffix(".d") {
            read_below(&entry.path(), &format!("{before}{first}"), pairs)?;
            continue;
        }
        if atomic_file::is_draft(&name) {
            continue;
        }
        let name = format!("{before}{name}");
        let Ok(key) = percent_decode_str(&name).decode_utf8() else {
            continue;
        };
        match fs::read(entry.path()) {
            Ok(value) => pairs.push(Pair {
                key: key.into_owned(),
                value,
            }),
            // Deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Secrets {
    pub(super) fn new(files: BTreeMap<String, PathBuf>) -> Self {
        Self(Arc::new(files))
    }

    fn get(&self, name: &str) -> Result<String, Error> {
        let path = self.0.get(name).ok_or_else(|| {
            Error::NotFound(format!(
                "no secret `{name}` is allowed by the configuration"
            ))
        })?;
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(MAX_SECRET).read_to_string(&mut text));
        read.map_err(|error| {
            Error::Unavailable(format!("secret `{name}` in `{}`: {error}", path.display()))
        })?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
    }
}

fn failed(doing: &str, key: &str, error: &std::io::Error) -> Error {
    Error::Unavailable(format!("{doing} the record of `{key}`: {error}"))
}

/// Does something that may wait for a disk where waiting is allowed.
async fn work<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let task = tokio::task::spawn_blocking(call);
    task.await
        .unwrap_or_else(|error| Err(Error::Other(error.to_string())))
}

impl StateHost for Host {
    async fn get(&mut self, key: String) -> Result<Option<Vec<u8>>, Error> {
        let records = self.granted_records()?;
        work(move || records.get(&key)).await
    }

    async fn put(&mut self, key: String, value: Vec<u8>) -> Result<(), Error> {
        let records = self.granted_records()?;
        work(move || records.put(&key, &value)).await
    }

    async fn delete(&mut self, key: String) -> Result<(), Error> {
        let records = self.granted_records()?;
        work(move || records.delete(&key)).await
    }

    async fn list(&mut self) -> Result<Vec<Pair>, Error> {
        let records = self.granted_records()?;
        work(move || records.list()).await
    }
}

impl SecretsHost for Host {
    async fn get(&mut self, name: String) -> Result<String, Error> {
        let secrets = self.granted_secrets()?;
        work(move || secrets.get(&name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept_under_any_key() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(&directory.path().join("new"));
        assert!(records.list().unwrap().is_empty());
        let long = "ä.".repeat(85);
        let keys = ["a", "../a", ".", "a/b", ".draft-a", "a.d", long.as_str()];
        for key in keys {
            assert_eq!(records.get(key).unwrap(), None, "{key}");
            records.put(key, key.as_bytes()).unwrap();
        }
        for key in keys {
            assert_eq!(records.get(key).unwrap().unwrap(), key.as_bytes());
        }
        let mut sorted: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
        sorted.sort_unstable();
        let listed = records.list().unwrap().into_iter();
        assert_eq!(listed.map(|pair| pair.key).collect::<Vec<_>>(), sorted);
        for key in keys {
            records.delete(key).unwrap();
            records.delete(key).unwrap();
        }
        assert!(records.list().unwrap().is_empty());
        let outside: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(outside.len(), 1);
    }

    #[test]
    fn what_was_being_written_is_no_record() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        records.put("a", b"old").unwrap();
        let draft = directory.path().join(".draft-a");
        fs::write(&draft, "ne").unwrap();
        assert_eq!(records.get("a").unwrap().unwrap(), b"old");
        assert_eq!(records.list().unwrap().len(), 1);
        records.put("a", b"new").unwrap();
        assert_eq!(records.get("a").unwrap().unwrap(), b"new");
        Records::new(directory.path());
        assert!(!draft.exists());
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path());
        assert!(records.put("", b"").is_err());
        assert!(records.put(&"x".repeat(MAX_KEY + 1), b"").is_err());
        assert!(records.put("a", &vec![0; MAX_VALUE + 1]).is_err());
        assert!(records.list().unwrap().is_empty());
    }

    #[test]
    fn only_the_secrets_named_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nas");
        fs::write(&path, "a\nb\r\n").unwrap();
        let secrets = Secrets::new(BTreeMap::from([("nas".to_owned(), path.clone())]));
        assert_eq!(secrets.get("nas").unwrap(), "a\nb");
        assert!(secrets.get("../nas").is_err());
        assert!(secrets.get(path.to_str().unwrap()).is_err());
    }
}
