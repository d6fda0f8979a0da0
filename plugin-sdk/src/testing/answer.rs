//! The imports of a plugin as [`super::Host`] answers them, shaped like the generated ones.

use super::{STATE, State};

fn with<T>(call: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(|state| {
        call(
            state
                .as_mut()
                .expect("a question to the daemon in a test without `testing::Host`"),
        )
    })
}

fn with_or<T>(otherwise: T, call: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(|state| state.as_mut().map_or(otherwise, call))
}

pub(crate) mod log {
    use super::with_or;
    use crate::Attr;
    use crate::log::Level;

    pub(crate) fn enabled(_level: Level) -> bool {
        with_or(false, |_| true)
    }

    pub(crate) fn log(_level: Level, message: &str, fields: &[Attr]) {
        let fields: String = fields
            .iter()
            .map(|field| format!(" {}={}", field.key, field.value))
            .collect();
        with_or((), |state| state.log.push(format!("{message}{fields}")));
    }
}

pub(crate) mod clock {
    use super::with_or;

    pub(crate) fn now_ms() -> u64 {
        with_or(0, |state| state.now_ms)
    }

    pub(crate) fn monotonic_ns() -> u64 {
        now_ms() * 1_000_000
    }
}

pub(crate) mod random {
    use super::with_or;

    pub(crate) fn bytes(count: u32) -> Vec<u8> {
        with_or(vec![0; count as usize], |state| {
            (0..count)
                .map(|_| {
                    // xorshift64: the same seed gives the same bytes everywhere.
                    state.random ^= state.random << 13;
                    state.random ^= state.random >> 7;
                    state.random ^= state.random << 17;
                    (state.random >> 32) as u8
                })
                .collect()
        })
    }
}

pub(crate) mod files {
    use super::with;
    use crate::host::Stamp;
    use crate::{Error, Result};

    pub(crate) fn read(path: &str) -> Result<(Vec<u8>, u64)> {
        with(|state| match state.files.get(path) {
            Some((content, revision)) => content.clone().map(|content| (content, *revision)),
            None => Err(Error::NotFound(format!("no such file: `{path}`"))),
        })
    }

    pub(crate) fn wait(path: &str, seen: u64, _max_wait_ms: u32) -> Result<Stamp> {
        with(|state| {
            state.waited.push((path.to_owned(), seen));
            let file = state.files.get(path);
            Ok(Stamp {
                exists: file.is_some(),
                revision: file.map_or(0, |(_, revision)| *revision),
            })
        })
    }
}

pub(crate) mod store {
    use super::super::Keys;
    use super::with;
    use crate::host::Pair;
    use crate::{Error, Result};

    fn store<T>(call: impl FnOnce(&mut Keys) -> Result<T>) -> Result<T> {
        with(|state| match &state.store.error {
            Some(error) => Err(error.clone()),
            None => call(&mut state.store),
        })
    }

    pub(crate) fn read() -> Result<(Vec<Pair>, u64)> {
        store(|store| {
            let pairs = store.pairs.iter().map(|(key, value)| Pair {
                key: key.clone(),
                value: value.clone(),
            });
            Ok((pairs.collect(), store.version))
        })
    }

    pub(crate) fn wait(_seen: u64, _max_wait_ms: u32) -> Result<u64> {
        store(|store| Ok(store.version))
    }

    pub(crate) fn hold(key: &str, value: &[u8], _ttl_ms: u32) -> Result<u64> {
        store(|store| {
            store.put(key, value);
            store.next_lease += 1;
            let held = (key.to_owned(), value.to_vec());
            store.leases.insert(store.next_lease, held);
            Ok(store.next_lease)
        })
    }

    pub(crate) fn renew(lease: u64) -> Result<()> {
        store(|store| {
            let held = store.leases.get(&lease).cloned();
            let (key, value) = held.ok_or_else(|| Error::NotFound("the lease is over".into()))?;
            store.put(&key, &value);
            Ok(())
        })
    }

    pub(crate) fn release(lease: u64) -> Result<()> {
        store(|store| {
            if let Some((key, _)) = store.leases.remove(&lease) {
                store.pairs.remove(&key);
                store.version += 1;
            }
            Ok(())
        })
    }
}

pub(crate) mod http {
    use super::with;
    use crate::host::{Request, Response};
    use crate::{Error, Result};

    pub(crate) fn send(request: &Request, _max_wait_ms: u32) -> Result<Response> {
        with(|state| {
            state.sent.push(request.clone());
            let server = state
                .servers
                .iter()
                .find(|server| request.url.starts_with(&server.prefix));
            match server {
                Some(server) => (server.answer)(request),
                None => Err(Error::Unavailable(format!(
                    "no server answers `{}`",
                    request.url
                ))),
            }
        })
    }
}

pub(crate) mod names {
    use super::with;
    use crate::host::Service;
    use crate::{Error, Result};

