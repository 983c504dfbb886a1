//! The command line: one file per subcommand.
//!
//! Results go to standard output, messages to standard error. Exit codes: 0 ended as asked, 1 failed
//! while running, 2 wrong usage, configuration or input file, 3 this machine or interface cannot do it,
//! 4 (`check`) it can, with warnings.

mod arguments;
mod bench;
mod capture;
mod check;
mod config;
mod detach;
mod failure;
mod files;
mod generate;
mod instance;
mod lab;
mod log;
mod mtu;
mod output;
mod reload;
mod replay;
mod run;
mod sections;
mod stats;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use failure::Failure;

use arguments::ArgumentError;

use crate::config::RunArgs;

/// Fragments oversize DF packets of deaf LAN hosts to the IPsec SA MTU, in front of the kernel.
#[derive(Debug, Parser)]
#[command(name = "xdpfrag", version, max_term_width = 100, after_long_help = sections::XDPFRAG)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve LAN interfaces until SIGINT or SIGTERM, then print a summary
    #[command(after_long_help = sections::RUN)]
    Run(RunArgs),
    /// Say what stands in the way of `run` with these flags or this file, and how to mend it
    #[command(after_long_help = sections::CHECK)]
    Check(check::CheckArgs),
    /// Work with configuration files
    Config(config::ConfigArgs),
    /// Show the SA MTU of every IPsec tunnel of this machine, and how it comes about
    Mtu(mtu::MtuArgs),
    /// Show the counters of a running instance
    Stats(stats::StatsArgs),
    /// Capture frames of a running instance before and after it has treated them
    Capture(capture::CaptureArgs),
    /// Have a running instance read its configuration file again (as SIGHUP does)
    Reload(reload::ReloadArgs),
    /// Do to a capture file what `run` does to packets
    Replay(replay::ReplayArgs),
    /// Show in a private network what arrives without and with xdpfrag
    Lab(lab::LabArgs),
    /// Measure throughput and latency in a private network, beside plain forwarding
    Bench(bench::BenchArgs),
    /// Remove what a killed instance may have left on an interface
    Detach(detach::DetachArgs),
    /// Print shell completions
    Completions(generate::CompletionsArgs),
    /// Print the manual page, in roff
    Man(generate::ManArgs),
}

/// Parses the command line, runs the subcommand and says how it ended.
pub fn main() -> ExitCode {
    let _flush = log::Flush;
    let argv = std::env::args_os().collect();
    let cli = arguments::parse(argv).map_err(|error| match error {
        // clap knows which stream and which exit code.
        ArgumentError::Usage(error) => error.exit(),
        ArgumentError::File(_) => Failure::from(error),
    });
    match cli.and_then(|cli| dispatch(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::OutputClosed) {
                log::fail(&failure);
            }
            failure.exit_code()
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Config(args) => config::config(&args),
        Command::Mtu(args) => mtu::mtu(&args),
        Command::Stats(args) => stats::stats(&args),
        Command::Capture(args) => capture::capture(&args),
        Command::Reload(args) => reload::reload(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Lab(args) => lab::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Detach(args) => detach::detach(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}
