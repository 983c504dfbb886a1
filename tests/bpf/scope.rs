//! Scope by source and destination: the maps against `Scope::rule`, and changes of it under traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use xdpfrag::config::Scope;
use xdpfrag::control::scope::Applied;
use xdpfrag::packet::{Edit, Reason, Rule};
use xdpfrag::xdp::{ClampProgram, LanProgram, Route};

use crate::frames::{Frame, mss, with};
use crate::frames6::{Frame6, with6};
use crate::gateway::*;

const RULE: Rule = Rule::new(MTU, Some(1100), Some(1300));
const OTHER: Rule = Rule::new(1300, Some(1000), Some(1240));

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// `DESTINATION SOURCE RULE` in each line.
fn scope(entries: &[(&str, &str, Option<Rule>)]) -> Scope {
    let mut scope = Scope::default();
    for (destination, source, rule) in entries {
        scope.0.entry(net(destination)).or_default().insert(net(source), *rule);
    }
    scope
}

/// A SYN from `host` to `remote`, or the SYN-ACK that answers it.
fn syn(host: IpAddr, remote: IpAddr, answer: bool) -> Vec<u8> {
    let flags = if answer { 0x12 } else { 0x02 };
    match if answer { (remote, host) } else { (host, remote) } {
        (IpAddr::V4(from), IpAddr::V4(to)) => with(Frame::tcp(flags, &mss(1460), 0), |f| {
            (f.source, f.destination) = (from.octets(), to.octets());
            f.finish_tcp();
        })
        .bytes(),
        (IpAddr::V6(from), IpAddr::V6(to)) => with6(Frame6::tcp(flags, &mss(1440), 0), |f| {
            (f.source, f.destination) = (from.octets(), to.octets());
            f.finish_tcp();
        })
        .bytes(),
        pair => panic!("two families: {pair:?}"),
    }
}

/// Asserts that both programs do with packets between the two what the scope says.
#[track_caller]
fn agree(program: &Gateway, clamp: &ClampProgram, scope: &Scope, host: IpAddr, remote: IpAddr) {
    let rule = scope.rule(host, remote);
    let context = format!("{host} to {remote}: {rule:?}");
    let limit = rule.and_then(|rule| if host.is_ipv4() { rule.mss4 } else { rule.mss6 });
    let frame = syn(host, remote, false);
    let seen = program.send(&frame);
    match limit {
        None => assert!((seen.reason, &seen.data) == (Reason::OutOfScope, &frame), "{context}: {seen:?}"),
        Some(limit) => {
            assert_eq!(seen.reason, Reason::Fits, "{context}");
            assert_eq!(seen.data[seen.data.len() - 4..], mss(limit), "{context}");
        }
    }
    let answer = syn(host, remote, true);
    let data = clamp.run_once(&answer).unwrap().data;
    match limit {
        None => assert!(data == answer, "{context}"),
        Some(limit) => assert_eq!(data[data.len() - 4..], mss(limit), "{context}"),
    }
}

fn bare() -> Gateway {
    let gateway = Gateway::without_worker(CONFIG);
    for (prefix, _) in gateway.program.routes().unwrap() {
        gateway.program.remove_route(prefix).unwrap();
    }
    gateway
}

fn mapped(program: &LanProgram) -> BTreeMap<IpNet, Route> {
    program.routes().unwrap().into_iter().collect()
}

