//! Stands in for an engine, and for a manager, and keeps what it is asked.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use serde_json::Value;

type Bodies = Arc<Mutex<HashMap<String, Value>>>;

/// A server that says yes to everything. It ends with the test's process.
pub struct Recorder {
    address: String,
    bodies: Bodies,
}

impl Recorder {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let bodies = Bodies::default();
        let recorder = Self {
            address,
            bodies: Arc::clone(&bodies),
        };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let bodies = Arc::clone(&bodies);
                // A client may keep a connection open that it does not use.
                thread::spawn(move || answer(stream, &bodies));
            }
        });
        recorder
    }

    /// `host:port`
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The body of the last request for a path; the version before it and the query do not count.
    pub fn last(&self, path: &str) -> Value {
        let bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.get(path).cloned().expect("it was asked for")
    }
}

/// Answers one request, and closes the connection.
fn answer(mut stream: TcpStream, bodies: &Bodies) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.to_ascii_lowercase();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = first.split(' ').nth(1)?.split('?').next()?;
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => &rest[rest.find('/')?..],
        None => path,
    };
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let mut bodies = bodies.lock().unwrap_or_else(PoisonError::into_inner);
    bodies.insert(path.to_owned(), body);
    let (status, text) = match path {
        "/containers/create" => ("201 Created", r#"{"Id":"0123456789ab","Warnings":[]}"#),
        "/_ping" => ("200 OK", ""),
        _ => ("200 OK", "{}"),
    };
    let length = text.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nApi-Version: 1.47\r\nOstype: linux\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    );
    stream.write_all(answer.as_bytes()).ok()
}
