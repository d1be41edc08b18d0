//! A request that outlives its readers: at any time it has one or none. What it
//! said is kept, within bounds, for those that come back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    drain::{Drain, InFlight, Phase},
    frame_log::{FrameLog, Rewind},
    frames::{Ending, Frame},
    reader::{LastWord, Reader},
    refusal::Refusal,
    request::Violations,
    request_run::RequestRun,
    request_span::RequestSpan,
    retained::{Attach, Registration},
    served::Served,
    status,
};

/// Frames that are taken from the engine ahead of a reader. Few: tokens for a
/// slow one belong into the outbox, which the engine can see.
const FRAMES_AHEAD: usize = 4;

pub(crate) struct RetainedRun {
    registration: Registration,
    drain: Arc<Drain>,
    read_timeout: Option<Duration>,
    /// Until it has ended.
    run: Option<RequestRun>,
    /// It was told to end.
    is_revoked: bool,
    log: FrameLog,
    /// Behind the frames of the log, once it has ended.
    last: Option<Last>,
    reader: Option<Reader>,
    /// Since when a frame waits for the reader.
    waiting_since: Option<Instant>,
    /// When nobody is waited for any more.
    expires: Option<Instant>,
}

struct Last {
    ending: Ending,
    /// For whoever delivers it first.
    kept: Option<(InFlight, RequestSpan)>,
}

enum Pulled {
    Frame(Frame),
    Ended(Ending),
    /// It is to end, and will say so.
    Heeded,
}

impl RetainedRun {
    pub(crate) fn new(
        served: &Served,
        registration: Registration,
        run: RequestRun,
        reader: Reader,
    ) -> RetainedRun {
        RetainedRun {
            log: FrameLog::new(registration.retention().request_bytes),
            registration,
            drain: served.drain.clone(),
            read_timeout: served.read_timeout,
            run: Some(run),
            is_revoked: false,
            last: None,
            reader: Some(reader),
            waiting_since: None,
            expires: None,
        }
    }

    /// To the end of the request and its grace. Dropping what is left of it
    /// then cancels a request that nobody came back for.
    pub(crate) async fn run(mut self) {
        while self.turn().await {}
    }

    fn request_id(&self) -> &str {
        self.registration.line.request_id()
    }

