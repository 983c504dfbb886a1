//! `--capture` and `xdpfrag capture`: copies of frames before and after the transform, for a thread that writes them.
//!
//! A worker never waits here: buffers are made before the capture begins, and a frame for which there is none is
//! counted and not captured. While nobody captures it costs one relaxed load per frame.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use crossbeam::queue::ArrayQueue;

use crate::observe::request::CaptureRequest;
use crate::packet::{self, Edits, Frames, Gathered, Outcome, Packet, Sink, Verdict};

/// Bytes kept of a frame: all of it unless it is jumbo.
pub const SNAPLEN: usize = 2048;
/// Frames that may wait to be written: 3 MiB, while a capture runs.
const BUFFERS: usize = 1500;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A captured frame.
#[derive(Debug)]
pub struct Record {
    /// Time since 1970 at which the transform was done.
    pub time: Duration,
    /// Which LAN interface, counted in the order of the plan.
    pub interface: u32,
    /// RX queue.
    pub queue: u32,
    /// What was decided.
    pub verdict: Verdict,
    /// What was changed.
    pub edits: Edits,
    /// `None` as it was received; else the place among the frames that were handed back, from 0.
    pub part: Option<u16>,
    /// How many were handed back.
    pub parts: u16,
    /// Length of the whole frame, bytes.
    pub length: usize,
    /// Its first [`SNAPLEN`] bytes.
    pub bytes: Vec<u8>,
}

/// Where workers leave frames; shared by those of a run.
#[derive(Debug)]
pub struct Tap {
    on: AtomicBool,
    wanted: RwLock<CaptureRequest>,
    free: ArrayQueue<Box<Record>>,
    full: ArrayQueue<Box<Record>>,
    missed: AtomicU64,
    watchers: Mutex<Watchers>,
}

/// Who is told when a capture begins and ends.
#[derive(Default)]
struct Watchers {
    on: bool,
    watchers: Vec<Box<dyn Fn(bool) + Send>>,
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers").field("on", &self.on).finish_non_exhaustive()
    }
}

impl Default for Tap {
    fn default() -> Tap {
        Tap {
            on: AtomicBool::new(false),
            wanted: RwLock::default(),
            free: ArrayQueue::new(BUFFERS),
            full: ArrayQueue::new(BUFFERS),
            missed: AtomicU64::new(0),
            watchers: Mutex::default(),
        }
    }
}

impl Tap {
    /// Makes the buffers and begins.
    pub fn open(&self, wanted: CaptureRequest) {
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
        self.missed.store(0, Relaxed);
        // What a worker was about to leave when the last capture ended.
        while self.full.pop().is_some() {}
        let empty = || {
            Box::new(Record {
                time: Duration::ZERO,
                interface: 0,
                queue: 0,
                verdict: Verdict::Pass(packet::Reason::Fits),
                edits: Edits::NONE,
                part: None,
                parts: 0,
                length: 0,
                bytes: Vec::with_capacity(SNAPLEN),
            })
        };
        while self.free.push(empty()).is_ok() {}
        self.on.store(true, Relaxed);
        self.tell(true);
    }

    /// Has `watcher` told from now on, and at once, whether somebody captures.
    pub fn on_change(&self, watcher: impl Fn(bool) + Send + 'static) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watcher(watchers.on);
        watchers.watchers.push(Box::new(watcher));
    }