    const TTL_SECONDS: u32 = 30;

    fn found<T>(name: &str, records: Option<&Vec<T>>) -> Result<(Vec<T>, u32)>
    where
        T: Clone,
    {
        match records {
            Some(records) => Ok((records.clone(), TTL_SECONDS)),
            None => Err(Error::NotFound(format!("no records of `{name}`"))),
        }
    }

    pub(crate) fn addresses(name: &str) -> Result<(Vec<String>, u32)> {
        with(|state| found(name, state.addresses.get(name)))
    }

    pub(crate) fn services(name: &str) -> Result<(Vec<Service>, u32)> {
        with(|state| found(name, state.services.get(name)))
    }
}

pub(crate) mod inventory {
    use super::super::Container;
    use super::with;
    use crate::host::Query;
    use crate::{NodeSet, Pattern, Result};

    fn matches(query: &Query, texts: &[&str]) -> bool {
        let pattern = match query {
            Query::Exact(text) => Pattern::Exact(text.clone()),
            Query::Glob(glob) => Pattern::Glob(glob.split('*').map(str::to_owned).collect()),
            Query::Regex(inside) => Pattern::parse(&format!("/{inside}/")),
        };
        texts.iter().any(|text| pattern.matches(text))
    }

    fn containers(mut wanted: impl FnMut(&Container) -> bool) -> Result<Vec<u64>> {
        // Matching may log, which needs the state as well.
        let containers = with(|state| state.containers.clone());
        let found: NodeSet = containers
            .iter()
            .filter(|(_, container)| wanted(container))
            .map(|(slot, _)| *slot)
            .collect();
        Ok(found.into_words())
    }

    pub(crate) fn nodes_with_reference(reference: &str) -> Result<Vec<u64>> {
        containers(|container| container.name == reference || container.id == reference)
    }

    pub(crate) fn nodes_with_container(query: &Query) -> Result<Vec<u64>> {
        containers(|container| matches(query, &[&container.id, &container.name]))
    }

    pub(crate) fn nodes_with_label(key: &str, query: &Query) -> Result<Vec<u64>> {
        containers(|container| {
            matches(
                query,
                &[container.labels.get(key).map_or("", String::as_str)],
            )
        })
    }

    pub(crate) fn nodes_with_image(query: &Query) -> Result<Vec<u64>> {
        let images = with(|state| state.images.clone());
        let found: NodeSet = images
            .iter()
            .filter(|(_, names)| names.iter().any(|name| matches(query, &[name])))
            .map(|(slot, _)| *slot)
            .collect();
        Ok(found.into_words())
    }

    pub(crate) fn nodes_with_host_ports(
        host_ip: &str,
        first: u16,
        last: u16,
        protocol: &str,
    ) -> Result<Vec<u64>> {
        let everywhere = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        let containers = with(|state| state.containers.clone());
        let mut full = NodeSet::new();
        for slot in containers.iter().map(|(slot, _)| *slot) {
            let taken = |port: u16| {
                containers
                    .iter()
                    .filter(|(other, _)| *other == slot)
                    .any(|(_, container)| {
                        container.ports.iter().any(|(ip, taken, taken_protocol)| {
                            *taken == port
                                && taken_protocol == protocol
                                && (ip == host_ip || everywhere(ip) || everywhere(host_ip))
                        })
                    })
            };
            if (first..=last).all(taken) {
                full.insert(slot);
            }
        }
        Ok(full.into_words())
    }

    pub(crate) fn nodes_with_host_mode_port(port: &str) -> Result<Vec<u64>> {
        containers(|container| container.host_mode_ports.iter().any(|other| other == port))
    }
}

/// Fails if a test wants the next change to fail.
fn change<T>(call: impl FnOnce(&mut State) -> crate::Result<T>) -> crate::Result<T> {
    with(|state| match state.root.error.take() {
        Some(error) => Err(error),
        None => call(state),
    })
}

pub(crate) mod state {
    use super::{change, with};
    use crate::Result;
    use crate::bindings::imports::skep::plugin::state::Pair;

    pub(crate) fn get(key: &str) -> Result<Option<Vec<u8>>> {
        with(|state| Ok(state.records.get(key).cloned()))
    }

    pub(crate) fn put(key: &str, value: &[u8]) -> Result<()> {
        change(|state| {
            state.records.insert(key.to_owned(), value.to_vec());
            Ok(())
        })
    }

    pub(crate) fn delete(key: &str) -> Result<()> {
        change(|state| {
            state.records.remove(key);
            Ok(())
        })
    }

    pub(crate) fn list() -> Result<Vec<Pair>> {
        with(|state| {
            let pairs = state.records.iter().map(|(key, value)| Pair {
                key: key.clone(),
                value: value.clone(),
            });
            Ok(pairs.collect())
        })
    }
}

