//! The frame: the checksummed unit that both disk formats store (docs/FORMAT.md, "Log").
//!
//! ```text
//!  0  magic "KLOG"      4  version 1      5  kind      6  flags (bit 0: commit present), 7  zero
//!  8  count u32        12  body length u32
//! 16  index u64        24  commit term u64            32  commit index u64
//! 40  CRC-32C u32 of bytes 0..40 and the body         44  body
//! ```
//!
//! Numbers are little-endian. A frame is found whole or not at all: the sum is checked before
//! anything in the body is looked at, and the body's own lengths are checked again.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::api::{LogPosition, WalEntry};
use super::error::WalError;

/// First bytes of every frame.
pub(super) const MAGIC: [u8; 4] = *b"KLOG";
/// Version of the frame layout. A reader refuses others.
const VERSION: u8 = 1;
/// Bytes before the body.
pub(super) const HEADER_BYTES: usize = 44;
/// Offset of the sum in the header.
const CRC_OFFSET: usize = 40;
/// Term, kind, payload length.
pub(super) const ENTRY_HEAD_BYTES: usize = 13;
/// Chunk number, term, kind, payload length of the whole entry.
const CHUNK_HEAD_BYTES: usize = 17;
/// Flag: the commit fields hold a position.
const FLAG_COMMITTED: u8 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole entries: `index` is the first one's, `count` their number.
    Entries,
    /// A piece of one large entry: `index` is the entry's, `count` the number of its pieces.
    Chunk,
    /// The vote; the body is the caller's.
    Vote,
    /// Entries from `index` on are gone.
    Truncate,
    /// Entries up to `index` are purged; the body is the term (u64).
    Purge,
    /// Only the commit fields count.
    Committed,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Entries => 1,
            Kind::Chunk => 2,
            Kind::Vote => 3,
            Kind::Truncate => 4,
            Kind::Purge => 5,
            Kind::Committed => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [
            Kind::Entries,
            Kind::Chunk,
            Kind::Vote,
            Kind::Truncate,
            Kind::Purge,
            Kind::Committed,
        ]
        .into_iter()
        .find(|kind| kind.code() == code)
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameError {
    /// Torn or damaged: recovery cuts here.
    Damaged(&'static str),
    /// Whole, but of a version or kind that a newer program wrote: the log must not be opened.
    Newer,
}

impl FrameError {
    /// As an error of the log; `location` names file and offset, or the key.
    pub(super) fn at(self, location: impl FnOnce() -> String) -> WalError {
        match self {
            FrameError::Damaged(reason) => WalError::Corrupt {
                location: location(),
                reason,
            },
            FrameError::Newer => {
                WalError::Refused(format!("{} was written by a newer version", location()))
            }
        }
    }
}

/// Whether the bytes begin with a whole frame, of whatever version.
pub(super) fn is_sound(data: &Bytes) -> bool {
    !matches!(Frame::decode(data), Err(FrameError::Damaged(_)))
}

/// A frame whose sum was right.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) count: u32,
    pub(super) index: u64,
    pub(super) committed: Option<LogPosition>,
    pub(super) body: Bytes,
}

/// One piece of a large entry.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) number: u32,
    pub(super) term: u64,
    pub(super) kind: u8,
    pub(super) payload_bytes: u32,
    pub(super) piece: Bytes,
}

/// Sizes a format packs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packing {
    /// A frame of entries is closed before it grows past this.
    pub(super) frame_bytes_max: usize,
    /// An entry that fills a frame alone is cut into frames of at most this; never if `None`.
    pub(super) chunk_bytes_max: Option<usize>,
}

