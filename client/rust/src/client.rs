use std::time::{Duration, Instant};

use ternion_proto::v1::admin_service_client::AdminServiceClient;
use ternion_proto::v1::inference_service_client::InferenceServiceClient;
use ternion_proto::v1::model_service_client::ModelServiceClient;
use ternion_proto::v1::request_service_client::RequestServiceClient;
use ternion_proto::v1::{
    ChatMessage, CountTokensRequest, CountTokensResponse, DetokenizeRequest, DrainRequest,
    DrainResponse, GetRequest, Kernel, KernelsRequest, ListRequest, LiveRequest, LoadRequest,
    LoadResponse, ModelInfo, RequestServiceCancelRequest, RequestServiceListRequest,
    TokenizeRequest,
};
use tonic::Request;
use tonic::transport::Endpoint;

use crate::credentials::Credentials;
use crate::error::chain;
use crate::replicas::{Calls, Replicas, connect_all};
use crate::resume::Resumable;
use crate::retry::{Attempts, Retry};
use crate::{Error, Events, Generate, Session};

/// Long enough for another continent, short enough to notice a wrong address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A quiet connection is asked for a sign of life, so that a server that
/// vanished does not leave a stream waiting for ever.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to a server, or one to each of its replicas. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    replicas: Replicas,
    request_timeout: Option<Duration>,
    retry: Retry,
}

/// How to connect; made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoints: Vec<String>,
    connect_timeout: Duration,
    request_timeout: Option<Duration>,
    credentials: Credentials,
    retry: Retry,
}

impl Builder {
    /// One more replica of the server, with a connection of its own.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Builder {
        self.endpoints.push(endpoint.into());
        self
    }

    /// What is tried again, and how often. Default: [`Retry::default`].
    pub fn retry(mut self, retry: Retry) -> Builder {
        self.retry = retry;
        self
    }

    /// Time to connect in. Default: ten seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// Time for each call that has none of its own, to the last token for
    /// those that stream. Default: none.
    pub fn request_timeout(mut self, timeout: Duration) -> Builder {
        self.request_timeout = Some(timeout);
        self
    }

    /// Key that every call is made with.
    pub fn api_key(mut self, key: impl Into<String>) -> Builder {
        self.credentials.api_key = Some(key.into());
        self
    }

    /// Authorities that the server's certificate must come from (PEM).
    /// Default, with an `https://` endpoint: those of the system.
    pub fn ca(mut self, pem: impl Into<Vec<u8>>) -> Builder {
        self.credentials.ca = Some(pem.into());
        self
    }

    /// Certificate, with its chain, and private key that this client proves
    /// itself with (PEM).
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Builder {
        self.credentials.certificate = Some((certificate.into(), key.into()));
        self
    }

    /// Connects; an `https://` endpoint means TLS. Of several replicas, those
    /// that can't be reached now are tried again when it is their turn; one
    /// has to be there.
    pub async fn connect(self) -> Result<Client, Error> {
        let api_key = self.credentials.api_key()?;
        let endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| self.prepare(endpoint))
            .collect::<Result<Vec<Endpoint>, Error>>()?;
        Ok(Client {
            replicas: Replicas::new(connect_all(endpoints).await?, &api_key),
            request_timeout: self.request_timeout,
            retry: self.retry,
        })
    }

    fn prepare(&self, endpoint: &str) -> Result<Endpoint, Error> {
        let prepared =
            Endpoint::from_shared(endpoint.to_owned()).map_err(|source| Error::Endpoint {
                endpoint: endpoint.to_owned(),
                source,
            })?;
        let prepared = match prepared.uri().scheme_str() {
            Some("https") => {
                let tls = self.credentials.tls()?;
                prepared.tls_config(tls).map_err(|error| {
                    let reason = format!("TLS: {}", chain(&error));
                    Error::Credentials { reason }
                })?
            }
            _ => {
                self.credentials.no_tls()?;
                prepared
            }
        };
        Ok(prepared
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true))
    }
}

