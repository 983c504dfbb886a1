//! Bytes of a packet of which some bits are known.

use ipnet::Ipv4Net;

/// What is known about some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    value: Vec<u8>,
    /// One where `value` is right.
    known: Vec<u8>,
    /// What the value is not.
    not: Vec<Not>,
}

/// value & mask != other; all of one length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Not {
    mask: Vec<u8>,
    other: Vec<u8>,
}

impl Bits {
    pub(super) fn of(value: &[u8]) -> Bits {
        Bits::partly(value, &vec![0xff; value.len()])
    }

    pub(super) fn unknown(len: usize) -> Bits {
        Bits::partly(&vec![0; len], &vec![0; len])
    }

    /// `value` where `known` has ones; both of one length.
    pub(super) fn partly(value: &[u8], known: &[u8]) -> Bits {
        Bits { value: value.to_vec(), known: known.to_vec(), not: Vec::new() }
    }

    /// Nothing is known but that it is not `other` under `mask`; both of one length.
    pub(super) fn other_than(other: &[u8], mask: &[u8]) -> Bits {
        let not = Not { mask: mask.to_vec(), other: other.to_vec() };
        Bits { not: vec![not], ..Bits::unknown(other.len()) }
    }

    /// A name as the kernel compares it: with NULs up to `len` bytes.
    pub(super) fn name(name: &str, len: usize) -> Bits {
        let mut value = name.as_bytes().to_vec();
        value.resize(len, 0);
        Bits::of(&value)
    }

    /// An address in `prefix`.
    pub(super) fn address(prefix: Ipv4Net) -> Bits {
        Bits::partly(&prefix.network().octets(), &prefix.netmask().octets())
    }

    pub(super) fn concat(parts: &[Bits]) -> Bits {
        let join = |field: fn(&Bits) -> &Vec<u8>| parts.iter().flat_map(field).copied().collect::<Vec<_>>();
        let mut all = Bits::partly(&join(|bits| &bits.value), &join(|bits| &bits.known));
        let mut before = 0;
        for part in parts {
            let pad = |bytes: &[u8]| {
                let mut padded = vec![0; before];
                padded.extend(bytes);
                padded.resize(all.value.len(), 0);
                padded
            };
            all.not.extend(part.not.iter().map(|not| Not { mask: pad(&not.mask), other: pad(&not.other) }));
            before += part.value.len();
        }
        all
    }

    /// Bytes `offset..offset + len`; what is beyond the end is unknown.
    pub(super) fn slice(&self, offset: usize, len: usize) -> Bits {
        let inside = offset..offset.saturating_add(len);
        let cut = |bytes: &[u8]| {
            bytes.iter().copied().chain(std::iter::repeat(0)).skip(offset).take(len).collect::<Vec<_>>()
        };
        let whole =
            |not: &&Not| not.mask.iter().enumerate().all(|(at, mask)| *mask == 0 || inside.contains(&at));
        let not = self.not.iter().filter(whole);
        Bits {
            not: not.map(|not| Not { mask: cut(&not.mask), other: cut(&not.other) }).collect(),
            ..Bits::partly(&cut(&self.value), &cut(&self.known))
        }
    }

    /// `self & mask ^ xor`: where the mask has a zero, the result is known.
    pub(super) fn masked(&self, mask: &[u8], xor: &[u8]) -> Bits {
        let len = mask.len().min(xor.len());
        let Bits { value, known, not } = self.slice(0, len);
        let kept = |not: &Not| (0..len).all(|at| not.mask[at] & !mask[at] == 0);
        let not = not.into_iter().filter(kept).map(|not| Not {
            other: (0..len).map(|at| not.other[at] ^ xor[at] & not.mask[at]).collect(),
            mask: not.mask,
        });
        Bits {
            value: (0..len).map(|at| value[at] & mask[at] ^ xor[at]).collect(),
            known: (0..len).map(|at| known[at] | !mask[at]).collect(),
            not: not.collect(),
        }
    }

    /// Whether the first bytes are `value`, if that can be told.
    pub(super) fn start_with(&self, value: &[u8]) -> Option<bool> {
        let here = self.slice(0, value.len());
        let differ = |at: usize| (here.value[at] ^ value[at]) & here.known[at] != 0;
        let excluded = |not: &Not| (0..value.len()).all(|at| value[at] & not.mask[at] == not.other[at]);
        match (0..value.len()).any(differ) || here.not.iter().any(excluded) {
            true => Some(false),
            false => here.known.iter().all(|known| *known == 0xff).then_some(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_prefix_is_told_from_others() {
        let bits = Bits::address("198.18.2.0/24".parse().unwrap());
        assert_eq!(bits.start_with(&[198, 18, 2]), Some(true));
        assert_eq!(bits.start_with(&[198, 18, 3]), Some(false));
        assert_eq!(bits.start_with(&[198, 18, 2, 7]), None);
        assert_eq!(bits.masked(&[255, 254, 0, 0], &[0; 4]).start_with(&[198, 18, 0, 0]), Some(true));
        assert_eq!(bits.masked(&[255, 255, 255, 128], &[0; 4]).start_with(&[198, 18, 2, 128]), None);
        assert_eq!(bits.slice(2, 4).start_with(&[2]), Some(true));
    }

    #[test]
    fn a_name_with_a_wildcard_is_compared_as_far_as_it_goes() {
        let name = Bits::name("eth1", 16);
        assert_eq!(name.start_with(b"eth"), Some(true));
        assert_eq!(name.start_with(b"eth\0"), Some(false));
        assert_eq!(Bits::unknown(16).start_with(b"eth"), None);
    }
    #[test]
    fn what_a_value_is_not_is_told_through_slices_and_masks() {
        let offset = Bits::other_than(&[0, 0], &[0x1f, 0xff]);
        let header = Bits::concat(&[Bits::unknown(6), offset, Bits::unknown(12)]);
        let field = header.slice(6, 2);
        assert_eq!(field.masked(&[0x1f, 0xff], &[0; 2]).start_with(&[0, 0]), Some(false));
        assert_eq!(field.masked(&[0x3f, 0xff], &[0; 2]).start_with(&[0, 0]), Some(false));
        assert_eq!(field.masked(&[0x3f, 0xff], &[0; 2]).start_with(&[0x20, 0]), Some(false));
        assert_eq!(field.masked(&[0x3f, 0xff], &[0, 1]).start_with(&[0, 1]), Some(false));
        assert_eq!(field.masked(&[0x3f, 0xff], &[0; 2]).start_with(&[0, 1]), None);
        // Some of the bits may be zero.
        assert_eq!(field.masked(&[0, 0xff], &[0; 2]).start_with(&[0, 0]), None);
        assert_eq!(header.slice(6, 1).start_with(&[0]), None);
        let not_tcp = Bits::other_than(&[6], &[0xff]);
        assert_eq!(not_tcp.start_with(&[6]), Some(false));
        assert_eq!(not_tcp.start_with(&[17]), None);
    }
}
