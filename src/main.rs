//! The `xdpfrag` command; everything is in [`xdpfrag::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    xdpfrag::cli::main()
}
