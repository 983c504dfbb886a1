//! A snapshot in the OpenMetrics text format.
//!
//! Counters count from the start of the process, as Prometheus expects; units stand in the names.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::latency::Latency;
use super::snapshot::{InterfaceSnapshot, RouteSnapshot, Snapshot, WorkerSnapshot};

/// `Content-Type` of [`render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// `snapshot` as OpenMetrics.
pub fn render(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("xdpfrag");
    registry.register_collector(Box::new(Exposition(snapshot)));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Exposition(Snapshot);

/// Label names and values of one series.
type Labels = Vec<(&'static str, String)>;

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Exposition(snapshot) = self;
        let mut out = Families { encoder: &mut encoder };
        process(&mut out, snapshot)?;
        xdp(&mut out, &snapshot.interfaces)?;
        workers(&mut out, &snapshot.interfaces)
    }
}

fn process(out: &mut Families<'_, '_>, snapshot: &Snapshot) -> fmt::Result {
    let build = vec![("version", quoted(&snapshot.version))];
    out.gauges("build_info", "Always 1; the version of the running binary", None, [(build, 1.0)])?;
    let uptime = [(Labels::new(), snapshot.uptime_s)];
    out.gauges("uptime", "Time since forwarding began", Some(Unit::Seconds), uptime)?;
    out.counters(
        "ipv4_identifications_reused",
        "IPv4 identifications used again within the reassembly time of 30 s",
        None,
        [(Labels::new(), snapshot.idents_reused)],
    )
}

fn xdp(out: &mut Families<'_, '_>, interfaces: &[InterfaceSnapshot]) -> fmt::Result {
    let frames = Some(Unit::Other("frames".into()));
    out.gauges(
        "interface_info",
        "Always 1; how the LAN interface is served",
        None,
        interfaces.iter().map(|interface| {
            let how = [("mode", quoted(&interface.mode)), ("handback", quoted(&interface.handback))];
            (of(interface).into_iter().chain(how).collect(), 1.0)
        }),
    )?;
    out.gauges(
        "route_mtu",
        "SA MTU of what is in scope",
        Some(Unit::Bytes),
        routes(interfaces).map(|(labels, route)| (labels, f64::from(route.mtu))),
    )?;
    let mss = routes(interfaces).filter_map(|(labels, route)| {
        // A prefix is of one of the two.
        Some((labels, f64::from(route.mss4.or(route.mss6)?)))
    });
    out.gauges("route_mss", "MSS limit of TCP to what is in scope", Some(Unit::Bytes), mss)?;
    let ways = routes(interfaces).filter_map(|(labels, route)| {
        let ways = route.ways.as_ref()?;
        Some((with(with(labels, "udp", &ways.udp), "other", &ways.other), 1.0))
    });
    out.gauges("route_ways", "Always 1; by which ways oversize packets are made to fit", None, ways)?;
    out.gauges(
        "deaf_hosts",
        "Hosts served because they went on after 'too big' (--force deaf)",
        None,
        interfaces.iter().map(|interface| (of(interface), interface.deaf.len() as f64)),
    )?;
    out.counters(
        "xdp",
        "Frames that the XDP program saw, by what became of them",
        frames,
        interfaces.iter().flat_map(|interface| by(of(interface), "reason", &interface.xdp)),
    )?;
    out.counters(
        "xdp_edits",
        "Changes that the XDP program made in place",
        None,
        interfaces.iter().flat_map(|interface| by(of(interface), "edit", &interface.xdp_edits)),
    )?;
    out.counters(
        "late",
        "Packets behind GRO (--redirect late), by what became of them",
        Some(Unit::Other("packets".into())),
        interfaces.iter().flat_map(|interface| by(of(interface), "outcome", &interface.late)),
    )?;
    out.counters(
        "egress_mss_clamped",
        "SYN and SYN-ACK whose MSS was lowered on the way to the LAN",
        None,
        interfaces.iter().map(|interface| (of(interface), interface.egress_mss)),
    )
}

