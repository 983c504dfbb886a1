//! Each setting that changes while it runs, and what then is different on the wire.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::{scope, sleep};
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use xdpfrag::lab::traffic::tcp::Direction;
use xdpfrag::lab::traffic::udp::{Flow, Tally};
use xdpfrag::lab::{Daemon, FAR, LAN, Lab, LabConfig};
use xdpfrag::observe::snapshot::{InterfaceSnapshot, Snapshot};

use crate::reload::reload;
use crate::support::{PORT, binary, carry, deliver, lab, mixed, received, until_one_arrives};

/// An instance and its configuration file.
struct Live<'a> {
    lab: &'a Lab,
    daemon: Daemon,
    dir: TempDir,
}

impl<'a> Live<'a> {
    /// With `settings`, a line each, beside the SA MTU of the lab.
    fn start(lab: &'a Lab, settings: &str) -> Live<'a> {
        Live::start_with(lab, settings, &[])
    }

    fn start_with(lab: &'a Lab, settings: &str, flags: &[&str]) -> Live<'a> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lan.toml");
        fs::write(&path, file(settings)).unwrap();
        let flags = [&["--config", path.to_str().unwrap(), "--json"], flags].concat();
        let daemon = Daemon::start(&lab.gateway, binary(), &flags);
        Live { lab, daemon: daemon.unwrap_or_else(|error| panic!("{error:#}")), dir }
    }

    /// `xdpfrag reload` with other settings: exit code, and what it printed.
    fn try_set(&self, settings: &str) -> (Option<i32>, String) {
        fs::write(self.dir.path().join("lan.toml"), file(settings)).unwrap();
        reload(self.lab)
    }

    /// The same, taken over; `said` is part of what it printed.
    fn set(&self, settings: &str, said: &str) {
        let (code, printed) = self.try_set(settings);
        assert!(code == Some(0) && printed.contains(said), "{settings}: {printed}");
    }

    fn refuses(&self, settings: &str, said: &str) {
        let (code, printed) = self.try_set(settings);
        assert_eq!(code, Some(2), "{settings}: {printed}");
        assert!(printed.contains(said) && printed.contains("all stays as it was"), "{settings}: {printed}");
    }

    fn interface(&self) -> InterfaceSnapshot {
        let text = self.lab.gateway.output(binary().to_str().unwrap(), &["stats", "--json"]).unwrap();
        let snapshot: Snapshot =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        snapshot.interfaces.into_iter().next().unwrap()
    }

    /// How much the counter that `of` picks grows while `work` is done.
    fn growth<T>(&self, of: impl Fn(&InterfaceSnapshot) -> u64, work: impl FnOnce() -> T) -> u64 {
        let before = of(&self.interface());
        work();
        of(&self.interface()) - before
    }

    /// What arrives of a flow that is sent while the process stands still, once it goes on.
    fn while_stopped(&self, flow: &Flow) -> Tally {
        let receiver = flow.listen(&self.lab.far).unwrap();
        self.daemon.signal(Signal::SIGSTOP).unwrap();
        self.lab.appliance.run(|| flow.send()).unwrap();
        self.daemon.signal(Signal::SIGCONT).unwrap();
        receiver.finish().unwrap()
    }
}

fn file(settings: &str) -> String {
    format!("mtu = 1422\n{settings}")
}

/// 100 DF datagrams of this payload length, at 500 a second.
fn send(lab: &Lab, size: usize) -> Tally {
    let flow = Flow { rate: 500, ..Flow::new((FAR, PORT), vec![size; 100]) };
    flow.run(&lab.appliance, &lab.far).unwrap()
}

#[test]
fn nothing_is_lost_and_nothing_overtaken_while_settings_change() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let live = Live::start(&lab, "");
    // Only `--df keep` and `--force deaf` are to refuse packets.
    let steps = [
        ("df = 'clear'", "df: clear now, was oversize"),
        ("redirect = 'all'", "redirect: all now, was auto"),
        ("redirect = 'oversize'\ntcp = 'fragment'", "tcp: fragment now, was resegment"),
        ("sticky = 20\nstall = 1000", "sticky: 20 ms now, was 200 ms"),
        ("stall = 2000\nredirect = 'all'\ndf = 'oversize'", "stall: 2000 ms now, was 1000 ms"),
        ("notify = true\nstall = 300", "stall: 300 ms now, was 2000 ms"),
        ("metrics = '127.0.0.1:0'\nnotrack = 'off'", "notrack: off now, was auto"),
        ("", "metrics: off now, was 127.0.0.1:0"),
    ];
    let tally = scope(|scope| {
        let flow = scope.spawn(|| {
            let flow = Flow { rate: 2000, ..Flow::new((FAR, PORT), mixed(6000)) };
            flow.run(&lab.appliance, &lab.far).unwrap()
        });
        for (settings, said) in steps {
            sleep(Duration::from_millis(200));
            live.set(settings, said);
        }
        flow.join().unwrap()
    });
    assert!(tally.complete() && tally.reordered == 0, "{tally:?}");
    assert_eq!(live.try_set(""), (Some(0), "nothing changed\n".into()));
    let ended = live.daemon.stop().unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
}