impl Client {
    /// Connects to an endpoint such as `http://127.0.0.1:50051`.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Client, Error> {
        Client::builder(endpoint).connect().await
    }

    /// Connects to all replicas of a server. Requests go to each in turn, but
    /// not to those that have just refused one or can't be reached.
    pub async fn balanced(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Client, Error> {
        let mut endpoints = endpoints.into_iter();
        let first = endpoints.next().map(Into::into).unwrap_or_default();
        let builder = endpoints.fold(Client::builder(first), Builder::endpoint);
        builder.connect().await
    }

    /// For a connection with credentials or other timeouts, or to several
    /// replicas.
    pub fn builder(endpoint: impl Into<String>) -> Builder {
        Builder {
            endpoints: vec![endpoint.into()],
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: None,
            credentials: Credentials::default(),
            retry: Retry::default(),
        }
    }

    /// Generates text. Returns when the server has accepted the request; until
    /// then it is tried again as [`Retry`] has it.
    pub async fn generate(&self, generate: impl Into<Generate>) -> Result<Events, Error> {
        let Generate {
            mut request,
            timeout,
        } = generate.into();
        if request.resumable && request.request_id.is_empty() {
            request.request_id = format!("{:032x}", rand::random::<u128>());
            // Then it may be sent again, too, if nothing was heard of it.
            if request.idempotency_key.is_empty() {
                request.idempotency_key = request.request_id.clone();
            }
        }
        let is_resumable = request.resumable && !request.request_id.is_empty();
        let id = is_resumable.then(|| request.request_id.clone());
        let open = |calls: Calls, left: Option<Duration>| {
            let request = deadline(request.clone(), left);
            let resumable = id.clone().map(|id| {
                let until = left.and_then(|left| Instant::now().checked_add(left));
                Resumable::new(calls.clone(), id, until)
            });
            async move {
                let responses = InferenceServiceClient::new(calls).generate(request).await?;
                Events::open(responses.into_inner(), resumable).await
            }
        };
        self.attempts(timeout).run(open).await
    }

    /// Answers the last message of a conversation, with the model's defaults.
    pub async fn chat(
        &self,
        messages: impl IntoIterator<Item = ChatMessage>,
    ) -> Result<Events, Error> {
        self.generate(Generate::chat(messages)).await
    }

    /// Opens a stream for many requests, all of them on one replica. Opening
    /// is tried again as [`Retry`] has it; requests on it are not.
    pub async fn session(&self) -> Result<Session, Error> {
        let timeout = self.request_timeout;
        let open = |calls, _| Session::open(InferenceServiceClient::new(calls), timeout);
        self.attempts(None).run(open).await
    }

    /// Ids of a text or a conversation.
    pub async fn tokenize(&self, request: TokenizeRequest) -> Result<Vec<u32>, Error> {
        let call = |calls, left| {
            let request = deadline(request.clone(), left);
            async move {
                let response = InferenceServiceClient::new(calls).tokenize(request).await?;
                Ok(response.into_inner().token_ids)
            }
        };
        self.attempts(None).run(call).await
    }

    /// Text of ids. Bytes that are no UTF-8 become replacement characters.
    pub async fn detokenize(&self, request: DetokenizeRequest) -> Result<String, Error> {
        let call = |calls, left| {
            let request = deadline(request.clone(), left);
            async move {
                let response = InferenceServiceClient::new(calls)
                    .detokenize(request)
                    .await?;
                Ok(response.into_inner().text)
            }
        };
        self.attempts(None).run(call).await
    }

    /// Tokens that an input would take, and how many there may be.
    pub async fn count_tokens(
        &self,
        request: CountTokensRequest,
    ) -> Result<CountTokensResponse, Error> {
        let call = |calls, left| {
            let request = deadline(request.clone(), left);
            async move {
                let response = InferenceServiceClient::new(calls)
                    .count_tokens(request)
                    .await?;
                Ok(response.into_inner())
            }
        };
        self.attempts(None).run(call).await
    }

    /// The models that are served.
    pub async fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        let call = |calls, left| {
            let request = deadline(ListRequest {}, left);
            async move {
                let response = ModelServiceClient::new(calls).list(request).await?;
                Ok(response.into_inner().models)
            }
        };
        self.attempts(None).run(call).await
    }

    /// One model by name.
    pub async fn model(&self, name: impl Into<String>) -> Result<ModelInfo, Error> {
        let request = GetRequest { name: name.into() };
        let call = |calls, left| {
            let request = deadline(request.clone(), left);
            async move {
                let response = ModelServiceClient::new(calls).get(request).await?;
                Ok(response.into_inner().model.unwrap_or_default())
            }
        };
        self.attempts(None).run(call).await
    }

    /// Requests of the caller's tenant that are alive, oldest first.
    pub async fn requests(&self) -> Result<Vec<LiveRequest>, Error> {
        let call = |calls, left| {
            let request = deadline(RequestServiceListRequest {}, left);
            async move {
                let response = RequestServiceClient::new(calls).list(request).await?;
                Ok(response.into_inner().requests)
            }
        };
        self.attempts(None).run(call).await
    }

    /// Ends the tenant's requests that are alive under an id, and says how
    /// many there were. None is no error: they may just have ended.
    pub async fn cancel(&self, request_id: impl Into<String>) -> Result<u32, Error> {
        let request = RequestServiceCancelRequest {
            request_id: request_id.into(),
        };
        let call = |calls, left| {
            let request = deadline(request.clone(), left);
            async move {
                let response = RequestServiceClient::new(calls).cancel(request).await?;
                Ok(response.into_inner().cancelled)
            }
        };
        self.attempts(None).run(call).await
    }

    /// The kernel plugins that the server found, and what became of each.
    pub async fn kernels(&self) -> Result<Vec<Kernel>, Error> {
        let call = |calls, left| {
            let request = deadline(KernelsRequest {}, left);
            async move {
                let response = AdminServiceClient::new(calls).kernels(request).await?;
                Ok(response.into_inner().kernels)
            }
        };
        self.admin().run(call).await
    }

    /// What the server is doing now.
    pub async fn load(&self) -> Result<LoadResponse, Error> {
        let call = |calls, left| {
            let request = deadline(LoadRequest {}, left);
            async move {
                let response = AdminServiceClient::new(calls).load(request).await?;
                Ok(response.into_inner())
            }
        };
        self.admin().run(call).await
    }

    /// Tells the server to take no new requests, finish those that run, and
    /// exit. Returns at once.
    pub async fn drain(&self) -> Result<DrainResponse, Error> {
        let call = |calls, left| {
            let request = deadline(DrainRequest {}, left);
            async move {
                let response = AdminServiceClient::new(calls).drain(request).await?;
                Ok(response.into_inner())
            }
        };
        self.admin().run(call).await
    }

    /// Operators ask one server, and want its first answer.
    fn admin(&self) -> Attempts<'_> {
        Attempts {
            retry: Retry::NEVER,
            ..self.attempts(None)
        }
    }

    fn attempts(&self, timeout: Option<Duration>) -> Attempts<'_> {
        let timeout = timeout.or(self.request_timeout);
        Attempts {
            replicas: &self.replicas,
            retry: self.retry,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
        }
    }
}

fn deadline<T>(message: T, timeout: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}
