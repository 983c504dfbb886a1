//! Bytes of a packet of which some bits are known.

use ipnet::Ipv4Net;

/// What is known about some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    value: Vec<u8>,
    /// One where `value` is right.
    known: Vec<u8>,
}

impl Bits {
    pub(super) fn of(value: &[u8]) -> Bits {
        Bits { value: value.to_vec(), known: vec![0xff; value.len()] }
    }

    pub(super) fn unknown(len: usize) -> Bits {
        Bits { value: vec![0; len], known: vec![0; len] }
    }

    /// A name as the kernel compares it: with NULs up to `len` bytes.
    pub(super) fn name(name: &str, len: usize) -> Bits {
        let mut value = name.as_bytes().to_vec();
        value.resize(len, 0);
        Bits::of(&value)
    }

    /// An address in `prefix`.
    pub(super) fn address(prefix: Ipv4Net) -> Bits {
        Bits { value: prefix.network().octets().to_vec(), known: prefix.netmask().octets().to_vec() }
    }

    pub(super) fn concat(parts: &[Bits]) -> Bits {
        let join = |field: fn(&Bits) -> &Vec<u8>| parts.iter().flat_map(field).copied().collect();
        Bits { value: join(|bits| &bits.value), known: join(|bits| &bits.known) }
    }

    /// Bytes `offset..offset + len`; what is beyond the end is unknown.
    pub(super) fn slice(&self, offset: usize, len: usize) -> Bits {
        let cut =
            |bytes: &[u8]| bytes.iter().copied().chain(std::iter::repeat(0)).skip(offset).take(len).collect();
        Bits { value: cut(&self.value), known: cut(&self.known) }
    }

    /// `self & mask ^ xor`: where the mask has a zero, the result is known.
    pub(super) fn masked(&self, mask: &[u8], xor: &[u8]) -> Bits {
        let len = mask.len().min(xor.len());
        let Bits { value, known } = self.slice(0, len);
        Bits {
            value: (0..len).map(|at| value[at] & mask[at] ^ xor[at]).collect(),
            known: (0..len).map(|at| known[at] | !mask[at]).collect(),
        }
    }

    /// Whether the first bytes are `value`, if that can be told.
    pub(super) fn start_with(&self, value: &[u8]) -> Option<bool> {
        let here = self.slice(0, value.len());
        let differ = |at: usize| (here.value[at] ^ value[at]) & here.known[at] != 0;
        match (0..value.len()).any(differ) {
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
}
