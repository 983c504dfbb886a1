//! `--metrics`: the format as strict readers see it, the server as the network sees it, and the dashboard.

mod openmetrics;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use openmetrics::{Family, parse};
use serde_json::Value;
use xdpfrag::observe::exporter::Exporter;
use xdpfrag::observe::latency::{Bucket, Latency};
use xdpfrag::observe::metrics::{self, CONTENT_TYPE};
use xdpfrag::observe::snapshot::{
    DeafSnapshot, InterfaceSnapshot, RouteSnapshot, Snapshot, WaysSnapshot, WorkerSnapshot,
};
use xdpfrag::packet::{Edit, Late, Reason};

fn counts(labels: impl Iterator<Item = &'static str>, from: u64) -> BTreeMap<String, u64> {
    labels.zip(from..).map(|(label, count)| (label.to_owned(), count)).collect()
}

fn interface(name: &str, from: u64) -> InterfaceSnapshot {
    let mut latency = Latency { count: 7, sum_ns: 1_500_000_000, ..Latency::default() };
    for (place, bucket) in latency.buckets.iter_mut().enumerate() {
        *bucket = Bucket { le_ns: (place as u64 + 1) * 1000, count: (place as u64).min(5) };
    }
    let worker = |queue| WorkerSnapshot {
        queue,
        alive: queue == 0,
        received: from + 9,
        handed_back: from + 18,
        reasons: counts(Reason::ALL.iter().map(|reason| reason.label()), from),
        edits: counts(Edit::ALL.iter().map(|edit| edit.label()), from + 50),
        socket_drops: 3,
        handback_errors: 4,
        notify_errors: 5,
        umem_bytes: 1 << 20,
        batch_peak: 64,
        handback_peak_ns: 250_000_000,
        // A worker that has seen no frame has none.
        latency: (queue == 0).then_some(latency),
        ..WorkerSnapshot::default()
    };
    InterfaceSnapshot {
        name: name.into(),
        mode: "native".into(),
        handback: "inject".into(),
        // Two local networks behind policies of their own, and a route for any source.
        routes: vec![
            route("198.18.2.0/24", Some("198.18.1.0/24"), 1422),
            route("198.18.2.0/24", Some("198.18.3.0/24"), 1390),
            route("198.18.2.0/24", None, 1400),
        ],
        xdp: counts(Reason::ALL.iter().map(|reason| reason.label()), from + 100),
        xdp_edits: counts(Edit::ALL.iter().map(|edit| edit.label()), from + 150),
        late: counts(Late::ALL.iter().map(|late| late.label()), from + 200),
        egress_mss: 17,
        workers: vec![worker(0), worker(1)],
        ..InterfaceSnapshot::default()
    }
}

fn route(prefix: &str, source: Option<&str>, mtu: u16) -> RouteSnapshot {
    RouteSnapshot {
        prefix: prefix.into(),
        source: source.map(Into::into),
        mtu,
        mss4: Some(mtu - 40),
        via: Some("policy".into()),
        ways: Some(WaysSnapshot { udp: "gso".into(), other: "pass".into(), why: "ports".into() }),
        ..RouteSnapshot::default()
    }
}

fn sample() -> Snapshot {
    Snapshot {
        version: "0.1.0".into(),
        pid: 1,
        uptime_s: 2.5,
        idents_reused: 6,
        // The kernel takes such names, too.
        interfaces: vec![interface("eth1", 1), interface("a\"b\\c", 1000)],
    }
}

/// The value of the one series of `name` with these labels.
fn value(families: &BTreeMap<String, Family>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let mut found = families.values().flat_map(|family| &family.samples);
    found
        .find(|sample| sample.name == name && sample.labels == wanted)
        .unwrap_or_else(|| panic!("{name} {labels:?}"))
        .value
}

