//! The option list behind IPv4 and TCP headers: one syntax (RFC 791 section 3.1,
//! RFC 9293 section 3.1), a kind, a length that counts both, and data.

use std::ops::Range;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;

/// One step along a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// An option and where it stands in the list, kind and length bytes included.
    Option(u8, Range<usize>),
    /// End-of-list option, or the list is used up. What follows means nothing.
    End,
    /// A length below 2 or beyond the list.
    Malformed,
}

/// The first option at or behind position `at`, no-operations skipped.
#[inline]
pub fn next(list: &[u8], mut at: usize) -> Step {
    loop {
        match list.get(at) {
            None | Some(&END) => return Step::End,
            Some(&NO_OPERATION) => at += 1,
            Some(&kind) => {
                let len = list.get(at + 1).map_or(0, |len| usize::from(*len));
                if len < 2 || len > list.len() - at {
                    return Step::Malformed;
                }
                return Step::Option(kind, at..at + len);
            }
        }
    }
}

/// The options of `list`, kind and place, up to its end or to where it is malformed.
#[inline]
pub fn iter(list: &[u8]) -> impl Iterator<Item = (u8, Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || match next(list, at) {
        Step::Option(kind, place) => {
            at = place.end;
            Some((kind, place))
        }
        Step::End | Step::Malformed => None,
    })
}

/// True if every length in `list` is right.
#[inline]
pub fn sound(list: &[u8]) -> bool {
    find(list, &[]) == Some(false)
}

/// True if `list` holds an option of one of `kinds`; `None` if it is malformed before one.
#[inline]
pub fn find(list: &[u8], kinds: &[u8]) -> Option<bool> {
    let mut at = 0;
    loop {
        match next(list, at) {
            Step::Option(kind, _) if kinds.contains(&kind) => return Some(true),
            Step::Option(_, place) => at = place.end,
            Step::End => return Some(false),
            Step::Malformed => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        assert_eq!(next(&[], 0), Step::End);
        assert_eq!(next(&[1, 1, 0, 2, 4], 0), Step::End);
        assert_eq!(next(&[1, 2, 4, 5, 6, 8], 0), Step::Option(2, 1..5));
        assert_eq!(next(&[1, 2, 4, 5, 6, 8], 5), Step::Malformed, "no length byte");
        assert_eq!(next(&[8, 0, 0, 0], 0), Step::Malformed, "zero length");
        assert_eq!(next(&[8, 1, 0, 0], 0), Step::Malformed, "length without kind");
        assert_eq!(next(&[8, 5, 0, 0], 0), Step::Malformed, "over-read");
        assert_eq!(next(&[8, 4, 0, 0], 0), Step::Option(8, 0..4));
        assert_eq!(next(&[8, 4, 0, 0], 9), Step::End);
    }

    #[test]
    fn an_iteration_ends_where_the_list_does() {
        let all = |list: &[u8]| iter(list).collect::<Vec<_>>();
        assert_eq!(all(&[1, 2, 4, 5, 6, 8, 2, 1, 0, 8, 2]), [(2, 1..5), (8, 5..7)]);
        assert_eq!(all(&[2, 4, 5, 6, 8, 0, 8, 2]), [(2, 0..4)], "malformed");
        assert_eq!(all(&[]), []);
    }

    #[test]
    fn a_walk_ends_for_every_list_of_three_bytes() {
        for list in 0..1u32 << 24 {
            let [_, list @ ..] = list.to_be_bytes();
            let (mut at, mut steps) = (0, 0);
            while let Step::Option(_, range) = next(&list, at) {
                assert!(range.start >= at && range.end <= list.len() && range.len() >= 2);
                at = range.end;
                steps += 1;
            }
            assert!(steps <= 1);
        }
    }
}
