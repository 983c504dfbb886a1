//! Writes what the workers leave at the tap as pcapng, one capture at a time.

use std::borrow::Cow;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};

use super::blocks::BlockFile;
use super::run::RunError;
use crate::observe::request::CaptureRequest;
use crate::packet::Verdict;
use crate::worker::tap::{Record, SNAPLEN, Tap};

/// Largest file of `--capture`, bytes.
const MAX_FILE: u64 = 64 << 20;
/// How often an idle tap is looked at.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a client may leave its socket full: its frames are counted as missed meanwhile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// pcapng's `if_tsresol`: 10^-9 s.
const NANOSECONDS: u8 = 9;

/// The captures of a run.
#[derive(Debug, Clone)]
pub(super) struct Captures {
    tap: Arc<Tap>,
    busy: Arc<AtomicBool>,
    interfaces: Vec<String>,
}

impl Captures {
    /// Captures that name `interfaces` in this order.
    pub(super) fn new(tap: Arc<Tap>, interfaces: &[String]) -> Captures {
        Captures { tap, busy: Arc::default(), interfaces: interfaces.to_vec() }
    }

    /// Sends frames to `client` until it goes away.
    ///
    /// # Errors
    /// If another capture runs.
    pub(super) fn stream(&self, request: CaptureRequest, client: UnixStream) -> Result<(), String> {
        client.set_write_timeout(Some(WRITE_TIMEOUT)).map_err(|error| error.to_string())?;
        let gone = client.try_clone().map_err(|error| error.to_string())?;
        // Its end is how a client ends a capture.
        self.begin(request, client, u64::MAX, move || hung_up(&gone), |_| ())
    }

    /// Writes frames to the file at `path`, which is replaced, until it has [`MAX_FILE`] bytes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn to_file(&self, path: &Path) -> Result<(), RunError> {
        let failed = |why: String| RunError::Capture { path: path.to_owned(), why };
        let file = BlockFile::create(path).map_err(|error| failed(error.to_string()))?;
        let pause = || {
            thread::sleep(PAUSE);
            false
        };
        let end = {
            let path = path.to_owned();
            move |written: Written| written.tell(&path)
        };
        self.begin(CaptureRequest::default(), file, MAX_FILE, pause, end).map_err(failed)
    }

    fn begin(
        &self,
        request: CaptureRequest,
        out: impl Write + Send + 'static,
        max_bytes: u64,
        pause: impl Fn() -> bool + Send + 'static,
        end: impl FnOnce(Written) + Send + 'static,
    ) -> Result<(), String> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err("another capture runs; end it first".into());
        }
        self.tap.open(request);
        let captures = self.clone();
        let spawned = thread::Builder::new().name("capture".into()).spawn(move || {
            let mut frames = 0;
            let result = captures.write(out, max_bytes, &pause, &mut frames);
            let lost = captures.end();
            end(Written { frames, lost, result });
        });
        spawned.map(drop).map_err(|error| {
            self.end();
            error.to_string()
        })
    }

    /// Answers how many frames were wanted last and are in no file.
    fn end(&self) -> u64 {
        let lost = self.tap.close();
        self.busy.store(false, Ordering::Release);
        lost
    }

    /// Until `pause` says that it is over, `max_bytes` are written, or a write fails; counts the `frames` written.
    fn write(
        &self,
        mut out: impl Write,
        max_bytes: u64,
        pause: &dyn Fn() -> bool,
        frames: &mut u64,
    ) -> Result<(), PcapError> {
        // Blocks are made in memory first: each is written at once.
        let mut blocks = PcapNgWriter::new(Vec::new())?;
        for interface in &self.interfaces {
            blocks.write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: SNAPLEN as u32,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(interface)),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            })?;
        }
        let (mut left, mut taken) = (max_bytes, 0);
        loop {
            left = match left.checked_sub(blocks.get_ref().len() as u64) {
                Some(left) => left,
                None => return Ok(()),
            };
            out.write_all(blocks.get_ref()).map_err(PcapError::IoError)?;
            *frames = taken;
            blocks.get_mut().clear();
            let missed = || self.tap.missed();
            match self.tap.take(|record| blocks.write_pcapng_block(block(record, missed()))) {
                Some(result) => {
                    result?;
                    taken += 1;
                }
                None => {
                    out.flush().map_err(PcapError::IoError)?;
                    if pause() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// What a capture came to.
#[derive(Debug)]
struct Written {
    /// Frames in the file.
    frames: u64,
    /// Frames that workers had left, or had found no room for, when it ended.
    lost: u64,
    /// Why it ended.
    result: Result<(), PcapError>,
}

impl Written {
    /// Says how the capture to the file at `path` ended, which nobody asked it to.
    fn tell(&self, path: &Path) {
        let Written { frames, lost, result } = self;
        let path = path.display();
        match result {
            Ok(()) => {
                let full = MAX_FILE >> 20;
                tracing::info!("--capture {path}: {full} MiB are full; it ends with {frames} frames");
            }
            Err(error) => {
                let why = match error {
                    PcapError::IoError(why) => why.to_string(),
                    other => other.to_string(),
                };
                tracing::warn!(
                    "--capture {path}: {why}; it ends with {frames} whole frames, at least {lost} more are lost to \
                     it; forwarding goes on"
                );
            }
        }
    }
}

/// A record as Wireshark shows it; `missed` frames before it were not captured.
fn block(record: &Record, missed: u64) -> EnhancedPacketBlock<'_> {
    let mut options = vec![EnhancedPacketOption::Comment(Cow::Owned(comment(record)))];
    if missed > 0 {
        options.push(EnhancedPacketOption::DropCount(missed));
    }
    EnhancedPacketBlock {
        interface_id: record.interface,
        timestamp: record.time,
        original_len: record.length as u32,
        data: Cow::Borrowed(&record.bytes),
        options,
    }
}

/// `after 1/2, queue 0: forward fragmented (oversize: ...); edits: df, id`
fn comment(record: &Record) -> String {
    let stage = match record.part {
        None => "before".to_owned(),
        Some(part) => format!("after {}/{}", part + 1, record.parts),
    };
    let verdict = match record.verdict {
        Verdict::Forward(_) => "forward",
        Verdict::Pass(_) => "pass",
        Verdict::Drop(_) => "drop",
    };
    let reason = record.verdict.reason();
    let mut text =
        format!("{stage}, queue {}: {verdict} {} ({})", record.queue, reason.label(), reason.meaning());
    let edits: Vec<&str> = record.edits.iter().map(|edit| edit.label()).collect();
    if !edits.is_empty() {
        text += &format!("; edits: {}", edits.join(", "));
    }
    text
}

/// Waits a moment; true if the other end is closed.
fn hung_up(client: &UnixStream) -> bool {
    let mut ends = [PollFd::new(client.as_fd(), PollFlags::empty())];
    let pause = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::ZERO);
    poll(&mut ends, pause).is_ok_and(|ready| ready > 0)
}
