use std::time::Duration;

use ternion_proto::v1::admin_service_client::AdminServiceClient;
use ternion_proto::v1::inference_service_client::InferenceServiceClient;
use ternion_proto::v1::model_service_client::ModelServiceClient;
use ternion_proto::v1::{
    ChatMessage, CountTokensRequest, CountTokensResponse, DetokenizeRequest, DrainRequest,
    DrainResponse, GetRequest, Kernel, KernelsRequest, ListRequest, LoadRequest, LoadResponse,
    ModelInfo, TokenizeRequest,
};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::{Error, Events, Generate, Session};

/// Long enough for another continent, short enough to notice a wrong address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A quiet connection is asked for a sign of life, so that a server that
/// vanished does not leave a stream waiting for ever.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to a server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    request_timeout: Option<Duration>,
}

/// How to connect; made by [`Client::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    endpoint: String,
    connect_timeout: Duration,
    request_timeout: Option<Duration>,
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

    /// Connects.
    pub async fn connect(self) -> Result<Client, Error> {
        let endpoint = Endpoint::from_shared(self.endpoint.clone())
            .map_err(|source| Error::Endpoint {
                endpoint: self.endpoint,
                source,
            })?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true);
        Ok(Client {
            channel: endpoint.connect().await?,
            request_timeout: self.request_timeout,
        })
    }
}

impl Client {
    /// Connects to an endpoint such as `http://127.0.0.1:50051`.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Client, Error> {
        Client::builder(endpoint).connect().await
    }

    /// For a connection with other timeouts.
    pub fn builder(endpoint: impl Into<String>) -> Builder {
        Builder {
            endpoint: endpoint.into(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: None,
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

    fn inference(&self) -> InferenceServiceClient<Channel> {
        InferenceServiceClient::new(self.channel.clone())
    }

    fn catalogue(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel.clone())
    }

    fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
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
