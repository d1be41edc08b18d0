use std::collections::HashMap;

use ternion_client::proto::{Finished, Queued, Sampling, Started, Stopping, TokenLogprob};
use ternion_client::{Client, Error, Event, Events, Generate, SessionEvent, StreamExt};

/// Everything that a request told, put together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub queued: Option<Queued>,
    pub started: Option<Started>,
    pub text: String,
    pub token_ids: Vec<u32>,
    pub logprobs: Vec<TokenLogprob>,
    pub finished: Option<Finished>,
}

impl Answer {
    pub fn add(&mut self, event: Event) {
        assert!(self.finished.is_none(), "{event:?} after the end");
        match event {
            Event::Queued(queued) => self.queued = Some(queued),
            Event::Started(started) => self.started = Some(started),
            Event::Delta(delta) => {
                self.text.push_str(&delta.text);
                self.token_ids.extend(delta.token_ids);
                self.logprobs.extend(delta.logprobs);
            }
            Event::Finished(finished) => self.finished = Some(finished),
        }
    }

    /// How it ended; every answer has to.
    pub fn finished(&self) -> &Finished {
        self.finished
            .as_ref()
            .expect("the stream ended before the answer")
    }

    /// Reads on to the end.
    pub async fn read(&mut self, events: &mut Events) -> Result<(), Error> {
        while let Some(event) = events.next().await {
            self.add(event?);
        }
        Ok(())
    }
}

/// Exactly `max_tokens` tokens after `ids`, the most probable ones.
pub fn greedy(ids: &[u32], max_tokens: u32) -> Generate {
    Generate::token_ids(ids.iter().copied())
        .sampling(Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        })
        .stopping(Stopping {
            max_tokens: Some(max_tokens),
            ignore_eos: Some(true),
            ..Stopping::default()
        })
}

/// The answer to a request on a call of its own.
pub async fn answer(client: &Client, request: Generate) -> Answer {
    let mut answer = Answer::default();
    let mut events = client
        .generate(request)
        .await
        .expect("it is a good request");
    answer.read(&mut events).await.expect("nothing fails");
    answer
}

/// The answers to requests that run all at once on one stream.
pub async fn answers(client: &Client, requests: Vec<Generate>) -> Vec<Answer> {
    let mut session = client.session().await.expect("a session opens");
    let count = requests.len();
    for (i, request) in requests.into_iter().enumerate() {
        session
            .start(i.to_string(), request)
            .await
            .expect("it is open");
    }
    session.close();
    let mut answers: HashMap<String, Answer> = HashMap::new();
    while let Some(event) = session.next().await {
        match event.expect("the stream goes on") {
            SessionEvent::Event { id, event } => answers.entry(id).or_default().add(event),
            event => panic!("{event:?}"),
        }
    }
    (0..count)
        .map(|i| {
            answers
                .remove(&i.to_string())
                .expect("every request is answered")
        })
        .collect()
}
