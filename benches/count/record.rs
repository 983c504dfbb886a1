//! What the guest tells the host of a row, one JSON object a line.

use serde::{Deserialize, Serialize};

/// One row, without its instructions, which the plugin writes under its name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// `TUNNEL/METHOD/TRAFFIC`, with `@against` at its end if it is of the other binary.
    pub(crate) row: String,
    /// Datagrams or full segments that arrived in one run; 1 for what is no traffic.
    pub(crate) delivered: u64,
    /// Packets and bytes on the WAN, in one run.
    pub(crate) wan: [u64; 2],
    /// ESP packets among them that are fragments.
    pub(crate) esp_fragments: u64,
    /// Packets put together by the far gateway and by the far host.
    pub(crate) reassembled: [u64; 2],
    /// Runs counted: the plugin has them under `ROW#0`, `ROW#1` and so on.
    pub(crate) runs: usize,
    /// Whether a worker spins in it.
    pub(crate) spins: bool,
}

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Guest {
    /// `uname -r`.
    pub(crate) release: String,
    /// Driver of AES-GCM.
    pub(crate) cipher: String,
}
