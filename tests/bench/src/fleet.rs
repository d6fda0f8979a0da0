//! The fleet: listeners, and the engines behind them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::container::Spec;
use crate::engine::{Engine, Seed, Shape};
use crate::ident::Ident;
use crate::server;
use crate::state::{Image, Network, with_tag};

/// Engines per third octet of an address, so that a range is easy to write: `127.1.0.[1:250]`.
const ENGINES_PER_OCTET: usize = 250;

/// The most engines one port can carry: 256 third octets.
const MOST_ENGINES: usize = ENGINES_PER_OCTET * 256;

/// Why a fleet could not be started.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A socket could not be bound.
    #[error("cannot listen on `{addr}`")]
    Listen {
        /// What was to be bound.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// More engines than one port has addresses for.
    #[error("a fleet on one port has at most {MOST_ENGINES} engines, not {0}")]
    TooMany(usize),
    /// The body given for seeded containers is not a create body.
    #[error("the seed body is not a JSON object")]
    SeedBody(#[source] serde_json::Error),
}

/// How a fleet is to be; see [`Fleet::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    engines: usize,
    containers: usize,
    port: Option<u16>,
    shape: Shape,
    seed_body: Bytes,
    tls: Option<Arc<ServerConfig>>,
}

impl Builder {
    /// Number of engines. Default: 1.
    #[must_use]
    pub fn engines(mut self, engines: usize) -> Self {
        self.engines = engines;
        self
    }

    /// Running containers each engine has at first. Default: 0.
    #[must_use]
    pub fn containers(mut self, containers: usize) -> Self {
        self.containers = containers;
        self
    }

    /// Serves all engines on one port of 127.1.0.1 and following with a single socket.
    ///
    /// Without it each engine has a socket of its own on 127.0.0.1 and a port the system picks.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// What the engines have in common.
    #[must_use]
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// The create body that seeded containers are made from.
    #[must_use]
    pub fn seed_body(mut self, body: impl Into<Bytes>) -> Self {
        self.seed_body = body.into();
        self
    }

    /// Speaks TLS on all sockets. Default: plain TCP.
    #[must_use]
    pub fn tls(mut self, tls: Arc<ServerConfig>) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Binds the sockets and starts serving; every engine answers once this returns.
    ///
    /// # Errors
    ///
    /// [`FleetError`] if a socket cannot be bound or a setting makes no sense.
    ///
    /// # Cancel safety
    ///
    /// Safe: what was started is stopped.
    pub async fn start(self) -> Result<Fleet, FleetError> {
        let mut spec = Spec::parse(self.seed_body.clone()).map_err(FleetError::SeedBody)?;
        spec.body = Bytes::new();
        let seed = Arc::new(Seed {
            images: Arc::new(seed_images(&self.shape)),
            networks: Arc::new(seed_networks()),
            spec: Arc::new(spec),
            shape: self.shape,
        });
        let stop = CancellationToken::new();
        let guard = Stop {
            stop: stop.clone(),
            tasks: Vec::new(),
        };
        let mut fleet = Fleet {
            engines: Arc::new([]),
            guard,
        };
        let engine = |index, addr| {
            Arc::new(Engine::new(
                Arc::clone(&seed),
                index,
                addr,
                self.containers,
                CancellationToken::new(),
            ))
        };
        let mut listeners = Vec::new();
        let mut engines = Vec::with_capacity(self.engines);
        if let Some(port) = self.port {
            if self.engines > MOST_ENGINES {
                return Err(FleetError::TooMany(self.engines));
            }
            let (listener, addr) =
                listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), 16_384)?;
            engines.extend(
                (0..self.engines).map(|index| {
                    engine(index, SocketAddr::new(address(index).into(), addr.port()))
                }),
            );
            listeners.push((listener, None));
        } else {
            for index in 0..self.engines {
                let (listener, addr) =
                    listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0), 1024)?;
                engines.push(engine(index, addr));
                listeners.push((listener, Some(index)));
            }
        }
        fleet.engines = engines.into();
        for (listener, only) in listeners {
            let accepting = accept(
                listener,
                only,
                Arc::clone(&fleet.engines),
                self.tls.clone(),
                stop.clone(),
            );
            fleet.guard.tasks.push(tokio::spawn(accepting));
        }
        Ok(fleet)
    }
}

