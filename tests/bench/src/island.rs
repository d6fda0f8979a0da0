//! A network namespace with several ways to it, each of which can be cut: a server in it is
//! partitioned from some of its clients and not from others.

use std::{
    net::Ipv4Addr,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// The most ways to one island.
const MAX_WAYS: u8 = 8;

static LAST: AtomicU32 = AtomicU32::new(0);

/// A namespace; deleted, with its interfaces, when dropped. Making one needs root.
#[derive(Debug)]
pub struct Island {
    name: String,
    /// The first three bytes of all its addresses.
    network: [u8; 3],
    ways: u8,
}

impl Island {
    /// An island with so many ways to it.
    ///
    /// # Panics
    ///
    /// The namespace cannot be made.
    pub fn new(ways: u8) -> Self {
        assert!(ways <= MAX_WAYS, "{ways} ways");
        let pid = std::process::id();
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("skt{pid}x{number}");
        let [.., high, low] = (pid.wrapping_mul(4) + number).to_be_bytes();
        let island = Self {
            name,
            network: [10, 96 + high % 64, low],
            ways,
        };
        let name = &island.name;
        ip(&["netns", "add", name]);
        ip(&["-n", name, "link", "set", "lo", "up"]);
        for way in 0..ways {
            let (outside, inside) = (island.link(way), format!("way{way}"));
            ip(&[
                "link", "add", &outside, "type", "veth", "peer", "name", &inside, "netns", name,
            ]);
            let near = format!("{}/30", island.address(way, 1));
            let far = format!("{}/30", island.address(way, 2));
            ip(&["addr", "add", &near, "dev", &outside]);
            ip(&["link", "set", &outside, "up"]);
            ip(&["-n", name, "addr", "add", &far, "dev", &inside]);
            ip(&["-n", name, "link", "set", &inside, "up"]);
        }
        island
    }

    /// Where a server on the island is reached by this way.
    pub fn host(&self, way: u8) -> Ipv4Addr {
        self.address(way, 2)
    }

    /// Loses all that is sent on a way, in both directions, from now on.
    ///
    /// # Panics
    ///
    /// The way cannot be cut.
    pub fn cut(&self, way: u8) {
        ip(&[
            "-n",
            &self.name,
            "link",
            "set",
            &format!("way{way}"),
            "down",
        ]);
    }

    /// Opens a way that was cut.
    ///
    /// # Panics
    ///
    /// The way cannot be opened.
    pub fn mend(&self, way: u8) {
        ip(&["-n", &self.name, "link", "set", &format!("way{way}"), "up"]);
    }

    /// The same command on the island.
    pub fn on_it(&self, command: &Command) -> Command {
        let mut moved = Command::new("ip");
        moved.args(["netns", "exec", &self.name]);
        moved.arg(command.get_program()).args(command.get_args());
        moved
    }

    fn link(&self, way: u8) -> String {
        format!("{}w{way}", self.name)
    }

    fn address(&self, way: u8, end: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, 4 * way + end)
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        for way in 0..self.ways {
            // The other end goes with it.
            let link = self.link(way);
            let _ = Command::new("ip").args(["link", "del", &link]).status();
        }
        let delete = ["netns", "del", &self.name];
        let _ = Command::new("ip").args(delete).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output();
    let output = output.expect("`ip` can be run");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
