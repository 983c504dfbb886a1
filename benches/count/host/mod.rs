//! Outside the VM: builds the plugin, boots each kernel, makes the table, and checks or writes the budgets.

mod counts;
mod symbols;
mod table;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::Arguments;
use crate::budget::{Budget, Cost, Finding, Functions, Line};
use crate::record::{Guest, Record};
use counts::Run;
use symbols::Symbols;

/// What AES-GCM is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cipher {
    /// The CPU's instructions for AES.
    Aesni,
    /// C.
    Generic,
}

impl Cipher {
    fn name(self) -> &'static str {
        match self {
            Cipher::Aesni => "aesni",
            Cipher::Generic => "generic",
        }
    }

    /// More of QEMU's `-cpu`.
    fn cpu(self) -> &'static str {
        match self {
            Cipher::Aesni => "",
            Cipher::Generic => ",-aes,-pclmulqdq,-vaes,-vpclmulqdq",
        }
    }
}

/// By how much the runs of a row may differ and by how much the row may then exceed its budget, per cent. Runs differ where
/// the clock has a say: when a worker is woken decides how much it finds, processes wait for each other.
const BOUNDS: [(f64, f64); 3] = [(0.5, 1.0), (2.0, 3.0), (f64::INFINITY, 10.0)];

/// A row as it was counted.
pub(crate) struct Row {
    pub(crate) record: Record,
    /// Ascending.
    runs: Vec<Run>,
    functions: Functions,
}

impl Row {
    /// The median run.
    pub(crate) fn run(&self) -> &Run {
        &self.runs[self.runs.len() / 2]
    }

    /// Instructions per datagram.
    pub(crate) fn each(&self) -> f64 {
        self.run().total() as f64 / self.record.delivered as f64
    }

    /// Between the least and the most of the runs, per cent.
    pub(crate) fn spread(&self) -> f64 {
        let totals = [self.runs.first(), self.runs.last()].map(|run| run.map_or(0, Run::total) as f64);
        100.0 * (totals[1] / totals[0] - 1.0)
    }

    pub(crate) fn cost(&self) -> Cost {
        Cost { instructions: self.each(), functions: self.functions.clone() }
    }

    fn new(record: Record, all: &mut BTreeMap<String, Run>, symbols: &Symbols) -> Result<Row> {
        let take = |run| all.remove(&format!("{}#{run}", record.row)).context("a run is missing");
        let mut runs: Vec<_> = (0..record.runs).map(take).collect::<Result<_>>()?;
        runs.sort_by_key(Run::total);
        let median = &runs[runs.len() / 2];
        let mut functions = Functions::new();
        for (address, owner, instructions) in &median.blocks {
            let name = format!("{} {}", median.owners[*owner].0, symbols.name(*address));
            *functions.entry(name).or_default() += *instructions as f64 / record.delivered as f64;
        }
        for run in &mut runs {
            run.blocks = Vec::new();
        }
        Ok(Row { record, runs, functions })
    }

    fn bound(&self) -> f64 {
        let spread = self.spread();
        BOUNDS.iter().find(|(most, _)| spread <= *most).map_or(1.0, |(_, bound)| *bound)
    }
}

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    if arguments.short {
        arguments.kernels.truncate(1);
        arguments.ciphers = vec![Cipher::Aesni];
    }
    let plugin = build_plugin()?;
    let mut wrong = Vec::new();
    for kernel in &arguments.kernels {
        for cipher in &arguments.ciphers {
            if !arguments.last {
                boot(kernel, *cipher, &arguments, &plugin)?;
            }
            let (guest, rows) = read(&left(kernel)?, &arguments)?;
            println!("\n## {} with {}\n\n{}", guest.release, guest.cipher, table::markdown(&rows));
            if arguments.against.is_some() {
                println!("{}", table::ratios(&rows));
            }
            if let Some(least) = arguments.functions {
                rows.iter().for_each(|row| println!("{}", table::functions(row, least)));
            }
            let path = budgets().join(format!("{kernel}-{}.txt", cipher.name()));
            match arguments.update {
                true => update(&path, &guest, &rows)?,
                false => wrong.extend(check(&path, &guest, &rows)?),
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} rows are above their budgets or have none:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

fn budgets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/count/budgets")
}

fn build_plugin() -> Result<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = tree.join("benches/count/plugin/counter.c");
    let directory = tree.join("target/count");
    fs::create_dir_all(&directory)?;
    let plugin = directory.join("counter.so");
    let status = Command::new("gcc")
        .args([
            "-O2",
            "-Wall",
            "-Wextra",
            "-Wno-unused-parameter",
            "-Werror",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
        ])
        .arg("-o")
        .args([&plugin, &source])
        .status()
        .context("gcc")?;
    ensure!(status.success(), "gcc cannot build {}", source.display());
    Ok(plugin)
}

