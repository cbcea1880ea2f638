//! Text as Go's `%q` shows it.

/// A Go string literal of bytes that need not be UTF-8.
pub(crate) fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            push_char(&mut text, char);
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text.push('"');
    text
}

fn push_char(text: &mut String, char: char) {
    let code = u32::from(char);
    let escape = match char {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        _ if is_printable(char) => {
            text.push(char);
            return;
        }
        _ => {
            *text += &match code {
                0..0x80 => format!("\\x{code:02x}"),
                0x80..0x10000 => format!("\\u{code:04x}"),
                _ => format!("\\U{code:08x}"),
            };
            return;
        }
    };
    text.push_str(escape);
}

/// Rust escapes what is not printable much as Go does; a space is Go's only printable white space.
fn is_printable(char: char) -> bool {
    if char.is_whitespace() {
        return char == ' ';
    }
    // Combining marks are escaped by Rust at the beginning of a string only.
    let mut escaped = char.escape_debug();
    char.is_alphanumeric()
        || (escaped.next() == Some(char) && escaped.next().is_none())
        || matches!(char, '\'')
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn literals_are_gos() {
        let cases: [(&[u8], &str); 6] = [
            (b"plain 'text'", r#""plain 'text'""#),
            (b"\"\\\n\t\x00\x7f", r#""\"\\\n\t\x00\x7f""#),
            (b"\xff\xfea", r#""\xff\xfea""#),
            ("\u{e9}\u{4e16}".as_bytes(), "\"\u{e9}\u{4e16}\""),
            ("\u{a0}\u{200b}".as_bytes(), r#""\u00a0\u200b""#),
            ("\u{1f600}".as_bytes(), "\"\u{1f600}\""),
        ];
        for (bytes, shown) in cases {
            assert_eq!(quoted(bytes), shown);
        }
    }
}
