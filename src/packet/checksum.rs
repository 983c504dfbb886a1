//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are one's complement sums of big-endian 16-bit words, folded. A sum is zero only
//! if every byte is zero; everywhere else 0xffff stands for zero.

use std::net::{Ipv4Addr, Ipv6Addr};

/// One's complement sum of `bytes`; an odd last byte is padded with a zero (RFC 1071).
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on byte order (RFC 1071 section 2 B): native words, folded at the end.
    let mut total = 0;
    let mut rest = bytes;
    // Neither lane of a block overflows below 2^16 steps.
    while rest.len() >= 32 {
        let (blocks, _) = rest[..rest.len().min(BLOCK)].as_chunks::<32>();
        total += block_sum(blocks);
        rest = &rest[blocks.len() * 32..];
    }
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    fold(total).to_be()
}

/// Longest part of a sum that [`block_sum`] can take, bytes.
const BLOCK: usize = 32 << 16;

/// Sum of the 16-bit halves of 32-bit words, in lanes that the compiler vectorises.
///
/// `all` overflows, but with `high` gives the sum of the low halves: all - high * 2^16, modulo
/// 2^32, which is exact because that sum is below 2^32. An addition less for each word than
/// taking the halves apart.
#[inline]
fn block_sum(blocks: &[[u8; 32]]) -> u64 {
    let (mut all, mut high) = ([0u32; 8], [0u32; 8]);
    for block in blocks {
        for (lane, word) in block.as_chunks::<4>().0.iter().enumerate() {
            let word = u32::from_ne_bytes(*word);
            all[lane] = all[lane].wrapping_add(word);
            high[lane] = high[lane].wrapping_add(word >> 16);
        }
    }
    let low = all.iter().zip(&high).map(|(all, high)| u64::from(all.wrapping_sub(high << 16)));
    low.sum::<u64>() + high.iter().map(|high| u64::from(*high)).sum::<u64>()
}

/// One's complement sum of two folded sums.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// One's complement difference of two folded sums.
#[inline]
pub fn subtract(a: u16, b: u16) -> u16 {
    add(a, !b)
}

/// Sum of the pseudo-header of TCP and UDP over IPv4 (RFC 9293 section 3.1, RFC 768).
///
/// `len` is the length of the transport header and its data, in bytes.
#[inline]
pub fn pseudo_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> u16 {
    let [s, d] = [source, destination].map(|address| u64::from(address.to_bits()));
    fold(s + d + u64::from(protocol) + u64::from(len))
}

/// Sum of the pseudo-header of TCP and UDP over IPv6 (RFC 8200 section 8.1).
///
/// `len` is the length of the transport header and its data, in bytes.
#[inline]
pub fn pseudo_header_ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, len: u16) -> u16 {
    let addresses = [source.octets(), destination.octets()].map(|octets| u64::from(sum(&octets)));
    fold(addresses[0] + addresses[1] + u64::from(protocol) + u64::from(len))
}

/// The checksum field after a 16-bit word that it covers went from `old` to `new`
/// (RFC 1624 equation 3).
///
/// Valid stays valid and wrong stays wrong. 0xffff comes out only where it went in, so
/// that a UDP checksum can turn into 0 ("none", RFC 768): callers that edit UDP must
/// send 0xffff instead.
#[inline]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !add(add(!checksum, !old), new)
}

/// [`update`] for a 16-bit value that starts `offset` bytes into the covered data.
///
/// At an odd offset its bytes belong to two words, which in a one's complement sum is the
/// same as one word with its bytes swapped (RFC 1071 section 2 B).
#[inline]
pub fn update_at(checksum: u16, offset: usize, old: u16, new: u16) -> u16 {
    if offset.is_multiple_of(2) {
        update(checksum, old, new)
    } else {
        update(checksum, old.swap_bytes(), new.swap_bytes())
    }
}

/// Folds a sum of 16-bit words, or of 32-bit words, to 16 bits.
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 section 4.1, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn sum_is_that_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        let bytes: Vec<u8> = (0..1600u32).map(|i| (i * 31 + (i >> 3)) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(sum(&bytes[..len]), reference(&bytes[..len]), "{len} bytes");
        }
        let long = vec![0xff; BLOCK * 2 + 33];
        for len in [9000, BLOCK - 1, BLOCK, BLOCK + 31, long.len()] {
            assert_eq!(sum(&long[..len]), reference(&long[..len]), "{len} bytes of 0xff");
        }
    }

    #[test]
    fn folding_keeps_every_carry() {
        for value in [0, 1, 0xffff, 0x1_0000, 0xffff_ffff, u64::MAX, u64::MAX - 1, 0xffff_0000_ffff_0001] {
            let folded = u64::from(fold(value));
            assert_eq!(folded % 0xffff, value % 0xffff, "{value:#x}");
            assert_eq!(folded == 0, value == 0, "{value:#x}");
        }
    }

    #[test]
    fn update_equals_recomputing_for_every_pair_of_borders_and_every_word() {
        let mut data = [0x45, 0, 0x12, 0x34, 0xab, 0xcd, 0xff, 0xff];
        for offset in [2, 3, 4, 5] {
            for old in [0u16, 1, 0x4000, 0x7fff, 0x8000, 0xfffe, 0xffff] {
                data[offset..offset + 2].copy_from_slice(&old.to_be_bytes());
                let before = !sum(&data);
                for new in 0..=u16::MAX {
                    data[offset..offset + 2].copy_from_slice(&new.to_be_bytes());
                    assert_eq!(
                        update_at(before, offset, old, new),
                        !sum(&data),
                        "{offset} {old:#x} {new:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong_as_it_was() {
        let error = |checksum: u16, word: u16| (u32::from(checksum) + u32::from(word)) % 0xffff;
        for checksum in 0..=u16::MAX {
            assert_eq!(error(update(checksum, 0x4000, 0), 0), error(checksum, 0x4000), "{checksum:#x}");
        }
    }

    #[test]
    fn rfc_1624_example() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }
}
