//! Faults do what they say, and end when they are cleared.

use std::io;
use std::time::{Duration, Instant};

use skep_fleet::{Engine, Event, Fault, Fleet};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Long enough to tell that an answer does not come, short enough to wait for.
const SILENCE: Duration = Duration::from_millis(100);

async fn get(engine: &Engine, path: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(engine.addr()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

async fn fleet() -> Fleet {
    Fleet::builder()
        .engines(2)
        .containers(2)
        .start()
        .await
        .expect("the fleet starts")
}

#[tokio::test]
async fn a_hanging_engine_never_answers_and_recovers() {
    let fleet = fleet().await;
    let engine = fleet.engine(0);
    engine.set_fault(Fault::Hang);
    assert!(timeout(SILENCE, get(engine, "/info")).await.is_err());
    assert!(
        get(fleet.engine(1), "/info")
            .await
            .expect("the other engine answers")
            .starts_with("HTTP/1.1 200")
    );
    engine.clear_faults();
    assert!(
        get(engine, "/info")
            .await
            .expect("it answers again")
            .starts_with("HTTP/1.1 200")
    );
    assert_eq!(engine.requests("GET /info"), 2);
}

#[tokio::test]
async fn a_fault_on_one_route_spares_the_others() {
    let fleet = fleet().await;
    let engine = fleet.engine(0);
    engine.set_fault_on("GET /info", Fault::Error500("broken".to_owned()));
    let answer = get(engine, "/info").await.expect("it answers");
    assert!(
        answer.starts_with("HTTP/1.1 500") && answer.ends_with(r#"{"message":"broken"}"#),
        "{answer}"
    );
    assert!(
        get(engine, "/version")
            .await
            .expect("it answers")
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn connections_are_reset_when_refused_and_when_dead() {
    let fleet = fleet().await;
    let engine = fleet.engine(0);
    engine.set_fault(Fault::RefuseConnections);
    assert!(get(engine, "/_ping").await.is_err());
    engine.clear_faults();
    let mut open = TcpStream::connect(engine.addr()).await.expect("it listens");
    engine
        .wait_for(|engine| engine.open_connections() == 1)
        .await;
    engine.die();
    assert_eq!(
        open.read(&mut [0; 1]).await.unwrap_or(0),
        0,
        "the open connection ends"
    );
    assert!(get(engine, "/_ping").await.is_err());
    engine.come_back();
    assert!(
        get(engine, "/_ping")
            .await
            .expect("it is back")
            .ends_with("OK")
    );
    assert!(engine.peak_connections() >= 1);
}

#[tokio::test]
async fn a_cut_answer_is_shorter_than_promised() {
    let fleet = fleet().await;
    let whole = get(fleet.engine(0), "/containers/json")
        .await
        .expect("it answers");
    fleet.engine(0).set_fault(Fault::ResetMidBody);
    let cut = get(fleet.engine(0), "/containers/json")
        .await
        .unwrap_or_default();
    assert!(
        cut.starts_with("HTTP/1.1 200") && cut.len() < whole.len() * 3 / 4,
        "{cut}"
    );
}

#[tokio::test]
async fn latency_and_slow_bodies_take_their_time() {
    let fleet = fleet().await;
    let engine = fleet.engine(0);
    engine.set_fault(Fault::Latency {
        base: Duration::from_millis(30),
        jitter: Duration::from_millis(5),
    });
    let start = Instant::now();
    get(engine, "/_ping").await.expect("it answers");
    assert!(start.elapsed() >= Duration::from_millis(30));
    engine.clear_faults();
    engine.set_fault(Fault::SlowBody {
        per_byte: Duration::from_millis(20),
    });
    let start = Instant::now();
    assert!(
        get(engine, "/_ping")
            .await
            .expect("it answers")
            .starts_with("HTTP/1.1 200")
    );
    assert!(start.elapsed() >= Duration::from_millis(40));
}

#[tokio::test]
async fn garbage_is_neither_json_nor_http() {
    let fleet = fleet().await;
    let engine = fleet.engine(0);
    engine.set_fault(Fault::Garbage);
    assert!(
        get(engine, "/info")
            .await
            .expect("it answers")
            .contains("<<not json")
    );
    engine.clear_faults();
    engine.set_fault(Fault::NotHttp);
    let mut socket = TcpStream::connect(engine.addr()).await.expect("it listens");
    let mut answer = String::new();
    socket
        .read_to_string(&mut answer)
        .await
        .expect("it is text");
    assert!(answer.starts_with("SSH"));
}

#[tokio::test]
async fn suppressed_events_are_missed_and_streams_can_be_dropped() {
    let fleet = fleet().await;
    let engine = fleet.engine(0);
    let mut socket = TcpStream::connect(engine.addr()).await.expect("it listens");
    socket
        .write_all(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("it reads");
    engine.wait_for(|engine| engine.event_streams() == 1).await;
    engine.set_fault(Fault::SuppressEvents);
    assert!(engine.exit("seed-0-0", 1));
    engine.clear_faults();
    engine.emit(Event::new("container", "marker", "x"));
    engine.drop_event_streams();
    let mut lines = BufReader::new(socket).lines();
    let mut text = String::new();
    // The stream ends with the empty last chunk.
    while let Some(line) = lines
        .next_line()
        .await
        .expect("it is text")
        .filter(|line| line != "0")
    {
        text += &line;
    }
    assert!(text.contains("marker") && !text.contains("die"), "{text}");
    assert_eq!(engine.event_streams(), 0);
}

#[tokio::test]
async fn the_id_and_the_clock_can_be_changed() {
    let fleet = fleet().await;
    let engine = fleet.engine(0);
    assert_ne!(engine.id(), fleet.engine(1).id());
    engine.set_id("NEW");
    engine.set_clock_skew(-40 * 365 * 86_400);
    let answer = get(engine, "/info").await.expect("it answers");
    assert!(answer.contains(r#""ID":"NEW""#));
    assert!(answer.contains(r#""SystemTime":"19"#), "{answer}");
}

#[tokio::test]
async fn one_socket_serves_many_addresses() {
    let fleet = Fleet::builder()
        .engines(252)
        .containers(1)
        .port(0)
        .start()
        .await
        .expect("the fleet starts");
    let port = fleet.engine(0).addr().port();
    assert_eq!(
        fleet.address_patterns(),
        [
            format!("127.1.0.[1:250]:{port}"),
            format!("127.1.1.[1:2]:{port}")
        ]
    );
    for index in [0, 249, 250, 251] {
        let answer = get(fleet.engine(index), "/info").await.expect("it answers");
        assert!(answer.contains(&format!(r#""Name":"node-{index}""#)));
    }
}

#[tokio::test]
async fn a_dropped_fleet_stops() {
    let fleet = fleet().await;
    let addr = fleet.engine(0).addr();
    let mut open = TcpStream::connect(addr).await.expect("it listens");
    open.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .expect("it reads");
    open.read_exact(&mut [0; 1]).await.expect("it answers");
    drop(fleet);
    let mut rest = Vec::new();
    // Whether cut or closed, the read ends.
    let _ = open.read_to_end(&mut rest).await;
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
}