    /// Whether there is another one.
    async fn turn(&mut self) -> bool {
        self.deliver_last();
        let has_frames = self.log.num_left() > 0;
        if self.reader.is_some() && has_frames {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        let limit = self.waiting_since.zip(self.read_timeout);
        let patience = limit.and_then(|(since, timeout)| since.checked_add(timeout));
        let pulls = self.may_pull();
        // Whoever reads gets all of it, however late it is.
        let is_read = self.reader.is_some();
        tokio::select! {
            biased;
            Some(attach) = self.registration.attaching.recv() => self.attach(attach),
            () = closed(self.reader.as_ref()) => self.detach(),
            sent = send_next(self.reader.as_ref(), &mut self.log), if has_frames => match sent {
                true => self.sent(),
                false => self.detach(),
            },
            pulled = pull(self.run.as_mut(), pulls) => match pulled {
                Pulled::Frame(frame) => self.log.push(frame),
                Pulled::Ended(ending) => self.end(ending),
                Pulled::Heeded => self.is_revoked = true,
            },
            () = until(patience) => self.give_up().await,
            () = until(self.expires), if !is_read => return false,
            () = self.drain.reached(Phase::Draining), if !is_read => return false,
            () = self.registration.line.leave.notified(), if !is_read => return false,
        }
        true
    }

    fn sent(&mut self) {
        let since = self.waiting_since.take();
        if let (Some(run), Some(since)) = (&self.run, since) {
            run.span.sent(since.elapsed());
        }
    }

    fn may_pull(&self) -> bool {
        match &self.reader {
            Some(_) => self.log.num_left() < FRAMES_AHEAD,
            // What is to end need not wait for a reader.
            None if self.is_revoked => true,
            None => self.registration.retention().goes_on && !self.log.is_full(),
        }
    }

    fn attach(&mut self, attach: Attach) {
        let Attach {
            reader,
            last,
            claim,
            reply,
        } = attach;
        if let Err(rewind) = self.log.rewind(last) {
            // Who asked may have gone.
            let _ = reply.send(Err(refusal(rewind, last)));
            return;
        }
        if let Some(before) = self.reader.replace(reader) {
            tokio::spawn(before.fail(status::taken_over()));
        }
        if let Some(run) = &mut self.run {
            if let Some(claim) = claim {
                run.stream.listen(claim.cancel.clone());
                run.claim = claim;
            }
            self.expires = None;
        }
        self.waiting_since = None;
        let _ = reply.send(Ok(()));
    }

    fn detach(&mut self) {
        self.reader = None;
        self.waiting_since = None;
        match &mut self.last {
            // The shutdown need not wait for it.
            Some(last) => last.kept = None,
            None => self.expires = self.grace_from_now(),
        }
    }

    fn grace_from_now(&self) -> Option<Instant> {
        Instant::now().checked_add(self.registration.retention().grace)
    }

    /// Gives up all that the request has but its frames: the client may use its
    /// id again as soon as it reads the last one.
    fn end(&mut self, ending: Ending) {
        let Some(run) = self.run.take() else {
            return;
        };
        let RequestRun {
            stream,
            claim,
            span,
            audit,
            in_flight,
        } = run;
        span.ended(&ending);
        audit.ended(&ending);
        drop((claim, stream));
        self.last = Some(Last {
            ending,
            kept: self.reader.is_some().then_some((in_flight, span)),
        });
        self.expires = self.grace_from_now();
        self.registration.finished(self.log.bytes());
    }

    /// Once the reader has all frames, it gets the ending and is done.
    fn deliver_last(&mut self) {
        if self.log.num_left() > 0 || self.reader.is_none() {
            return;
        }
        if let (Some(last), seq) = (&mut self.last, self.log.end())
            && let Some(reader) = self.reader.take()
        {
            let (ending, kept) = (last.ending.clone(), last.kept.take());
            tokio::spawn(async move {
                reader.end(seq, ending).await;
                drop(kept);
            });
        }
    }

    /// The reader takes nothing: that is the end, with what it has been given.
    async fn give_up(&mut self) {
        let Some(run) = &mut self.run else {
            if let Some(reader) = self.reader.take() {
                tokio::spawn(reader.fail(status::reader_too_slow(self.request_id())));
            }
            self.detach();
            return;
        };
        let ending = run.stream.give_up().await;
        // The reader's last word must not have to wait for its frames.
        let reader = self.reader.take();
        let seq = self.log.end();
        self.end(ending.clone());
        if let Some(reader) = reader {
            tokio::spawn(reader.end(seq, ending));
        }
    }
}

impl Drop for RetainedRun {
    fn drop(&mut self) {
        if let Some(reader) = self.reader.take() {
            drop(LastWord::to(reader, self.request_id()));
        }
    }
}

fn refusal(rewind: Rewind, last: Option<u64>) -> Refusal {
    match rewind {
        Rewind::Forgotten { begin } => Refusal::FramesForgotten { begin },
        Rewind::Ahead { end } => {
            let last = last.unwrap_or_default();
            let range = format!("is {last}, and {end} frames were sent before the last");
            Violations::one("resume.last_seq", range).into()
        }
    }
}

async fn closed(reader: Option<&Reader>) {
    match reader {
        Some(reader) => reader.closed().await,
        None => std::future::pending().await,
    }
}

/// False if the reader has gone. There is no wait between the place and what
/// is sent there, so that a frame that the log has given is on its way.
async fn send_next(reader: Option<&Reader>, log: &mut FrameLog) -> bool {
    let Some(reader) = reader else {
        return std::future::pending().await;
    };
    let Some(place) = reader.place().await else {
        return false;
    };
    if let Some((seq, frame)) = log.next() {
        place.send(seq, frame);
    }
    true
}

async fn pull(run: Option<&mut RequestRun>, pulls: bool) -> Pulled {
    let Some(run) = run else {
        return std::future::pending().await;
    };
    if !pulls {
        run.stream.heed().await;
        return Pulled::Heeded;
    }
    match run.stream.next().await {
        Ok(frame) => Pulled::Frame(frame),
        Err(ending) => Pulled::Ended(ending),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
