//! As much of IPv6 (RFC 8200) as the MSS clamp needs: the way to the TCP header.

const HEADER_LEN: usize = 40;
const TCP: u8 = 6;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// More extension headers than any sender has reason to use (each kind once, destination
/// options twice: RFC 8200 section 4.1), so that a long chain costs bounded time.
const MAX_EXTENSIONS: usize = 6;

/// The TCP segment in the IPv6 packet at the start of `packet`, by its payload length.
///
/// `None` for other protocols, for what is cut short, and for every fragment but the first.
pub fn tcp_segment_mut(packet: &mut [u8]) -> Option<&mut [u8]> {
    let (header, rest) = packet.split_first_chunk_mut::<HEADER_LEN>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut payload = rest.get_mut(..usize::from(u16::from_be_bytes([header[4], header[5]])))?;
    let mut next = header[6];
    for _ in 0..=MAX_EXTENSIONS {
        if next == TCP {
            return Some(payload);
        }
        let [following, len, high, low, ..] = *payload else { return None };
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION => usize::from(len) * 8 + 8,
            AUTHENTICATION => usize::from(len) * 4 + 8,
            FRAGMENT if u16::from_be_bytes([high, low]) >> 3 == 0 => 8,
            _ => return None,
        };
        payload = payload.get_mut(len..)?;
        next = following;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        bytes[6] = next;
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn tcp_is_found_directly_and_behind_extension_headers() {
        let segment = [7u8; 20];
        assert_eq!(tcp_segment_mut(&mut packet(TCP, &segment)).unwrap(), segment);
        for (kind, extension) in [
            (HOP_BY_HOP, [TCP, 0, 0, 0, 0, 0, 0, 0].as_slice()),
            (DESTINATION, &[TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (ROUTING, &[TCP, 0, 4, 0, 0, 0, 0, 0]),
            (AUTHENTICATION, &[TCP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]),
            (FRAGMENT, &[TCP, 0, 0, 1, 0, 0, 0, 9]),
        ] {
            let mut bytes = packet(kind, &[extension, &segment].concat());
            assert_eq!(tcp_segment_mut(&mut bytes).unwrap(), segment, "{kind}");
            for len in 0..bytes.len() {
                assert!(tcp_segment_mut(&mut bytes[..len]).is_none(), "{kind} cut to {len}");
            }
        }
    }

    #[test]
    fn nothing_is_found_in_other_packets() {
        let later_fragment = [TCP, 0, 0, 8, 0, 0, 0, 9].repeat(4);
        assert!(tcp_segment_mut(&mut packet(FRAGMENT, &later_fragment)).is_none());
        assert!(tcp_segment_mut(&mut packet(17, &[0; 40])).is_none());
        let endless = [DESTINATION, 0, 0, 0, 0, 0, 0, 0].repeat(100);
        assert!(tcp_segment_mut(&mut packet(DESTINATION, &endless)).is_none());
        let mut version4 = packet(TCP, &[0; 20]);
        version4[0] = 0x40;
        assert!(tcp_segment_mut(&mut version4).is_none());
    }
}
