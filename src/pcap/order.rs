//! Numbers in the byte order of the machine that wrote a file, or a section of it.

/// A byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Big,
    Little,
}

impl Order {
    /// The order in which the first four of `bytes` are `number`.
    pub(super) fn of(bytes: &[u8], number: u32) -> Option<Order> {
        [Order::Big, Order::Little].into_iter().find(|order| order.u32(bytes, 0) == Some(number))
    }

    /// The number at `at`, if `bytes` are so long.
    pub(super) fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let word = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Order::Big => u32::from_be_bytes(word),
            Order::Little => u32::from_le_bytes(word),
        })
    }

    /// The same of two bytes.
    pub(super) fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let word = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            Order::Big => u16::from_be_bytes(word),
            Order::Little => u16::from_le_bytes(word),
        })
    }

    /// The same of two bytes.
    pub(super) fn short(self, number: u16) -> [u8; 2] {
        match self {
            Order::Big => number.to_be_bytes(),
            Order::Little => number.to_le_bytes(),
        }
    }

    /// `number` as it stands in the file.
    pub(super) fn bytes(self, number: u32) -> [u8; 4] {
        match self {
            Order::Big => number.to_be_bytes(),
            Order::Little => number.to_le_bytes(),
        }
    }
}