#[test]
fn every_counter_of_the_snapshot_is_a_series_with_its_value() {
    let text = metrics::render(sample());
    let families = parse(&text);
    for interface in &sample().interfaces {
        let name = ("interface", interface.name.as_str());
        for (reason, count) in &interface.xdp {
            let found = value(&families, "xdpfrag_xdp_frames_total", &[name, ("reason", reason)]);
            assert_eq!(found, *count as f64, "{reason}");
        }
        for (edit, count) in &interface.xdp_edits {
            assert_eq!(value(&families, "xdpfrag_xdp_edits_total", &[name, ("edit", edit)]), *count as f64);
        }
        assert_eq!(value(&families, "xdpfrag_egress_mss_clamped_total", &[name]), 17.0);
        for (outcome, count) in &interface.late {
            let found = value(&families, "xdpfrag_late_packets_total", &[name, ("outcome", outcome)]);
            assert_eq!(found, *count as f64, "{outcome}");
        }
        for (source, mtu) in [("198.18.1.0/24", 1422.0), ("198.18.3.0/24", 1390.0), ("", 1400.0)] {
            let labels = [name, ("prefix", "198.18.2.0/24"), ("source", source), ("via", "policy")];
            assert_eq!(value(&families, "xdpfrag_route_mtu_bytes", &labels), mtu);
            assert_eq!(value(&families, "xdpfrag_route_mss_bytes", &labels), mtu - 40.0);
            let ways = [labels[0], labels[1], labels[2], labels[3], ("udp", "gso"), ("other", "pass")];
            assert_eq!(value(&families, "xdpfrag_route_ways", &ways), 1.0);
        }
        for worker in &interface.workers {
            let queue = worker.queue.to_string();
            let of = |metric: &str| value(&families, metric, &[name, ("queue", &queue)]);
            for (reason, count) in &worker.reasons {
                let labels = [name, ("queue", queue.as_str()), ("reason", reason)];
                assert_eq!(value(&families, "xdpfrag_worker_frames_total", &labels), *count as f64);
            }
            for (metric, expected) in [
                ("xdpfrag_worker_up", u64::from(worker.alive)),
                ("xdpfrag_worker_received_frames_total", worker.received),
                ("xdpfrag_worker_handed_back_frames_total", worker.handed_back),
                ("xdpfrag_worker_socket_dropped_frames_total", 3),
                ("xdpfrag_worker_handback_errors_total", 4),
                ("xdpfrag_worker_notify_errors_total", 5),
                ("xdpfrag_worker_umem_bytes", 1 << 20),
                ("xdpfrag_worker_batch_peak_frames", 64),
            ] {
                assert_eq!(of(metric), expected as f64, "{metric}");
            }
            assert_eq!(of("xdpfrag_worker_handback_peak_seconds"), 0.25);
        }
        let bucket = |le| {
            value(&families, "xdpfrag_worker_latency_seconds_bucket", &[name, ("queue", "0"), ("le", le)])
        };
        assert_eq!([bucket("0.000003"), bucket("+Inf")], [2.0, 7.0]);
        assert_eq!(value(&families, "xdpfrag_worker_latency_seconds_sum", &[name, ("queue", "0")]), 1.5);
    }
    assert_eq!(value(&families, "xdpfrag_uptime_seconds", &[]), 2.5);
    assert_eq!(value(&families, "xdpfrag_ipv4_identifications_reused_total", &[]), 6.0);
}

/// What `stats --json` has in numbers and the metrics do not, and why.
const NOT_EXPOSED: [(&str, &str); 11] = [
    ("pid", "Prometheus has the process of its own"),
    (
        "interfaces[].deaf[].since_s",
        "a series per host of the LAN would have no bound; their number is exposed",
    ),
    ("interfaces[].deaf[].last_s", "likewise"),
    ("interfaces[].deaf[].frames", "likewise"),
    ("interfaces[].workers[].core", "no amount"),
    ("interfaces[].workers[].latency.min_ns", "the histogram is exposed"),
    ("interfaces[].workers[].latency.max_ns", "likewise"),
    ("interfaces[].workers[].latency.p50_ns", "likewise"),
    ("interfaces[].workers[].latency.p90_ns", "likewise"),
    ("interfaces[].workers[].latency.p99_ns", "likewise"),
    ("interfaces[].workers[].latency.p999_ns", "likewise"),
];

/// Gives every number of `value` a value of its own, ascending, and lists them with their paths; whatever is empty fails.
fn number(value: &mut Value, path: &str, numbers: &mut Vec<(String, u64)>) {
    match value {
        Value::Object(fields) => {
            assert!(!fields.is_empty(), "{path} is empty: fill it in the sample");
            for (key, field) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                number(field, &path, numbers);
            }
        }
        Value::Array(items) => {
            assert!(!items.is_empty(), "{path} is empty: fill it in the sample");
            items.iter_mut().for_each(|item| number(item, &format!("{path}[]"), numbers));
        }
        Value::Number(n) => {
            let unique = 2001 + numbers.len() as u64;
            numbers.push((path.to_owned(), unique));
            *n = unique.into();
        }
        Value::Null => panic!("{path} is null: fill it in the sample"),
        Value::Bool(_) | Value::String(_) => {}
    }
}

