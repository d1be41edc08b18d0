//! An admitted request on its way to its client, the same for Generate and
//! Session.

use std::time::Instant;

use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    audit::Audit,
    drain::InFlight,
    frames::{Ending, Frame},
    live_requests::Claim,
    request_span::RequestSpan,
    request_stream::RequestStream,
};

pub(crate) struct RequestRun {
    pub(crate) stream: RequestStream,
    pub(crate) claim: Claim,
    pub(crate) span: RequestSpan,
    pub(crate) audit: Audit,
    pub(crate) in_flight: InFlight,
}

/// A request whose last frame remains to be sent.
pub(crate) struct Ended {
    pub(crate) seq: u64,
    pub(crate) ending: Ending,
    /// To be kept until that is done.
    pub(crate) in_flight: InFlight,
    /// Likewise: it closes when dropped.
    pub(crate) span: RequestSpan,
}

impl RequestRun {
    /// Sends all frames but the last, which is returned. `None` if the client
    /// has gone, and then the request is cancelled.
    ///
    /// Waits whenever `out` is full: that is how a slow client's request gets
    /// parked.
    pub(crate) async fn forward<T>(
        mut self,
        out: &mpsc::Sender<Result<T, Status>>,
        response: impl Fn(u64, Frame) -> T,
    ) -> Option<Ended> {
        for seq in 0.. {
            // A client that goes away is noticed here, not at the next token.
            let next = tokio::select! {
                biased;
                () = out.closed() => break,
                next = self.stream.next() => next,
            };
            match next {
                Ok(frame) => {
                    let ready = Instant::now();
                    match self.room(out).await {
                        Some(room) => room.send(Ok(response(seq, frame))),
                        None => break,
                    }
                    self.span.sent(ready.elapsed());
                }
                Err(ending) => return Some(self.ended(seq, ending)),
            }
        }
        None
    }

    /// Waits for a place. The request can be cancelled meanwhile.
    async fn room<'a, T>(&mut self, out: &'a mpsc::Sender<T>) -> Option<mpsc::Permit<'a, T>> {
        loop {
            tokio::select! {
                biased;
                room = out.reserve() => return room.ok(),
                () = self.stream.heed() => {}
            }
        }
    }

    /// Gives up the id and the place among the tenant's requests: the client
    /// may use them again as soon as it reads the last frame.
    fn ended(self, seq: u64, ending: Ending) -> Ended {
        self.span.ended(&ending);
        self.audit.ended(&ending);
        drop((self.claim, self.stream));
        Ended {
            seq,
            ending,
            in_flight: self.in_flight,
            span: self.span,
        }
    }
}
