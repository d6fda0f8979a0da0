//! File systems in files, for tests of what only some of them can do.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

/// A file system in a file, mounted until the value goes.
#[derive(Debug)]
pub struct Image {
    directory: PathBuf,
}

impl Image {
    /// Makes a file system of a type with the options of its mkfs(8) and mounts it with those of
    /// mount(8). `None`, after a line that says so of `test`, where this machine cannot.
    ///
    /// # Panics
    ///
    /// Where the program that makes it is missing, or fails.
    pub fn mounted(test: &str, kind: &str, format: &[&str], options: &str) -> Option<Self> {
        let left_out = |reason: &str| {
            eprintln!("left out: {test}: {reason}");
            None
        };
        if !fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            return left_out("only root mounts");
        }
        if !is_known(kind) {
            return left_out(&format!("this kernel has no {kind}"));
        }
        let name = format!("skep-image-{:016x}", rand::random::<u64>());
        let image = Self {
            directory: env::temp_dir().join(name),
        };
        let (file, root) = (image.directory.join("image"), image.root());
        fs::create_dir_all(&root).expect("a directory");
        let sized = fs::File::create(&file).and_then(|file| file.set_len(400 << 20));
        sized.expect("a file");
        let program = format!("mkfs.{kind}");
        let made = Command::new(&program).args(format).arg(&file).output();
        let made = made.unwrap_or_else(|_| panic!("`{program}` is missing: see config/packages"));
        assert!(made.status.success(), "{program}: {made:?}");
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", kind, "-o", options]).args([&file, &root]);
        let mounted = mounted.output().expect("mount(8) is there");
        if !mounted.status.success() {
            let reason = String::from_utf8_lossy(&mounted.stderr);
            let reason = reason.lines().next().unwrap_or_default();
            return left_out(&format!(
                "{kind} with {options} cannot be mounted: {reason}"
            ));
        }
        Some(image)
    }

    /// The same with a type that has project quotas, and these in force.
    ///
    /// # Panics
    ///
    /// As [`Image::mounted`].
    pub fn with_quotas(test: &str, kind: &str) -> Option<Self> {
        let format: &[_] = match kind {
            "ext4" => &["-q", "-O", "quota,project", "-E", "quotatype=prjquota"],
            _ => &["-q"],
        };
        Self::mounted(test, kind, format, "loop,prjquota")
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        // It may not be mounted.
        let _ = umount.arg(self.root()).stderr(Stdio::null()).status();
        let _ = fs::remove_dir(self.root());
        // Nothing else is there, if nothing is mounted any more.
        let _ = fs::remove_file(self.directory.join("image"));
        let _ = fs::remove_dir(&self.directory);
    }
}

/// Whether this kernel has a type of file system.
pub fn is_known(kind: &str) -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let mut kinds = known.lines().filter_map(|line| line.split('\t').nth(1));
    kinds.any(|known| known == kind)
}