/// A running fleet. Dropping it stops all listeners and cuts all connections.
pub struct Fleet {
    engines: Arc<[Arc<Engine>]>,
    guard: Stop,
}

impl Fleet {
    /// Starts describing a fleet: one engine, no containers, ports picked by the system.
    pub fn builder() -> Builder {
        let seed_body = Bytes::from_static(
            br#"{"Image":"busybox:latest","Cmd":["sleep","infinity"],"Labels":{"skep.fleet":"seed"},
                "HostConfig":{"Memory":67108864,"CpuShares":0}}"#,
        );
        Builder {
            engines: 1,
            containers: 0,
            port: None,
            shape: Shape::default(),
            seed_body,
            tls: None,
        }
    }

    /// One engine.
    ///
    /// # Panics
    ///
    /// If the fleet has no such engine.
    pub fn engine(&self, index: usize) -> &Arc<Engine> {
        &self.engines[index]
    }

    /// All engines, in order.
    pub fn engines(&self) -> &[Arc<Engine>] {
        &self.engines
    }

    /// The addresses in few lines: ranges as discovery reads them (`127.1.0.[1:250]:4243`) where they
    /// are contiguous.
    pub fn address_patterns(&self) -> Vec<String> {
        let Some(first) = self.engines.first() else {
            return Vec::new();
        };
        if first.addr().ip() != IpAddr::from(address(0)) {
            return self
                .engines
                .iter()
                .map(|engine| engine.addr().to_string())
                .collect();
        }
        let port = first.addr().port();
        let full = self.engines.len() / ENGINES_PER_OCTET;
        let counts = (0..full)
            .map(|_| ENGINES_PER_OCTET)
            .chain([self.engines.len() % ENGINES_PER_OCTET]);
        counts
            .enumerate()
            .filter(|(_, count)| *count > 0)
            .map(|(octet, count)| match count {
                1 => format!("127.1.{octet}.1:{port}"),
                _ => format!("127.1.{octet}.[1:{count}]:{port}"),
            })
            .collect()
    }
}

struct Stop {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.stop.cancel();
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn accept(
    listener: TcpListener,
    only: Option<usize>,
    engines: Arc<[Arc<Engine>]>,
    tls: Option<Arc<ServerConfig>>,
    stop: CancellationToken,
) {
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: give connections a chance to end.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let index = only.or_else(|| {
            socket
                .local_addr()
                .ok()
                .and_then(|addr| index_of(addr.ip()))
        });
        if let Some(engine) = index.and_then(|index| engines.get(index)) {
            server::admit(socket, engine, tls.clone(), &stop);
        }
    }
}

fn listen(addr: SocketAddr, backlog: u32) -> Result<(TcpListener, SocketAddr), FleetError> {
    let bind = || {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        let listener = socket.listen(backlog)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|source| FleetError::Listen { addr, source })
}

fn address(index: usize) -> Ipv4Addr {
    let octet = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(
        127,
        1,
        octet(index / ENGINES_PER_OCTET),
        octet(index % ENGINES_PER_OCTET + 1),
    )
}

fn index_of(ip: IpAddr) -> Option<usize> {
    let IpAddr::V4(ip) = ip else { return None };
    let [127, 1, third, fourth @ 1..=250] = ip.octets() else {
        return None;
    };
    Some(usize::from(third) * ENGINES_PER_OCTET + usize::from(fourth) - 1)
}

fn seed_images(shape: &Shape) -> Vec<Image> {
    let images = shape.images.iter().enumerate();
    images
        .map(|(at, tag)| Image {
            id: Ident::derive(1 << 40, at as u64),
            tag: with_tag(tag),
            created: 1_700_000_000,
        })
        .collect()
}

fn seed_networks() -> Vec<Network> {
    let networks = [("bridge", "bridge"), ("host", "host"), ("none", "null")]
        .into_iter()
        .enumerate();
    networks
        .map(|(at, (name, driver))| Network {
            id: Ident::derive(1 << 41, at as u64),
            name: name.to_owned(),
            driver: driver.to_owned(),
            labels: serde_json::json!({}),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lead_back_to_their_engine() {
        for index in [0, 1, 249, 250, 9_999, MOST_ENGINES - 1] {
            assert_eq!(index_of(address(index).into()), Some(index));
        }
        assert_eq!(index_of(Ipv4Addr::LOCALHOST.into()), None);
    }
}
