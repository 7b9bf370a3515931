//! Text encodings other than UTF-8. For example, `>` in Windows PowerShell writes UTF-16.

/// Whether a file begins with a byte-order mark of UTF-16.
pub(super) const fn is_utf16(head: &[u8]) -> bool {
    matches!(head, [0xff, 0xfe, ..] | [0xfe, 0xff, ..])
}

/// Decodes a file in UTF-16. The byte-order mark shows the byte order. `None` if the file
/// is damaged.
pub(super) fn utf16(bytes: &[u8]) -> Option<String> {
    let (mark, rest) = bytes.split_at_checked(2)?;
    let unit: fn([u8; 2]) -> u16 = match mark {
        [0xff, 0xfe] => u16::from_le_bytes,
        _ => u16::from_be_bytes,
    };
    let (units, odd) = rest.as_chunks();
    if !odd.is_empty() {
        return None;
    }
    let chars = char::decode_utf16(units.iter().copied().map(unit));
    chars.collect::<Result<String, _>>().ok()
}

/// Whether bytes that are not UTF-8 may be text in another encoding. Such a text has no
/// control characters, and most of its bytes are ASCII.
pub(super) fn may_be_text(bytes: &[u8]) -> bool {
    let is_control = |byte: &u8| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x1b);
    let ascii = bytes.iter().filter(|byte| byte.is_ascii()).count();
    !bytes.iter().any(is_control) && ascii * 2 > bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf16_in_either_order() {
        let little = b"\xff\xfea\0\xe4\0\x3d\xd8\0\xde";
        let big = b"\xfe\xff\0a\0\xe4\xd8\x3d\xde\0";
        for bytes in [&little[..], big] {
            assert!(is_utf16(bytes));
            assert_eq!(utf16(bytes).as_deref(), Some("a\u{e4}\u{1f600}"));
        }
        assert_eq!(utf16(&little[..5]), None);
        assert_eq!(utf16(b"\xff\xfe\x3d\xd8"), None);
    }

    #[test]
    fn a_text_in_another_encoding_is_told_from_what_is_none() {
        assert!(may_be_text(b"# gr\xfc\xdfe\nnginx:1.25\n"));
        assert!(!may_be_text(b"\xff\xd8\xff\xe0\0\x10JFIF"));
        assert!(!may_be_text(&[0xff; 700]));
    }
}
