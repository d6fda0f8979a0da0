//! Files that are replaced as a whole: whoever reads one finds its old content or its new one,
//! however the writer dies.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// What the names of files begin with that are not written to the end yet.
const DRAFT: &str = ".draft-";

/// Whether what was written outlives a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It outlives the process alone. After a crash of the machine the file may be torn.
    Process,
    /// It is on the disk, and so is its name.
    Machine,
}

/// Replaces the content of the file `path`, which only its owner can read then. Writers of one path
/// do not get in each other's way: the last one wins.
///
/// # Errors
///
/// What the system says. The file is then what it was, unless it was only the disk that failed.
pub fn replace(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    let mut draft = tempfile::Builder::new()
        .prefix(DRAFT)
        .tempfile_in(directory)?;
    draft.write_all(content)?;
    if durability == Durability::Machine {
        draft.as_file().sync_data()?;
    }
    draft.persist(path)?;
    if durability == Durability::Machine {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

/// Whether a file of this name is one that is not written to the end yet.
pub fn is_draft(name: &str) -> bool {
    name.starts_with(DRAFT)
}

/// Removes what dead writers have left in a directory and those below it; living ones lose what
/// they write.
///
/// # Errors
///
/// What the system says.
pub fn clear_drafts(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            clear_drafts(&entry.path())?;
        } else if entry.file_name().to_str().is_some_and(is_draft) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for durability in [Durability::Process, Durability::Machine] {
            for content in ["long content", "short"] {
                replace(&path, content.as_bytes(), durability).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), content);
            }
        }
        // A file cannot take the place of a directory.
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        replace(&taken, b"x", Durability::Process).unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn drafts_of_the_dead_are_cleared_wherever_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("below");
        fs::create_dir(&below).unwrap();
        for directory in [directory.path(), &below] {
            fs::write(directory.join(".draft-x"), "").unwrap();
            fs::write(directory.join("draft-x"), "").unwrap();
        }
        clear_drafts(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert_eq!(fs::read_dir(below).unwrap().count(), 1);
    }
}
