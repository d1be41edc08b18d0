//! Measures every call, to the end of its stream.

use std::{
    collections::HashSet,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Status, body::Body, codegen::Bytes};
use tower::{Layer, Service};

use crate::{metrics::Metrics, semconv};

/// Adds the measuring to a server.
#[derive(Debug, Clone)]
pub(crate) struct RpcCalls {
    metrics: Metrics,
    methods: Arc<HashSet<&'static str>>,
}

impl RpcCalls {
    /// `descriptors` are encoded descriptor sets of all services that there
    /// are. A path that they don't have is a client's word, and must not
    /// become a label.
    pub(crate) fn new(metrics: Metrics, descriptors: &[&[u8]]) -> RpcCalls {
        let methods = descriptors
            .iter()
            .filter_map(|set| FileDescriptorSet::decode(*set).ok())
            .flat_map(methods)
            // As many as there are methods, once in the life of a process.
            .map(|method| &*method.leak())
            .collect();
        RpcCalls {
            metrics,
            methods: Arc::new(methods),
        }
    }

    fn method(&self, path: &str) -> &'static str {
        let known = path.strip_prefix('/').and_then(|m| self.methods.get(m));
        known.copied().unwrap_or(semconv::RPC_METHOD_OTHER)
    }
}

/// Such as `ternion.v1.InferenceService/Generate`.
fn methods(set: FileDescriptorSet) -> impl Iterator<Item = String> {
    set.file.into_iter().flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let service_name = format!("{package}.{}", service.name());
            service
                .method
                .into_iter()
                .map(move |method| format!("{service_name}/{}", method.name()))
        })
    })
}

impl<S> Layer<S> for RpcCalls {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured {
            inner,
            calls: self.clone(),
        }
    }
}

/// A service whose calls are measured.
#[derive(Debug, Clone)]
pub(crate) struct Measured<S> {
    inner: S,
    calls: RpcCalls,
}

impl<S> Service<Request<Body>> for Measured<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<CallBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<CallBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut call = Call {
            metrics: self.calls.metrics.clone(),
            method: self.calls.method(request.uri().path()),
            started: Instant::now(),
            over: false,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            // A refusal comes without a stream.
            if let Some(code) = code(response.headers()) {
                call.ended(code);
            }
            Ok(response.map(|body| CallBody { body, call }))
        })
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Some(Status::from_header_map(headers)?.code())
}

/// A call until it ends. Dropped before that, the client has gone.
struct Call {
    metrics: Metrics,
    method: &'static str,
    started: Instant,
    over: bool,
}

impl Call {
    fn ended(&mut self, code: Code) {
        if !std::mem::replace(&mut self.over, true) {
            self.metrics
                .called(self.method, code, self.started.elapsed());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

/// The stream of a call, and its status at the end.
pub(crate) struct CallBody {
    body: Body,
    call: Call,
}

impl http_body::Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    self.call.ended(code);
                }
            }
            Poll::Ready(Some(Err(status))) => self.call.ended(status.code()),
            // A stream without a status: not one of gRPC.
            Poll::Ready(None) => self.call.ended(Code::Unknown),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
