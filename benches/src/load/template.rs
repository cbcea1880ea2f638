//! Requests that differ in their key only: encoded once, then copied and patched.

use bytes::Bytes;
use bytes::BytesMut;
use prost::Message;

use crate::transport::{PREFIX_BYTES, framed};

/// A request body whose first field is a key.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    body: Bytes,
    /// Where the key stands in the body.
    key_at: std::ops::Range<usize>,
}

impl Template {
    /// `message` must have a key of `key_bytes` as its field 1, as PutRequest and RangeRequest do.
    pub(crate) fn new(message: &impl Message, key_bytes: usize) -> Self {
        // The prefix, then the field's tag and its length, a varint.
        let key_start = PREFIX_BYTES + 1 + prost::length_delimiter_len(key_bytes);
        Self {
            body: framed(message),
            key_at: key_start..key_start + key_bytes,
        }
    }

    /// The body for the key with this number.
    pub(crate) fn body(&self, number: u64) -> BytesMut {
        let mut body = BytesMut::from(self.body.as_ref());
        if let Some(key) = body.get_mut(self.key_at.clone()) {
            write_key(key, number);
        }
        body
    }
}

/// The key with this number: hexadecimal, so that keys sort as numbers, filled up with zeros.
pub(crate) fn key(number: u64, key_bytes: usize) -> Bytes {
    let mut key = BytesMut::zeroed(key_bytes);
    write_key(&mut key, number);
    key.freeze()
}

fn write_key(key: &mut [u8], number: u64) {
    let mut rest = number;
    for digit in key.iter_mut().rev() {
        *digit = match (rest & 0xf) as u8 {
            low @ 0..=9 => b'0' + low,
            high => b'a' + high - 10,
        };
        rest >>= 4;
    }
}

/// SplitMix64: numbers that are random enough to choose keys, for a nanosecond each.
#[derive(Clone, Debug)]
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        // The multiplier keeps neighbouring seeds apart.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: below `bound` since the factor is below 2^64.
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Bytes {
        let mut bytes = BytesMut::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::{PutRequest, RangeRequest};

    use super::*;

    #[test]
    fn a_patched_body_is_the_request_with_that_key() {
        for key_bytes in [1, 16, 127, 128, 300] {
            let put = PutRequest {
                key: key(0, key_bytes),
                value: Bytes::from_static(b"value"),
                ..Default::default()
            };
            let body = Template::new(&put, key_bytes).body(0xa3);
            let expected = PutRequest {
                key: key(0xa3, key_bytes),
                ..put
            };
            assert_eq!(body.freeze(), framed(&expected));
        }
        let range = RangeRequest {
            key: key(0, 16),
            serializable: true,
            ..Default::default()
        };
        let body = Template::new(&range, 16).body(0x1f);
        let decoded = RangeRequest::decode(body.freeze().slice(PREFIX_BYTES..)).unwrap();
        assert_eq!(decoded.key.as_ref(), b"000000000000001f");
        assert!(decoded.serializable);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_below_it() {
        let mut numbers = Numbers::new(7);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[usize::try_from(numbers.below(10)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(numbers.bytes(13).len(), 13);
    }
}
