//! `--metrics`: the format as strict readers see it, the server as the network sees it, and the dashboard.

mod openmetrics;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use openmetrics::{Family, parse};
use xdpfrag::observe::exporter::Exporter;
use xdpfrag::observe::latency::{Bucket, Latency};
use xdpfrag::observe::metrics::{self, CONTENT_TYPE};
use xdpfrag::observe::snapshot::{InterfaceSnapshot, RouteSnapshot, Snapshot, WorkerSnapshot};
use xdpfrag::packet::{Edit, Reason};

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
        routes: vec![RouteSnapshot { prefix: "198.18.2.0/24".into(), mtu: 1422, ..RouteSnapshot::default() }],
        xdp: counts(Reason::ALL.iter().map(|reason| reason.label()), from + 100),
        xdp_edits: counts(Edit::ALL.iter().map(|edit| edit.label()), from + 150),
        egress_mss: 17,
        workers: vec![worker(0), worker(1)],
        ..InterfaceSnapshot::default()
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
        assert_eq!(value(&families, "xdpfrag_route_mtu_bytes", &[name, ("prefix", "198.18.2.0/24")]), 1422.0);
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
fn every_metric_of_the_dashboard_exists() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/grafana/xdpfrag.json"))
            .unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
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
fn collect(value: &serde_json::Value, queries: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, field) in fields {
                match field.as_str() {
                    Some(query) if (key == "expr" || key == "query") && query != "prometheus" => {
                        queries.push(query.to_owned());
                    }
                    _ => collect(field, queries),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, queries)),
        _ => {}
    }
}
