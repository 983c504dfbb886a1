//! Frames, files and a folder to replay in.

use std::borrow::Cow;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};

pub(crate) const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];

/// RFC 1071, written out once more so that the test does not believe the code that it tests.
pub(crate) fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// An Ethernet frame with an IPv4 packet of an unassigned protocol, so that nothing but IP is looked at.
pub(crate) fn frame(destination: [u8; 4], id: u16, flags_offset: u16, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload.len() as u16).to_be_bytes());
    header.extend(id.to_be_bytes());
    header.extend(flags_offset.to_be_bytes());
    header.extend([64, 253, 0, 0, 198, 18, 0, 1]);
    header.extend(destination);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&ETHERNET[..], &header, payload].concat()
}

pub(crate) fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 % 251) as u8).collect()
}

pub(crate) fn packet(second: u32, data: &[u8], original_len: usize) -> RawPcapPacket<'_> {
    RawPcapPacket {
        ts_sec: second,
        ts_frac: 123_456,
        incl_len: data.len() as u32,
        orig_len: original_len as u32,
        data: Cow::Borrowed(data),
    }
}

pub(crate) fn write_pcap(path: &Path, datalink: DataLink, packets: &[RawPcapPacket<'_>]) {
    let header = PcapHeader { datalink, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(fs::File::create(path).unwrap(), header).unwrap();
    for packet in packets {
        writer.write_raw_packet(packet).unwrap();
    }
}

/// Seconds and bytes of each packet.
pub(crate) fn read_pcap(path: &Path) -> Vec<(u32, Vec<u8>)> {
    let mut reader = PcapReader::new(fs::File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_raw_packet() {
        let packet = packet.unwrap();
        assert_eq!(packet.ts_frac, 123_456);
        packets.push((packet.ts_sec, packet.data.into_owned()));
    }
    packets
}

/// Says that a test did not test anything, where `make test` lists it again at its end.
pub(crate) fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let line = format!("SKIPPED replay {test}: {reason}\n");
    let mut told = std::io::stderr().write_all(line.as_bytes());
    if let Some(list) = std::env::var_os("XDPFRAG_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(list);
        told = told.and(file.and_then(|mut file| file.write_all(line.as_bytes())));
    }
    told.expect("a skipped test must be told");
}

/// The program under test.
pub(crate) const XDPFRAG: &str = env!("CARGO_BIN_EXE_xdpfrag");

pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn replay(&self, input: &str, output: &str, flags: &str) -> Output {
        Command::new(XDPFRAG)
            .arg("replay")
            .args([self.path(input), self.path(output)])
            .args(flags.split_whitespace())
            .output()
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn refused(&self, input: &str, output: &str, code: i32, parts: &[&str]) {
        let before = self.names();
        let result = self.replay(input, output, "--mtu 1422");
        let message = String::from_utf8(result.stderr).unwrap();
        assert_eq!(result.status.code(), Some(code), "{message}");
        for part in parts {
            assert!(message.contains(part), "'{part}' is missing in: {message}");
        }
        assert_eq!(self.names(), before, "something is left behind");
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Numbers in either byte order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order(pub(crate) bool);

impl Order {
    pub(crate) const BOTH: [Order; 2] = [Order(false), Order(true)];

    pub(crate) fn u32(self, number: u32) -> [u8; 4] {
        if self.0 { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    pub(crate) fn u16(self, number: u16) -> [u8; 2] {
        if self.0 { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    /// A pcap file with that magic number and word of the link type; each record has the same time and `extra` bytes
    /// after its lengths.
    pub(crate) fn pcap(self, magic: u32, link: u32, extra: &[u8], frames: &[Vec<u8>]) -> Vec<u8> {
        let mut file = [self.u32(magic).to_vec(), self.u16(2).to_vec(), self.u16(4).to_vec()].concat();
        for word in [0, 0, 262_144, link] {
            file.extend(self.u32(word));
        }
        for frame in frames {
            for word in [1_700_000_000, 999_999, frame.len() as u32, frame.len() as u32] {
                file.extend(self.u32(word));
            }
            file.extend_from_slice(extra);
            file.extend_from_slice(frame);
        }
        file
    }

    /// A pcapng block.
    pub(crate) fn block(self, kind: u32, body: &[&[u8]]) -> Vec<u8> {
        let mut body = body.concat();
        body.resize(body.len().next_multiple_of(4), 0);
        let length = self.u32(body.len() as u32 + 12);
        [&self.u32(kind)[..], &length, &body, &length].concat()
    }

    /// A section header that says how long the section is, -1 for nothing.
    pub(crate) fn section(self, length: i64) -> Vec<u8> {
        let length = if self.0 { length.to_be_bytes() } else { length.to_le_bytes() };
        self.block(0x0a0d_0d0a, &[&self.u32(0x1a2b_3c4d), &self.u16(1), &self.u16(0), &length])
    }

    /// An interface description.
    pub(crate) fn interface(self, link: u16, snaplen: u32, options: &[u8]) -> Vec<u8> {
        self.block(1, &[&self.u16(link), &[0, 0], &self.u32(snaplen), options])
    }

    /// An option, padded.
    pub(crate) fn option(self, code: u16, value: &[u8]) -> Vec<u8> {
        let mut option = [&self.u16(code)[..], &self.u16(value.len() as u16), value].concat();
        option.resize(option.len().next_multiple_of(4), 0);
        option
    }

    /// An enhanced packet block; `options` are as they stand in the file.
    pub(crate) fn packet(self, interface: u32, frame: &[u8], options: &[u8]) -> Vec<u8> {
        let len = frame.len() as u32;
        let words: Vec<u8> =
            [interface, 7, 8, len, len].into_iter().flat_map(|word| self.u32(word)).collect();
        let padding = &[0; 3][..frame.len().next_multiple_of(4) - frame.len()];
        self.block(6, &[&words, frame, padding, options])
    }
}
