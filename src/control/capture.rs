//! Writes what the workers leave at the tap as pcapng, one capture at a time.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::blocks::BlockFile;
use super::run::RunError;
use crate::observe::request::CaptureRequest;
use crate::packet::Verdict;
use crate::pcap::writer;
use crate::worker::tap::{Record, SNAPLEN, Tap};

/// Largest file of `--capture`, bytes.
const MAX_FILE: u64 = 64 << 20;
/// How often an idle tap is looked at.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a client may leave its socket full: its frames are counted as missed meanwhile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

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
        if path.as_os_str() == "-" {
            return Err(failed(
                "standard output is for the summary; name a file, or use: xdpfrag capture -".into(),
            ));
        }
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
    ) -> io::Result<()> {
        // Blocks are made in memory first: each is written at once.
        let mut blocks = Vec::new();
        writer::section(&mut blocks);
        for interface in &self.interfaces {
            let after = format!("{interface} after");
            writer::interface(&mut blocks, interface, "as received", SNAPLEN as u32);
            writer::interface(&mut blocks, &after, "as handed back to the kernel", SNAPLEN as u32);
        }
        let (mut left, mut taken) = (max_bytes, 0);
        loop {
            left = match left.checked_sub(blocks.len() as u64) {
                Some(left) => left,
                None => return Ok(()),
            };
            out.write_all(&blocks)?;
            *frames = taken;
            blocks.clear();
            match self.tap.take(|record| add(&mut blocks, record, self.tap.missed())) {
                Some(()) => taken += 1,
                None => {
                    out.flush()?;
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
    result: io::Result<()>,
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
            Err(why) => {
                tracing::warn!(
                    "--capture {path}: {why}; it ends with {frames} whole frames, at least {lost} more are lost to \
                     it; forwarding goes on"
                );
            }
        }
    }
}

/// Adds a record as Wireshark shows it; `missed` frames before it were not captured. Each LAN interface is two: of what
/// it received, and of what went back, which without comments look alike.
fn add(blocks: &mut Vec<u8>, record: &Record, missed: u64) {
    let interface = 2 * record.interface + u32::from(record.part.is_some());
    let Record { time, length, bytes, .. } = record;
    let frame =
        writer::Frame { interface, time: *time, length: *length, bytes, comment: &comment(record), missed };
    writer::frame(blocks, &frame);
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
