//! `KeyRange`: what `key` and `range_end` of a request mean together.

use bytes::Bytes;

/// A set of keys, in one of etcd's four forms (contract 2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// One key: no `range_end`.
    Single(Bytes),
    /// `[start, end)`; empty when `end <= start`.
    Range(Bytes, Bytes),
    /// All keys `>= start`: `range_end` is `\0`.
    From(Bytes),
    /// All keys: both are `\0`.
    All,
}

impl KeyRange {
    /// Reads the two fields of a request. An empty key is the caller's to refuse.
    #[must_use]
    pub fn new(key: Bytes, range_end: Bytes) -> Self {
        match (key.as_ref(), range_end.as_ref()) {
            (_, []) => Self::Single(key),
            ([0], [0]) => Self::All,
            (_, [0]) => Self::From(key),
            _ => Self::Range(key, range_end),
        }
    }

    /// The first key that can be in the range.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        match self {
            Self::Single(key) | Self::Range(key, _) | Self::From(key) => key,
            // The empty key cannot be stored, so the range of all keys begins at the first real one.
            Self::All => &[0],
        }
    }

    /// The exclusive end; `None` if the range is open-ended. A single key ends at `key ++ \0`.
    #[must_use]
    pub fn end(&self) -> Option<Bytes> {
        match self {
            Self::Single(key) => {
                let mut end = Vec::with_capacity(key.len() + 1);
                end.extend_from_slice(key);
                end.push(0);
                Some(end.into())
            }
            Self::Range(_, end) => Some(end.clone()),
            Self::From(_) | Self::All => None,
        }
    }

    /// Whether `key` belongs to the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Single(single) => single == key,
            Self::Range(start, end) => start.as_ref() <= key && key < end.as_ref(),
            Self::From(start) => start.as_ref() <= key,
            Self::All => true,
        }
    }

    /// Whether no key can belong to the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Range(start, end) if end <= start)
    }

    /// Whether this is one key.
    #[must_use]
    pub fn is_single(&self) -> bool {
        matches!(self, Self::Single(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn four_forms() {
        assert_eq!(range(b"a", b""), KeyRange::Single(Bytes::from_static(b"a")));
        assert_eq!(range(b"a", b"\0"), KeyRange::From(Bytes::from_static(b"a")));
        assert_eq!(range(b"\0", b"\0"), KeyRange::All);
        let ab = range(b"a", b"b");
        assert!(ab.contains(b"a") && ab.contains(b"a\xff") && !ab.contains(b"b"));
        assert!(range(b"b", b"a").is_empty() && range(b"a", b"a").is_empty());
        assert!(!range(b"a", b"\0").is_empty());
    }

    #[test]
    fn range_end_of_one_zero_byte_is_not_a_key() {
        let from = range(b"b", b"\0");
        assert!(from.contains(b"b") && from.contains(b"z") && !from.contains(b"a"));
        assert_eq!(from.end(), None);
        assert_eq!(range(b"a", b"").end().as_deref(), Some(&b"a\0"[..]));
    }
}
