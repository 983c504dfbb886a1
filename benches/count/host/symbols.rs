//! Names of guest addresses: the kernel's by its own symbol table, those of an xdpfrag by its ELF file.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where Linux loads a position-independent program if addresses are not random (ELF_ET_DYN_BASE, x86-64).
const PROGRAM: u64 = 0x5555_5555_4000;
/// Programs, libraries and stacks are below.
const KERNEL: u64 = 1 << 63;
/// A function that is longer is none: what comes after the last symbol of a module.
const LONGEST: u64 = 1 << 17;

/// Functions by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    kernel: BTreeMap<u64, String>,
    /// From the start of the program.
    program: BTreeMap<u64, String>,
}

impl Symbols {
    /// `kallsyms` is the text of /proc/kallsyms.
    pub(crate) fn new(kallsyms: &str, binary: &Path) -> Result<Symbols> {
        let output = Command::new("nm").args(["--demangle", "--defined-only"]).arg(binary).output();
        let output = output.context("nm (binutils)")?;
        ensure!(output.status.success(), "nm: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Symbols {
            kernel: functions(kallsyms),
            program: functions(&String::from_utf8_lossy(&output.stdout)),
        })
    }

    pub(crate) fn name(&self, address: u64) -> &str {
        if address >= KERNEL {
            return before(&self.kernel, address).unwrap_or("[BPF program]");
        }
        let inside = address.checked_sub(PROGRAM).and_then(|address| before(&self.program, address));
        inside.unwrap_or("[library]")
    }
}

/// Lines of address, kind and name, of which those of functions are kept.
fn functions(text: &str) -> BTreeMap<u64, String> {
    let function = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
        let name = name.split('\t').next()?.replace(' ', "");
        matches!(kind, "t" | "T" | "w" | "W").then_some((u64::from_str_radix(address, 16).ok()?, name))
    };
    text.lines().filter_map(function).collect()
}

fn before(functions: &BTreeMap<u64, String>, address: u64) -> Option<&str> {
    let (start, name) = functions.range(..=address).next_back()?;
    (address - start < LONGEST).then_some(name.as_str())
}
