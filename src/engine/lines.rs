//! Lines of a body as they arrive, several at a time.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::transport::{BodyError, EngineStream};

/// A line longer than this is no event.
const MAX_LINE_BYTES: usize = 4 * 1024 * 1024;

/// Splits a stream into lines.
pub struct Lines {
    source: Source,
    rest: Vec<u8>,
    // Invariant: `rest[..searched]` has no line break.
    searched: usize,
}

enum Source {
    Body(Incoming),
    Stream(Box<EngineStream>),
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self {
            Self::Stream(stream) => Ok(stream.next().await?),
            Self::Body(body) => loop {
                let Some(frame) = body.frame().await else {
                    return Ok(None);
                };
                // Anything else are trailers.
                if let Ok(data) = frame?.into_data() {
                    return Ok(Some(data));
                }
            },
        }
    }
}

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
pub enum LinesError {
    /// The connection was lost.
    #[error("the stream broke")]
    Broken(#[source] BodyError),
    /// The engine does not speak in lines.
    #[error("a line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
}

impl Lines {
    /// Reads lines from a body.
    pub fn new(body: Incoming) -> Self {
        Self::from_source(Source::Body(body))
    }

    /// Reads lines from an answer with a connection of its own.
    pub fn of_stream(stream: EngineStream) -> Self {
        Self::from_source(Source::Stream(Box::new(stream)))
    }

    fn from_source(source: Source) -> Self {
        Self {
            source,
            rest: Vec::new(),
            searched: 0,
        }
    }

    /// Waits for at least one line and returns all that are there, at most `limit`; none at the
    /// end of the stream.
    ///
    /// # Errors
    ///
    /// [`LinesError`]; the stream cannot be read on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next_batch(&mut self, limit: usize) -> Result<Vec<Vec<u8>>, LinesError> {
        loop {
            let batch = self.take(limit);
            if !batch.is_empty() {
                return Ok(batch);
            }
            if self.rest.len() > MAX_LINE_BYTES {
                return Err(LinesError::TooLong);
            }
            match self.source.next().await.map_err(LinesError::Broken)? {
                // The last line may lack its break.
                None => {
                    self.searched = 0;
                    let last = std::mem::take(&mut self.rest);
                    let line = last.trim_ascii();
                    let lines = (!line.is_empty()).then(|| line.to_vec());
                    return Ok(lines.into_iter().collect());
                }
                Some(data) => self.rest.extend_from_slice(&data),
            }
        }
    }

    fn take(&mut self, limit: usize) -> Vec<Vec<u8>> {
        let mut batch = Vec::new();
        let mut start = 0;
        while batch.len() < limit {
            let from = self.searched.max(start);
            let Some(length) = self.rest[from..].iter().position(|byte| *byte == b'\n') else {
                self.searched = self.rest.len();
                break;
            };
            let end = from + length;
            let line = self.rest[start..end].trim_ascii();
            if !line.is_empty() {
                batch.push(line.to_vec());
            }
            start = end + 1;
            self.searched = start;
        }
        self.rest.drain(..start);
        self.searched -= start;
        if self.rest.is_empty() {
            // Room for a burst would stay for as long as the stream.
            self.rest = Vec::new();
        }
        batch
    }
}