#[test]
fn the_source_decides_where_it_matters() {
    if skipped("the_source_decides_where_it_matters") {
        return;
    }
    let gateway = bare();
    let clamp = ClampProgram::load(gateway.program.route_maps()).unwrap();
    let scope = scope(&[
        ("198.18.2.0/24", "198.18.1.0/24", Some(RULE)),
        ("198.18.2.0/24", "198.18.1.128/25", None),
        ("198.18.2.0/24", "198.18.1.200/32", Some(OTHER)),
        ("198.18.0.0/16", "0.0.0.0/0", Some(OTHER)),
        ("198.18.3.0/24", "0.0.0.0/0", None),
        ("2001:db8:f::/48", "2001:db8:a::/48", Some(RULE)),
        ("2001:db8:f::/48", "2001:db8:a::7/128", None),
        ("::/0", "2001:db8:b::/48", Some(OTHER)),
    ]);
    let mut applied = Applied::default();
    applied.apply(&gateway.program, &scope).unwrap();
    for host in ["198.18.1.5", "198.18.1.130", "198.18.1.200", "198.18.9.9", "1.2.3.4"] {
        for remote in ["198.18.2.2", "198.18.3.2", "198.18.77.1", "198.51.100.1"] {
            agree(&gateway, &clamp, &scope, host.parse().unwrap(), remote.parse().unwrap());
        }
    }
    for host in ["2001:db8:a::1", "2001:db8:a::7", "2001:db8:b::1", "::2"] {
        for remote in ["2001:db8:f::9", "2001:db8:e::9"] {
            agree(&gateway, &clamp, &scope, host.parse().unwrap(), remote.parse().unwrap());
        }
    }
    // An oversize packet, too: its rule travels with it.
    let oversize = with(Frame::udp(1400), |f| {
        (f.source, f.destination) = ([198, 18, 1, 130], [198, 18, 2, 2]);
    });
    gateway.passes_untouched(&oversize.bytes(), Reason::OutOfScope);
    // A local address stays one, and gives the prefix back when it goes.
    let own: BTreeSet<IpAddr> = ["198.18.2.2".parse().unwrap()].into();
    applied.follow_addresses(&gateway.program, own).unwrap();
    let frame = syn("198.18.1.5".parse().unwrap(), "198.18.2.2".parse().unwrap(), false);
    gateway.passes_untouched(&frame, Reason::Local);
    applied.follow_addresses(&gateway.program, BTreeSet::new()).unwrap();
    agree(&gateway, &clamp, &scope, "198.18.1.5".parse().unwrap(), "198.18.2.2".parse().unwrap());
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// One of 16 addresses, in few bits that prefixes of both families cut.
    fn address(&mut self, v4: bool) -> IpAddr {
        let host = self.below(16) as u16;
        match v4 {
            true => [198, 18, 0, host as u8].into(),
            false => [0x2001, 0xdb8, 0, 0, 0, 0, 0, host].into(),
        }
    }

    fn prefix(&mut self, v4: bool) -> IpNet {
        let bits = if v4 { 32 } else { 128 };
        let len = bits - self.below(5) as u8;
        IpNet::new(self.address(v4), if len == bits - 4 { 0 } else { len }).unwrap().trunc()
    }

    fn scope(&mut self) -> Scope {
        let mut scope = Scope::default();
        for _ in 0..self.below(6) {
            let v4 = self.below(2) == 0;
            let sources = scope.0.entry(self.prefix(v4)).or_default();
            for _ in 0..self.below(4) {
                sources.insert(self.prefix(v4), [Some(RULE), Some(OTHER), None][self.below(3) as usize]);
            }
        }
        scope
    }
}

#[test]
fn any_scope_follows_any_other() {
    if skipped("any_scope_follows_any_other") {
        return;
    }
    let gateway = bare();
    let clamp = ClampProgram::load(gateway.program.route_maps()).unwrap();
    let mut random = Random(4);
    let mut applied = Applied::default();
    for _ in 0..300 {
        let scope = random.scope();
        applied.apply(&gateway.program, &scope).unwrap();
        assert_eq!(applied.scope(), &scope);
        for _ in 0..20 {
            let v4 = random.below(2) == 0;
            agree(&gateway, &clamp, &scope, random.address(v4), random.address(v4));
        }
    }
    applied.apply(&gateway.program, &Scope::default()).unwrap();
    assert!(mapped(&gateway.program).is_empty());
    // What packets under way may still look for goes a moment later.
    thread::sleep(Duration::from_millis(150));
    applied.apply(&gateway.program, &Scope::default()).unwrap();
    assert_eq!(gateway.program.sources().unwrap(), 0);
}

