use super::*;
use crate::observe::snapshot::{DeafSnapshot, Latency, RouteSnapshot};

fn snapshot(factor: u64) -> Snapshot {
    let counts = |label: &str, count: u64| BTreeMap::from([(label.to_owned(), count)]);
    let latency = Latency { count: 10, p50_ns: 17_200, max_ns: 1_300_000, ..Latency::default() };
    Snapshot {
        version: "0.1.0".into(),
        pid: 42,
        uptime_s: 10.0 * factor as f64,
        idents_reused: 7,
        interfaces: vec![InterfaceSnapshot {
            name: "eth1".into(),
            mode: "native".into(),
            handback: "inject".into(),
            routes: vec![RouteSnapshot {
                prefix: "0.0.0.0/0".into(),
                mtu: 1422,
                mss4: Some(1382),
                mss6: None,
                ..RouteSnapshot::default()
            }],
            xdp: counts("oversize", 4_000_000_000 * factor),
            egress_mss: 3,
            workers: vec![WorkerSnapshot {
                alive: true,
                received: 4_000_000_000 * factor,
                handed_back: 8_000_000_000 * factor,
                reasons: counts("fragmented", 4_000_000_000 * factor),
                latency: Some(latency),
                ..WorkerSnapshot::default()
            }],
            ..InterfaceSnapshot::default()
        }],
    }
}

#[test]
fn fits_eighty_columns_and_leaves_zeros_out() {
    let text = render(&snapshot(1), Style::default());
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    for part in
        ["4,000,000,000", "fragmented", "SA MTU 1422, MSS 1382", "17.2 us", "1.3 ms", "egress_mss", "30 s: 7"]
    {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    assert!(!text.contains("sticky"), "{text}");
    assert!(render(&snapshot(1), Style { zeros: true, ..Style::default() }).contains("sticky"));
}

#[test]
fn rates_are_the_difference_per_second() {
    let (before, now) = (snapshot(1), snapshot(2));
    let text = render(&now, Style { since: Some(&before), live: true, ..Style::default() });
    assert!(text.contains(" 400,000,000 ") && text.contains(" 800,000,000 "), "{text}");
    assert!(text.contains("per second") && text.contains("BATCH OF 64"), "{text}");
    // What did not grow is no rate.
    assert!(!text.contains("egress_mss"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let idle =
        render(&now, Style { since: Some(&Snapshot { uptime_s: 1.0, ..now.clone() }), ..Style::default() });
    assert!(idle.contains("No frames.\n"), "{idle}");
}

#[test]
fn the_busiest_deaf_hosts_are_shown() {
    let mut many = snapshot(1);
    assert!(!render(&many, Style::default()).contains("DEAF HOST"));
    many.interfaces[0].deaf = (0..13)
        .map(|n| DeafSnapshot {
            address: format!("2001:db8:1234:5678:9abc:def0:1234:56{n:02}"),
            frames: 1_000_000 - n,
            ..DeafSnapshot::default()
        })
        .collect();
    let text = render(&many, Style::default());
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("1,000,000") && text.contains("999,991") && !text.contains("999,990"), "{text}");
    assert!(text.contains("and 3 more, which stats --json lists"), "{text}");
}

#[test]
fn an_idle_instance_says_so() {
    let mut idle = snapshot(1);
    idle.interfaces[0].xdp.clear();
    idle.interfaces[0].egress_mss = 0;
    idle.interfaces[0].workers.clear();
    assert!(render(&idle, Style::default()).contains("No frames yet"));
}

/// A gateway with a hundred policies between IPv6 networks, and trouble of every kind.
fn crowded(factor: u64) -> Snapshot {
    let mut crowded = snapshot(factor);
    let interface = &mut crowded.interfaces[0];
    interface.auto = true;
    interface.routes = (0..100)
        .map(|n| RouteSnapshot {
            prefix: format!("2001:db8:1234:{n:04x}:aaaa:bbbb:cccc:dddd/128"),
            source: Some(format!("2001:db8:abcd:{n:04x}:aaaa:bbbb:cccc:dddd/128")),
            mtu: 1422,
            mss4: None,
            mss6: Some(1362),
            via: Some("policy".into()),
            spis: (0..6).map(|spi| format!("0x{spi:08x}")).collect(),
            ways: None,
        })
        .collect();
    interface.exceptions =
        vec!["2001:db8:1234:5678:aaaa:bbbb::/96 from 2001:db8:abcd:ef01:aaaa:bbbb::/96".into(); 30];
    for reason in Reason::ALL {
        interface.xdp.insert(reason.label().into(), 1_000_000 * factor);
    }
    interface.late = Late::ALL.iter().map(|late| (late.label().into(), 5 * factor)).collect();
    for reason in Reason::ALL {
        interface.workers[0].reasons.insert(reason.label().into(), 4_000_000 * factor);
    }
    interface.workers[0].socket_drops = 12 * factor;
    crowded
}

#[test]
fn a_crowded_gateway_stays_within_the_screen_and_shows_counters_first() {
    let (before, now) = (crowded(1), crowded(2));
    for since in [None, Some(&before)] {
        let text = render(&now, Style { since, live: true, ..Style::default() });
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("and 120 more: xdpfrag stats"), "{text}");
        assert!(text.find("COUNTER") < text.find("SCOPE"), "{text}");
        assert!(text.find("NOT QUEUED") < text.find("SCOPE"), "{text}");
        let scope = text.lines().skip_while(|line| *line != "SCOPE").count();
        assert!(scope <= 32, "{scope} lines:\n{text}");
        // No matter how many more.
        let mut more = now.clone();
        more.interfaces[0].routes.extend(now.interfaces[0].routes.clone());
        let taller = render(&more, Style { since, live: true, ..Style::default() });
        assert_eq!(taller.lines().count(), text.lines().count());
    }
    let whole = render(&now, Style::default());
    assert!(whole.lines().all(|line| line.chars().count() <= 80), "{whole}");
    let words: Vec<_> = whole.split_whitespace().collect();
    assert_eq!(words.iter().filter(|word| **word == "0x00000005").count(), 100, "{whole}");
}

#[test]
fn what_was_lost_or_not_served_is_one_line() {
    assert!(!render(&snapshot(1), Style::default()).contains(UNSERVED));
    let (before, now) = (crowded(1), crowded(2));
    let total = render(&now, Style::default());
    let line = total.split("\n\n").last().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        line,
        "lost or not served: handback_error=8,000,000 handback_full=8,000,000 lost=10 no_worker=2,000,000 \
         socket_drops=24 truncated=8,000,000"
    );
    let live = render(&now, Style { since: Some(&before), live: true, ..Style::default() });
    assert!(
        live.contains("lost or not served within 10.0 s: ") && live.contains("socket_drops=12"),
        "{live}"
    );
    let idle = Snapshot { uptime_s: 1.0, ..now.clone() };
    let idle = render(&now, Style { since: Some(&idle), live: true, ..Style::default() });
    assert!(!idle.contains(UNSERVED), "nothing was lost just now:\n{idle}");
}

