//! Machine code of plugins, kept between starts.
//!
//! ```text
//! <cache-dir>/wasm/key                          32 random bytes, mode 0600
//! <cache-dir>/wasm/<settings>/<digest>.cwasm    tag of 32 bytes, then machine code
//! ```
//!
//! Machine code is trusted code: whoever can put a file here owns the daemon. So the directory
//! must belong to the daemon's user and to nobody else, and each file carries a tag made with the
//! key, over the digest of the component and exactly the bytes that are then loaded. Whatever does
//! not fit, such as the code of another component, is compiled again.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tracing::{debug, warn};
use wasmtime::{Engine, component::Component};

use super::{
    LoadFailure,
    artifact::{Artifact, hex},
};

/// Where a component's machine code came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Compiled in this start.
    Compiled,
    /// Taken from the cache.
    Cached,
}

/// A directory of machine code.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    key: [u8; 32],
}

impl Cache {
    /// Opens the cache below `cache_dir`, making what is missing.
    ///
    /// # Errors
    ///
    /// If the directory cannot be made, or is not the daemon's alone.
    pub(super) fn try_open(cache_dir: &Path) -> io::Result<Self> {
        let directory = cache_dir.join("wasm");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        let metadata = fs::symlink_metadata(&directory)?;
        // `/proc/self` belongs to the user the daemon runs as.
        if !metadata.is_dir() || metadata.uid() != fs::metadata("/proc/self")?.uid() {
            return Err(io::Error::new(
                ErrorKind::PermissionDenied,
                "the directory belongs to another user",
            ));
        }
        fs::set_permissions(&directory, Permissions::from_mode(0o700))?;
        let key = key(&directory.join("key"))?;
        Ok(Self { directory, key })
    }

    /// The machine code of `artifact`, from the cache if it is there and in order.
    pub(super) fn load(
        &self,
        wasm: &Engine,
        artifact: &Artifact,
    ) -> Result<(Component, Origin), LoadFailure> {
        let path = self.path(wasm, artifact);
        match self.fetch(wasm, &path, &artifact.digest) {
            Ok(component) => return Ok((component, Origin::Cached)),
            Err(Miss::Absent) => {}
            Err(Miss::Unusable(reason)) => {
                warn!(path = %path.display(), reason, "cached plugin code is unusable, compiling it again");
            }
        }
        let component = compile(wasm, artifact)?;
        if let Err(error) = self.store(&path, &artifact.digest, &component) {
            warn!(path = %path.display(), %error, "compiled plugin code cannot be kept");
        }
        Ok((component, Origin::Compiled))
    }

    fn path(&self, wasm: &Engine, artifact: &Artifact) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        wasm.precompile_compatibility_hash().hash(&mut hasher);
        self.directory
            .join(format!("{:016x}", hasher.finish()))
            .join(format!("{}.cwasm", hex(&artifact.digest)))
    }

    fn fetch(&self, wasm: &Engine, path: &Path, digest: &[u8; 32]) -> Result<Component, Miss> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Miss::Absent),
            Err(error) => return Err(Miss::Unusable(error.to_string())),
        };
        let mut tag = [0; 32];
        let mut code = Vec::new();
        file.read_exact(&mut tag)
            .and_then(|()| file.read_to_end(&mut code))
            .map_err(|error| Miss::Unusable(error.to_string()))?;
        if tag != self.tag(digest, &code) {
            return Err(Miss::Unusable("its tag does not fit".to_owned()));
        }
        #[expect(
            unsafe_code,
            reason = "the tag shows that this daemon's user wrote exactly these bytes, which come \
                      from `Component::serialize`; wasmtime refuses those of another version"
        )]
        // SAFETY: as above; the bytes are in memory and no longer depend on the file.
        let component = unsafe { Component::deserialize(wasm, &code) };
        component.map_err(|error| Miss::Unusable(error.to_string()))
    }

    fn store(&self, path: &Path, digest: &[u8; 32], component: &Component) -> io::Result<()> {
        let code = component.serialize().map_err(io::Error::other)?;
        let directory = path.parent().unwrap_or(&self.directory);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)?;
        // Two daemons may write the same file: each writes its own and renames it into place.
        let draft = directory.join(format!("draft-{:016x}", rand::random::<u64>()));
        let written = (|| {
            let mut file = create_private(&draft)?;
            file.write_all(&self.tag(digest, &code))?;
            file.write_all(&code)?;
            fs::rename(&draft, path)
        })();
        if written.is_err() {
            // The error of the write is the one worth telling.
            let _ = fs::remove_file(&draft);
        }
        debug!(path = %path.display(), bytes = code.len(), "kept compiled plugin code");
        written
    }

    /// A keyed digest: hashed twice, so that a tag says nothing about longer texts.
    fn tag(&self, digest: &[u8; 32], code: &[u8]) -> [u8; 32] {
        let inner = Sha256::new()
            .chain_update(self.key)
            .chain_update(digest)
            .chain_update(code)
            .finalize();
        Sha256::new()
            .chain_update(self.key)
            .chain_update(inner)
            .finalize()
            .into()
    }
}

/// Compiles without keeping the result.
pub(super) fn compile(wasm: &Engine, artifact: &Artifact) -> Result<Component, LoadFailure> {
    Component::new(wasm, artifact.component()?)
        .map_err(|error| LoadFailure::Compile(format!("{error:#}")))
}

enum Miss {
    Absent,
    Unusable(String),
}

/// Reads the key, or makes one.
fn key(path: &Path) -> io::Result<[u8; 32]> {
    let draft = path.with_file_name(format!("draft-{:016x}", rand::random::<u64>()));
    loop {
        match File::open(path) {
            Ok(mut file) => {
                let mut key = [0; 32];
                file.read_exact(&mut key)?;
                return Ok(key);
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        create_private(&draft)?.write_all(&rand::random::<[u8; 32]>())?;
        // A hard link appears whole and never replaces the key of a daemon that was faster.
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        match linked {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
