//! grpc.health.v1 on both listeners, kept in step with [`Vitals`].

use std::{sync::Arc, time::Duration};

use tokio::sync::Mutex;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{drain::Phase, vitals::Vitals};

/// How often the condition is looked at. A drain is told at once all the same.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What a service name of the health protocol stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Probe {
    Liveness,
    Readiness,
}

/// A name that one listener reports.
struct Reported {
    reporter: HealthReporter,
    service: &'static str,
    probe: Probe,
    /// Whoever watches is told of changes only.
    told: Option<ServingStatus>,
}

/// Everything that is reported about health.
pub(crate) struct HealthReports {
    vitals: Arc<Vitals>,
    /// Held while the condition is read and told: whoever updates later tells
    /// what is true later.
    reported: Mutex<Vec<Reported>>,
}

impl HealthReports {
    pub(crate) fn new(vitals: Arc<Vitals>) -> HealthReports {
        HealthReports {
            vitals,
            reported: Mutex::new(Vec::new()),
        }
    }

    /// Reports these names from now on.
    pub(crate) async fn add(&self, reporter: &HealthReporter, services: &[(&'static str, Probe)]) {
        let added = services.iter().map(|(service, probe)| Reported {
            reporter: reporter.clone(),
            service,
            probe: *probe,
            told: None,
        });
        self.reported.lock().await.extend(added);
        self.update().await;
    }

    /// Tells the condition of this moment.
    pub(crate) async fn update(&self) {
        let mut reported = self.reported.lock().await;
        let condition = self.vitals.condition();
        for name in reported.iter_mut() {
            let good = match name.probe {
                Probe::Liveness => condition.is_live(),
                Probe::Readiness => condition.is_ready(),
            };
            let status = match good {
                true => ServingStatus::Serving,
                false => ServingStatus::NotServing,
            };
            if name.told.replace(status) != Some(status) {
                name.reporter.set_service_status(name.service, status).await;
            }
        }
    }

    /// Keeps what is told true. Never returns.
    pub(crate) async fn keep(&self) {
        let mut condition = self.vitals.condition();
        let mut told_drain = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                () = self.vitals.drain.reached(Phase::Leaving), if !told_drain => {
                    told_drain = true;
                }
            }
            let now = self.vitals.condition();
            if now.is_live() && !condition.is_live() {
                tracing::info!("the engine goes on");
            } else if condition.is_live() && !now.is_live() {
                tracing::error!(
                    age_seconds = self
                        .vitals
                        .heartbeat_age()
                        .unwrap_or_default()
                        .as_secs_f64(),
                    "the engine has stalled"
                );
            }
            if now != condition {
                self.update().await;
            }
            condition = now;
        }
    }
}