#[test]
fn df_and_notify() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let live = Live::start(&lab, "df = 'clear'");
    let with_df = |size| {
        lab.far_wire.reset().unwrap();
        lab.lan_wire.reset().unwrap();
        (send(&lab, size).complete(), lab.far_wire.seen().unwrap().df, lab.lan_wire.seen().unwrap().too_big)
    };
    assert_eq!(with_df(100), (true, 0, 0));
    live.set("df = 'oversize'", "df: oversize now");
    assert_eq!((with_df(100), with_df(1472)), ((true, 100, 0), (true, 0, 0)));
    live.set("df = 'keep'", "df: keep now");
    assert_eq!((with_df(100), with_df(1472)), ((true, 100, 0), (false, 0, 100)));
    live.set("df = 'clear'\nnotify = true", "notify: on now");
    // Told, and served all the same: once in these 0.2 s.
    assert_eq!(with_df(1472), (true, 0, 1));
    live.set("df = 'clear'\nnotify = false", "notify: off now");
    sleep(Duration::from_secs(1));
    assert_eq!(with_df(1472), (true, 0, 0));
}

#[test]
fn tcp() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let live = Live::start(&lab, "mss = 'off'\ntcp = 'fragment'");
    let fragments = || {
        lab.far_wire.reset().unwrap();
        let report = carry(&lab, Direction::Upload);
        assert!(report.complete(), "{report:?}");
        lab.far_wire.seen().unwrap().fragments
    };
    assert!(fragments() > 1000);
    live.set("mss = 'off'\ntcp = 'resegment'", "tcp: resegment now, was fragment");
    assert_eq!(fragments(), 0);
    // In the middle of a connection, too.
    scope(|scope| {
        let upload = scope.spawn(|| carry(&lab, Direction::Upload));
        for tcp in ["fragment", "resegment", "fragment"] {
            live.set(&format!("mss = 'off'\ntcp = '{tcp}'"), &format!("tcp: {tcp} now"));
        }
        assert!(upload.join().unwrap().complete());
    });
    assert!(fragments() > 1000);
}

#[test]
fn force() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let live = Live::start(&lab, "");
    live.set("force = 'deaf'", "force: deaf now, was always");
    // The kernel is to answer first, for a second.
    let mut refused = Tally::default();
    assert!(live.growth(|interface| interface.xdp["warned"], || refused = send(&lab, 1472)) > 0);
    assert!(refused.intact < refused.sent, "{refused:?}");
    live.set("force = 'always'", "force: always now");
    assert!(send(&lab, 1472).complete());
}