/// What a change that failed half-way, for want of room or memory, leaves is whole, and the next attempt makes it good.
#[test]
fn a_change_that_fails_half_way_takes_nobody_out_of_scope_and_can_be_made_again() {
    if skipped("a_change_that_fails_half_way_takes_nobody_out_of_scope_and_can_be_made_again") {
        return;
    }
    let gateway = bare();
    let clamp = ClampProgram::load(gateway.program.route_maps()).unwrap();
    let host: IpAddr = "198.18.1.5".parse().unwrap();
    let (remote, other): (IpAddr, IpAddr) = ("198.18.2.2".parse().unwrap(), "198.18.3.2".parse().unwrap());
    let before = scope(&[("198.18.2.0/24", "198.18.1.0/24", Some(RULE))]);
    // Two entries in the place of one, and nothing in the place of another prefix.
    let after = scope(&[
        ("198.18.2.0/24", "198.18.1.0/25", Some(OTHER)),
        ("198.18.2.0/24", "198.18.1.128/25", Some(OTHER)),
        ("198.18.3.0/24", "198.18.1.0/25", Some(RULE)),
    ]);
    let mut applied = Applied::default();
    applied.apply(&gateway.program, &before).unwrap();
    // Room for one more.
    let foreign = |number: u32| IpNet::from(IpAddr::from(number.to_be_bytes()));
    let taken = (0..)
        .take_while(|number| gateway.program.set_source(u32::MAX, foreign(*number), Route::Pass).is_ok())
        .count() as u32;
    gateway.program.remove_source(u32::MAX, foreign(0)).unwrap();

    for _ in 0..3 {
        applied.apply(&gateway.program, &after).unwrap_err();
        for remote in [remote, other] {
            agree(&gateway, &clamp, applied.scope(), host, remote);
        }
        assert!(applied.scope().rule(host, remote).is_some(), "{:?}", applied.scope());
        // Long enough for what is retired to be removed by the next attempt.
        thread::sleep(Duration::from_millis(150));
    }
    for number in 1..taken {
        gateway.program.remove_source(u32::MAX, foreign(number)).unwrap();
    }
    applied.apply(&gateway.program, &after).unwrap();
    for remote in [remote, other] {
        agree(&gateway, &clamp, &after, host, remote);
    }
    thread::sleep(Duration::from_millis(150));
    applied.apply(&gateway.program, &after).unwrap();
    assert_eq!(gateway.program.sources().unwrap(), 3);
}

#[test]
fn addresses_that_could_not_be_followed_are_followed_by_the_next_attempt() {
    if skipped("addresses_that_could_not_be_followed_are_followed_by_the_next_attempt") {
        return;
    }
    let gateway = bare();
    let foreign = |number: u32| IpNet::from(IpAddr::from(number.to_be_bytes()));
    let own: BTreeSet<IpAddr> = ["198.18.1.1", "198.18.2.1"].map(|text| text.parse().unwrap()).into();
    let mut applied = Applied::default();
    let taken = (0..).take_while(|number| gateway.program.set_route(foreign(*number), Route::Pass).is_ok());
    let taken = taken.count() as u32;
    // Room for one of the two.
    gateway.program.remove_route(foreign(0)).unwrap();
    applied.follow_addresses(&gateway.program, own.clone()).unwrap_err();
    gateway.program.remove_route(foreign(1)).unwrap();
    applied.follow_addresses(&gateway.program, own).unwrap();
    // None is left over, and none missed.
    applied.follow_addresses(&gateway.program, BTreeSet::new()).unwrap();
    assert_eq!(gateway.program.routes().unwrap().len() as u32, taken - 2);
}

