//! The Linux kernel as a second opinion: as fragmenter and as reassembler. Needs root.

mod fragment;
mod packets;
mod reassemble;
mod wire;

use std::io::Write as _;
use std::sync::Arc;

use xdpfrag::packet::{Df, Idents, Outcome, Rule, Tcp, Transform};

use packets::Frames;

/// What `Transform` makes of a frame at `mtu`.
fn transform(frame: &[u8], mtu: u16, idents: &Arc<Idents>) -> (Outcome, Vec<Vec<u8>>) {
    let transform = Transform { df: Df::Clear, tcp: Tcp::Fragment, idents: Arc::clone(idents) };
    let mut out = Frames::default();
    let outcome = transform.apply(frame, Rule::new(mtu, None, None), &mut out);
    (outcome, out.0)
}

/// True without root, which is said where `make test` finds it.
fn skipped() -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let line = format!("SKIPPED oracle {test}: network namespaces need root\n");
    std::io::stderr().write_all(line.as_bytes()).expect("a skipped test must be told");
    if let Some(list) = std::env::var_os("XDPFRAG_SKIPPED") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(list);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("a skipped test must be told");
    }
    true
}
