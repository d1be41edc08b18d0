//! `ternion.v1.InferenceService`.

use std::sync::Arc;

use ternion_policy::Ticket;
use ternion_proto::v1::{self, inference_service_server::InferenceService};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    access::caller,
    audit::Audit,
    generate,
    refusal::Refusal,
    request::{check_input, check_token_ids},
    served::Served,
    session,
};

pub(crate) struct Inference(pub(crate) Arc<Served>);

#[tonic::async_trait]
impl InferenceService for Inference {
    type SessionStream = session::Frames;
    type GenerateStream = generate::Frames;

    async fn session(
        &self,
        call: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<session::Frames>, Status> {
        session::session(self.0.clone(), call)
    }

    async fn generate(
        &self,
        call: Request<v1::GenerateRequest>,
    ) -> Result<Response<generate::Frames>, Status> {
        generate::generate(self.0.clone(), call).await
    }

    async fn tokenize(
        &self,
        call: Request<v1::TokenizeRequest>,
    ) -> Result<Response<v1::TokenizeResponse>, Status> {
        let counted = self.counted(&call, "ternion.v1.InferenceService/Tokenize")?;
        let token_ids = counted.end(self.tokenize(call.into_inner()).await)?;
        Ok(Response::new(v1::TokenizeResponse { token_ids }))
    }

    async fn detokenize(
        &self,
        call: Request<v1::DetokenizeRequest>,
    ) -> Result<Response<v1::DetokenizeResponse>, Status> {
        let counted = self.counted(&call, "ternion.v1.InferenceService/Detokenize")?;
        let text = counted.end(self.detokenize(&call.into_inner()))?;
        Ok(Response::new(v1::DetokenizeResponse { text }))
    }

    async fn count_tokens(
        &self,
        call: Request<v1::CountTokensRequest>,
    ) -> Result<Response<v1::CountTokensResponse>, Status> {
        let counted = self.counted(&call, "ternion.v1.InferenceService/CountTokens")?;
        let count = counted.end(self.count_tokens(call.into_inner()).await)?;
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(Response::new(v1::CountTokensResponse {
            count: narrow(count),
            context_limit: narrow(self.0.bounds.context_limit),
        }))
    }
}

/// A call without frames that counts as one of the tenant's requests.
struct Counted {
    audit: Audit,
    _ticket: Ticket,
}

impl Counted {
    fn end<T>(self, result: Result<T, Refusal>) -> Result<T, Status> {
        let result = result.map_err(Status::from);
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.audit.answered(code);
        result
    }
}

impl Inference {
    fn counted<T>(&self, call: &Request<T>, method: &'static str) -> Result<Counted, Status> {
        let caller = caller(call)?;
        let audit = Audit::open(&caller, method, "");
        match self.0.access.enter(&caller, 1) {
            Ok(ticket) => Ok(Counted {
                audit,
                _ticket: ticket,
            }),
            Err(refusal) => {
                let status = Status::from(refusal);
                audit.refused(status.code());
                Err(status)
            }
        }
    }

    async fn tokenize(&self, request: v1::TokenizeRequest) -> Result<Vec<u32>, Refusal> {
        self.0.check_model(&request.model)?;
        let input = check_input(
            request.input.map(Into::into),
            request.parse_special.unwrap_or(true),
            request.add_bos.unwrap_or(false),
            &self.0.bounds,
        )?;
        self.0.prompts.encode(input).await
    }

    fn detokenize(&self, request: &v1::DetokenizeRequest) -> Result<String, Refusal> {
        self.0.check_model(&request.model)?;
        check_token_ids("token_ids", &request.token_ids, &self.0.bounds)?;
        let skip_special = request.skip_special.unwrap_or(false);
        Ok(self.0.prompts.decode(&request.token_ids, skip_special))
    }

    async fn count_tokens(&self, request: v1::CountTokensRequest) -> Result<usize, Refusal> {
        self.0.check_model(&request.model)?;
        let input = request.input.map(Into::into);
        let input = check_input(input, true, true, &self.0.bounds)?;
        Ok(self.0.prompts.encode(input).await?.len())
    }
}
