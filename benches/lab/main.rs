//! Packets per second and CPU time per packet of one router core: what users run today and xdpfrag, in turn,
//! in one run. `docs/performance.md` says how it measures and how to read it.
//!
//! `cargo bench --bench lab -- --help`

mod bare;
mod goals;
mod machine;
mod measure;
mod method;
mod plot;
mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use xdpfrag::lab::Lab;
use xdpfrag::lab::bench::{Cores, Workload};

use bare::Bound;
use machine::Machine;
use measure::{Cell, Durations, Gateway};
use method::Method;

/// Where what arrives is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SinkCore {
    Router,
    Generator,
}

/// Compares plain forwarding, nftables and xdpfrag on one router core.
#[derive(Debug, Parser)]
#[command(name = "lab")]
struct Arguments {
    /// Given by `cargo bench`; without it nothing is measured
    #[arg(long, hide = true)]
    bench: bool,

    /// One repeat of short trials: a look, not a measurement
    #[arg(long)]
    quick: bool,

    /// Rounds per workload, in each of which every method has its turn
    #[arg(long, value_name = "N")]
    repeats: Option<usize>,

    /// Only the workloads and methods with this name; may be repeated or a list [default: every workload; every
    /// method but those that redirect all, and veth]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,

    /// What bounds every method, too; without --only it is measured anyway
    #[arg(long)]
    bounds: bool,

    /// Offered load of the trials at a fixed load, packets per second [default: by workload]
    #[arg(long, value_name = "PPS")]
    load: Option<f64>,

    /// Length of the trials at a fixed load, ms [default: 300]
    #[arg(long, value_name = "MS")]
    load_ms: Option<u64>,

    /// Floods alone: no searches for the highest load without loss, hence no latencies, and short trials at a fixed
    /// load. Two versions of xdpfrag that differ by 2 % are told apart by 30 rounds of it
    #[arg(long)]
    floods: bool,

    /// The core that receives for the far host. With the generator's, frames are still in flight when the
    /// router has sent them, as on a NIC; it costs an interrupt between cores, which is dear in some VMs
    #[arg(long, value_enum, default_value = "router")]
    sink: SinkCore,

    /// More flags for `xdpfrag run`, which override those that the bench gives
    #[arg(long, value_name = "FLAGS", allow_hyphen_values = true, default_value = "")]
    run_args: String,

    /// The xdpfrag to measure
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_xdpfrag"))]
    binary: PathBuf,

    /// Another xdpfrag, such as the one before a change: measured in the same rounds, by the same methods
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// Write all samples to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write table, samples and plots into a directory: benches/results/NAME is the place for those to keep
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,

    /// Print the names of workloads and methods
    #[arg(long)]
    list: bool,
}