pub(crate) mod secrets {
    use super::with;
    use crate::{Error, Result};

    pub(crate) fn get(name: &str) -> Result<String> {
        with(|state| {
            let secret = state.secrets.get(name).cloned();
            secret.ok_or_else(|| Error::NotFound(format!("no secret `{name}`")))
        })
    }
}

pub(crate) mod directories {
    use super::{change, with};
    use crate::host::Entry;
    use crate::testing::Directory;
    use crate::{Error, Result};

    fn is_in(path: &str, directory: &str) -> bool {
        let rest = path.strip_prefix(directory);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    pub(crate) fn make(
        path: &str,
        mode: u32,
        uid: u32,
        gid: u32,
        max_bytes: Option<u64>,
    ) -> Result<bool> {
        change(|state| {
            let made = Directory {
                mode,
                uid,
                gid,
                max_bytes,
                made_at_ms: state.now_ms,
            };
            let all = &mut state.root.directories;
            if let Some((above, _)) = path.rsplit_once('/')
                && !all.contains_key(above)
            {
                return Err(Error::NotFound(format!("no directory `{above}`")));
            }
            let is_new = !all.contains_key(path);
            if is_new {
                all.insert(path.to_owned(), made);
            }
            Ok(is_new)
        })
    }

    pub(crate) fn remove(path: &str) -> Result<()> {
        change(|state| {
            if state.root.mounts.keys().any(|target| is_in(target, path)) {
                return Err(Error::Denied(format!("`{path}` is mounted")));
            }
            state.root.directories.retain(|own, _| !is_in(own, path));
            Ok(())
        })
    }

    fn entry(name: &str, made: &Directory) -> Entry {
        Entry {
            name: name.to_owned(),
            made_at_ms: Some(made.made_at_ms),
        }
    }

    pub(crate) fn find(path: &str) -> Result<Option<Entry>> {
        with(|state| {
            let made = state.root.directories.get(path);
            let name = path.rsplit('/').next().unwrap_or_default();
            Ok(made.map(|made| entry(name, made)))
        })
    }

    pub(crate) fn list(path: &str) -> Result<Vec<Entry>> {
        with(|state| {
            let prefix = match path {
                "" => String::new(),
                path => format!("{path}/"),
            };
            let all = state.root.directories.iter();
            let below = all.filter_map(|(own, made)| Some((own.strip_prefix(&prefix)?, made)));
            let own = below.filter(|(name, _)| !name.contains('/'));
            Ok(own.map(|(name, made)| entry(name, made)).collect())
        })
    }

    pub(crate) fn copy(source: &str, target: &str) -> Result<()> {
        change(|state| put(state, source, target, false))
    }

    pub(crate) fn rename(source: &str, target: &str) -> Result<()> {
        change(|state| put(state, source, target, true))
    }

    pub(crate) fn root_is_mounted() -> Result<bool> {
        with(|state| Ok(state.root.is_mounted))
    }

    fn put(state: &mut super::State, source: &str, target: &str, moves: bool) -> Result<()> {
        let all = &mut state.root.directories;
        if !all.contains_key(source) {
            return Err(Error::NotFound(format!("no directory `{source}`")));
        }
        if all.contains_key(target) {
            return Err(Error::Denied(format!("`{target}` is there")));
        }
        let own = all.iter().filter(|(path, _)| is_in(path, source));
        let own: Vec<_> = own.map(|(path, made)| (path.clone(), *made)).collect();
        for (path, made) in own {
            all.insert(format!("{target}{}", &path[source.len()..]), made);
            if moves {
                all.remove(&path);
            }
        }
        Ok(())
    }
}

pub(crate) mod mounts {
    use super::{change, with};
    use crate::testing::Mounted;
    use crate::{Error, Result};

    pub(crate) fn mount(kind: &str, source: &str, target: &str, options: &[String]) -> Result<()> {
        change(|state| {
            if !state.root.directories.contains_key(target) {
                return Err(Error::NotFound(format!("no directory `{target}`")));
            }
            let wanted = Mounted {
                kind: kind.to_owned(),
                source: source.to_owned(),
                options: options.to_vec(),
            };
            let there = state.root.mounts.entry(target.to_owned());
            match *there.or_insert_with(|| wanted.clone()) == wanted {
                true => Ok(()),
                false => Err(Error::Denied("something else is mounted there".into())),
            }
        })
    }

    pub(crate) fn unmount(target: &str) -> Result<()> {
        change(|state| {
            state.root.mounts.remove(target);
            Ok(())
        })
    }

    pub(crate) fn in_use(volume: &str) -> bool {
        with(|state| state.root.in_use.contains(volume))
    }

    pub(crate) fn is_mounted(target: &str) -> Result<bool> {
        with(|state| Ok(state.root.mounts.contains_key(target)))
    }
}
