//! `ternion.v1.RequestService`.

use std::sync::Arc;

use ternion_proto::v1::{self, request_service_server::RequestService};
use tonic::{Code, Request, Response, Status};

use crate::{access::caller, audit::Audit, live_requests::Live, served::Served};

pub(crate) struct Requests(pub(crate) Arc<Served>);

const CANCEL: &str = "ternion.v1.RequestService/Cancel";

#[tonic::async_trait]
impl RequestService for Requests {
    async fn list(
        &self,
        call: Request<v1::RequestServiceListRequest>,
    ) -> Result<Response<v1::RequestServiceListResponse>, Status> {
        let caller = caller(&call)?;
        let requests = self.0.live.list(caller.tenant());
        Ok(Response::new(v1::RequestServiceListResponse {
            requests: requests.into_iter().map(as_message).collect(),
        }))
    }

    async fn cancel(
        &self,
        call: Request<v1::RequestServiceCancelRequest>,
    ) -> Result<Response<v1::RequestServiceCancelResponse>, Status> {
        let caller = caller(&call)?;
        let id = call.into_inner().request_id;
        let audit = Audit::open(&caller, CANCEL, "");
        let cancelled = self.0.live.cancel_all(caller.tenant(), &id);
        audit.answered(Code::Ok);
        Ok(Response::new(v1::RequestServiceCancelResponse {
            cancelled: u32::try_from(cancelled).unwrap_or(u32::MAX),
        }))
    }
}

fn as_message(live: Live) -> v1::LiveRequest {
    v1::LiveRequest {
        request_id: live.id,
        in_session: live.in_session,
        age_seconds: live.age.as_secs_f64(),
    }
}