impl Frame {
    /// Length of a frame with this body.
    pub(super) fn encoded_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// Decodes the frame at the start of `data`; what follows it is not looked at.
    ///
    /// # Errors
    /// Why these bytes are not a frame.
    pub(super) fn decode(data: &Bytes) -> Result<Frame, FrameError> {
        let mut head = data
            .get(..HEADER_BYTES)
            .ok_or(FrameError::Damaged("shorter than a frame header"))?;
        let sum_head = data
            .get(..CRC_OFFSET)
            .ok_or(FrameError::Damaged("shorter than a frame header"))?;
        let mut magic = [0; 4];
        head.copy_to_slice(&mut magic);
        if magic != MAGIC {
            return Err(FrameError::Damaged("not a frame"));
        }
        let version = head.get_u8();
        let kind = head.get_u8();
        let flags = head.get_u8();
        let zero = head.get_u8();
        let count = head.get_u32_le();
        let body_bytes = head.get_u32_le() as usize;
        let index = head.get_u64_le();
        let committed = LogPosition {
            term: head.get_u64_le(),
            index: head.get_u64_le(),
        };
        let sum = head.get_u32_le();
        let rest = data.slice(HEADER_BYTES..);
        let body = rest
            .get(..body_bytes)
            .ok_or(FrameError::Damaged("frame cut short"))?;
        if crc32c::crc32c_append(crc32c::crc32c(sum_head), body) != sum {
            return Err(FrameError::Damaged("wrong checksum"));
        }
        if version != VERSION || zero != 0 {
            return Err(FrameError::Newer);
        }
        let kind = Kind::from_code(kind).ok_or(FrameError::Newer)?;
        let frame = Frame {
            kind,
            count,
            index,
            committed: (flags & FLAG_COMMITTED != 0).then_some(committed),
            body: rest.slice(..body_bytes),
        };
        Ok(frame)
    }

    /// The entries of an [`Kind::Entries`] frame.
    pub(super) fn entries(&self) -> Result<Vec<WalEntry>, &'static str> {
        if self.body.len() / ENTRY_HEAD_BYTES < self.count as usize {
            return Err("more entries announced than fit");
        }
        let mut body = self.body.clone();
        let mut entries = Vec::with_capacity(self.count as usize);
        for offset in 0..u64::from(self.count) {
            if body.len() < ENTRY_HEAD_BYTES {
                return Err("entry cut short");
            }
            let term = body.get_u64_le();
            let kind = body.get_u8();
            let payload_bytes = body.get_u32_le() as usize;
            if body.len() < payload_bytes {
                return Err("entry cut short");
            }
            let index = self.index.checked_add(offset).ok_or("index overflows")?;
            entries.push(WalEntry {
                index,
                term,
                kind,
                payload: body.split_to(payload_bytes),
            });
        }
        if !body.is_empty() || entries.is_empty() {
            return Err("frame length does not match its entries");
        }
        Ok(entries)
    }

    /// The piece of a [`Kind::Chunk`] frame.
    pub(super) fn chunk(&self) -> Result<Chunk, &'static str> {
        let mut body = self.body.clone();
        if body.len() < CHUNK_HEAD_BYTES {
            return Err("chunk cut short");
        }
        Ok(Chunk {
            number: body.get_u32_le(),
            term: body.get_u64_le(),
            kind: body.get_u8(),
            payload_bytes: body.get_u32_le(),
            piece: body,
        })
    }

    /// The position of a [`Kind::Purge`] frame.
    pub(super) fn purged(&self) -> Result<LogPosition, &'static str> {
        let mut body = self.body.clone();
        if body.len() != size_of::<u64>() {
            return Err("purge mark of a wrong length");
        }
        Ok(LogPosition {
            term: body.get_u64_le(),
            index: self.index,
        })
    }
}

/// Reads kind, count and index without checking the sum; for walking frames already verified.
pub(super) fn peek(data: &[u8]) -> Option<(Kind, u32, u64)> {
    let mut head = data.get(5..HEADER_BYTES)?;
    let kind = Kind::from_code(head.get_u8())?;
    head.advance(2);
    let count = head.get_u32_le();
    head.advance(4);
    Some((kind, count, head.get_u64_le()))
}