#[test]
fn redirect_and_sticky() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let live = Live::start(&lab, "");
    assert_eq!(live.growth(received, || send(&lab, 100)), 0);
    live.set("redirect = 'all'", "redirect: all now, was auto");
    assert_eq!(live.growth(received, || send(&lab, 100)), 100);
    // A flow that does not pause must not overtake itself: it stays with its worker ...
    let both = || {
        scope(|scope| {
            let flow = scope.spawn(|| (send(&lab, 100), send(&lab, 100)));
            sleep(Duration::from_millis(100));
            live.set("redirect = 'oversize'\nsticky = 2000", "redirect: oversize now");
            flow.join().unwrap()
        })
    };
    assert_eq!(live.growth(received, both), 200);
    // ... and one that does is the kernel's.
    sleep(Duration::from_millis(2100));
    assert_eq!(live.growth(received, || send(&lab, 100)), 0);
    // What follows an oversize datagram that its worker still has goes after it, and a process that stands still has it.
    live.set("stall = 20000", "sticky: 200 ms now");
    let flow = Flow::new((FAR, PORT), mixed(200));
    let sticky = |interface: &InterfaceSnapshot| interface.xdp["sticky"];
    let mut tally = Tally::default();
    assert!(live.growth(sticky, || tally = live.while_stopped(&flow)) > 50);
    assert!(tally.complete() && tally.reordered == 0, "{tally:?}");
    live.set("sticky = 0\nstall = 20000", "sticky: 0 ms now, was 200 ms");
    assert_eq!(live.growth(sticky, || tally = live.while_stopped(&flow)), 0);
    assert!(tally.complete(), "{tally:?}");
}

#[test]
fn stall() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let live = Live::start(&lab, "");
    // While the process stands still, oversize datagrams wait for it or not.
    let flow = Flow { rate: 500, ..Flow::new((FAR, PORT), vec![1472; 100]) };
    live.set("stall = 20000", "stall: 20000 ms now, was 100 ms");
    // Idle, a worker may sleep for long now.
    sleep(Duration::from_millis(500));
    let tally = live.while_stopped(&flow);
    assert!(tally.complete(), "{tally:?}");
    live.set("stall = 20", "stall: 20 ms now, was 20000 ms");
    let mut tally = Tally::default();
    let refused = live.growth(|interface| interface.xdp["no_worker"], || tally = live.while_stopped(&flow));
    assert!(refused > 50 && tally.intact < 50, "{refused} found no worker: {tally:?}");
    until_one_arrives(&lab);
    assert!(send(&lab, 1472).complete());
}

#[test]
fn metrics_and_notrack() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    // Fragments of this policy, which no packet of the lab meets, can be exempt.
    lab.gateway
        .ip("xfrm policy add dir out src 198.18.1.0/24 dst 198.18.200.0/24 tmpl src 198.18.2.1 dst 198.18.2.9 proto esp mode tunnel")
        .unwrap();
    let live = Live::start(&lab, "metrics = '127.0.0.1:9441'");
    let scrape = |port: u16| {
        lab.gateway
            .run(|| {
                let mut stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
                let mut page = String::new();
                stream.read_to_string(&mut page)?;
                Ok(page)
            })
            .is_ok_and(|page| page.contains("xdpfrag_xdp_frames_total"))
    };
    assert!(scrape(9441));
    live.set("metrics = '127.0.0.1:9442'", "metrics: 127.0.0.1:9442 now, was 127.0.0.1:9441");
    assert_eq!((scrape(9441), scrape(9442)), (false, true));
    live.set("metrics = '0.0.0.0:9442'", "metrics: 0.0.0.0:9442 now");
    assert!(scrape(9442));
    // Somebody else's: the rest of the file changes nothing either.
    let taken = lab.gateway.run(|| Ok(TcpListener::bind("127.0.0.1:9441")?)).unwrap();
    live.refuses("metrics = '127.0.0.1:9441'\ndf = 'keep'", "--metrics 127.0.0.1:9441");
    live.refuses("metrics = '192.0.2.1:9442'\ndf = 'keep'", "--metrics 192.0.2.1:9442");
    assert!(scrape(9442) && send(&lab, 1472).complete());
    drop(taken);
    live.set("", "metrics: off now");
    assert!(!scrape(9442));

    let exempt =
        || lab.gateway.output("nft", &["list", "tables"]).unwrap().contains(&format!("xdpfrag-{LAN}"));
    assert!(!exempt(), "nothing tracks connections");
    live.set("notrack = 'on'", "notrack: on now, was auto");
    assert!(exempt());
    live.set("notrack = 'off'", "notrack: off now, was on");
    assert!(!exempt());
}

