//! `ternion.v1.AdminService`.

use std::sync::Arc;

use ternion_proto::v1::{self, admin_service_server::AdminService};
use tonic::{Code, Request, Response, Status};

use crate::{access::caller, audit::Audit, drain::Phase, served::Served};

const DRAIN: &str = "ternion.v1.AdminService/Drain";

pub(crate) struct Admin(pub(crate) Arc<Served>);

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn kernels(
        &self,
        _: Request<v1::KernelsRequest>,
    ) -> Result<Response<v1::KernelsResponse>, Status> {
        Ok(Response::new(v1::KernelsResponse {
            kernels: self.0.kernels.clone(),
        }))
    }

    async fn load(
        &self,
        _: Request<v1::LoadRequest>,
    ) -> Result<Response<v1::LoadResponse>, Status> {
        let load = self.0.engine.load();
        Ok(Response::new(v1::LoadResponse {
            // A slow reader's request holds its pages all the same.
            running: narrow(load.running + load.parked),
            waiting: narrow(load.waiting),
            kv_pages: narrow(load.kv_pages),
            kv_pages_free: narrow(load.kv_pages_free),
            steps: load.steps,
            draining: self.0.drain.phase() != Phase::Serving,
            preemptions: load.preemptions,
        }))
    }

    async fn drain(
        &self,
        call: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let caller = caller(&call)?;
        // Whoever runs the server waits for this phase and does the rest.
        self.0.drain.begin();
        Audit::open(&caller, DRAIN, "").answered(Code::Ok);
        Ok(Response::new(v1::DrainResponse {
            in_flight: narrow(self.0.drain.num_in_flight()),
        }))
    }
}
