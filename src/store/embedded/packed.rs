//! Values as the file has them: long ones compressed.
//!
//! What the cluster remembers of a container is two JSON documents of some kilobytes, which shrink
//! to a third. Less is copied, checked, and flushed, and the file is a third as large.

use bytes::Bytes;
use tracing::warn;

/// What a compressed value begins with. Values are JSON or plain text, which do not begin so; one
/// that does is compressed, so that it is not taken for what it is not.
const MAGIC: [u8; 4] = *b"\0lz4";

/// Shorter values take about as much room compressed.
const SHORTEST: usize = 256;

/// Makes a value what goes into the file.
pub(super) fn pack(value: Bytes) -> Bytes {
    if value.len() < SHORTEST && !value.starts_with(&MAGIC) {
        return value;
    }
    let mut packed = MAGIC.to_vec();
    packed.extend(lz4_flex::block::compress_prepend_size(&value));
    packed.into()
}

/// The value that was packed. What is in the file and is no such value comes as it is: whoever reads
/// it will say that it makes no sense.
pub(super) fn unpack(stored: &[u8]) -> Bytes {
    let packed = stored.strip_prefix(&MAGIC);
    match packed.map(lz4_flex::block::decompress_size_prepended) {
        Some(Ok(value)) => value.into(),
        Some(Err(error)) => {
            warn!(%error, "value in the store cannot be read");
            Bytes::copy_from_slice(stored)
        }
        None => Bytes::copy_from_slice(stored),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &[u8], is_compressed: bool) {
        let packed = pack(Bytes::copy_from_slice(value));
        assert_eq!(packed.starts_with(&MAGIC), is_compressed);
        assert_eq!(unpack(&packed), value);
    }

    #[test]
    fn a_value_comes_out_as_it_went_in() {
        check(b"", false);
        check(b"{}", false);
        check(&[b'a'; SHORTEST - 1], false);
        check(&[b'a'; SHORTEST], true);
        let noise: Vec<u8> = (0..5000u32).map(|at| ((at * at) >> 3) as u8).collect();
        check(&noise, true);
    }

    #[test]
    fn a_short_value_that_looks_compressed_is_compressed() {
        check(b"\0lz4 is a name", true);
    }

    #[test]
    fn documents_shrink() {
        let text =
            r#"{"Id":"1","Name":"/web","State":{"Status":"running"},"Config":{"Image":"a"}}"#;
        let packed = pack(text.repeat(50).into());
        assert!(packed.len() < 50 * text.len() / 3);
    }

    #[test]
    fn what_earlier_versions_wrote_is_read() {
        let plain = r#"{"Entry":{}}"#.repeat(100);
        assert_eq!(unpack(plain.as_bytes()), plain);
    }

    #[test]
    fn what_is_damaged_is_handed_on_as_it_is() {
        let mut packed = pack(vec![b'a'; 1000].into()).to_vec();
        packed.truncate(packed.len() - 3);
        assert_eq!(unpack(&packed), packed);
    }
}
