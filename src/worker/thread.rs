//! The thread around the turns: pinned, polled, supervised.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use core_affinity::CoreId;
use crossbeam::channel::Sender;
use thiserror::Error;

use super::clock::monotonic_ns;
use super::confine::confine;
use super::counters::Counters;
use super::outlet::FLUSH_PAUSE;
use super::priority;
use super::spin::Spin;
use super::turn::Turn;
use crate::config::Poll;
use crate::handback::{Handback, HandbackError};
use crate::observe::snapshot::WorkerSnapshot;
use crate::port::Port;

/// A worker that runs before all others leaves its core to them for a tenth of the time, however much there is to
/// do: IKE, routing and whoever looks after the gateway need it, and the RX ring holds what comes meanwhile.
const SHIFT_NS: u64 = 18_000_000;
const BREAK: Duration = Duration::from_millis(2);
/// Longest sleep of an idle worker: so long it may take to go by changed settings.
pub const LONGEST_NAP: Duration = Duration::from_millis(250);
/// How long a worker that was told to stop goes on emptying its RX ring.
const DRAIN: Duration = Duration::from_millis(200);

/// How to run a worker.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// LAN interface.
    pub interface: String,
    /// RX queue.
    pub queue: u32,
    /// Core to pin the thread to.
    pub core: Option<usize>,
    /// How to wait for frames.
    pub poll: Poll,
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beat {
    /// CLOCK_MONOTONIC; 0: no more frames should come.
    pub now_ns: u64,
    /// Of the XDP program's time stamps: all frames up to this one are with the kernel; 0: not known.
    pub served_ns: u64,
}

/// A worker's last message.
#[derive(Debug)]
pub struct WorkerEnd {
    /// LAN interface.
    pub interface: String,
    /// RX queue.
    pub queue: u32,
    /// `Ok` if it was told to stop.
    pub result: Result<(), WorkerError>,
}

