//! The clients: each with a connection of its own, asking one thing after the other.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use http::Method;
use http_body_util::BodyExt;
use skep_fleet::client::Client;

/// What every create asks for: one constraint, which every engine meets.
const BODY: &str = r#"{"Image":"busybox","Cmd":["sleep","infinity"],
    "Env":["constraint:storage==ssd","A=1"],"HostConfig":{"Memory":1048576}}"#;

/// How often something was done, and how long it took each time.
pub struct Measured {
    pub rate: f64,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Measured {
    /// The latency that a part of all calls kept within, `0.99`.
    pub fn quantile(&self, part: f64) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * part).round() as usize]
    }
}

/// Has `clients` do `act` over and over for a time; the second argument is a number of its own for
/// each call.
async fn repeat(
    addr: SocketAddr,
    clients: usize,
    time: Duration,
    act: impl AsyncFn(&mut Client, usize),
) -> Measured {
    let begin = Instant::now();
    let runs = (0..clients).map(|index| {
        let act = &act;
        async move {
            let mut client = Client::connect(addr).await;
            let mut latencies = Vec::new();
            while begin.elapsed() < time {
                let start = Instant::now();
                act(&mut client, latencies.len() * clients + index).await;
                latencies.push(start.elapsed());
            }
            latencies
        }
    });
    let mut latencies: Vec<_> = join_all(runs).await.concat();
    let rate = latencies.len() as f64 / begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    Measured { rate, latencies }
}

/// Creates containers whose names begin with `prefix`.
pub async fn creates(addr: SocketAddr, clients: usize, time: Duration, prefix: &str) -> Measured {
    repeat(addr, clients, time, async |client, number| {
        let path = format!("/v1.41/containers/create?name={prefix}{number}");
        let (status, answer) = client.call(Method::POST, &path, BODY).await;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&answer));
    })
    .await
}

/// Inspects containers of `names`, in an order that jumps about.
pub async fn inspections(
    addr: SocketAddr,
    clients: usize,
    time: Duration,
    names: &[String],
) -> Measured {
    repeat(addr, clients, time, async |client, number| {
        let name = &names[number.wrapping_mul(7919) % names.len()];
        let path = format!("/v1.41/containers/{name}/json");
        let (status, _) = client.call(Method::GET, &path, "").await;
        assert_eq!(status, 200, "{name}");
    })
    .await
}

/// What an engine alone takes for a create and an inspection: the median.
pub async fn engine_alone(engine: SocketAddr, time: Duration) -> Duration {
    let both = repeat(engine, 1, time, async |client, number| {
        let path = format!("/v1.41/containers/create?name=alone-{number}");
        let (status, _) = client.call(Method::POST, &path, BODY).await;
        assert_eq!(status, 201);
        let path = format!("/v1.41/containers/alone-{number}/json");
        let (status, _) = client.call(Method::GET, &path, "").await;
        assert_eq!(status, 200);
    });
    both.await.quantile(0.5)
}

/// Times until the first byte of a list of all containers is there, and until the last: medians.
pub async fn lists(addr: SocketAddr, times: usize) -> (Duration, Duration) {
    let mut client = Client::connect(addr).await;
    let (mut first, mut whole) = (Vec::new(), Vec::new());
    for _ in 0..times {
        let start = Instant::now();
        let path = "/v1.41/containers/json?all=1";
        let mut answer = client.send(Method::GET, path, "").await;
        assert_eq!(answer.status(), 200);
        let frame = answer.body_mut().frame().await.expect("a body");
        frame.expect("the body comes");
        first.push(start.elapsed());
        while let Some(frame) = answer.body_mut().frame().await {
            frame.expect("the body lasts");
        }
        whole.push(start.elapsed());
    }
    (median(first), median(whole))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
