//! Unix sockets that leave nothing behind and take nothing from anybody.

use std::{
    fs::{self, File, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;
use tracing::debug;

/// Connections that the kernel holds for the daemon until it accepts them.
const BACKLOG: i32 = 1024;

/// A Unix socket; its file goes with the value.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, which may have been replaced by somebody else's since.
    file: (u64, u64),
}

impl UnixSocket {
    /// Binds `path`, for its owner alone (mode 0600), without accepting yet.
    ///
    /// A socket that nobody answers on is replaced, and nothing else ever is.
    ///
    /// # Errors
    ///
    /// `AddrInUse` if a process answers there, `AlreadyExists` if the path is no socket, or what the
    /// system says.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn bind(path: &Path) -> io::Result<Self> {
        make_way(path)?;
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        // Linux gives the file the socket's own mode, less the umask (unix(7) does not say so).
        // Thus the file is its owner's alone from its first moment on, and no umask, which all
        // threads share, has to be changed for it.
        let socket = File::from(OwnedFd::from(socket));
        socket.set_permissions(Permissions::from_mode(0o600))?;
        let socket = socket2::Socket::from(OwnedFd::from(socket));
        socket.bind(&socket2::SockAddr::unix(path)?)?;
        let made = fs::symlink_metadata(path)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            path: path.to_owned(),
            file: (made.dev(), made.ino()),
        })
    }

    /// The socket itself.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where its file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes a socket whose maker is gone.
fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path is taken by something that is no socket",
        )),
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Ok(_) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            debug!(%error, path = %self.path.display(), "cannot remove the socket's file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skep.sock");

        fs::write(&path, "precious").unwrap();
        let error = UnixSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();

        // One whose maker was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let _first = UnixSocket::bind(&path).unwrap();
        let error = UnixSocket::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_and_goes_with_the_value() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skep.sock");
        let socket = UnixSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_took_the_path_since_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skep.sock");
        let socket = UnixSocket::bind(&path).unwrap();
        // Kept under another name, so that its inode is not given to the next one.
        fs::rename(&path, directory.path().join("moved.sock")).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
