//! How long nobody makes containers when the leader ends: from the signal to a create's answer.
//!
//! Two managers over a simulated fleet with a real store between them. The leader is told to end
//! with SIGTERM, and in other rounds killed, as `kill -9` does; the other is asked for a container
//! all the time. The table has the TTL that was asked for, and seconds: median and longest. Consul
//! keeps a session for up to twice its TTL, so Skep asks it for half.
//!
//! ```text
//! cargo bench --bench failover [-- etcd|consul|zk ...]
//! ```

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use bollard::{API_DEFAULT_VERSION, Docker};
use skep_fleet::{
    Fleet,
    daemon::{Daemon, own_host},
    ledger::create,
    stores::{Kind, Server},
};
use tokio::time::{sleep, timeout};

const ENGINES: usize = 4;
const ROUNDS: usize = 5;

/// What the managers are told; the default of 20 s would take its time.
const TTL: Duration = Duration::from_secs(4);

/// Longest time for a failover, and for one create.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wait before the next create, if one was refused.
const PAUSE: Duration = Duration::from_millis(5);

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |kind: &Kind| {
        let mut names = wanted
            .iter()
            .filter(|text| !text.starts_with('-'))
            .peekable();
        names.peek().is_none() || names.any(|name| name == kind.scheme())
    };
    println!(
        "{:>8} {:>6} {:>20} {:>20}",
        "store", "TTL", "SIGTERM", "kill -9"
    );
    for kind in [Kind::Etcd, Kind::Consul, Kind::ZooKeeper]
        .into_iter()
        .filter(is_wanted)
    {
        runtime.block_on(measure(kind));
    }
}

async fn measure(kind: Kind) {
    let server = Server::start(kind);
    let fleet = Fleet::builder()
        .engines(ENGINES)
        .start()
        .await
        .expect("the engines start");
    let addrs: Vec<String> = fleet
        .engines()
        .iter()
        .map(|e| e.addr().to_string())
        .collect();
    let ttl = format!("{}s", TTL.as_secs());
    let (store, nodes) = (
        format!("{}/bench", server.url()),
        format!("nodes://{}", addrs.join(",")),
    );
    let start = || {
        let listener = TcpListener::bind((own_host(), 0)).expect("a free port");
        let addr = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let host = format!("tcp://{addr}");
        let own = ["-H", &host, "--replication", "--advertise", &addr];
        let shared = ["--replication-ttl", &ttl, "--store", &store, &nodes];
        Daemon::start(env!("CARGO_BIN_EXE_skep"), &[&own[..], &shared].concat())
    };
    let mut leader = start();
    let mut number = 0;
    await_create(&leader, &mut number).await;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        let next = start();
        // It passes on what it is asked, so it knows the leader.
        await_create(&next, &mut number).await;
        let begin = Instant::now();
        if round % 2 == 0 {
            leader.signal("TERM");
        } else {
            leader.kill();
        }
        await_create(&next, &mut number).await;
        times[round % 2].push(begin.elapsed().as_secs_f64());
        leader.kill();
        leader = next;
    }
    let [term, kill] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        format!(
            "{:.2} / {:.2}",
            times[times.len() / 2],
            times[times.len() - 1]
        )
    });
    println!("{:>8} {ttl:>6} {term:>20} {kill:>20}", kind.scheme());
}

/// Asks until a container is made.
async fn await_create(daemon: &Daemon, number: &mut usize) {
    let addr = format!("tcp://{}", daemon.addr());
    let until = Instant::now() + PATIENCE;
    loop {
        *number += 1;
        let docker = Docker::connect_with_http(&addr, PATIENCE.as_secs(), API_DEFAULT_VERSION)
            .expect("a client");
        // An attempt that a dying leader has taken must not count for the next one.
        let made = timeout(TTL / 8, create(&docker, &format!("c{number}"))).await;
        if matches!(made, Ok(Ok(_))) {
            return;
        }
        assert!(Instant::now() < until, "no container is made");
        sleep(PAUSE).await;
    }
}
