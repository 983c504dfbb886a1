//! `capture`: frames of a running instance, before and after, as pcapng.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::files::Output;
use super::{Failure, instance, output};
use crate::config::values;
use crate::control::blocks::BlockFile;
use crate::observe::client;
use crate::observe::request::{CaptureRequest, Outcome, Request};
use crate::observe::snapshot::Snapshot;
use crate::packet::Reason;

/// pcapng block types (draft-ietf-opsawg-pcapng sections 4.1 and 4.3).
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const ENHANCED_PACKET: u32 = 6;
/// No block is as long.
const MAX_BLOCK: usize = 1 << 16;
/// How often the clock is looked at while nothing comes.
const TICK: Duration = Duration::from_millis(100);

/// The arguments of `capture`.
#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// pcapng file or pipe to write, - for standard output; each frame has what became of it as a comment
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Interface of the instance; may be left out if one instance runs in this network namespace
    #[arg(long, value_name = "IF", value_parser = values::interface)]
    iface: Option<String>,

    /// Only packets from or to this address
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,

    /// Only TCP and UDP packets from or to this port
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// End after so many frames, those before and after counted one by one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// End after so many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,

    /// End before the file is longer
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    max_bytes: u64,
}

pub(super) fn capture(args: &CaptureArgs) -> Result<(), Failure> {
    let out = Output::find(&args.file)?;
    let interface = instance::find(args.iface.as_deref())?;
    let before = client::fetch(&interface).ok();
    let request = Request::Capture(CaptureRequest { host: args.host, port: args.port });
    let instance = client::ask(&interface, &request).map_err(|error| Failure::Running(error.into()))?;
    instance.set_read_timeout(Some(TICK)).context("cannot time the capture")?;
    let deadline = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut blocks =
        Blocks { instance, deadline, ended: until_a_signal().context("cannot wait for signals")? };
    let first = blocks.next().context("no answer from the instance")?;
    let first = match first {
        Some(block) if kind(&block) == SECTION_HEADER => block,
        Some(answer) => {
            let said: Result<Outcome, _> = serde_json::from_slice(&answer);
            return Err(Failure::Running(anyhow::anyhow!(said.map_or_else(
                |_| "the instance sends no pcapng; is it another version?".into(),
                |outcome| outcome.message
            ))));
        }
        None => return Err(Failure::Running(anyhow::anyhow!("the instance sent nothing"))),
    };
    let mut out = match out {
        Output::Standard(file) | Output::Stream(file) => BlockFile::stream(file),
        Output::File(path) => BlockFile::create(&path)
            .map_err(|error| Failure::Usage(format!("cannot write {}: {error}", args.file.display())))?,
    };
    let (mut left, mut frames) = (args.max_bytes, 0);
    let mut block = Some(first);
    while let Some(bytes) = block {
        let Some(rest) = left.checked_sub(bytes.len() as u64) else { break };
        left = rest;
        out.write_all(&bytes).and_then(|()| out.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::OutputClosed,
            _ => {
                Failure::Running(anyhow::Error::new(error).context(format!(
                    "{} takes no more; {frames} whole frames are in it",
                    args.file.display()
                )))
            }
        })?;
        frames += u64::from(kind(&bytes) == ENHANCED_PACKET);
        if args.count.is_some_and(|count| frames >= count) || blocks.over() {
            break;
        }
        block = blocks.next().context("the instance sent a damaged block")?;
    }
    output::tell(&format!("xdpfrag: {frames} frames captured"));
    if frames == 0 {
        let meanwhile =
            before.zip(client::fetch(&interface).ok()).map(|(before, now)| received(&before, &now));
        output::tell(&why_none(args.host.is_some() || args.port.is_some(), meanwhile.as_deref()));
    }
    Ok(())
}

/// Frames that the XDP programs have counted between two snapshots, by reason; zeros left out.
fn received(before: &Snapshot, now: &Snapshot) -> Vec<(String, u64)> {
    let sum = |snapshot: &Snapshot, reason: &str| -> u64 {
        snapshot.interfaces.iter().filter_map(|interface| interface.xdp.get(reason)).sum()
    };
    let grown = |reason: &Reason| {
        let frames = sum(now, reason.label()).saturating_sub(sum(before, reason.label()));
        (frames > 0).then(|| (reason.label().to_owned(), frames))
    };
    Reason::ALL.iter().filter_map(grown).collect()
}

/// Why there is no frame: of those that were `received` none came by.
fn why_none(chosen: bool, received: Option<&[(String, u64)]>) -> String {
    let counted = match received {
        Some([]) => {
            return "No frame was received meanwhile: do the hosts send by way of this interface?".into();
        }
        Some(frames) => {
            let each: Vec<_> = frames.iter().map(|(reason, frames)| format!("{reason} {frames}")).collect();
            format!("Received meanwhile: {}. ", each.join(", "))
        }
        None => String::new(),
    };
    let of = if chosen { "None of what --host and --port choose" } else { "None of it" };
    format!(
        "{counted}{of} was for a worker: what fits never comes by, and what is out of scope is not touched.\n\
         To see what fits, too: set redirect = \"all\" in the file of --config and `xdpfrag reload`, or start with\n\
         --redirect all"
    )
}

/// Ctrl-C ends a capture as its limits do; a second time, where a pipe takes no more, it ends the program.
fn until_a_signal() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&ended))?;
        flag::register(signal, Arc::clone(&ended))?;
    }
    Ok(ended)
}

/// The type of a block in the byte order of this machine, which the instance shares.
fn kind(block: &[u8]) -> u32 {
    block.first_chunk().map_or(0, |word| u32::from_ne_bytes(*word))
}

/// The blocks that an instance sends.
struct Blocks {
    instance: UnixStream,
    deadline: Option<Instant>,
    /// By a signal.
    ended: Arc<AtomicBool>,
}

impl Blocks {
    fn over(&self) -> bool {
        self.ended.load(Ordering::Relaxed) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The next block, or the whole of an answer that is none; `None` at the end of the stream or of the time.
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut block = vec![0; 8];
        match self.fill(&mut block)? {
            8 => {}
            _ => return Ok(None),
        }
        let length = u32::from_ne_bytes([block[4], block[5], block[6], block[7]]) as usize;
        if kind(&block) == u32::from_ne_bytes(*b"{\"ok") {
            self.instance.read_to_end(&mut block)?;
            return Ok(Some(block));
        }
        if !(12..=MAX_BLOCK).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        block.resize(length, 0);
        let filled = 8 + self.fill(&mut block[8..])?;
        Ok((filled == length).then_some(block))
    }

    /// Bytes read, all but at the end of the stream or of the time.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.instance.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    if self.over() {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}
