//! Where one gRPC message ends and the next begins in a stream of bytes: each message has a flag byte
//! and a length of four.

use bytes::Buf as _;

/// Flag and length.
pub(super) const HEADER_BYTES: usize = 5;

/// Follows a stream of bytes, however it is cut.
#[derive(Debug, Default)]
pub(crate) struct Boundaries {
    /// Bytes of the current header that have been seen.
    header_len: usize,
    /// The length as far as it has been read, then what is left of the message.
    rest: u32,
}

/// What a piece of the stream holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Messages whose header is complete with this piece.
    pub(crate) begun: u64,
    /// Bytes of the piece up to the last end of a message in it.
    pub(crate) whole_bytes: usize,
    /// The longest message of those whose header is complete with this piece, as it announces itself.
    pub(crate) announced_bytes: u32,
}

impl Boundaries {
    /// Goes on to the end of `data`.
    pub(crate) fn follow(&mut self, mut data: &[u8]) -> Piece {
        let mut piece = Piece::default();
        let len = data.len();
        while !data.is_empty() {
            if self.header_len < HEADER_BYTES {
                let byte = data.get_u8();
                if self.header_len > 0 {
                    self.rest = self.rest << 8 | u32::from(byte);
                }
                self.header_len += 1;
                if self.header_len == HEADER_BYTES {
                    piece.begun += 1;
                    piece.announced_bytes = piece.announced_bytes.max(self.rest);
                }
            } else {
                let skipped = data.len().min(self.rest as usize);
                data.advance(skipped);
                self.rest -= u32::try_from(skipped).unwrap_or(self.rest);
            }
            if self.header_len == HEADER_BYTES && self.rest == 0 {
                self.header_len = 0;
                piece.whole_bytes = len - data.len();
            }
        }
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let (mut whole, mut ends) = (Vec::new(), vec![0]);
        for length in [0_u8, 3, 0, 200] {
            whole.extend([0, 0, 0, 0, length]);
            whole.extend(std::iter::repeat_n(7, usize::from(length)));
            ends.push(whole.len());
        }
        for size in 1..=whole.len() {
            let mut boundaries = Boundaries::default();
            let (mut begun, mut announced) = (0, 0);
            for (place, chunk) in whole.chunks(size).enumerate() {
                let (start, end) = (place * size, place * size + chunk.len());
                let piece = boundaries.follow(chunk);
                begun += piece.begun;
                announced = announced.max(piece.announced_bytes);
                let last = ends
                    .iter()
                    .filter(|at| (start + 1..=end).contains(*at))
                    .max();
                assert_eq!(piece.whole_bytes, last.map_or(0, |at| at - start), "{size}");
            }
            assert_eq!((begun, announced), (4, 200), "{size}");
        }
    }
}
