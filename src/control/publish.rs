//! Where others read the counters: the statistics socket, and `--metrics`.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::capture::Captures;
use super::run::RunError;
use crate::config::Plan;
use crate::observe::exporter::Exporter;
use crate::observe::request::{CaptureRequest, Outcome};
use crate::observe::server::{Answers, Server};
use crate::observe::snapshot::Snapshot;
use crate::worker::privileges;

/// How long the main thread may take for a reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(8);

/// A client that waits for the outcome of a reload.
pub(super) type Reload = Sender<Outcome>;

/// Open until it is dropped.
pub(super) struct Published {
    /// Clients that want a reload. Dropped first: a client that still waits is told so, and the server can end.
    pub(super) reloads: Receiver<Reload>,
    /// An instance that wants to take over.
    pub(super) successors: Receiver<UnixStream>,
    _server: Server,
    exporter: Option<Exporter>,
    /// What the exporter was asked for: port 0 is no port.
    pub(super) metrics: Option<SocketAddr>,
    snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
}

impl Published {
    /// Opens what `plan` asks for; every answer is a `snapshot` of that moment.
    pub(super) fn start<F>(plan: &Plan, captures: Captures, snapshot: F) -> Result<Published, RunError>
    where
        F: Fn() -> Snapshot + Send + Sync + 'static,
    {
        let snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync> = Arc::new(snapshot);
        let (asked, reloads) = bounded(1);
        let (successor, successors) = bounded(1);
        let answers = Instance { snapshot: Arc::clone(&snapshot), asked, successor, captures };
        let exporter = plan.metrics.map(|address| export(address, &snapshot)).transpose()?;
        let server = privileges::lowered(|| Server::start(&plan.interfaces, answers))?;
        Ok(Published { exporter, metrics: plan.metrics, reloads, successors, _server: server, snapshot })
    }

    /// One line about where the metrics are.
    pub(super) fn describe(&self) -> Option<String> {
        self.exporter.as_ref().map(|exporter| format!("metrics at http://{}/metrics", exporter.address()))
    }

    /// Has the metrics at `address` instead, or nowhere.
    ///
    /// # Errors
    /// If they cannot be there; they are where they were then.
    pub(super) fn move_metrics(&mut self, address: Option<SocketAddr>) -> Result<(), RunError> {
        // One address may hold the other (0.0.0.0): there is no listening at both with one port.
        let held = match (address, &self.exporter) {
            (Some(address), Some(exporter)) => exporter.address().port() == address.port(),
            _ => false,
        };
        if held {
            self.exporter = None;
        }
        match address.map(|address| export(address, &self.snapshot)).transpose() {
            Ok(exporter) => {
                (self.exporter, self.metrics) = (exporter, address);
                Ok(())
            }
            Err(error) => {
                if held {
                    self.exporter = self.metrics.map(|before| export(before, &self.snapshot)).transpose()?;
                }
                Err(error)
            }
        }
    }
}

fn export(
    address: SocketAddr,
    snapshot: &Arc<dyn Fn() -> Snapshot + Send + Sync>,
) -> Result<Exporter, RunError> {
    let snapshot = Arc::clone(snapshot);
    privileges::lowered(|| Exporter::start(address, move || snapshot()))
        .map_err(|source| RunError::Metrics { address, source })
}

/// Answers for the control socket.
struct Instance {
    snapshot: Arc<dyn Fn() -> Snapshot + Send + Sync>,
    asked: Sender<Reload>,
    successor: Sender<UnixStream>,
    captures: Captures,
}

impl Answers for Instance {
    fn snapshot(&self) -> Snapshot {
        (self.snapshot)()
    }

    fn reload(&self) -> Outcome {
        let (done, outcome) = bounded(1);
        let refused = |message: &str| Outcome { ok: false, message: message.into() };
        match self.asked.try_send(done) {
            Err(_) => refused("the instance is ending, or busy with another reload"),
            Ok(()) => outcome
                .recv_timeout(RELOAD_TIMEOUT)
                .unwrap_or_else(|_| refused("the reload takes too long; see the log")),
        }
    }

    fn replace(&self, client: UnixStream) -> Result<(), String> {
        self.successor.try_send(client).map_err(|_| "the instance is ending already".into())
    }

    fn capture(&self, request: CaptureRequest, client: UnixStream) -> Result<(), String> {
        self.captures.stream(request, client)
    }
}
