//! A worker that panics as a bug in it would have it: the binary knows nothing of the test.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use xdpfrag::lab::traffic::stream::Stream;
use xdpfrag::lab::{FAR, Lab, LabConfig};

use super::process::thread_named;
use super::{BEFORE, ON_THE_WAY, long, note, running};
use crate::support::{PORT, binary, forward, lab, skip};

const RATE: u32 = 500;
const WATCH: Duration = Duration::from_secs(1);
const MESSAGE: &str = "a bug, says the test";
/// Flows are hashed to queues: as many in a row do not all go to the same of two.
const FLOWS: u16 = 20;

fn stream(lab: &Lab, number: u16, size: usize) -> Stream {
    Stream::start(&lab.appliance, &lab.far, (FAR, PORT + number), size, RATE).unwrap()
}

#[test]
fn a_worker_panics_and_the_others_go_on() {
    let Some(lab) = lab(LabConfig { queues: 2, ..LabConfig::beyond() }) else { return };
    let Some(bug) = Bug::new() else { return };
    let daemon = forward(&lab, &[]);
    let busy = |worker: usize| running(&lab).workers[worker].received > 0;
    // The last flow, and no other, is the victim's.
    let mut oversize = vec![stream(&lab, 0, 1500 - 28)];
    thread::sleep(BEFORE);
    let victim = usize::from(busy(0));
    assert!(busy(1 - victim) && !busy(victim), "one flow, one queue");
    for number in 1.. {
        assert!(number < FLOWS, "all flows in one queue");
        oversize.push(stream(&lab, number, 1500 - 28));
        thread::sleep(BEFORE);
        if busy(victim) {
            break;
        }
    }
    let fits: Vec<_> = (FLOWS..FLOWS + 4).map(|number| stream(&lab, number, 100 - 28)).collect();
    thread::sleep(BEFORE);

    let event = Instant::now();
    bug.strike(daemon.pid(), thread_named(daemon.pid(), &format!("xf-eth1-{victim}")));
    thread::sleep(WATCH);
    let alive: Vec<_> = running(&lab).workers.iter().map(|worker| worker.alive).collect();
    assert_eq!((alive[victim], alive[1 - victim]), (false, true));

    let its_own = oversize.pop().expect("the last flow").stop();
    let [oversize, fits] = [oversize, fits].map(|streams| {
        let accounts: Vec<_> = streams.into_iter().map(Stream::stop).collect();
        let before: usize = accounts.iter().map(|account| account.lost_before(event - ON_THE_WAY)).sum();
        assert!(before == 0 || !long(), "{before} lost before the panic");
        accounts.iter().map(|account| account.loss(event).datagrams).sum::<usize>()
    });
    note(&format!(
        "A worker of two panics: of {} oversize datagrams of its queue from then on none arrives, as without xdpfrag; \
         lost of the other queue's: {oversize}; of what fits, in both: {fits}",
        its_own.sent() - its_own.arrived()
    ));
    // As without xdpfrag: the kernel refuses what is too long.
    let share = (WATCH.as_secs_f64() * f64::from(RATE)) as usize;
    assert!(its_own.loss(event).datagrams >= share / 2, "{its_own:?}");
    // What was in the ring of the worker when it ended.
    let allowed = if long() { 0 } else { share };
    assert!(fits <= allowed && oversize <= allowed, "{fits} that fit and {oversize} of the other queue");

    let ended = daemon.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let said = format!(
        "warning: eth1: the worker of queue {victim} ended (panicked: {MESSAGE}); its frames pass to the kernel"
    );
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}

/// `panic!` called where a worker is about to call [`Port::receive`](xdpfrag::port::Port::receive).
#[cfg(target_arch = "x86_64")]
struct Bug {
    /// Offsets in the binary.
    receive: u64,
    panic: u64,
}

#[cfg(target_arch = "x86_64")]
impl Bug {
    /// `None`, and a skip, if the symbols cannot be had.
    fn new() -> Option<Bug> {
        let Ok(output) = Command::new("nm").arg(binary()).output() else {
            skip("nm (binutils) is not installed");
            return None;
        };
        let symbols = String::from_utf8_lossy(&output.stdout);
        // Mangled by the old scheme or by the new one.
        let find = |parts: &[&str]| {
            let mut found = symbols.lines().filter(|line| parts.iter().all(|part| line.contains(part)));
            let symbol = found.next().unwrap_or_else(|| panic!("no symbol with {parts:?}"));
            u64::from_str_radix(symbol.split(' ').next().unwrap(), 16).unwrap()
        };
        let panic = symbols.lines().find(|line| line.ends_with("4core9panicking5panic"));
        let panic = match panic {
            Some(line) => u64::from_str_radix(line.split(' ').next().unwrap(), 16).unwrap(),
            None => find(&["4core9panicking5panic17h"]),
        };
        Some(Bug { receive: find(&["XskPort", "7receive"]), panic })
    }

    /// Steps to the function's first instruction and goes on with `panic(MESSAGE)` instead: to its caller it looks as if
    /// it had called that.
    fn strike(&self, pid: u32, worker: Pid) {
        use nix::sys::ptrace;
        use nix::sys::wait::{WaitPidFlag, waitpid};

        let base = base(pid);
        ptrace::seize(worker, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(worker).unwrap();
        waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut registers = ptrace::getregs(worker).unwrap();
        while registers.rip != base + self.receive {
            assert!(Instant::now() < deadline, "the worker does not receive: {:#x}", registers.rip - base);
            ptrace::step(worker, None).unwrap();
            waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
            registers = ptrace::getregs(worker).unwrap();
        }
        // Far below what the thread will still use of its 2 MiB of stack: the message, and a
        // `core::panic::Location` (file, its length, line and column).
        let scratch = (registers.rsp - (512 << 10)) & !15;
        let place = scratch + 256;
        let mut words = MESSAGE.as_bytes().to_vec();
        words.resize(256, 0);
        words.extend([scratch, MESSAGE.len() as u64, 1 << 32 | 1].map(u64::to_ne_bytes).concat());
        for (at, word) in (scratch..).step_by(8).zip(words.as_chunks::<8>().0) {
            ptrace::write(worker, at as *mut _, i64::from_ne_bytes(*word)).unwrap();
        }
        registers.rip = base + self.panic;
        (registers.rdi, registers.rsi, registers.rdx) = (scratch, MESSAGE.len() as u64, place);
        ptrace::setregs(worker, registers).unwrap();
        ptrace::detach(worker, None).unwrap();
    }
}

/// Where the binary begins in the memory of its process.
#[cfg(target_arch = "x86_64")]
fn base(pid: u32) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let path = binary().canonicalize().unwrap();
    let first =
        maps.lines().find(|line| line.ends_with(path.to_str().unwrap())).expect("the binary is mapped");
    u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap()
}

#[cfg(not(target_arch = "x86_64"))]
struct Bug;

#[cfg(not(target_arch = "x86_64"))]
impl Bug {
    fn new() -> Option<Bug> {
        skip("the registers of this machine are not known to the test");
        None
    }

    fn strike(&self, _pid: u32, _worker: Pid) {}
}
