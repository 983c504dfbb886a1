//! Where others read the counters: the statistics socket, and `--metrics`.

use std::sync::Arc;

use super::run::RunError;
use crate::config::Plan;
use crate::observe::exporter::Exporter;
use crate::observe::server::Server;
use crate::observe::snapshot::Snapshot;

/// Open until it is dropped.
#[derive(Debug)]
pub(super) struct Published {
    _server: Server,
    exporter: Option<Exporter>,
}

impl Published {
    /// Opens what `plan` asks for; every answer is a `snapshot` of that moment.
    pub(super) fn start<F>(plan: &Plan, snapshot: F) -> Result<Published, RunError>
    where
        F: Fn() -> Snapshot + Send + Sync + 'static,
    {
        let snapshot = Arc::new(snapshot);
        let scraped = Arc::clone(&snapshot);
        let exporter = plan.metrics.map(|address| {
            let failed = |source| RunError::Metrics { address, source };
            Exporter::start(address, move || scraped()).map_err(failed)
        });
        Ok(Published {
            exporter: exporter.transpose()?,
            _server: Server::start(&plan.interfaces, move || snapshot())?,
        })
    }

    /// One line about where the metrics are.
    pub(super) fn describe(&self) -> Option<String> {
        self.exporter.as_ref().map(|exporter| format!("metrics at http://{}/metrics", exporter.address()))
    }
}