#[test]
fn a_rare_loss_is_no_zero() {
    let (before, mut now) = (snapshot(1), snapshot(2));
    now.interfaces[0].workers[0].socket_drops = 1;
    let text = render(&now, Style { since: Some(&before), live: true, ..Style::default() });
    assert!(text.lines().any(|line| line.contains(" <1 ") && is_loss(line)), "{text}");
}

#[test]
fn losses_are_told_from_what_is_fine() {
    let style = Style { zeros: true, ..Style::default() };
    let losses = |text: &str| {
        let lines = text.lines().filter(|line| is_loss(line));
        lines.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut quiet = snapshot(1);
    assert_eq!(losses(&render(&quiet, style)), <[&str; 0]>::default());
    quiet.interfaces[0].workers[0].alive = false;
    assert_eq!(losses(&render(&quiet, style)), ["0"]);
    let mut trouble = crowded(1);
    trouble.interfaces[0].workers[0].notify_errors = 1;
    let found = losses(&render(&trouble, style));
    let expected = [
        "no_worker",
        "handback_full",
        "handback_error",
        "truncated",
        "lost",
        "notify_errors",
        "0",
        "lost",
        "no_worker=1,000,000",
    ];
    assert_eq!(found, expected);
}

#[test]
fn latency_between_two_looks_is_that_of_the_frames_between() {
    use crate::observe::latency::Latency;
    let mut histogram = hdrhistogram::Histogram::new_with_bounds(1, 10_000_000_000, 2).unwrap();
    let [mut before, mut now] = [snapshot(1), snapshot(2)];
    histogram.record_n(17_000, 1_000_000).unwrap();
    before.interfaces[0].workers[0].latency = Latency::of(&histogram);
    histogram.record_n(40_000_000, 50).unwrap();
    now.interfaces[0].workers[0].latency = Latency::of(&histogram);
    let live = Style { since: Some(&before), live: true, ..Style::default() };
    let text = render(&now, live);
    let row = text.lines().find(|line| line.starts_with("queue 0")).unwrap();
    assert!(row.contains(" 50 ") && row.contains("<= 50.0 ms") && !row.contains("us"), "{text}");
    // No frame, no latency.
    let text = render(&now, Style { since: Some(&Snapshot { uptime_s: 1.0, ..now.clone() }), ..live });
    assert!(!text.contains("LATENCY"), "{text}");
}
