use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ternion_proto::v1::generate_request::Input;
use ternion_proto::v1::generate_response::Frame;
use ternion_proto::v1::{
    ChatInput, ChatMessage, Delta, Finished, GenerateRequest, GenerateResponse, Queued, Sampling,
    Started, Stopping, TokenIds,
};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::Error;

/// A request for text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generate {
    /// What is sent. Fields that have no method below are set here.
    pub request: GenerateRequest,
    /// From sending to the last token. Absent: the client's own.
    pub timeout: Option<Duration>,
}

/// What a running request tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request was accepted; told again while it waits, when it has moved.
    Queued(Queued),
    /// Its first token is being computed.
    Started(Started),
    /// Text and tokens.
    Delta(Delta),
    /// Nothing follows but, after a deadline, [`Error::DeadlineExceeded`].
    Finished(Finished),
}

/// The events of one request, as they come. Dropping it cancels the request.
#[derive(Debug)]
pub struct Events {
    /// Read when the request was opened.
    first: Option<GenerateResponse>,
    responses: Streaming<GenerateResponse>,
}

impl Generate {
    /// Continues a raw prompt.
    pub fn text(prompt: impl Into<String>) -> Generate {
        Generate::from(Input::Text(prompt.into()))
    }

    /// Answers the last message of a conversation.
    pub fn chat(messages: impl IntoIterator<Item = ChatMessage>) -> Generate {
        Generate::from(Input::Chat(ChatInput {
            messages: messages.into_iter().collect(),
        }))
    }

    /// Continues tokens, to which nothing is added.
    pub fn token_ids(ids: impl IntoIterator<Item = u32>) -> Generate {
        Generate::from(Input::TokenIds(TokenIds {
            ids: ids.into_iter().collect(),
        }))
    }

    /// Name of the model; not needed where a server has one.
    pub fn model(mut self, name: impl Into<String>) -> Generate {
        self.request.model = name.into();
        self
    }

    /// How tokens are drawn. What is absent takes the model's default.
    pub fn sampling(mut self, sampling: Sampling) -> Generate {
        self.request.sampling = Some(sampling);
        self
    }

    /// When to end.
    pub fn stopping(mut self, stopping: Stopping) -> Generate {
        self.request.stopping = Some(stopping);
        self
    }

    /// `count` requests for as many answers to one prompt: the first has the
    /// seed, each other one that of the one before plus 1, and is what it would
    /// be alone. Started one after the other on a
    /// [`Session`](crate::Session), they have what their prompts have in common
    /// computed once, unless the server's prefix cache is off.
    pub fn samples(self, count: u32, seed: u64) -> impl Iterator<Item = Generate> {
        (0..count).map(move |index| {
            let mut generate = self.clone();
            let sampling = generate.request.sampling.get_or_insert_default();
            sampling.seed = Some(seed.wrapping_add(u64::from(index)));
            generate
        })
    }

    /// Time from sending to the last token.
    pub fn timeout(mut self, timeout: Duration) -> Generate {
        self.timeout = Some(timeout);
        self
    }
}

impl From<Input> for Generate {
    fn from(input: Input) -> Generate {
        GenerateRequest {
            input: Some(input),
            ..GenerateRequest::default()
        }
        .into()
    }
}

impl From<GenerateRequest> for Generate {
    fn from(request: GenerateRequest) -> Generate {
        Generate {
            request,
            timeout: None,
        }
    }
}

/// A message by the user.
pub fn user(content: impl Into<String>) -> ChatMessage {
    message("user", content)
}

/// A message by the model, for the history of a conversation.
pub fn assistant(content: impl Into<String>) -> ChatMessage {
    message("assistant", content)
}

/// Instructions for the model, before everything else.
pub fn system(content: impl Into<String>) -> ChatMessage {
    message("system", content)
}

fn message(role: &str, content: impl Into<String>) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content: content.into(),
    }
}

impl Events {
    /// Waits for the first message, until which nothing has happened that
    /// another attempt would repeat.
    pub(crate) async fn open(mut responses: Streaming<GenerateResponse>) -> Result<Events, Error> {
        Ok(Events {
            first: responses.message().await?,
            responses,
        })
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<GenerateResponse, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => Pin::new(&mut self.responses).poll_next(cx),
        }
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let response = match std::task::ready!(self.poll_response(cx)) {
                Some(Ok(response)) => response,
                Some(Err(status)) => return Poll::Ready(Some(Err(status.into()))),
                None => return Poll::Ready(None),
            };
            let event = match response.frame {
                Some(Frame::Queued(queued)) => Event::Queued(queued),
                Some(Frame::Started(started)) => Event::Started(started),
                Some(Frame::Delta(delta)) => Event::Delta(delta),
                Some(Frame::Finished(finished)) => Event::Finished(finished),
                // A newer server may have frames that this client can't know.
                None => continue,
            };
            return Poll::Ready(Some(Ok(event)));
        }
    }
}