/// Why a worker ended by itself.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The hand-back is gone.
    #[error("hand-back: {0}")]
    Handback(#[from] HandbackError),
    /// The socket is gone.
    #[error("socket: {0}")]
    Port(#[source] io::Error),
    /// The core is not there, or not this process' to use.
    #[error("cannot be pinned to core {0}: see `taskset -p` and --cores")]
    Pin(usize),
    /// The code has a bug.
    #[error("panicked: {0}")]
    Panic(String),
}

/// A running worker. Dropping it stops it.
#[derive(Debug)]
pub struct Worker {
    config: WorkerConfig,
    zero_copy: bool,
    umem_bytes: u64,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread that turns until it is stopped. `beat` is called with CLOCK_MONOTONIC in ns after
    /// every turn, after every sleep and at least every quarter of the stall time, and with 0 when no more frames
    /// should come. The last message goes to `ended` when everything the worker owned is released.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn spawn<P, H>(
        config: WorkerConfig,
        turn: Turn<P, H>,
        beat: impl Fn(Beat) + Send + 'static,
        ended: Sender<WorkerEnd>,
    ) -> io::Result<Worker>
    where
        P: Port + Send + 'static,
        H: Handback + Send + 'static,
    {
        // It looks a file up the first time, which the worker may not.
        monotonic_ns();
        let counters = Arc::clone(turn.counters());
        let (zero_copy, umem_bytes) = (turn.port().zero_copy(), turn.port().umem_bytes());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (config, stop) = (config.clone(), Arc::clone(&stop));
            std::thread::Builder::new().name(thread_name(&config.interface, config.queue)).spawn(
                move || {
                    let mut turn = turn;
                    let result = catch_unwind(AssertUnwindSafe(|| run(&config, &mut turn, &beat, &stop)))
                        .unwrap_or_else(|panic| Err(WorkerError::Panic(message(panic.as_ref()))));
                    // From here on the XDP program passes new frames to the kernel.
                    beat(Beat::default());
                    let panicked = matches!(result, Err(WorkerError::Panic(_)));
                    // A bug that strikes here again has been reported.
                    let _ = catch_unwind(AssertUnwindSafe(move || end(turn, panicked)));
                    // Nobody listens any more if the whole run is ending.
                    let _ =
                        ended.send(WorkerEnd { interface: config.interface, queue: config.queue, result });
                },
            )?
        };
        Ok(Worker { config, zero_copy, umem_bytes, counters, stop, thread: Some(thread) })
    }

    /// Tells the worker to hand back what it has and end. Does not wait for it.
    pub fn stop(&self) {
        self.stop.store(true, Release);
    }

    /// True until the thread has ended.
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// RX queue.
    pub fn queue(&self) -> u32 {
        self.config.queue
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// State and counters at this moment.
    pub fn snapshot(&self) -> WorkerSnapshot {
        WorkerSnapshot {
            queue: self.config.queue,
            core: self.config.core,
            alive: self.alive(),
            zero_copy: self.zero_copy,
            umem_bytes: self.umem_bytes,
            ..self.counters.snapshot()
        }
    }

    /// Waits until it has ended, and released its socket and its hand-back.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic was caught inside and reported as the worker's end.
            let _ = thread.join();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

fn run<P: Port, H: Handback>(
    config: &WorkerConfig,
    turn: &mut Turn<P, H>,
    beat: &impl Fn(Beat),
    stop: &AtomicBool,
) -> Result<(), WorkerError> {
    // A NAPI thread on the same core would else fill the RX ring faster than it is emptied, and work for nothing.
    // It gets its turn, for the worker sleeps when the ring is empty. Without CAP_SYS_NICE the worker is a thread
    // like any other.
    let first = config.poll != Poll::Busy && priority::raise().is_ok();
    match config.core {
        Some(id) if !core_affinity::set_for_current(CoreId { id }) => Err(WorkerError::Pin(id)),
        _ => {
            confine();
            serve(config, turn, beat, stop, first)
        }
    }
}

fn serve<P: Port, H: Handback>(
    config: &WorkerConfig,
    turn: &mut Turn<P, H>,
    beat: &impl Fn(Beat),
    stop: &AtomicBool,
    first: bool,
) -> Result<(), WorkerError> {
    let mut spin = Spin::new(config.poll);
    // A turn may take long: a sleep before it must not count as part of it.
    let awake = |served_ns| {
        let now_ns = monotonic_ns();
        beat(Beat { now_ns, served_ns });
        now_ns
    };
    let (mut last_frame, mut last_publication, mut last_sleep) = (0, 0, monotonic_ns());
    while !stop.load(Acquire) {
        let progress = turn.turn()?;
        let served = turn.served_ns();
        let now = awake(served);
        let nap = (turn.settings().stall / 4).min(LONGEST_NAP);
        if now - last_publication >= nap.as_nanos() as u64 {
            turn.publish_drops().map_err(WorkerError::Port)?;
            last_publication = now;
        }
        if progress.blocked {
            last_frame = now;
            std::thread::sleep(FLUSH_PAUSE);
            last_sleep = awake(served);
        } else if !progress.idle() {
            last_frame = now;
            spin.found();
            if first && now - last_sleep >= SHIFT_NS {
                std::thread::sleep(BREAK);
                last_sleep = awake(served);
            }
        } else if spin.look(now - last_frame) {
            std::hint::spin_loop();
        } else {
            turn.wait(nap).map_err(WorkerError::Port)?;
            last_sleep = awake(served);
        }
    }
    Ok(())
}

/// Hands back what the RX ring still holds, or counts it as dropped if the hand-back is gone.
fn end<P: Port, H: Handback>(mut turn: Turn<P, H>, panicked: bool) {
    if panicked {
        // The last frame of it may be half written.
        turn.abandon();
    }
    let deadline = Instant::now() + DRAIN;
    let mut received = turn.counters().frames();
    while Instant::now() < deadline {
        let progress = turn.turn().unwrap_or_default();
        let now = turn.counters().frames();
        if now == received && progress.pending == 0 {
            break;
        }
        received = now;
        if progress.blocked {
            std::thread::sleep(FLUSH_PAUSE);
        }
    }
    turn.abandon();
    // The error, if there is one, has been reported or comes from a device that went just now.
    let _ = turn.publish_drops();
}

/// At most 15 bytes, as the kernel keeps: `xf-eth1-0`; a longer interface name is cut.
fn thread_name(interface: &str, queue: u32) -> String {
    let queue = queue.to_string();
    let room = 15 - "xf--".len() - queue.len().min(5);
    let short: String = interface.chars().take(room).collect();
    format!("xf-{short}-{queue}")
}

fn message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use std::convert::identity;
    use std::sync::Mutex;

    use crossbeam::channel::unbounded;
    use nix::errno::Errno;

    use super::*;
    use crate::config::{Scope, Treatment};
    use crate::frame::Ledger;
    use crate::handback::MemHandback;
    use crate::handback::mem::FlushFault;
    use crate::packet::{Df, Idents, Reason, Tcp, Transform};
    use crate::port::{BATCH, MemPort, Receipt, Received};
    use crate::worker::FLUSH_ATTEMPTS;
    use crate::worker::settings::{Posted, Settings};

    const TIMEOUT: Duration = Duration::from_secs(5);
    const STALL: Duration = Duration::from_millis(40);

    fn config(poll: Poll) -> WorkerConfig {
        WorkerConfig { interface: "eth1".into(), queue: 3, core: None, poll }
    }

    /// A turn for `frames` frames, which come from what `port` makes of a [`MemPort`].
    fn turn<P: Port>(frames: usize, port: impl FnOnce(MemPort) -> P) -> Turn<P, MemHandback> {
        let transform =
            Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::new(Idents::with_seed(1)) };
        let treatment = Arc::new(Treatment { scope: Vec::new(), df: Df::Clear, tcp: Tcp::Fragment });
        let settings = Settings { stall: STALL, ..Settings::new(transform.clone(), Scope::default()) };
        let mut memory = MemPort::new(512, 1792, 1792);
        for _ in 0..frames {
            assert!(memory.deliver(&[0; 60], None));
        }
        Turn::new(port(memory), MemHandback::new(64, 2048), transform, treatment)
            .following(Posted::new(settings).followed())
    }

    #[test]
    fn a_worker_beats_while_it_waits_and_takes_its_heartbeat_back_at_the_end() {
        for poll in [Poll::Adaptive, Poll::Busy, Poll::Wait] {
            let beats = Arc::new(Mutex::new(Vec::new()));
            let (sender, ended) = unbounded();
            let worker = {
                let beats = Arc::clone(&beats);
                let beat = move |beat: Beat| beats.lock().unwrap().push(beat.now_ns);
                Worker::spawn(config(poll), turn(10, identity), beat, sender).unwrap()
            };
            std::thread::sleep(Duration::from_millis(200));
            assert!(worker.alive());
            worker.stop();
            let end = ended.recv_timeout(TIMEOUT).unwrap();
            assert!(end.result.is_ok() && end.queue == 3, "{end:?}");
            assert_eq!((worker.snapshot().received, worker.snapshot().handed_back), (10, 10));
            let beats = beats.lock().unwrap();
            assert!(beats.len() >= 10, "{poll:?}: {} beats in five times the stall time", beats.len());
            assert_eq!(beats.last(), Some(&0));
        }
    }

    /// Notes when the worker waits and when it receives.
    struct Logged(MemPort, Arc<Mutex<Vec<&'static str>>>);

    impl Port for Logged {
        fn receive<F: FnMut(Received<'_>)>(&mut self, limit: usize, each: F) -> Receipt {
            self.1.lock().unwrap().push("receive");
            self.0.receive(limit, each)
        }

        fn refill(&mut self) {
            self.0.refill();
        }

        fn wait(&mut self, timeout: Duration) -> io::Result<()> {
            self.0.wait(timeout)?;
            self.1.lock().unwrap().push("wait");
            Ok(())
        }

        fn drops(&self) -> io::Result<u64> {
            self.0.drops()
        }

        fn max_frame(&self) -> usize {
            self.0.max_frame()
        }

        fn zero_copy(&self) -> bool {
            self.0.zero_copy()
        }

        fn umem_bytes(&self) -> u64 {
            self.0.umem_bytes()
        }

        fn ledger(&self) -> Ledger {
            self.0.ledger()
        }
    }

    #[test]
    fn a_worker_beats_when_it_wakes_before_it_does_anything_else() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let turn = turn(0, |port| Logged(port, Arc::clone(&log)));
        let (sender, _ended) = unbounded();
        let worker = {
            let log = Arc::clone(&log);
            Worker::spawn(config(Poll::Wait), turn, move |_| log.lock().unwrap().push("beat"), sender)
        };
        std::thread::sleep(Duration::from_millis(100));
        drop(worker.unwrap());
        let log = log.lock().unwrap();
        assert!(log.contains(&"wait"), "{log:?}");
        assert!(!log.windows(2).any(|pair| pair[0] == "wait" && pair[1] != "beat"), "{log:?}");
    }

    #[test]
    fn a_worker_sleeps_between_two_attempts_to_hand_back() {
        let mut turn = turn(10, identity);
        let fail = FlushFault::Fail { taken: 0, lost: 0, errno: Errno::ENOMEM };
        turn.handback_mut().script([Some(fail); FLUSH_ATTEMPTS as usize]);
        let (sender, _ended) = unbounded();
        let start = Instant::now();
        let worker = Worker::spawn(config(Poll::Busy), turn, |_| (), sender).unwrap();
        while worker.counters().count(Reason::HandbackError) == 0 {
            assert!(start.elapsed() < TIMEOUT);
            std::thread::yield_now();
        }
        assert!(start.elapsed() >= FLUSH_PAUSE * (FLUSH_ATTEMPTS - 1), "{:?}", start.elapsed());
        assert_eq!(worker.counters().count(Reason::HandbackError), 10);
    }

    #[test]
    fn a_worker_told_to_stop_empties_its_ring_first() {
        let (sender, ended) = unbounded();
        let worker = {
            let turn = turn(500, identity);
            let worker = Worker::spawn(config(Poll::Wait), turn, |_| (), sender).unwrap();
            worker.stop();
            worker
        };
        ended.recv_timeout(TIMEOUT).unwrap().result.unwrap();
        assert_eq!(worker.snapshot().handed_back, 500);
    }

    #[test]
    fn a_panic_is_reported_as_the_end_of_the_worker_and_costs_no_more_than_what_is_in_hand() {
        let (sender, ended) = unbounded();
        let beat = |beat: Beat| assert!(beat.now_ns == 0, "the heart stopped");
        let worker = Worker::spawn(config(Poll::Busy), turn(500, identity), beat, sender).unwrap();
        let error = ended.recv_timeout(TIMEOUT).unwrap().result.unwrap_err();
        assert!(matches!(&error, WorkerError::Panic(message) if message == "the heart stopped"), "{error}");
        let end = worker.snapshot();
        // A full batch waits for more before it is handed back; it might hold what brought the panic out.
        let dropped = end.reasons["handback_error"];
        assert!(dropped <= BATCH as u64 && end.handed_back + dropped == 500, "{end:?}");
    }

    #[test]
    fn a_core_that_is_not_there_is_named() {
        let (sender, ended) = unbounded();
        let config = WorkerConfig { core: Some(1000), ..config(Poll::Wait) };
        let _worker = Worker::spawn(config, turn(0, identity), |_| (), sender).unwrap();
        let error = ended.recv_timeout(TIMEOUT).unwrap().result.unwrap_err();
        assert!(matches!(error, WorkerError::Pin(1000)), "{error}");
    }

    #[test]
    fn thread_names_fit_the_kernel() {
        assert_eq!(thread_name("eth1", 0), "xf-eth1-0");
        assert_eq!(thread_name("enp129s0f1np1.42", 63).len(), 15);
    }
}