/// The first core makes frames, the last one is the router.
fn cores(sink: SinkCore) -> Result<Option<Cores>> {
    let count = std::thread::available_parallelism()?.get();
    let (generator, router) = (0, count - 1);
    let sink = match sink {
        SinkCore::Router => router,
        SinkCore::Generator => generator,
    };
    Ok((count >= 2).then_some(Cores { generator, router, sink }))
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // `cargo test --benches` runs it too, without this argument.
    if !arguments.bench {
        return Ok(());
    }
    let methods = Method::all();
    if arguments.list {
        let names = Workload::ALL
            .iter()
            .map(|workload| format!("{:<16} {}", workload.name(), workload.description()));
        let methods = methods.iter().map(|method| format!("{:<16} {}", method.name(), method.description()));
        println!("{}", names.chain(methods).collect::<Vec<_>>().join("\n"));
        return Ok(());
    }
    let workloads =
        chosen(&arguments.only, &Workload::ALL, &Workload::ALL, |workload| workload.name().to_owned());
    let mut methods = chosen(&arguments.only, &methods, &Method::usual(), Method::name);
    for name in &arguments.only {
        let known = Workload::ALL.iter().any(|workload| workload.name() == name)
            || Method::all().iter().any(|method| method.name() == *name);
        ensure!(known, "--only {name}: no workload or method has this name; see --list");
    }
    if let Some(other) = &arguments.against {
        let others: Vec<_> = methods.iter().filter_map(|method| method.of_another(other)).collect();
        methods.extend(others);
    }
    let cores = match cores(arguments.sink)? {
        Some(cores) if nix::unistd::geteuid().is_root() => cores,
        _ => {
            println!("lab: skipped, it needs root and two cores");
            return Ok(());
        }
    };

    let start = Instant::now();
    let mut durations = if arguments.quick { Durations::QUICK } else { Durations::FULL };
    if arguments.floods {
        durations = durations.floods();
    }
    if let Some(ms) = arguments.load_ms {
        durations.load = Duration::from_millis(ms);
    }
    let repeats = arguments.repeats.unwrap_or(if arguments.quick { 1 } else { 5 });
    ensure!(repeats > 0, "--repeats: at least 1");
    let mut bounds = Vec::new();
    let mut cells: BTreeMap<(usize, usize), Vec<Cell>> = BTreeMap::new();
    let bounded = arguments.bounds || arguments.only.is_empty();
    let labs = methods.iter().map(Method::lab).collect::<Result<Vec<_>>>()?;
    let mut gateways = ready(&methods, &labs, cores, &arguments)?;
    for (row, &workload) in workloads.iter().enumerate() {
        gateways.iter_mut().try_for_each(|gateway| gateway.load(workload))?;
        let bounding = if bounded { bare::limits(workload) } else { Vec::new() };
        let limits: Vec<_> = bounding.iter().map(|(.., programs)| Method::Behind(*programs)).collect();
        let labs = limits.iter().map(Method::lab).collect::<Result<Vec<_>>>()?;
        let mut limits = ready(&limits, &labs, cores, &arguments)?;
        for (gateway, (_, workload, _)) in limits.iter_mut().zip(&bounding) {
            gateway.load(*workload)?;
        }
        for repeat in 0..repeats {
            eprintln!("{}: round {} of {repeats}", workload.name(), repeat + 1);
            let beside = || {
                if bounded {
                    bounds.extend(bare::measure(workload, cores, durations.flood)?);
                }
                Ok(())
            };
            let (measured, floods) =
                measure::round(&gateways, &limits, workload, durations, arguments.load, beside)?;
            for (column, cell) in measured.into_iter().enumerate() {
                cells.entry((row, column)).or_default().push(cell);
            }
            bounds.extend(
                bounding
                    .iter()
                    .zip(&floods)
                    .map(|((name, ..), flood)| Bound::forwarded(workload, name, flood)),
            );
        }
        limits.into_iter().try_for_each(Gateway::stop)?;
    }
    gateways.into_iter().try_for_each(Gateway::stop)?;
    let how = format!(
        "{repeats} rounds, medians, ratios within a round; SA MTU 1422; generator on core {}, router on {}, sink on {}; \
         xdpfrag run --poll wait --tcp resegment {}; {:.0} s in all",
        cores.generator,
        cores.router,
        cores.sink,
        arguments.run_args,
        start.elapsed().as_secs_f64()
    );
    let report = report::Report::new(Machine::here(), how, bounds, &workloads, &methods, &cells);
    print!("{}", report.text());
    if let Some(directory) = &arguments.save {
        report.save(directory)?;
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Every method in its lab.
fn ready<'lab>(
    methods: &[Method],
    labs: &'lab [Lab],
    cores: Cores,
    arguments: &Arguments,
) -> Result<Vec<Gateway<'lab>>> {
    let ready = |(method, lab): (&Method, &'lab Lab)| {
        Gateway::new(method, lab, cores, arguments).with_context(|| format!("method {}", method.name()))
    };
    methods.iter().zip(labs).map(ready).collect()
}

/// Those of `all` that `only` names, or the `usual` ones if it names none of this kind.
fn chosen<T: Clone>(only: &[String], all: &[T], usual: &[T], name: impl Fn(&T) -> String) -> Vec<T> {
    let named: Vec<T> = all.iter().filter(|item| only.contains(&name(item))).cloned().collect();
    if named.is_empty() { usual.to_vec() } else { named }
}
