use std::time::Duration;

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
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::credentials::{ApiKey, Credentials};
use crate::error::chain;
use crate::{Error, Events, Generate, Session};

/// Long enough for another continent, short enough to notice a wrong address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A quiet connection is asked for a sign of life, so that a server that
/// vanished does not leave a stream waiting for ever.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What calls are made on.
pub(crate) type Calls = InterceptedService<Channel, ApiKey>;

/// A connection to a server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    calls: Calls,
    request_timeout: Option<Duration>,
}

/// How to connect; made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoint: String,
    connect_timeout: Duration,
    request_timeout: Option<Duration>,
    credentials: Credentials,
}

impl Builder {
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

    /// Connects. An `https://` endpoint means TLS.
    pub async fn connect(self) -> Result<Client, Error> {
        let not_one = |source| Error::Endpoint {
            endpoint: self.endpoint.clone(),
            source,
        };
        let api_key = self.credentials.api_key()?;
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(not_one)?;
        let endpoint = match endpoint.uri().scheme_str() {
            Some("https") => {
                let tls = self.credentials.tls()?;
                endpoint.tls_config(tls).map_err(|error| {
                    let reason = format!("TLS: {}", chain(&error));
                    Error::Credentials { reason }
                })?
            }
            _ => {
                self.credentials.no_tls()?;
                endpoint
            }
        };
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true);
        Ok(Client {
            calls: InterceptedService::new(endpoint.connect().await?, api_key),
            request_timeout: self.request_timeout,
        })
    }
}

impl Client {
    /// Connects to an endpoint such as `http://127.0.0.1:50051`.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Client, Error> {
        Client::builder(endpoint).connect().await
    }

    /// For a connection with credentials or other timeouts.
    pub fn builder(endpoint: impl Into<String>) -> Builder {
        Builder {
            endpoint: endpoint.into(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: None,
            credentials: Credentials::default(),
        }
    }

    /// Generates text.
    pub async fn generate(&self, generate: impl Into<Generate>) -> Result<Events, Error> {
        let Generate { request, timeout } = generate.into();
        let request = deadline(request, timeout.or(self.request_timeout));
        let responses = self.inference().generate(request).await?;
        Ok(Events::new(responses.into_inner()))
    }

    /// Answers the last message of a conversation, with the model's defaults.
    pub async fn chat(
        &self,
        messages: impl IntoIterator<Item = ChatMessage>,
    ) -> Result<Events, Error> {
        self.generate(Generate::chat(messages)).await
    }

    /// Opens a stream for many requests.
    pub async fn session(&self) -> Result<Session, Error> {
        Session::open(self.inference(), self.request_timeout).await
    }

    /// Ids of a text or a conversation.
    pub async fn tokenize(&self, request: TokenizeRequest) -> Result<Vec<u32>, Error> {
        let response = self.inference().tokenize(self.timed(request)).await?;
        Ok(response.into_inner().token_ids)
    }

    /// Text of ids. Bytes that are no UTF-8 become replacement characters.
    pub async fn detokenize(&self, request: DetokenizeRequest) -> Result<String, Error> {
        let response = self.inference().detokenize(self.timed(request)).await?;
        Ok(response.into_inner().text)
    }

    /// Tokens that an input would take, and how many there may be.
    pub async fn count_tokens(
        &self,
        request: CountTokensRequest,
    ) -> Result<CountTokensResponse, Error> {
        let response = self.inference().count_tokens(self.timed(request)).await?;
        Ok(response.into_inner())
    }

    /// The models that are served.
    pub async fn models(&self) -> Result<Vec<ModelInfo>, Error> {
        let response = self.catalogue().list(self.timed(ListRequest {})).await?;
        Ok(response.into_inner().models)
    }

    /// One model by name.
    pub async fn model(&self, name: impl Into<String>) -> Result<ModelInfo, Error> {
        let request = GetRequest { name: name.into() };
        let response = self.catalogue().get(self.timed(request)).await?;
        Ok(response.into_inner().model.unwrap_or_default())
    }

    /// Requests of the caller's tenant that are alive, oldest first.
    pub async fn requests(&self) -> Result<Vec<LiveRequest>, Error> {
        let request = self.timed(RequestServiceListRequest {});
        let response = self.running().list(request).await?;
        Ok(response.into_inner().requests)
    }

    /// Ends the tenant's requests that are alive under an id, and says how
    /// many there were. None is no error: they may just have ended.
    pub async fn cancel(&self, request_id: impl Into<String>) -> Result<u32, Error> {
        let request = RequestServiceCancelRequest {
            request_id: request_id.into(),
        };
        let response = self.running().cancel(self.timed(request)).await?;
        Ok(response.into_inner().cancelled)
    }

    /// The kernel plugins that the server found, and what became of each.
    pub async fn kernels(&self) -> Result<Vec<Kernel>, Error> {
        let response = self.admin().kernels(self.timed(KernelsRequest {})).await?;
        Ok(response.into_inner().kernels)
    }

    /// What the server is doing now.
    pub async fn load(&self) -> Result<LoadResponse, Error> {
        let response = self.admin().load(self.timed(LoadRequest {})).await?;
        Ok(response.into_inner())
    }

    /// Tells the server to take no new requests, finish those that run, and
    /// exit. Returns at once.
    pub async fn drain(&self) -> Result<DrainResponse, Error> {
        let response = self.admin().drain(self.timed(DrainRequest {})).await?;
        Ok(response.into_inner())
    }

    fn inference(&self) -> InferenceServiceClient<Calls> {
        InferenceServiceClient::new(self.calls.clone())
    }

    fn catalogue(&self) -> ModelServiceClient<Calls> {
        ModelServiceClient::new(self.calls.clone())
    }

    fn running(&self) -> RequestServiceClient<Calls> {
        RequestServiceClient::new(self.calls.clone())
    }

    fn admin(&self) -> AdminServiceClient<Calls> {
        AdminServiceClient::new(self.calls.clone())
    }

    fn timed<T>(&self, message: T) -> Request<T> {
        deadline(message, self.request_timeout)
    }
}

fn deadline<T>(message: T, timeout: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    request
}
