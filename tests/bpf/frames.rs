//! Frames to send through the programs.

use xdpfrag::packet::checksum;

/// What frames are made of; every test changes what it is about.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Destination MAC, first byte.
    pub(crate) mac: u8,
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) ethertype: u16,
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
    pub(crate) frag_off: u16,
    pub(crate) protocol: u8,
    pub(crate) ip_options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// Ethernet padding behind the packet.
    pub(crate) padding: usize,
}

/// TCP-AO with a code of 12 bytes (RFC 5925), and TCP-MD5 (RFC 2385).
pub(crate) const AO: [u8; 16] = [29, 16, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];
pub(crate) const MD5: [u8; 18] = [19, 18, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9];

pub(crate) const DF: u16 = 0x4000;
pub(crate) const MF: u16 = 0x2000;
pub(crate) const LAN_HOST: [u8; 4] = [198, 51, 100, 2];
pub(crate) const FAR_HOST: [u8; 4] = [198, 18, 0, 2];
pub(crate) const ROUTER: [u8; 4] = [198, 18, 0, 1];

impl Frame {
    /// A UDP datagram with DF whose IPv4 total length is `total`, at least 28.
    pub(crate) fn udp(total: usize) -> Frame {
        let mut payload: Vec<u8> = (0..total - 20).map(|n| n as u8).collect();
        payload[..8].copy_from_slice(&[0x30, 0x39, 0, 53, 0, 0, 0, 0]);
        payload[4..6].copy_from_slice(&((total - 20) as u16).to_be_bytes());
        Frame::of(17, payload)
    }

    /// A TCP segment with DF, of these flags and options, data of `data` bytes.
    pub(crate) fn tcp(flags: u8, options: &[u8], data: usize) -> Frame {
        assert_eq!(options.len() % 4, 0);
        let mut payload =
            vec![0x9c, 0x40, 0x01, 0xbb, 1, 2, 3, 4, 5, 6, 7, 8, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
        payload[12] = ((5 + options.len() / 4) << 4) as u8;
        payload.extend(options);
        payload.extend((0..data).map(|n| n as u8));
        let mut frame = Frame::of(6, payload);
        frame.finish_tcp();
        frame
    }

    fn of(protocol: u8, payload: Vec<u8>) -> Frame {
        Frame {
            mac: 2,
            tags: Vec::new(),
            ethertype: 0x0800,
            source: LAN_HOST,
            destination: FAR_HOST,
            frag_off: DF,
            protocol,
            ip_options: Vec::new(),
            payload,
            padding: 0,
        }
    }

    /// Sum of the TCP segment with its pseudo-header: 0xffff if the checksum is right.
    pub(crate) fn tcp_sum(&self) -> u16 {
        checksum::add(checksum::sum(&self.payload), self.pseudo_sum())
    }

    pub(crate) fn pseudo_sum(&self) -> u16 {
        checksum::pseudo_header(
            self.source.into(),
            self.destination.into(),
            self.protocol,
            self.payload.len() as u16,
        )
    }

    pub(crate) fn finish_tcp(&mut self) {
        self.payload[16..18].fill(0);
        let sum = !self.tcp_sum();
        self.payload[16..18].copy_from_slice(&sum.to_be_bytes());
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.mac, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (proto, tci) in &self.tags {
            bytes.extend(proto.to_be_bytes());
            bytes.extend(tci.to_be_bytes());
        }
        bytes.extend(self.ethertype.to_be_bytes());
        let header_len = 20 + self.ip_options.len();
        let mut header =
            vec![0x40 | (header_len / 4) as u8, 0, 0, 0, 0x12, 0x34, 0, 0, 64, self.protocol, 0, 0];
        header[2..4].copy_from_slice(&((header_len + self.payload.len()) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&self.frag_off.to_be_bytes());
        header.extend(self.source);
        header.extend(self.destination);
        header.extend(&self.ip_options);
        let sum = !checksum::sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(header);
        bytes.extend(&self.payload);
        bytes.resize(bytes.len() + self.padding, 0xee);
        bytes
    }

    /// Where the IPv4 header begins.
    pub(crate) fn l3(&self) -> usize {
        14 + 4 * self.tags.len()
    }
}

/// `frame` with one change.
pub(crate) fn with(mut frame: Frame, change: impl FnOnce(&mut Frame)) -> Frame {
    change(&mut frame);
    frame
}

/// An MSS option.
pub(crate) fn mss(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [2, 4, high, low]
}
