//! Counts instructions where `benches/lab` takes the time: two gateways with ESP and both hosts in a VM whose CPU is
//! emulated, so that a row has the same figure on every machine. `docs/performance.md` says how to read it.
//!
//! `make count`, or `cargo bench --bench count -- --help`

mod budget;
#[path = "../../tests/vm/capture.rs"]
#[allow(dead_code)]
mod capture;
/// What `gateways` expects of the VM tests.
mod esp {
    pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_xdpfrag");
}
#[path = "../../tests/vm/gateways.rs"]
#[allow(dead_code)]
mod gateways;
mod guest;
mod host;
mod record;
#[path = "../../tests/vm/sa.rs"]
#[allow(dead_code)]
mod sa;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Counts instructions per datagram, with ESP, in a VM
#[derive(Debug, Parser)]
#[command(name = "count")]
struct Arguments {
    /// Given by `cargo bench`; without it nothing is counted
    #[arg(long, hide = true)]
    bench: bool,

    /// Debian's kernels to boot, of those that tests/vm/setup gets
    #[arg(long, value_name = "KERNEL", value_delimiter = ',', default_value = "6.12,6.1,7")]
    kernels: Vec<String>,

    /// The few rows of `make test`: AES-NI and the first kernel only
    #[arg(long)]
    short: bool,

    /// Only rows with one of these in their name; may be repeated or a list
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,

    /// Write the figures as new budgets, in the place of checking them
    #[arg(long)]
    update: bool,

    /// The xdpfrag to count
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_xdpfrag"))]
    binary: PathBuf,

    /// Another xdpfrag, such as the one before a change: counted in the same run, with ratios
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,

    /// Show the functions that make up at least this share of a row, per cent
    #[arg(long, value_name = "PERCENT")]
    functions: Option<f64>,

    /// With AES-NI, without, or both
    #[arg(long, value_name = "HOW", value_delimiter = ',', default_value = "aesni,generic")]
    ciphers: Vec<host::Cipher>,

    /// Show what the last run with this kernel left in target/vm/run, without another one
    #[arg(long)]
    last: bool,

    /// Inside the VM
    #[arg(long, hide = true)]
    guest: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // `cargo test --benches` runs it too, without this argument.
    if !arguments.bench {
        return Ok(());
    }
    if arguments.guest {
        let aesni = arguments.ciphers == [host::Cipher::Aesni];
        let Arguments { short, only, binary, against, .. } = arguments;
        return guest::run(&guest::Order { aesni, short, only, binary, against });
    }
    host::run(arguments)
}
