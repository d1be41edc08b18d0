//! An admitted request on its way to its client, the same for Generate and
//! Session.

use std::time::{Duration, Instant};

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

/// What came of waiting for a place for a frame.
enum Room<'a, T> {
    Place(mpsc::Permit<'a, T>),
    /// The client is not there any more.
    Gone,
    /// It took nothing for too long.
    TooLate,
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
    /// parked. After `read_timeout` of that it ends.
    pub(crate) async fn forward<T>(
        mut self,
        out: &mpsc::Sender<Result<T, Status>>,
        read_timeout: Option<Duration>,
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
                    match self.room(out, read_timeout).await {
                        Room::Place(place) => place.send(Ok(response(seq, frame))),
                        Room::Gone => break,
                        Room::TooLate => {
                            let ending = self.stream.give_up().await;
                            return Some(self.ended(seq, ending));
                        }
                    }
                    self.span.sent(ready.elapsed());
                }
                Err(ending) => return Some(self.ended(seq, ending)),
            }
        }
        None
    }

    /// Waits for a place. The request can be cancelled meanwhile.
    async fn room<'a, T>(
        &mut self,
        out: &'a mpsc::Sender<T>,
        read_timeout: Option<Duration>,
    ) -> Room<'a, T> {
        // Where there is one already, no timer is made.
        if let Ok(place) = out.try_reserve() {
            return Room::Place(place);
        }
        let timeout = async {
            match read_timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let mut timeout = std::pin::pin!(timeout);
        loop {
            tokio::select! {
                biased;
                place = out.reserve() => return place.map_or(Room::Gone, Room::Place),
                () = self.stream.heed() => {}
                () = &mut timeout => return Room::TooLate,
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