/// Appends one frame to `out`.
pub(super) fn encode(
    out: &mut BytesMut,
    kind: Kind,
    count: u32,
    index: u64,
    committed: Option<LogPosition>,
    body: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.put_slice(&MAGIC);
    out.put_u8(VERSION);
    out.put_u8(kind.code());
    out.put_u8(if committed.is_some() {
        FLAG_COMMITTED
    } else {
        0
    });
    out.put_u8(0);
    out.put_u32_le(count);
    out.put_u32_le(0);
    out.put_u64_le(index);
    let committed = committed.unwrap_or(LogPosition { term: 0, index: 0 });
    out.put_u64_le(committed.term);
    out.put_u64_le(committed.index);
    out.put_u32_le(0);
    body(out);
    let Some(frame) = out.get_mut(start..) else {
        return;
    };
    let Some((head, body)) = frame.split_at_mut_checked(HEADER_BYTES) else {
        return;
    };
    let body_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if let Some(mut field) = head.get_mut(12..16) {
        field.put_u32_le(body_bytes);
    }
    if let Some((summed, mut field)) = head.split_at_mut_checked(CRC_OFFSET) {
        field.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(summed), body));
    }
}

/// A vote frame.
pub(super) fn encode_vote(out: &mut BytesMut, vote: &Bytes) {
    encode(out, Kind::Vote, 0, 0, None, |body| body.put_slice(vote));
}

/// A purge mark.
pub(super) fn encode_purge(out: &mut BytesMut, position: LogPosition) {
    encode(out, Kind::Purge, 0, position.index, None, |body| {
        body.put_u64_le(position.term)
    });
}

/// A saved commit on its own.
pub(super) fn encode_committed(out: &mut BytesMut, committed: LogPosition) {
    encode(out, Kind::Committed, 0, 0, Some(committed), |_| {});
}

/// A commit with the secret that makes it a mark.
pub(super) fn encode_mark(out: &mut BytesMut, committed: LogPosition, secret: &[u8]) {
    let body = |body: &mut BytesMut| body.put_slice(secret);
    encode(out, Kind::Committed, 0, 0, Some(committed), body);
}

/// The mark that entries from `next` on are gone.
pub(super) fn encode_truncate(out: &mut BytesMut, next: u64) {
    encode(out, Kind::Truncate, 0, next, None, |_| {});
}

/// Packs entries into frames and hands each to `emit` with its index, chunk number and bytes.
///
/// The commit rides in each frame, lowered to the frame's last entry: whatever prefix of the frames
/// survives, the commit found in it lies within it.
pub(super) fn pack<E>(
    entries: &[WalEntry],
    committed: Option<LogPosition>,
    packing: Packing,
    mut emit: impl FnMut(u64, u32, &mut BytesMut) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = BytesMut::with_capacity(packing.frame_bytes_max);
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let taken = fitting(rest, packing.frame_bytes_max);
        if taken == 0
            && let Some(chunk_bytes_max) = packing.chunk_bytes_max
        {
            pack_chunks(first, committed, chunk_bytes_max, &mut buffer, &mut emit)?;
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let (frame, after) = rest.split_at(taken.max(1));
        let last = frame.last().unwrap_or(first).position();
        buffer.clear();
        let count = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        encode(
            &mut buffer,
            Kind::Entries,
            count,
            first.index,
            lower(committed, last),
            |body| {
                for entry in frame {
                    body.put_u64_le(entry.term);
                    body.put_u8(entry.kind);
                    body.put_u32_le(u32::try_from(entry.payload.len()).unwrap_or(u32::MAX));
                    body.put_slice(&entry.payload);
                }
            },
        );
        emit(first.index, 0, &mut buffer)?;
        rest = after;
    }
    Ok(())
}

/// How many of the first entries fit one frame; 0 if the first alone is too large.
fn fitting(entries: &[WalEntry], frame_bytes_max: usize) -> usize {
    let mut bytes = HEADER_BYTES;
    entries
        .iter()
        .take_while(|entry| {
            bytes += ENTRY_HEAD_BYTES + entry.payload.len();
            bytes <= frame_bytes_max
        })
        .count()
}