#[test]
fn generic_xdp_refuses_redirect_all_and_changes_nothing_else() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    let live = Live::start(&lab, "mode = 'generic'");
    live.refuses("mode = 'generic'\nredirect = 'all'", "--redirect all does not go with --mode generic");
    live.set("mode = 'generic'\ndf = 'clear'", "df: clear now");
    // In no order: in generic mode no flow follows its oversize frames.
    let flow = Flow { rate: 2000, ..Flow::new((FAR, PORT), mixed(200)) };
    let tally = flow.run(&lab.appliance, &lab.far).unwrap();
    assert!(tally.complete(), "{tally:?}");
    // What is kept comes back to the program, which must not send it round.
    live.set("mode = 'generic'\ndf = 'keep'", "df: keep now");
    assert!(live.growth(received, || assert_eq!(send(&lab, 1472).intact, 0)) < 5);
}

#[test]
fn late() {
    let Some(lab) = lab(LabConfig::default()) else { return };
    let settings = "redirect = 'late'\n";
    let live = Live::start(&lab, settings);
    if live.interface().late.is_empty() {
        return crate::support::skip("this kernel has no tcx (Linux 6.6)");
    }
    let made_fit = |interface: &InterfaceSnapshot| {
        interface.late.get("lowered").unwrap_or(&0) + interface.late.get("cut").unwrap_or(&0)
    };
    let carried = |by_worker: bool| {
        let mut by_kernel = 0;
        let upload = || assert!(carry(&lab, Direction::Upload).complete());
        let growth = live.growth(received, || by_kernel = live.growth(made_fit, upload));
        assert_eq!((growth > 0, by_kernel > 0), (by_worker, !by_worker));
        // Whoever cuts TCP: wan0 fragments datagrams, and no worker sees one.
        assert_eq!(live.growth(received, || deliver(&lab, mixed(200))), 0);
    };
    carried(false);
    live.set(&format!("{settings}df = 'clear'\nstall = 300"), "df: clear now");
    carried(false);
    live.set("redirect = 'oversize'", "redirect: oversize now, was late");
    carried(true);
    live.set(&format!("{settings}sticky = 50"), "redirect: late now, was oversize");
    carried(false);
    live.set(&format!("{settings}force = 'deaf'"), "force: deaf now");
    assert!(carry(&lab, Direction::Upload).complete());
    live.set("redirect = 'late'\nnotify = true", "notify: on now");
    deliver(&lab, mixed(200));
    live.set("redirect = 'late'", "notify: off now");
    carried(false);
}

#[test]
fn a_worker_that_hangs_is_told_and_the_old_plan_goes_on_at_every_interface() {
    let Some(lab) = lab(LabConfig::beyond()) else { return };
    lab.gateway.ip("link add eth2 type veth peer name idle").unwrap();
    lab.gateway.ip("link set eth2 up").unwrap();
    lab.gateway.ip("link set idle up").unwrap();
    let live = Live::start_with(&lab, "stall = 20000", &["--iface", "eth2"]);
    let worker = thread_named(live.daemon.pid(), "xf-eth2-0");
    ptrace::seize(worker, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(worker).unwrap();
    waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
    // eth1 has taken the new plan by then, and takes the old one again.
    let told = "eth2: a worker has not taken the new settings over";
    live.refuses("stall = 20000\ndf = 'keep'\nmetrics = '127.0.0.1:9443'\ndst = ['198.18.200.0/24']", told);
    let metrics = lab.gateway.run(|| Ok(TcpStream::connect("127.0.0.1:9443")?));
    assert!(metrics.is_err() && send(&lab, 1472).complete());
    ptrace::detach(worker, None).unwrap();
    assert!(send(&lab, 1472).complete());
    live.set("stall = 20000\ndf = 'keep'", "df: keep now");
    assert_eq!(send(&lab, 1472).intact, 0);
}

fn thread_named(pid: u32, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let named = tasks.map(|task| task.unwrap().path()).find(|task| {
        // A thread may end between the two reads.
        fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    });
    let id = named.expect("the worker's thread").file_name().unwrap().to_str().unwrap().parse();
    Pid::from_raw(id.unwrap())
}
