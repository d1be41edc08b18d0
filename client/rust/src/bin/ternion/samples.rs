//! Several answers to one prompt.
//!
//! Each is a request of its own on one stream, with the seed of the one before
//! plus 1: any of them comes again when asked for alone with its seed. The
//! server computes what their prompts have in common once.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use serde::Serialize;
use ternion_client::proto::FinishReason;
use ternion_client::{Client, Event, Generate, Session, SessionEvent};
use tokio::signal::ctrl_c;

use crate::answer::drawn_id;
use crate::failure::Failure;
use crate::json;
use crate::stdout;

#[derive(Serialize)]
struct Line {
    sample: usize,
    #[serde(flatten)]
    line: json::Line,
}

/// One answer as far as it is known.
#[derive(Default)]
struct Sample {
    seed: u64,
    text: String,
    ended: Option<FinishReason>,
}

struct Samples {
    ids: BTreeMap<String, usize>,
    samples: Vec<Sample>,
    /// How many were printed: in order, whichever ends first.
    printed: usize,
    json: bool,
}

pub(crate) async fn run(
    client: &Client,
    request: Generate,
    count: u32,
    json: bool,
) -> Result<(), Failure> {
    let mut session = tokio::select! {
        session = client.session() => session?,
        _ = ctrl_c() => return Err(Failure::Interrupted),
    };
    let asked = request.request.sampling.and_then(|sampling| sampling.seed);
    let seed = asked.unwrap_or_else(|| RandomState::new().hash_one(count));
    let name = match request.request.request_id.as_str() {
        "" => drawn_id(),
        given => given.to_owned(),
    };
    let mut samples = Samples {
        ids: BTreeMap::new(),
        samples: Vec::new(),
        printed: 0,
        json,
    };
    for (index, request) in request.samples(count, seed).enumerate() {
        let id = format!("{name}-{index}");
        session.start(&id, request).await?;
        samples.ids.insert(id, index);
        samples.samples.push(Sample {
            seed: seed.wrapping_add(index as u64),
            ..Sample::default()
        });
    }
    session.close();
    samples.read(&mut session).await
}

impl Samples {
    async fn read(&mut self, session: &mut Session) -> Result<(), Failure> {
        while self.printed < self.samples.len() {
            let event = tokio::select! {
                event = session.next() => event,
                // Dropping the session cancels what runs on it.
                _ = ctrl_c() => return Err(Failure::Interrupted),
            };
            match event {
                Some(Ok(SessionEvent::Event { id, event })) => self.take(&id, &event)?,
                Some(Ok(SessionEvent::Failed { error, .. }) | Err(error)) => {
                    return Err(error.into());
                }
                Some(Ok(_)) => {}
                None => {
                    return Err(Failure::Server(ternion_client::Error::Transport {
                        source: "the server ended the stream before the requests".into(),
                    }));
                }
            }
        }
        let ends = self.samples.iter().filter_map(|sample| sample.ended);
        let well =
            |reason: &FinishReason| matches!(reason, FinishReason::Stop | FinishReason::Length);
        match ends.into_iter().find(|reason| !well(reason)) {
            Some(reason) => Err(Failure::Ended(reason)),
            None => Ok(()),
        }
    }

    fn take(&mut self, id: &str, event: &Event) -> Result<(), Failure> {
        let Some(&index) = self.ids.get(id) else {
            return Ok(());
        };
        if self.json {
            json::print(&Line {
                sample: index,
                line: json::Line::from(event),
            })?;
        }
        match event {
            Event::Delta(delta) => self.samples[index].text.push_str(&delta.text),
            Event::Finished(finished) => self.samples[index].ended = Some(finished.reason()),
            _ => {}
        }
        self.print()
    }

    /// Prints those that have ended, up to the first that has not.
    fn print(&mut self) -> Result<(), Failure> {
        let count = self.samples.len();
        while let Some(sample) = self.samples.get(self.printed)
            && sample.ended.is_some()
        {
            self.printed += 1;
            if !self.json {
                let Sample { seed, text, .. } = sample;
                stdout::write(&format!(
                    "--- {} of {count}, seed {seed}\n{text}\n",
                    self.printed
                ))?;
            }
        }
        Ok(())
    }
}
