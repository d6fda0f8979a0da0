//! An answer that comes for as long as its connection lasts, such as an engine's events.
//!
//! Each engine has one such connection open all the time, silent for hours. A connection that could
//! carry other requests keeps forty kilobytes of buffers and queues ready for them; this one keeps
//! what has not been read yet. The answer's framing is that of RFC 9112, sections 6 and 7.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read at a time, in bytes, and kept ready while nothing comes.
const READ_BYTES: usize = 1024;

/// A head, or the line before a chunk, that is longer is none.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// More headers than any engine sends.
const MAX_HEADERS: usize = 128;

/// The body of an answer.
pub struct Stream<S> {
    socket: S,
    /// Read and not looked at yet.
    buffer: BytesMut,
    framing: Framing,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
enum Framing {
    /// So many bytes, then the end.
    Length(u64),
    /// Everything until the connection is closed.
    UntilClose,
    /// The line that tells how long the next chunk is.
    ChunkHead,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line break behind a chunk.
    ChunkEnd,
    /// Nothing.
    End,
}

/// Asks for `path` and returns the status and the body. The connection serves nothing else.
///
/// # Errors
///
/// The connection breaks, or what comes is no answer.
///
/// # Cancel safety
///
/// Dropping the future closes the connection.
pub async fn get<S>(mut socket: S, path: &str) -> io::Result<(StatusCode, Stream<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!("GET {path} HTTP/1.1\r\nHost: docker\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    socket.flush().await?;
    let mut stream = Stream {
        socket,
        buffer: BytesMut::new(),
        framing: Framing::End,
    };
    loop {
        stream.read().await?;
        while let Some((status, framing)) = stream.head()? {
            if status.is_informational() {
                continue;
            }
            stream.framing = framing;
            return Ok((status, stream));
        }
    }
}

impl<S: AsyncRead + Unpin> Stream<S> {
    /// The next bytes of the body, never empty; `None` at its end.
    ///
    /// # Errors
    ///
    /// The connection breaks before the end, or a chunk is none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.framing {
                Framing::End | Framing::Length(0) => return Ok(None),
                Framing::Chunk(0) => self.framing = Framing::ChunkEnd,
                Framing::UntilClose if !self.buffer.is_empty() => {
                    return Ok(Some(self.buffer.split().freeze()));
                }
                Framing::Length(left) if !self.buffer.is_empty() => {
                    let bytes = self.take(left);
                    self.framing = Framing::Length(left - bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Framing::Chunk(left) if !self.buffer.is_empty() => {
                    let bytes = self.take(left);
                    self.framing = Framing::Chunk(left - bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Framing::ChunkHead => {
                    if !self.chunk_head()? {
                        self.read().await?;
                    }
                }
                Framing::ChunkEnd if self.buffer.len() >= 2 => {
                    if self.buffer.split_to(2) != b"\r\n"[..] {
                        return Err(odd("a chunk is longer than it said"));
                    }
                    self.framing = Framing::ChunkHead;
                }
                Framing::UntilClose => {
                    if !self.read_some().await? {
                        self.framing = Framing::End;
                    }
                }
                Framing::Length(_) | Framing::Chunk(_) | Framing::ChunkEnd => self.read().await?,
            }
        }
    }

    fn take(&mut self, most: u64) -> Bytes {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        self.buffer.split_to(most.min(self.buffer.len())).freeze()
    }

    /// Takes a whole head out of the buffer, if there is one.
    fn head(&mut self) -> io::Result<Option<(StatusCode, Framing)>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(&self.buffer);
        let length = match parsed.map_err(|error| odd(&error.to_string()))? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if self.buffer.len() > MAX_HEAD_BYTES => {
                return Err(odd("its head has no end"));
            }
            httparse::Status::Partial => return Ok(None),
        };
        let status = StatusCode::from_u16(head.code.unwrap_or_default());
        let status = status.map_err(|error| odd(&error.to_string()))?;
        let value = |name: &str| {
            let mut all = head.headers.iter();
            let header = all.find(|header| header.name.eq_ignore_ascii_case(name))?;
            Some(header.value.trim_ascii())
        };
        let framing = match (value("transfer-encoding"), value("content-length")) {
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => Framing::ChunkHead,
            (Some(_), _) => return Err(odd("its transfer coding is not known")),
            (None, Some(length)) => {
                let length = std::str::from_utf8(length).ok();
                let length = length.and_then(|length| length.parse().ok());
                Framing::Length(length.ok_or_else(|| odd("its length is no number"))?)
            }
            (None, None) => Framing::UntilClose,
        };
        self.buffer.advance(length);
        Ok(Some((status, framing)))
    }

    /// Takes the line before a chunk out of the buffer; whether it was there.
    fn chunk_head(&mut self) -> io::Result<bool> {
        match httparse::parse_chunk_size(&self.buffer) {
            Ok(httparse::Status::Complete((length, size))) => {
                self.buffer.advance(length);
                // What may follow the last chunk says nothing about its content.
                self.framing = match size {
                    0 => Framing::End,
                    size => Framing::Chunk(size),
                };
                Ok(true)
            }
            Ok(httparse::Status::Partial) if self.buffer.len() <= MAX_HEAD_BYTES => Ok(false),
            _ => Err(odd("a chunk's length is no number")),
        }
    }

    /// Reads more, which there must be.
    async fn read(&mut self) -> io::Result<()> {
        if self.read_some().await? {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads more; false if the connection was closed.
    async fn read_some(&mut self) -> io::Result<bool> {
        if self.buffer.is_empty() {
            // Not the large buffer of a burst, which would stay for as long as the connection.
            self.buffer = BytesMut::with_capacity(READ_BYTES);
        } else {
            self.buffer.reserve(READ_BYTES);
        }
        Ok(self.socket.read_buf(&mut self.buffer).await? > 0)
    }
}

fn odd(what: &str) -> io::Error {
    let text = format!("what came is no answer: {what}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is made of an answer that comes in pieces of this length.
    async fn ask(answer: &'static [u8], piece: usize) -> io::Result<(u16, Vec<u8>)> {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let serve = async move {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(theirs.read_u8().await.unwrap());
            }
            assert_eq!(request, b"GET /events HTTP/1.1\r\nHost: docker\r\n\r\n");
            for piece in answer.chunks(piece) {
                // The other side may have heard enough.
                if theirs.write_all(piece).await.is_err() {
                    return;
                }
            }
        };
        let read = async {
            let (status, mut stream) = get(ours, "/events").await?;
            let mut body = Vec::new();
            while let Some(bytes) = stream.next().await? {
                assert!(!bytes.is_empty());
                body.extend_from_slice(&bytes);
            }
            Ok((status.as_u16(), body))
        };
        let ((), read) = tokio::join!(serve, read);
        read
    }

    async fn check(answer: &'static str, expected: (u16, &str)) {
        for piece in [1, 2, 7, 1000] {
            let (status, body) = ask(answer.as_bytes(), piece).await.unwrap();
            assert_eq!(
                (status, body.as_slice()),
                (expected.0, expected.1.as_bytes())
            );
        }
    }

    #[tokio::test]
    async fn bodies_end_where_they_say() {
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
            5\r\nabcde\r\n1;x=y\r\nf\r\n0\r\n\r\nmore";
        check(chunked, (200, "abcdef")).await;
        let counted = "HTTP/1.1 400 No\r\nX: y\r\nContent-Length: 3\r\n\r\nabcd";
        check(counted, (400, "abc")).await;
        check("HTTP/1.0 200 OK\r\n\r\nall of it", (200, "all of it")).await;
        check(
            "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
            (204, ""),
        )
        .await;
    }

    #[tokio::test]
    async fn what_is_no_final_answer_is_skipped() {
        let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
        check(answer, (200, "a")).await;
    }

    #[tokio::test]
    async fn what_breaks_off_or_is_no_answer_is_an_error() {
        for (answer, expected) in [
            ("", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200", io::ErrorKind::UnexpectedEof),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
                io::ErrorKind::UnexpectedEof,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
                io::ErrorKind::UnexpectedEof,
            ),
            ("SSH-2.0-OpenSSH_9\r\n\r\n", io::ErrorKind::InvalidData),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                io::ErrorKind::InvalidData,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                io::ErrorKind::InvalidData,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
                io::ErrorKind::InvalidData,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: few\r\n\r\n",
                io::ErrorKind::InvalidData,
            ),
        ] {
            let error = ask(answer.as_bytes(), 3).await.unwrap_err();
            assert_eq!(error.kind(), expected, "{answer}");
        }
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let endless = "X: y\r\n".repeat(20_000);
        let answer = format!("HTTP/1.1 200 OK\r\n{endless}");
        let error = ask(answer.leak().as_bytes(), 60).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