#[test]
fn no_packet_goes_unserved_while_the_scope_changes() {
    if skipped("no_packet_goes_unserved_while_the_scope_changes") {
        return;
    }
    let gateway = bare();
    let host: IpAddr = "198.18.1.5".parse().unwrap();
    let remote: IpAddr = "198.18.2.2".parse().unwrap();
    // All of them serve the two; none has its rule at the same place as the one before.
    let scopes = [
        scope(&[("198.18.2.0/24", "198.18.1.0/24", Some(RULE))]),
        scope(&[("198.18.2.0/24", "198.18.1.0/24", Some(OTHER))]),
        scope(&[("198.18.2.0/24", "198.18.1.4/30", Some(RULE)), ("198.18.2.0/24", "198.18.0.0/16", None)]),
        scope(&[("198.18.2.0/24", "0.0.0.0/0", Some(OTHER))]),
        scope(&[("198.18.2.0/24", "198.18.3.0/24", None), ("198.18.2.2/32", "198.18.1.0/24", Some(RULE))]),
        scope(&[("198.18.0.0/15", "0.0.0.0/0", Some(RULE)), ("198.18.9.0/24", "0.0.0.0/0", None)]),
    ];
    assert!(scopes.iter().all(|scope| scope.rule(host, remote).is_some()));
    let mut applied = Applied::default();
    applied.apply(&gateway.program, &scopes[0]).unwrap();
    let frame = syn(host, remote, false);
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|threads| {
        let sender = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                gateway.program.run_once(&frame).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut random = Random(7);
        let mut changes = 0;
        while (changes < 2000 || sent.load(Ordering::Relaxed) < 2000) && !sender.is_finished() {
            applied.apply(&gateway.program, &scopes[random.below(6) as usize]).unwrap();
            changes += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    let counters = gateway.program.counters().unwrap();
    assert_eq!(counters.reason(Reason::OutOfScope), 0);
    assert_eq!(counters.edit(Edit::Mss), counters.frames());
}

/// Pins this thread to a CPU.
fn on_cpu(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

#[test]
fn no_cpu_remembers_a_route_that_has_changed() {
    if skipped("no_cpu_remembers_a_route_that_has_changed") {
        return;
    }
    let gateway = bare();
    let (prefix, selector) = (net("198.18.2.0/24"), 1);
    let frame = syn("198.18.1.5".parse().unwrap(), "198.18.2.2".parse().unwrap(), false);
    let set = |route| gateway.program.set_route(prefix, route).unwrap();
    let limit = || {
        let data = gateway.program.run_once(&frame).unwrap().data;
        u16::from_be_bytes(*data.last_chunk().unwrap())
    };
    let cpus: Vec<usize> = {
        let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect()
    };
    // Everywhere, twice: what is looked up, and what is remembered.
    let everywhere = |expected| {
        for cpu in &cpus {
            on_cpu(*cpu);
            assert_eq!([limit(), limit()], [expected; 2], "CPU {cpu}");
        }
    };
    everywhere(1460);
    set(Route::Tunnel(RULE));
    everywhere(1100);
    set(Route::Tunnel(OTHER));
    everywhere(1000);
    set(Route::Pass);
    everywhere(1460);
    gateway.program.set_source(selector, net("198.18.1.0/24"), Route::Tunnel(RULE)).unwrap();
    set(Route::BySource(selector));
    everywhere(1100);
    gateway.program.set_source(selector, net("198.18.1.5/32"), Route::Tunnel(OTHER)).unwrap();
    everywhere(1000);
    gateway.program.remove_source(selector, net("198.18.1.5/32")).unwrap();
    everywhere(1100);
    gateway.program.set_route(net("198.18.2.2/32"), Route::Tunnel(OTHER)).unwrap();
    everywhere(1000);
    gateway.program.remove_route(net("198.18.2.2/32")).unwrap();
    everywhere(1100);
    gateway.program.remove_route(prefix).unwrap();
    everywhere(1460);
}

#[test]
fn what_was_looked_up_during_a_change_is_not_remembered() {
    if skipped("what_was_looked_up_during_a_change_is_not_remembered") {
        return;
    }
    let gateway = bare();
    let frame = syn("198.18.1.5".parse().unwrap(), "198.18.2.2".parse().unwrap(), false);
    // Odd while the route is changed; behind that it says which of the two it is.
    let changes = AtomicU64::new(0);
    let seen = AtomicU64::new(0);
    let set = |rule| gateway.program.set_route(net("198.18.2.0/24"), Route::Tunnel(rule)).unwrap();
    set(RULE);
    thread::scope(|threads| {
        threads.spawn(|| {
            while changes.load(Ordering::SeqCst) < 20_000 {
                let before = changes.load(Ordering::SeqCst);
                let data = gateway.program.run_once(&frame).unwrap().data;
                if before.is_multiple_of(2) && changes.load(Ordering::SeqCst) == before {
                    let rule = if before.is_multiple_of(4) { RULE } else { OTHER };
                    assert_eq!(data[data.len() - 4..], mss(rule.mss4.unwrap()));
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        while changes.load(Ordering::SeqCst) < 20_000 {
            let now = changes.fetch_add(1, Ordering::SeqCst);
            set(if now.is_multiple_of(4) { OTHER } else { RULE });
            changes.fetch_add(1, Ordering::SeqCst);
            // Time for the other thread to look at it.
            let before = seen.load(Ordering::SeqCst);
            for _ in 0..200 {
                if seen.load(Ordering::SeqCst) != before {
                    break;
                }
                thread::yield_now();
            }
        }
    });
    assert!(seen.load(Ordering::SeqCst) > 0);
}