/// So that a field that is added to the snapshot and forgotten here is found.
#[test]
fn every_number_of_stats_json_is_in_the_metrics() {
    let mut snapshot = sample();
    snapshot.interfaces.truncate(1);
    let interface = &mut snapshot.interfaces[0];
    interface.exceptions = vec!["198.18.2.1/32".into()];
    interface.deaf = vec![DeafSnapshot { address: "198.18.1.10".into(), ..DeafSnapshot::default() }];
    let [v4, v6] = ["198.18.2.0/24", "2001:db8::/32"].map(|prefix| route(prefix, Some("::/1"), 1400));
    interface.routes = vec![v4, RouteSnapshot { mss4: None, mss6: Some(1380), ..v6 }];
    interface.routes.iter_mut().for_each(|route| route.spis = vec!["0x1".into()]);
    interface.workers.truncate(1);
    interface.workers[0].core = Some(3);
    let mut json = serde_json::to_value(&snapshot).unwrap();
    // A prefix is of one of the two families.
    for (route, absent) in
        json["interfaces"][0]["routes"].as_array_mut().unwrap().iter_mut().zip(["mss6", "mss4"])
    {
        assert_eq!(route.as_object_mut().unwrap().remove(absent), Some(Value::Null));
    }
    let mut numbers = Vec::new();
    number(&mut json, "", &mut numbers);
    let text = metrics::render(serde_json::from_value(json).unwrap());
    let samples: Vec<_> = parse(&text).into_values().flat_map(|family| family.samples).collect();
    let exposed = |wanted: f64| {
        samples.iter().any(|sample| {
            let labels = sample.labels.values().filter_map(|label| label.parse().ok());
            labels.chain([sample.value]).any(|found: f64| (found - wanted).abs() < wanted * 1e-9)
        })
    };
    for (path, number) in &numbers {
        // Prometheus counts time in seconds.
        let unit = if path.ends_with("_ns") { 1e-9 } else { 1.0 };
        let found = exposed(*number as f64 * unit);
        let exempt = NOT_EXPOSED.iter().any(|(field, _)| field == path);
        assert!(found != exempt, "{path} is {}in the metrics", if found { "" } else { "not " });
    }
    for (field, _) in NOT_EXPOSED {
        assert!(numbers.iter().any(|(path, _)| path == field), "there is no {field}");
    }
}

/// Sends `request` and returns head and body.
fn ask(address: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.to_owned(), body.to_owned())
}

#[test]
fn the_server_answers_scrapes_and_nothing_else() {
    let exporter = Exporter::start("127.0.0.1:0".parse().unwrap(), sample).unwrap();
    let address = exporter.address();
    for target in ["/metrics", "/metrics?x=1"] {
        let (head, body) = ask(address, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(CONTENT_TYPE), "{head}");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
        assert_eq!(body, metrics::render(sample()));
    }
    let (head, body) = ask(address, "HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty(), "{head}");
    assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 404 "));
    assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 405 "));
    assert!(ask(address, "\x16\x03\x01 tls?\r\n\r\n").0.starts_with("HTTP/1.1 400 "));
    assert!(ask(address, &format!("GET /{} HTTP/1.1\r\n", "x".repeat(5000))).0.starts_with("HTTP/1.1 400 "));
    // Clients that say nothing hold up the others for their deadline only.
    let _silent = TcpStream::connect(address).unwrap();
    let begun = Instant::now();
    assert!(ask(address, "GET /metrics HTTP/1.1\r\n\r\n").0.starts_with("HTTP/1.1 200"));
    assert!(begun.elapsed() < Duration::from_secs(3));
    drop(exporter);
    assert!(TcpStream::connect(address).is_err(), "it still listens");
}

#[test]
#[should_panic(expected = "twice")]
fn the_reader_refuses_a_series_that_is_there_twice() {
    let mut twice = sample();
    let again = twice.interfaces[0].routes[0].clone();
    twice.interfaces[0].routes.push(again);
    parse(&metrics::render(twice));
}

#[test]
fn every_metric_of_the_dashboard_exists() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/grafana/xdpfrag.json"))
            .unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let exposed: BTreeSet<String> = parse(&metrics::render(sample()))
        .into_values()
        .flat_map(|family| family.samples)
        .map(|s| s.name)
        .collect();
    let mut queries = Vec::new();
    collect(&dashboard, &mut queries);
    assert!(queries.len() >= 12, "{queries:?}");
    for query in queries {
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let named: Vec<&str> = words.filter(|word| word.starts_with("xdpfrag_")).collect();
        assert!(!named.is_empty(), "{query} asks for no metric");
        for metric in named {
            assert!(exposed.contains(metric), "{query}: there is no metric {metric}");
        }
    }
}

/// Every `expr` and `query` string below `value`, but the data source's.
fn collect(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match field.as_str() {
                    Some(query) if (key == "expr" || key == "query") && query != "prometheus" => {
                        queries.push(query.to_owned());
                    }
                    _ => collect(field, queries),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, queries)),
        _ => {}
    }
}