    fn tell(&self, on: bool) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.on = on;
        watchers.watchers.iter().for_each(|watcher| watcher(on));
    }

    /// Ends, and frees the buffers; answers how many frames were wanted since the last [`Tap::missed`] and not taken.
    pub fn close(&self) -> u64 {
        self.on.store(false, Relaxed);
        self.tell(false);
        let mut left = self.missed();
        while self.full.pop().is_some() {
            left += 1;
        }
        while self.free.pop().is_some() {}
        left
    }

    /// The oldest frame that waits, for `write`; `None` if none waits.
    pub fn take<T>(&self, write: impl FnOnce(&Record) -> T) -> Option<T> {
        let record = self.full.pop()?;
        let result = write(&record);
        // There is room for every buffer; one that was made for another capture is freed.
        let _ = self.free.push(record);
        Some(result)
    }

    /// Frames that were wanted and not captured, since the last call.
    pub fn missed(&self) -> u64 {
        self.missed.swap(0, Relaxed)
    }

    /// True if somebody captures and wants `frame`.
    #[inline]
    fn wants(&self, frame: &[u8]) -> bool {
        self.on.load(Relaxed) && self.matches(frame)
    }

    #[cold]
    fn matches(&self, frame: &[u8]) -> bool {
        // Written only while no capture runs; a worker does not wait for it.
        let Ok(wanted) = self.wanted.try_read() else { return false };
        let CaptureRequest { host, port } = *wanted;
        if host.is_none() && port.is_none() {
            return true;
        }
        let Ok((_, packet)) = packet::parse(frame) else { return false };
        let ends: [IpAddr; 2] = [packet.source(), packet.destination()];
        host.is_none_or(|host| ends.contains(&host))
            && port.is_none_or(|port| ports(&packet).is_some_and(|ports| ports.contains(&port)))
    }

    fn leave(&self, fill: impl FnOnce(&mut Record)) {
        let Some(mut record) = self.free.pop() else {
            self.missed.fetch_add(1, Relaxed);
            return;
        };
        fill(&mut record);
        // As many places as buffers.
        let _ = self.full.push(record);
    }
}

/// Source and destination port of TCP and UDP, where the packet has them.
fn ports(packet: &Packet<'_>) -> Option<[u16; 2]> {
    let (protocol, transport) = match packet {
        Packet::V4(packet) => (packet.protocol(), (packet.offset() == 0).then(|| packet.payload())?),
        Packet::V6(packet) => {
            let upper = packet.upper_layer()?;
            (upper.protocol, packet.payload().get(upper.extensions..)?)
        }
    };
    let [a, b, c, d] = *transport.first_chunk()?;
    matches!(protocol, TCP | UDP).then(|| [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])])
}

/// A worker's end of the tap.
#[derive(Debug)]
pub(super) struct Tapped {
    tap: std::sync::Arc<Tap>,
    interface: u32,
    queue: u32,
    /// What the transform wrote, before it goes to the hand-back.
    scratch: Frames,
}

impl Tapped {
    pub(super) fn new(tap: std::sync::Arc<Tap>, interface: u32, queue: u32) -> Tapped {
        Tapped { tap, interface, queue, scratch: Frames::default() }
    }

    /// True if `frame` is to be captured.
    #[inline]
    pub(super) fn wants(&self, frame: &[u8]) -> bool {
        self.tap.wants(frame)
    }

    /// Has `apply` write its output where it can be read, then moves it to `sink`.
    #[cold]
    pub(super) fn through<S: Sink>(
        &mut self,
        sink: &mut S,
        apply: impl FnOnce(&mut Frames) -> Outcome,
    ) -> Outcome {
        self.scratch.clear();
        self.scratch.take_datagrams(sink.takes_datagrams());
        let outcome = apply(&mut self.scratch);
        sink.begin(self.scratch.gso());
        if let Some(datagram) = self.scratch.datagram() {
            return match sink.datagram(&datagram) {
                Gathered::Taken => outcome,
                Gathered::Full | Gathered::Refused => Outcome::FULL,
            };
        }
        let longest = self.scratch.iter().map(<[u8]>::len).max().unwrap_or(0);
        if outcome.frames > 0 && !sink.reserve(usize::from(outcome.frames), longest) {
            return Outcome::FULL;
        }
        for frame in self.scratch.iter() {
            sink.push(frame.len()).copy_from_slice(frame);
        }
        outcome
    }