fn pack_chunks<E>(
    entry: &WalEntry,
    committed: Option<LogPosition>,
    chunk_bytes_max: usize,
    buffer: &mut BytesMut,
    emit: &mut impl FnMut(u64, u32, &mut BytesMut) -> Result<(), E>,
) -> Result<(), E> {
    let piece_bytes_max = chunk_bytes_max
        .saturating_sub(HEADER_BYTES + CHUNK_HEAD_BYTES)
        .max(1);
    let pieces = entry.payload.chunks(piece_bytes_max);
    let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
    for (number, piece) in (0..count).zip(pieces) {
        let is_last = number + 1 == count;
        let commit = if is_last {
            lower(committed, entry.position())
        } else {
            None
        };
        buffer.clear();
        encode(buffer, Kind::Chunk, count, entry.index, commit, |body| {
            body.put_u32_le(number);
            body.put_u64_le(entry.term);
            body.put_u8(entry.kind);
            body.put_u32_le(u32::try_from(entry.payload.len()).unwrap_or(u32::MAX));
            body.put_slice(piece);
        });
        emit(entry.index, number, buffer)?;
    }
    Ok(())
}

/// The commit, not past `last`. Entries up to the commit never change, so `last` is committed too.
pub(super) fn lower(committed: Option<LogPosition>, last: LogPosition) -> Option<LogPosition> {
    committed.map(|committed| {
        if committed.index > last.index {
            last
        } else {
            committed
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PACKING: Packing = Packing {
        frame_bytes_max: 256,
        chunk_bytes_max: Some(200),
    };

    fn entries(sizes: &[usize]) -> Vec<WalEntry> {
        sizes
            .iter()
            .zip(5..)
            .map(|(size, index)| WalEntry {
                index,
                term: 3,
                kind: 1,
                payload: Bytes::from(vec![index as u8; *size]),
            })
            .collect()
    }

    fn frames(entries: &[WalEntry], committed: Option<LogPosition>) -> Vec<Bytes> {
        let mut frames = Vec::new();
        pack(entries, committed, PACKING, |_, _, frame| {
            frames.push(frame.split().freeze());
            Ok::<_, ()>(())
        })
        .unwrap();
        frames
    }

    #[test]
    fn frames_stay_within_their_size_and_carry_a_lowered_commit() {
        let committed = LogPosition {
            term: 3,
            index: 1_000,
        };
        let entries = entries(&[0, 1, 100, 100, 100, 5_000, 7]);
        let mut last = 4;
        for frame in frames(&entries, Some(committed)) {
            assert!(frame.len() <= 256);
            let frame = Frame::decode(&frame).unwrap();
            match frame.kind {
                Kind::Entries => last = frame.entries().unwrap().last().unwrap().index,
                _ => last = frame.index,
            }
            if let Some(committed) = frame.committed {
                assert_eq!(
                    committed,
                    LogPosition {
                        term: 3,
                        index: last
                    }
                );
            }
        }
        assert_eq!(last, 11);
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let frame = frames(&entries(&[3, 20]), None).remove(0);
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::decode(&Bytes::from(damaged)).is_err(), "bit {bit}");
        }
        for end in 0..frame.len() {
            assert!(Frame::decode(&frame.slice(..end)).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_whole_frame_of_another_version_is_not_taken_for_damage() {
        let mut frame = frames(&entries(&[3]), None).remove(0).to_vec();
        frame[4] = VERSION + 1;
        let (head, body) = frame.split_at(HEADER_BYTES);
        let sum = crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_OFFSET]), body);
        frame[CRC_OFFSET..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Frame::decode(&frame.into()).unwrap_err(), FrameError::Newer);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn arbitrary_bodies_never_panic(
            kind in 1u8..=6, count: u32, index: u64, body in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut out = BytesMut::new();
            let kind = Kind::from_code(kind).unwrap();
            encode(&mut out, kind, count, index, None, |out| out.put_slice(&body));
            let frame = Frame::decode(&out.freeze()).unwrap();
            let _ = (frame.entries(), frame.chunk(), frame.purged());
        }

        #[test]
        fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..128)) {
            prop_assert!(Frame::decode(&Bytes::from(data)).is_err());
        }
    }
}