/// Runs this program in a VM.
fn boot(kernel: &str, cipher: Cipher, arguments: &Arguments, plugin: &Path) -> Result<()> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    let this = std::env::current_exe()?;
    let absolute = |path: &Path| fs::canonicalize(path).with_context(|| path.display().to_string());
    let mut vm = Command::new(tree.join("tests/vm/boot"));
    vm.arg(kernel).arg(&this).args(["--bench", "--guest", "--ciphers", cipher.name()]);
    vm.arg("--binary").arg(absolute(&arguments.binary)?);
    if let Some(against) = &arguments.against {
        vm.arg("--against").arg(absolute(against)?);
    }
    if arguments.short {
        vm.arg("--short");
    }
    vm.args(arguments.only.iter().map(|part| format!("--only={part}")));
    vm.env("XDPFRAG_VM_COUNT", plugin).env("XDPFRAG_VM_CPU", cipher.cpu());
    // The table is what is printed on standard output; the console is not.
    let status = vm.stdout(std::io::stderr()).status().context("tests/vm/boot")?;
    ensure!(status.success(), "kernel {kernel}, {}: the VM ended with {status}", cipher.name());
    Ok(())
}

/// Where tests/vm/boot has the VM leave files: named by kernel and program, without cargo's hash.
fn left(kernel: &str) -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let name = this.file_name().and_then(|name| name.to_str()).context("a name of this program")?;
    let name = name.rsplit_once('-').map_or(name, |(name, _)| name);
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/vm/run/{kernel}-{name}")))
}

/// What the guest and the plugin wrote.
fn read(shared: &Path, arguments: &Arguments) -> Result<(Guest, Vec<Row>)> {
    let open = |name: &str| {
        let path = shared.join(name);
        Ok::<_, anyhow::Error>(BufReader::new(File::open(&path).with_context(|| path.display().to_string())?))
    };
    let kallsyms = fs::read_to_string(shared.join("kallsyms"))?;
    let ours = Symbols::new(&kallsyms, &arguments.binary)?;
    let theirs = arguments.against.as_deref().map(|binary| Symbols::new(&kallsyms, binary)).transpose()?;
    let mut runs = counts::read(open("counts")?)?;
    let text = std::io::read_to_string(open("rows")?)?;
    let mut lines = text.lines();
    let guest: Guest =
        serde_json::from_str(lines.next().context("no row was counted: --only has no part of any name")?)?;
    let mut rows = Vec::new();
    for line in lines {
        let record: Record = serde_json::from_str(line)?;
        let symbols = theirs.as_ref().filter(|_| record.row.ends_with("@against")).unwrap_or(&ours);
        let row = record.row.clone();
        rows.push(Row::new(record, &mut runs, symbols).with_context(|| row)?);
    }
    Ok((guest, rows))
}

/// Prints what is to be said and returns what fails.
fn check(path: &Path, guest: &Guest, rows: &[Row]) -> Result<Vec<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip(&format!(
                "{}: no budgets, nothing was checked: make count UPDATE=1 writes them",
                path.display()
            ))?;
            return Ok(Vec::new());
        }
        Err(error) => bail!("{}: {error}", path.display()),
    };
    let budget = Budget::parse(&text).with_context(|| path.display().to_string())?;
    if budget.release != guest.release {
        skip(&format!(
            "the budgets of {} are of kernel {}, which Debian has replaced by {}: make count UPDATE=1 writes new ones",
            path.display(),
            budget.release,
            guest.release
        ))?;
        return Ok(Vec::new());
    }
    let ours = rows.iter().filter(|row| !row.record.row.ends_with("@against"));
    let counted: BTreeMap<_, _> = ours.map(|row| (row.record.row.clone(), row.cost())).collect();
    let mut wrong = Vec::new();
    for finding in budget.check(&counted) {
        match finding {
            Finding::Above(said) | Finding::Unknown(said) => wrong.push(said),
            Finding::Below(said) => println!("{said}: make count UPDATE=1 lowers it"),
        }
    }
    println!("{} rows, {} above their budgets ({})", counted.len(), wrong.len(), path.display());
    Ok(wrong)
}

/// Says so loudly, and at the end of `make test` again.
fn skip(reason: &str) -> Result<()> {
    use std::io::Write as _;
    println!("SKIPPED count: {reason}");
    if let Some(list) = std::env::var_os("XDPFRAG_SKIPPED") {
        writeln!(File::options().create(true).append(true).open(list)?, "count: {reason}")?;
    }
    Ok(())
}

/// Rows that were not counted keep their budgets if the kernel is the same.
fn update(path: &Path, guest: &Guest, rows: &[Row]) -> Result<()> {
    let mut budget = match fs::read_to_string(path) {
        Ok(text) => Budget::parse(&text).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Budget::default(),
        Err(error) => bail!("{}: {error}", path.display()),
    };
    if budget.release != guest.release {
        budget = Budget { release: guest.release.clone(), ..Budget::default() };
    }
    for row in rows.iter().filter(|row| !row.record.row.ends_with("@against")) {
        budget.rows.insert(row.record.row.clone(), Line { cost: row.cost(), bound: row.bound() });
    }
    fs::create_dir_all(budgets())?;
    let comment = "Instructions per datagram or segment that a row may cost, the bound in per cent, and below it its\n\
        functions. Written by `make count UPDATE=1`; benches/count/budget.rs has the format. The bound is 1 %, but 3 %\n\
        for rows whose runs differ by more than 0.5 %, and 10 % where they differ by more than 2 %: the clock has a say\n\
        in them, for when a worker is woken decides how much it finds, and processes of life/ wait for each other.";
    fs::write(path, budget.text(comment)).with_context(|| path.display().to_string())
}
