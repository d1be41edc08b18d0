use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ternion_client::{Client, Error, Event, Generate, Session, SessionEvent};
use tokio::sync::mpsc;

/// Streams for many requests, used in turn.
#[derive(Debug)]
pub(crate) struct Sessions {
    streams: Vec<mpsc::Sender<Start>>,
    count: AtomicU64,
}

/// Requests of one stream share its error.
pub(crate) type SessionEvents = mpsc::Receiver<Result<Event, Arc<Error>>>;

#[derive(Debug)]
struct Start {
    id: String,
    generate: Generate,
    events: mpsc::Sender<Result<Event, Arc<Error>>>,
}

/// Requests and events that may wait for each other's task; they are read at
/// once, as nothing here takes long.
const WAITING: usize = 64;

impl Sessions {
    pub(crate) fn new(client: &Client, count: u32) -> Sessions {
        let stream = |_| {
            let (starts, received) = mpsc::channel(WAITING);
            tokio::spawn(stream(client.clone(), received));
            starts
        };
        Sessions {
            streams: (0..count).map(stream).collect(),
            count: AtomicU64::new(0),
        }
    }

    pub(crate) async fn open(&self, generate: Generate) -> SessionEvents {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let stream = &self.streams[number as usize % self.streams.len()];
        let (events, received) = mpsc::channel(WAITING);
        let start = Start {
            id: format!("load-{number}"),
            generate,
            events,
        };
        stream
            .send(start)
            .await
            .expect("a stream's task lives as long as its sender");
        received
    }
}

/// Keeps a stream open while there are requests for it. One that ends, as it
/// does when its server drains, is followed by another.
async fn stream(client: Client, mut starts: mpsc::Receiver<Start>) {
    while let Some(start) = starts.recv().await {
        match client.session().await {
            Ok(session) => Live::new(session).run(start, &mut starts).await,
            Err(error) => {
                // A request that is no longer measured needs no answer.
                let _ = start.events.send(Err(Arc::new(error))).await;
            }
        }
    }
}

/// A stream and the requests on it that have not ended.
struct Live {
    session: Session,
    requests: HashMap<String, mpsc::Sender<Result<Event, Arc<Error>>>>,
}

impl Live {
    fn new(session: Session) -> Live {
        Live {
            session,
            requests: HashMap::new(),
        }
    }

    async fn run(mut self, first: Start, starts: &mut mpsc::Receiver<Start>) {
        let Err(error) = self.until_it_ends(first, starts).await else {
            // Those that are left see their events end.
            return;
        };
        let error = Arc::new(error);
        for events in self.requests.into_values() {
            let _ = events.send(Err(error.clone())).await;
        }
    }

    async fn until_it_ends(
        &mut self,
        first: Start,
        starts: &mut mpsc::Receiver<Start>,
    ) -> Result<(), Error> {
        self.start(first).await;
        loop {
            tokio::select! {
                start = starts.recv() => match start {
                    Some(start) => self.start(start).await,
                    None => return Ok(()),
                },
                event = self.session.next() => match event {
                    Some(event) => self.tell(event?).await,
                    None => return Ok(()),
                },
            }
        }
    }

    async fn start(&mut self, start: Start) {
        self.requests.insert(start.id.clone(), start.events);
        // Where that fails the stream has ended, and says itself why.
        let _ = self.session.start(start.id, start.generate).await;
    }

    async fn tell(&mut self, event: SessionEvent) {
        let (id, event) = match event {
            SessionEvent::Event { id, event } => (id, Ok(event)),
            SessionEvent::Failed { id, error, .. } => (id, Err(Arc::new(error))),
            // A newer server may have events that are not known here.
            _ => return,
        };
        let last = matches!(event, Ok(Event::Finished(_)) | Err(_));
        if let Some(events) = self.requests.get(&id) {
            let _ = events.send(event).await;
        }
        if last {
            self.requests.remove(&id);
        }
    }
}
