//! Which keys `get`, `del` and `watch` mean by their arguments and flags.

use crate::exit::CommandError;

/// Stands for "to the end" as `range_end`, and for the first key of all as key.
const ZERO: &[u8] = b"\0";

/// `key`, `range_end` of a request.
pub(super) struct KeyRange {
    pub(super) key: Vec<u8>,
    pub(super) range_end: Vec<u8>,
}

impl KeyRange {
    /// Reads `<key> [range_end]` with `--prefix` and `--from-key`.
    pub(super) fn of(args: &[String], prefix: bool, from_key: bool) -> Result<Self, CommandError> {
        if prefix && from_key {
            let reason = "`--prefix` and `--from-key` cannot be set at the same time, choose one";
            return Err(CommandError::arguments(reason));
        }
        let mut args = args.iter().map(|arg| arg.as_bytes().to_vec());
        let mut key = args.next().unwrap_or_default();
        let given_end = args.next();
        if (prefix || from_key) && given_end.is_some() {
            let reason = "too many arguments, only accept one argument when `--prefix` or \
                          `--from-key` is set";
            return Err(CommandError::arguments(reason));
        }
        let range_end = if from_key || (prefix && key.is_empty()) {
            if key.is_empty() {
                key = ZERO.to_vec();
            }
            ZERO.to_vec()
        } else if prefix {
            end_of_prefix(&key)
        } else {
            given_end.unwrap_or_default()
        };
        Ok(Self { key, range_end })
    }
}

/// The first key behind all keys that begin with a prefix.
pub(super) fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    ZERO.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(args: &[&str], prefix: bool, from_key: bool) -> (Vec<u8>, Vec<u8>) {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let range = KeyRange::of(&args, prefix, from_key).unwrap();
        (range.key, range.range_end)
    }

    #[test]
    fn the_forms_of_a_range() {
        let bytes = |key: &[u8], end: &[u8]| (key.to_vec(), end.to_vec());
        assert_eq!(range(&["a"], false, false), bytes(b"a", b""));
        assert_eq!(range(&["a", "c"], false, false), bytes(b"a", b"c"));
        assert_eq!(range(&["a"], true, false), bytes(b"a", b"b"));
        assert_eq!(range(&[""], true, false), bytes(b"\0", b"\0"));
        assert_eq!(range(&["a"], false, true), bytes(b"a", b"\0"));
        assert_eq!(range(&[""], false, true), bytes(b"\0", b"\0"));
        assert_eq!(end_of_prefix(b"a\xff\xff"), b"b");
        assert_eq!(end_of_prefix(b"\xff"), b"\0");
    }
}