    /// Leaves `frame` and what became of it for the reader.
    #[cold]
    pub(super) fn record(&self, frame: &[u8], Outcome { verdict, edits, frames: parts }: Outcome) {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let leave = |part: Option<u16>, bytes: &[u8]| {
            self.tap.leave(|record| {
                let (interface, queue, length) = (self.interface, self.queue, bytes.len());
                let mut kept = std::mem::take(&mut record.bytes);
                kept.clear();
                kept.extend_from_slice(&bytes[..length.min(SNAPLEN)]);
                *record = Record { time, interface, queue, verdict, edits, part, parts, length, bytes: kept };
            });
        };
        leave(None, frame);
        if parts > 0 {
            for (part, bytes) in (0..).zip(self.scratch.iter()) {
                leave(Some(part), bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with a UDP packet from 198.18.0.1:7 to 198.18.0.2:9.
    fn frame() -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder = builder.ipv4([198, 18, 0, 1], [198, 18, 0, 2], 64).udp(7, 9);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[1; 20]).unwrap();
        frame
    }

    /// Notes of each frame whether the kernel may cut its flow.
    #[derive(Default)]
    struct Ways {
        gso: bool,
        taken: Vec<bool>,
        last: Vec<u8>,
    }

    impl Sink for Ways {
        fn reserve(&mut self, _: usize, _: usize) -> bool {
            true
        }

        fn push(&mut self, len: usize) -> &mut [u8] {
            self.taken.push(self.gso);
            self.last.resize(len, 0);
            &mut self.last
        }

        fn begin(&mut self, gso: bool) {
            self.gso = gso;
        }
    }

    /// A hand-back has a way of its own for TCP, which all of a flow must take.
    #[test]
    fn what_is_captured_takes_the_way_that_it_would_have_taken() {
        let idents = std::sync::Arc::new(packet::Idents::default());
        let transform = packet::Transform { df: packet::Df::Clear, tcp: packet::Tcp::Resegment, idents };
        let rule = packet::Rule::new(1422, None, None);
        let link = || etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut tcp = Vec::new();
        let segment = link().ipv4([198, 18, 0, 1], [198, 18, 0, 2], 64).tcp(7, 9, 1, 500).ack(1);
        segment.write(&mut tcp, &[1; 1460]).unwrap();
        let mut tapped = Tapped::new(std::sync::Arc::default(), 0, 0);
        let mut ways = Ways::default();
        for bytes in [&tcp, &frame(), &tcp, &vec![0; 20]] {
            let outcome = tapped.through(&mut ways, |scratch| transform.apply(bytes, rule, scratch));
            assert!(outcome.frames > 0, "{outcome:?}");
        }
        assert_eq!(ways.taken, [true, true, false, true, true, false]);
    }

    fn wants(host: Option<&str>, port: Option<u16>) -> bool {
        let tap = Tap::default();
        tap.open(CaptureRequest { host: host.map(|host| host.parse().unwrap()), port });
        tap.wants(&frame())
    }

    #[test]
    fn host_and_port_choose_frames_of_either_direction() {
        assert!(!Tap::default().wants(&frame()), "nobody captures");
        assert!(wants(None, None) && wants(Some("198.18.0.1"), None) && wants(Some("198.18.0.2"), Some(7)));
        assert!(wants(None, Some(9)));
        assert!(!wants(Some("198.18.0.3"), None) && !wants(Some("198.18.0.1"), Some(8)));
        assert!(!wants(Some("2001:db8::1"), None));
    }

    #[test]
    fn frames_without_a_buffer_are_counted_and_the_others_kept_in_order() {
        let tap = std::sync::Arc::new(Tap::default());
        let tapped = Tapped::new(std::sync::Arc::clone(&tap), 1, 3);
        tap.open(CaptureRequest::default());
        let dropped =
            Outcome { verdict: Verdict::Drop(packet::Reason::HandbackFull), edits: Edits::NONE, frames: 0 };
        for number in 0..BUFFERS + 5 {
            tapped.record(&number.to_be_bytes(), dropped);
        }
        assert_eq!((tap.missed(), tap.missed()), (5, 0));
        for number in 0..BUFFERS {
            tap.take(|record| {
                assert_eq!(record.bytes, number.to_be_bytes());
                assert_eq!((record.interface, record.queue, record.part), (1, 3, None));
            })
            .unwrap();
        }
        assert!(tap.take(|_| ()).is_none());
        tapped.record(&[0; 4000], dropped);
        assert_eq!(tap.take(|record| (record.length, record.bytes.len())), Some((4000, SNAPLEN)));
        tap.close();
        assert!(!tap.wants(&frame()));
    }
}
