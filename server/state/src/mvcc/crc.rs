//! Joining CRC-32C sums without the bytes: crc(a ‖ b) from crc(a), crc(b) and the length of b.
//!
//! A hash over a million records folds a million sums, so the shift of a sum by n zero bytes is
//! done with tables, one for each power of two: about 10 table steps a record (store-notes 2).

use std::sync::OnceLock;

/// CRC-32C polynomial, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Lengths below 2^32 bytes; a record is far shorter.
const POWERS: usize = 32;

type Table = [[u32; 256]; 4];

struct Shifts {
    tables: Vec<Table>,
}

/// crc(a ‖ b), where b is `len` bytes long.
pub(super) fn join(a: u32, b: u32, len: u32) -> u32 {
    static SHIFTS: OnceLock<Shifts> = OnceLock::new();
    SHIFTS.get_or_init(Shifts::new).shift(a, len) ^ b
}

/// A linear map of 32 bits: the image of each bit.
type Matrix = [u32; 32];

fn apply(matrix: &Matrix, vector: u32) -> u32 {
    let bits = matrix.iter().enumerate();
    bits.filter(|(bit, _)| vector >> bit & 1 == 1)
        .fold(0, |sum, (_, image)| sum ^ image)
}

fn square(matrix: &Matrix) -> Matrix {
    matrix.map(|image| apply(matrix, image))
}

impl Shifts {
    fn new() -> Self {
        // One zero bit: bit 0 becomes the polynomial, the others move down.
        let mut one_bit: Matrix = [POLYNOMIAL; 32];
        for (image, bit) in one_bit.iter_mut().skip(1).zip(0..) {
            *image = 1 << bit;
        }
        let mut shift = square(&square(&square(&one_bit)));
        let mut tables = Vec::with_capacity(POWERS);
        for _ in 0..POWERS {
            tables.push(table(&shift));
            shift = square(&shift);
        }
        Self { tables }
    }

    fn shift(&self, crc: u32, len: u32) -> u32 {
        let powers = self.tables.iter().enumerate();
        powers
            .filter(|(power, _)| len >> power & 1 == 1)
            .fold(crc, |crc, (_, table)| {
                let bytes = crc.to_le_bytes().into_iter().map(usize::from);
                let images = table.iter().zip(bytes);
                images.fold(0, |sum, (images, byte)| {
                    sum ^ images.get(byte).copied().unwrap_or(0)
                })
            })
    }
}

fn table(shift: &Matrix) -> Table {
    let mut table = [[0; 256]; 4];
    for (images, position) in table.iter_mut().zip(0..) {
        for (image, byte) in images.iter_mut().zip(0_u32..) {
            *image = apply(shift, byte << (8 * position));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_sums_are_the_sums_of_joined_bytes() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|i| (i * 31 % 251) as u8).collect();
        for (from, to) in [(0, 0), (0, 1), (5, 17), (100, 4_196), (1, 70_000)] {
            let (a, b) = (&bytes[..from], &bytes[from..to]);
            let joined = join(crc32c::crc32c(a), crc32c::crc32c(b), b.len() as u32);
            assert_eq!(joined, crc32c::crc32c(&bytes[..to]));
        }
    }
}
