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
use tonic::Streaming;

use crate::Error;
use crate::resume::Resumable;

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
pub struct Events {
    /// Read when the request was opened.
    first: Option<GenerateResponse>,
    responses: Streaming<GenerateResponse>,
    /// How to go on if the connection breaks, until the request has ended.
    resumable: Option<Resumable>,
    resuming: Option<Resuming>,
}

type Resuming = Pin<Box<dyn Future<Output = Result<Streaming<GenerateResponse>, Error>> + Send>>;

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events")
            .field("responses", &self.responses)
            .field("resumable", &self.resumable)
            .field("resuming", &self.resuming.is_some())
            .finish_non_exhaustive()
    }
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

    /// So many answers to the one prompt, which is computed once. Sample `i`,
    /// counted from 0, is what a request without this would be whose seed is
    /// that of [`Started`](crate::proto::Started) plus `i`. Each delta and each
    /// `Finished` tells the index of its sample; the last `Finished` is the one
    /// with none remaining, and has the usage of all.
    pub fn samples(mut self, count: u32) -> Generate {
        self.request.n = Some(count);
        self
    }

    /// Survives a connection that breaks, as long as the server waits for its
    /// clients. On [`Events`] that goes by itself; a
    /// [`Session`](crate::Session) is told to
    /// [`reconnect`](crate::Session::reconnect).
    pub fn resumable(mut self) -> Generate {
        self.request.resumable = true;
        self
    }

    /// Sent again under the same key, also by another process, the request is
    /// not generated twice: its events come from the first, as they were.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Generate {
        self.request.idempotency_key = key.into();
        self
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
    pub(crate) async fn open(
        mut responses: Streaming<GenerateResponse>,
        resumable: Option<Resumable>,
    ) -> Result<Events, Error> {
        Ok(Events {
            first: responses.message().await?,
            responses,
            resumable,
            resuming: None,
        })
    }

    fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<GenerateResponse, Error>>> {
        loop {
            if let Some(resuming) = &mut self.resuming {
                let resumed = std::task::ready!(resuming.as_mut().poll(cx));
                self.resuming = None;
                match resumed {
                    Ok(responses) => self.responses = responses,
                    Err(error) => return Poll::Ready(Some(Err(self.ended_by(error)))),
                }
            }
            let response = match self.first.take() {
                Some(first) => Some(Ok(first)),
                None => std::task::ready!(Pin::new(&mut self.responses).poll_next(cx)),
            };
            match (
                response.map(|response| response.map_err(Error::from)),
                &self.resumable,
            ) {
                (Some(Err(error @ Error::Transport { .. })), Some(resumable)) => {
                    self.resuming = Some(Box::pin(resumable.clone().resume(error)));
                }
                (Some(Err(error)), _) => return Poll::Ready(Some(Err(self.ended_by(error)))),
                (response, _) => return Poll::Ready(response),
            }
        }
    }

    /// There is nothing to resume, and nothing to cancel.
    fn ended_by(&mut self, error: Error) -> Error {
        self.resumable = None;
        error
    }

    /// Notes how far the request has come.
    fn note(&mut self, response: &GenerateResponse) {
        match (&mut self.resumable, &response.frame) {
            (resumable, Some(Frame::Finished(last))) if last.remaining == 0 => *resumable = None,
            (Some(resumable), _) => resumable.last_seq = Some(response.seq),
            (None, _) => {}
        }
    }
}

impl Drop for Events {
    /// A resumable request outlives its stream, so the server is told.
    fn drop(&mut self) {
        if let Some(resumable) = self.resumable.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(resumable.cancel());
        }
    }
}

impl Stream for Events {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let response = match std::task::ready!(self.poll_response(cx)) {
                Some(Ok(response)) => response,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            };
            self.note(&response);
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
