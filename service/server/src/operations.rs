//! The listener for the platform: metrics and probes, plain text, on an
//! address of its own. Scrapers and kubelets bring neither TLS nor keys, so it
//! must not be where strangers are.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tonic::{service::Routes, transport::Server};

use crate::{
    connection,
    health::{HealthReports, Probe},
    scrape::Scrape,
    vitals::{Condition, Vitals},
};

/// Far more than a platform opens, and far less than there are descriptors.
const MAX_CONNECTIONS: usize = 256;

/// Names of the health protocol here. A probe without a service name asks for
/// readiness.
const SERVICES: [(&str, Probe); 3] = [
    ("", Probe::Readiness),
    ("readiness", Probe::Readiness),
    ("liveness", Probe::Liveness),
];

/// Starts to serve, and returns the address. Goes on until the process ends:
/// a drain is when the platform looks most closely.
pub(crate) async fn start(
    listen: SocketAddr,
    scrape: Arc<Scrape>,
    vitals: Arc<Vitals>,
    health: &HealthReports,
) -> anyhow::Result<SocketAddr> {
    let listener = connection::listen("operations.listen", listen).await?;
    let address = listener.local_addr()?;
    let (reporter, service) = tonic_health::server::health_reporter();
    health.add(&reporter, &SERVICES).await;
    let routes = Routes::new(service)
        .into_axum_router()
        .merge(pages(scrape, vitals))
        // A mistyped probe must not look like a good one: gRPC's answer to an
        // unknown method is status 200.
        .reset_fallback()
        .fallback(|| async { StatusCode::NOT_FOUND });
    let incoming = connection::accept(listener, Some(MAX_CONNECTIONS), None);
    let server = Server::builder()
        .accept_http1(true)
        .add_routes(Routes::from(routes))
        .serve_with_incoming(incoming);
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "operations listener ended");
        }
    });
    Ok(address)
}

fn pages(scrape: Arc<Scrape>, vitals: Arc<Vitals>) -> Router {
    let live = vitals.clone();
    Router::new()
        .route("/metrics", get(move || metrics(scrape)))
        .route(
            "/livez",
            get(async move || {
                let condition = live.condition();
                probe(condition, condition.is_live())
            }),
        )
        .route(
            "/readyz",
            get(async move || {
                let condition = vitals.condition();
                probe(condition, condition.is_ready())
            }),
        )
}

fn probe(condition: Condition, good: bool) -> impl IntoResponse {
    let status = match good {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, format!("{}\n", condition.name()))
}

async fn metrics(scrape: Arc<Scrape>) -> impl IntoResponse {
    match scrape.text() {
        Ok(text) => Ok(([(CONTENT_TYPE, Scrape::CONTENT_TYPE)], text)),
        Err(error) => {
            tracing::warn!(%error, "metrics can't be written");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}
