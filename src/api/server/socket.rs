//! Sockets: bound before the daemon is ready, and for whom.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use tokio::net::TcpListener;
use tracing::debug;

use crate::{config::listen::ListenAddr, tls, unix_socket::UnixSocket};

/// Who may use a Unix socket: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// The group that may use Unix sockets if the configuration names none, as with an engine's.
const DEFAULT_GROUP: &str = "docker";

/// Where groups have their names.
const GROUPS: &str = "/etc/group";

/// A socket that is bound.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// TCP with TLS.
    Tls(TcpListener, tls::Server),
    /// A Unix socket.
    Unix(UnixSocket),
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}{hint}")]
pub struct BindError {
    address: String,
    hint: &'static str,
    // Not the error's `source`, because classic Swarm's text has it in the middle.
    cause: io::Error,
}

/// Binds an address, without accepting yet. TCP speaks TLS if `tls` says how.
///
/// A Unix socket that nobody answers on is replaced, and nothing else ever is. The new one is for
/// its owner and for `group`, a name or a number; without it for the group `docker` if there is
/// one, and else for the process's group. It never is for anybody else, not for a moment.
///
/// # Errors
///
/// [`BindError`].
pub fn bind(
    address: &ListenAddr,
    tls: Option<&tls::Server>,
    group: Option<&str>,
) -> Result<Listener, BindError> {
    match address {
        ListenAddr::Tcp(text) => {
            let listener = bind_tcp(text).map_err(|cause| BindError {
                hint: hint(text, &cause),
                address: format!("tcp://{text}"),
                cause,
            })?;
            Ok(match tls {
                Some(tls) => Listener::Tls(listener, tls.clone()),
                None => Listener::Tcp(listener),
            })
        }
        ListenAddr::Unix(path) => {
            bind_unix(path, group)
                .map(Listener::Unix)
                .map_err(|cause| BindError {
                    address: format!("unix://{}", path.display()),
                    hint: "",
                    cause,
                })
        }
    }
}

/// What classic Swarm adds if a Docker engine is likely to have the port.
fn hint(address: &str, cause: &io::Error) -> &'static str {
    if cause.kind() == io::ErrorKind::AddrInUse && address.ends_with(":2375") {
        ": is Docker already running on this machine? Try using a different port"
    } else {
        ""
    }
}

fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind_unix(path: &Path, group: Option<&str>) -> io::Result<UnixSocket> {
    let socket = UnixSocket::bind(path)?;
    give_to_group(path, group)?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    Ok(socket)
}

fn give_to_group(path: &Path, group: Option<&str>) -> io::Result<()> {
    let groups = fs::read_to_string(GROUPS).unwrap_or_default();
    if let Some(name) = group {
        let id = group_id(&groups, name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no group `{name}`")))?;
        return chown(path, None, Some(id));
    }
    if let Some(id) = group_id(&groups, DEFAULT_GROUP)
        && let Err(error) = chown(path, None, Some(id))
    {
        // Only root may give a file to a group it is not a member of.
        debug!(%error, "the socket stays with the process's group");
    }
    Ok(())
}

/// The ID of the group `name` in the text of `/etc/group` (group(5)), or `name` if it is a number.
fn group_id(groups: &str, name: &str) -> Option<u32> {
    if let Ok(id) = name.parse() {
        return Some(id);
    }
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn bind_plain(address: &ListenAddr) -> Result<Listener, BindError> {
        bind(address, None, None)
    }

    #[tokio::test]
    async fn a_socket_is_for_owner_and_group_and_goes_with_the_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("skep.sock");
        let address = ListenAddr::Unix(path.clone());
        // Everybody may give a file to the group it has already.
        let group = fs::metadata(directory.path()).unwrap().gid();
        let listener = bind(&address, None, Some(&group.to_string())).unwrap();
        let file = fs::metadata(&path).unwrap();
        assert_eq!(file.mode() & 0o777, 0o660);
        assert_eq!(file.gid(), group);
        drop(listener);
        assert!(!path.exists());

        let error = bind(&address, None, Some("no such group")).unwrap_err();
        assert!(
            error.to_string().ends_with("no group `no such group`"),
            "{error}"
        );
        assert!(!path.exists(), "a socket that nobody may use is left");
    }

    #[tokio::test]
    async fn a_taken_port_is_explained_only_if_it_is_that_of_docker() {
        let in_use = io::Error::from(io::ErrorKind::AddrInUse);
        assert!(hint("127.0.0.1:2375", &in_use).starts_with(": is Docker already"));
        assert_eq!(hint("127.0.0.1:23750", &in_use), "");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let error = bind_plain(&ListenAddr::Tcp(address.clone())).unwrap_err();
        let expected = format!("cannot listen on tcp://{address}: Address already in use");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }

    #[test]
    fn groups_have_names_and_numbers() {
        let groups = "root:x:0:\ndocker:x:998:alice,bob\nbroken\n";
        assert_eq!(group_id(groups, "docker"), Some(998));
        assert_eq!(group_id(groups, "1234"), Some(1234));
        assert_eq!(group_id(groups, "dock"), None);
        assert_eq!(group_id(groups, "broken"), None);
    }
}
