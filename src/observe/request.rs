//! What is asked of a running instance on its control socket: one line of JSON.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A request; the answer to each begins at once and ends with the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// A [`Snapshot`](super::snapshot::Snapshot) in JSON.
    Stats,
    /// Read the configuration again; the answer is an [`Outcome`] in JSON.
    Reload,
    /// End, for another instance; the answer is an [`Outcome`] in JSON, once the interfaces are free.
    Replace,
    /// Send the frames of workers as pcapng until the client goes away or the limits are reached.
    Capture(CaptureRequest),
}

impl Request {
    /// What a client sent: nothing of it is trusted.
    ///
    /// # Errors
    /// If it is no request.
    pub fn parse(line: &[u8]) -> serde_json::Result<Request> {
        serde_json::from_slice(line)
    }
}

/// Which frames to capture.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureRequest {
    /// Only packets from or to this address.
    pub host: Option<IpAddr>,
    /// Only TCP and UDP packets from or to this port; of a fragmented datagram only the first fragment has it.
    pub port: Option<u16>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether it did what was asked.
    pub ok: bool,
    /// What was done, or why not.
    pub message: String,
}
