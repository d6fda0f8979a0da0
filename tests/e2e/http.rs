//! One plain HTTP request, for what no docker command would send.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use serde_json::Value;

use crate::manager::DEADLINE;

/// What was answered.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Every header line, as it came.
    pub head: String,
    pub body: String,
}

/// Sends a request with a JSON body to `host:port` and returns the whole answer.
#[track_caller]
pub fn exchange(address: &str, method: &str, path: &str, body: &str) -> Reply {
    let mut stream = TcpStream::connect(address).expect("the API accepts connections");
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("a read timeout");
    // HTTP/1.0: the body ends with the connection and comes without chunk headers.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: e2e\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // In one piece: whoever refuses the head closes the connection before the rest.
    stream
        .write_all(request.as_bytes())
        .expect("the request is sent");
    let mut response = String::new();
    stream
        .read_to_string(&mut response)
        .unwrap_or_else(|error| panic!("{method} {path}: the response does not end: {error}"));
    let (head, body) = response
        .split_once("\r\n\r\n")
        .expect("a response has a head");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status code");
    Reply {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

impl Reply {
    /// The message, if the answer is an error in the form that engines use: JSON with nothing else.
    pub fn error_message(&self) -> Option<String> {
        let head = self.head.to_ascii_lowercase();
        let body: Value = serde_json::from_str(&self.body).ok()?;
        let members = body.as_object()?;
        (members.len() == 1 && head.contains("content-type: application/json"))
            .then(|| members.get("message")?.as_str().map(str::to_owned))?
    }
}
