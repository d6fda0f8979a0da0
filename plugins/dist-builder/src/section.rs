//! The custom section that says what a component was built from.

const NAME: &str = "skep-sources";

/// Magic number and version.
const HEADER: usize = 8;

/// Adds the section at the end of a component.
pub(crate) fn append(component: &mut Vec<u8>, digest: &str) {
    let mut content = Vec::new();
    write_length(&mut content, NAME.len());
    content.extend_from_slice(NAME.as_bytes());
    content.extend_from_slice(digest.as_bytes());
    component.push(0);
    write_length(component, content.len());
    component.extend_from_slice(&content);
}

/// Returns the content of the section, if the bytes are a component that has it.
pub(crate) fn read(component: &[u8]) -> Option<&[u8]> {
    let mut rest = component.get(HEADER..)?;
    while let Some((&id, after)) = rest.split_first() {
        let (size, after) = read_length(after)?;
        let (content, after) = after.split_at_checked(size)?;
        if id == 0 {
            let (name_size, content) = read_length(content)?;
            let (name, content) = content.split_at_checked(name_size)?;
            if name == NAME.as_bytes() {
                return Some(content);
            }
        }
        rest = after;
    }
    None
}

/// Writes a length as WebAssembly does: seven bits in each byte, lowest first.
fn write_length(bytes: &mut Vec<u8>, mut length: usize) {
    loop {
        let low = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

fn read_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((length, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: [u8; HEADER] = *b"\0asm\x0d\0\x01\0";

    #[test]
    fn finds_the_section_behind_others() {
        let mut component = EMPTY.to_vec();
        component.push(1);
        write_length(&mut component, 300);
        component.extend_from_slice(&[7; 300]);
        append(&mut component, "digest");
        component.extend_from_slice(&[0, 2, 1, b'x']);
        assert_eq!(read(&component), Some(&b"digest"[..]));
    }

    #[test]
    fn bytes_without_the_section_have_none() {
        assert_eq!(read(&EMPTY), None);
        assert_eq!(read(b"\0asm"), None);
        assert_eq!(
            read(&[&EMPTY[..], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat()),
            None
        );
    }
}
