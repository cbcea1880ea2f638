//! Lines that are commands: of `txn`, and of `watch -i`.

use clap::{Args, Command, FromArgMatches};

use crate::flags::like_go;

/// The arguments of a line. A quote that is not closed counts for nothing, as in etcd's tool.
pub(super) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_whitespace() {
            rest = rest.trim_ascii_start();
            continue;
        }
        match first {
            '"' => {
                if let Some((word, behind)) = quoted(rest) {
                    words.push(word?);
                    rest = behind;
                    continue;
                }
            }
            '\'' => {
                let inner = rest.get(1..).unwrap_or_default();
                if let Some((word, behind)) = inner.split_once('\'') {
                    words.push(word.to_owned());
                    rest = behind;
                    continue;
                }
            }
            _ => {
                let end = rest.find(|c: char| c.is_ascii_whitespace());
                let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
                words.push(word.to_owned());
                rest = behind;
                continue;
            }
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    Some(words)
}

/// A Go string literal at the beginning, and what is behind it: `None` if there is none that ends,
/// and an inner `None` if an escape in it is not Go's.
pub(super) fn quoted(text: &str) -> Option<(Option<String>, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (inner, behind) = raw.split_once('`')?;
        return Some((Some(inner.to_owned()), behind));
    }
    let inner = text.strip_prefix('"')?;
    let mut escaped = false;
    let end = inner.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let (literal, behind) = inner.split_at(end);
    Some((unescaped(literal), behind.get(1..).unwrap_or_default()))
}

/// A Go string literal's text. Bytes that are not UTF-8 cannot be said in an argument.
fn unescaped(literal: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chars = literal.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut bytes, c);
            continue;
        }
        let escape = chars.next()?;
        let (digits, base) = match escape {
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => (2, 8),
            _ => {
                let plain = match escape {
                    'a' => '\x07',
                    'b' => '\x08',
                    'f' => '\x0c',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'v' => '\x0b',
                    '\\' | '"' | '\'' => escape,
                    _ => return None,
                };
                push(&mut bytes, plain);
                continue;
            }
        };
        let first = (base == 8).then_some(escape);
        let number: String = first
            .into_iter()
            .chain(chars.by_ref().take(digits))
            .collect();
        let number = u32::from_str_radix(&number, base).ok()?;
        if matches!(escape, 'u' | 'U') {
            push(&mut bytes, char::from_u32(number)?);
        } else {
            bytes.push(u8::try_from(number).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// The flags of a command that stands in a line.
pub(super) fn flags<T: Args + FromArgMatches>(words: &[String]) -> Option<T> {
    flags_or_error(words).ok()
}

/// As [`flags`], and why not.
pub(super) fn flags_or_error<T: Args + FromArgMatches>(words: &[String]) -> Result<T, clap::Error> {
    let command = T::augment_args(Command::new("line").no_binary_name(true));
    T::from_arg_matches(&like_go(command).try_get_matches_from(words)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_etcds() {
        let words = |line| split(line).unwrap();
        assert_eq!(
            words("put key1 \"over wrote\""),
            ["put", "key1", "over wrote"]
        );
        assert_eq!(words("  put 'a b'  c\"d "), ["put", "a b", "c\"d"]);
        assert_eq!(words("put \"a b"), ["put", "a", "b"]);
        assert_eq!(
            words(r#"put "a\"\n\x41\101\u00e9""#),
            ["put", "a\"\nAA\u{e9}"]
        );
        assert_eq!(split(r#"put "\q""#), None);
        assert!(words("").is_empty());
    }
}
