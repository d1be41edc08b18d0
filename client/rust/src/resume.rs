//! Going on with requests whose stream broke.

use std::time::{Duration, Instant};

use ternion_proto::v1::inference_service_client::InferenceServiceClient;
use ternion_proto::v1::request_service_client::RequestServiceClient;
use ternion_proto::v1::{GenerateRequest, GenerateResponse, RequestServiceCancelRequest, Resume};
use tonic::{Request, Streaming};

use crate::Error;
use crate::replicas::Calls;

/// How long a server that can't be reached is tried. Longer than servers keep
/// a request for its client, unless they are told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two attempts: at first little, for a connection that broke is
/// mostly up again at once.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

/// A resumable request of a Generate call.
#[derive(Clone, Debug)]
pub(crate) struct Resumable {
    /// The replica that has it.
    calls: Calls,
    pub(crate) request_id: String,
    /// Of the last frame that came.
    pub(crate) last_seq: Option<u64>,
    deadline: Option<Instant>,
}

impl Resumable {
    pub(crate) fn new(calls: Calls, request_id: String, deadline: Option<Instant>) -> Resumable {
        Resumable {
            calls,
            request_id,
            last_seq: None,
            deadline,
        }
    }

    /// The rest of its frames. If there is no getting them, `broke` is the
    /// error: what was the matter in the first place.
    pub(crate) async fn resume(self, broke: Error) -> Result<Streaming<GenerateResponse>, Error> {
        let call = || async {
            let mut request = Request::new(resume_request(&self.request_id, self.last_seq));
            if let Some(deadline) = self.deadline {
                request.set_timeout(deadline.saturating_duration_since(Instant::now()));
            }
            let mut service = InferenceServiceClient::new(self.calls.clone());
            Ok(service.generate(request).await?.into_inner())
        };
        patiently(call).await.map_err(|_| broke)
    }

    /// Cancels it: nobody will come back.
    pub(crate) async fn cancel(self) {
        let Resumable {
            calls, request_id, ..
        } = self;
        let request = RequestServiceCancelRequest { request_id };
        // If it fails, the server ends the request after its grace.
        let _ = RequestServiceClient::new(calls).cancel(request).await;
    }
}

/// Asks for the frames behind one.
pub(crate) fn resume_request(request_id: &str, last_seq: Option<u64>) -> GenerateRequest {
    GenerateRequest {
        resume: Some(Resume {
            request_id: request_id.to_owned(),
            last_seq,
        }),
        ..GenerateRequest::default()
    }
}

/// Tries until it works, the server says no, or the patience is over.
pub(crate) async fn patiently<T, F>(mut call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let until = Instant::now() + PATIENCE;
    let mut pauses = PAUSES.into_iter();
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let may_come = matches!(error, Error::Transport { .. } | Error::Unavailable { .. });
        let pause = pauses.next().unwrap_or(PAUSES[PAUSES.len() - 1]);
        if !may_come || Instant::now() + pause >= until {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}