fn workers(out: &mut Families<'_, '_>, interfaces: &[InterfaceSnapshot]) -> fmt::Result {
    let all = || {
        let each = |interface| move |worker| (queue(interface, worker), worker);
        interfaces
            .iter()
            .flat_map(move |interface: &InterfaceSnapshot| interface.workers.iter().map(each(interface)))
    };
    let frames = || Some(Unit::Other("frames".into()));
    let up = all().map(|(labels, worker)| (labels, f64::from(u8::from(worker.alive))));
    out.gauges(
        "worker_up",
        "1 while the worker of the queue lives; without it its frames pass untouched",
        None,
        up,
    )?;
    let umem = all().map(|(labels, worker)| (labels, worker.umem_bytes as f64));
    out.gauges("worker_umem", "Memory for received frames", Some(Unit::Bytes), umem)?;
    let peak = all().map(|(labels, worker)| (labels, worker.batch_peak as f64));
    let help = "The most frames found in the RX ring at once lately; 64 is all that is taken at a time";
    out.gauges("worker_batch_peak", help, frames(), peak)?;
    let peak = all().map(|(labels, worker)| (labels, worker.handback_peak_ns as f64 / 1e9));
    out.gauges("worker_handback_peak", "The longest hand-back call lately", Some(Unit::Seconds), peak)?;
    for (name, help, counter) in FRAMES {
        out.counters(name, help, frames(), all().map(|(labels, worker)| (labels, counter(worker))))?;
    }
    let reasons = all().flat_map(|(labels, worker)| by(labels, "reason", &worker.reasons));
    out.counters("worker", "Frames that the worker received, by what became of them", frames(), reasons)?;
    let edits = all().flat_map(|(labels, worker)| by(labels, "edit", &worker.edits));
    out.counters("worker_edits", "Changes that the worker made to frames, and messages sent", None, edits)?;
    for (name, help, counter) in ERRORS {
        out.counters(name, help, None, all().map(|(labels, worker)| (labels, counter(worker))))?;
    }
    let latency = all().filter_map(|(labels, worker)| Some((labels, worker.latency?)));
    out.latencies("worker_latency", "From the XDP program's time stamp to the end of the hand-back", latency)
}

type Counter = fn(&WorkerSnapshot) -> u64;

const FRAMES: [(&str, &str, Counter); 3] = [
    ("worker_received", "Frames that the worker received from the XDP program", |worker| worker.received),
    ("worker_handed_back", "Frames handed back to the kernel, fragments one by one", |worker| {
        worker.handed_back
    }),
    ("worker_socket_dropped", "Frames lost because the socket's rings were full", |worker| {
        worker.socket_drops
    }),
];

const ERRORS: [(&str, &str, Counter); 2] = [
    ("worker_handback_errors", "Hand-back calls that failed", |worker| worker.handback_errors),
    ("worker_notify_errors", "ICMP messages of --notify that the kernel refused", |worker| {
        worker.notify_errors
    }),
];

/// Writes metric families one after the other.
struct Families<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Families<'_, '_> {
    fn family<T>(
        &mut self,
        (name, help, unit, kind): (&str, &str, Option<Unit>, MetricType),
        series: impl IntoIterator<Item = (Labels, T)>,
        value: impl Fn(T, MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, sample) in series {
            value(sample, family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let value = |count: u64, encoder: MetricEncoder<'_>| ConstCounter::new(count).encode(encoder);
        self.family((name, help, unit, MetricType::Counter), series, value)
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let value = |level: f64, encoder: MetricEncoder<'_>| ConstGauge::new(level).encode(encoder);
        self.family((name, help, unit, MetricType::Gauge), series, value)
    }

    fn latencies(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, Latency)>,
    ) -> fmt::Result {
        let value = |latency: Latency, mut encoder: MetricEncoder<'_>| {
            let mut below = 0;
            let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(latency.buckets.len() + 1);
            for bucket in latency.buckets {
                buckets.push((bucket.le_ns as f64 / 1e9, bucket.count - below));
                below = bucket.count;
            }
            // The encoder writes this bound as +Inf.
            buckets.push((f64::MAX, latency.count - below));
            encoder.encode_histogram::<NoLabelSet>(latency.sum_ns as f64 / 1e9, latency.count, &buckets, None)
        };
        self.family((name, help, Some(Unit::Seconds), MetricType::Histogram), series, value)
    }
}

fn of(interface: &InterfaceSnapshot) -> Labels {
    vec![("interface", quoted(&interface.name))]
}

fn queue(interface: &InterfaceSnapshot, worker: &WorkerSnapshot) -> Labels {
    with(of(interface), "queue", &worker.queue.to_string())
}

/// Each route with its labels: what it holds for is destination and source, empty for any source.
fn routes(interfaces: &[InterfaceSnapshot]) -> impl Iterator<Item = (Labels, &RouteSnapshot)> {
    interfaces.iter().flat_map(|interface| {
        interface.routes.iter().map(|route| {
            let text = |field: &Option<String>| quoted(field.as_deref().unwrap_or_default());
            let what = [
                ("prefix", quoted(&route.prefix)),
                ("source", text(&route.source)),
                ("via", text(&route.via)),
            ];
            (of(interface).into_iter().chain(what).collect(), route)
        })
    })
}

fn with(mut labels: Labels, name: &'static str, value: &str) -> Labels {
    labels.push((name, quoted(value)));
    labels
}

/// One series per label of `counts`.
fn by<'a>(
    labels: Labels,
    name: &'static str,
    counts: &'a std::collections::BTreeMap<String, u64>,
) -> impl Iterator<Item = (Labels, u64)> + use<'a> {
    counts.iter().map(move |(label, count)| (with(labels.clone(), name, label), *count))
}

/// A label value, escaped: the kernel allows quotes and backslashes in interface names.
fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
