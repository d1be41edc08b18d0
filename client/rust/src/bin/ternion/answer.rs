//! One request from start to end: streams what comes, and on Ctrl-C has the
//! server cancel it and tell what was used.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::ProgressBar;
use ternion_client::proto::{FinishReason, Finished};
use ternion_client::{Client, Error, Event, Generate, Session, SessionEvent};
use tokio::signal::ctrl_c;

use crate::failure::Failure;
use crate::json;
use crate::samples::Samples;
use crate::stdout;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Text,
    Json,
}

/// Returns the whole text, of all samples.
pub(crate) async fn stream(
    client: &Client,
    request: Generate,
    show: Show,
) -> Result<String, Failure> {
    // A session rather than a Generate call, because only a Cancel frame gets
    // an ending with usage; dropping a call would end it without a word.
    let id = match request.request.request_id.as_str() {
        "" => drawn_id(),
        given => given.to_owned(),
    };
    let mut session = tokio::select! {
        session = client.session() => session?,
        _ = ctrl_c() => return Err(Failure::Interrupted),
    };
    let resumable = request.request.resumable;
    let mut output = Output::new(show, request.request.n.unwrap_or(1) as usize);
    session.start(&id, request).await?;
    let mut interrupted = false;
    let mut unwell = None;
    loop {
        let event = tokio::select! {
            event = next(&mut session, resumable) => event?,
            _ = ctrl_c() => {
                if interrupted {
                    return Err(Failure::Interrupted);
                }
                interrupted = true;
                session.cancel(&id).await?;
                continue;
            }
        };
        let Some(event) = event else { break };
        output.show(&event)?;
        if let Event::Finished(finished) = event {
            match finished.reason() {
                FinishReason::Stop | FinishReason::Length => {}
                reason => unwell = Some(reason),
            }
            if finished.remaining == 0 {
                return unwell.map_or(Ok(output.text), |reason| Err(Failure::Ended(reason)));
            }
        }
    }
    Err(Failure::Server(Error::Transport {
        source: "the server ended the stream before the request".into(),
    }))
}

async fn next(session: &mut Session, resumable: bool) -> Result<Option<Event>, Failure> {
    loop {
        match session.next().await {
            Some(Ok(SessionEvent::Event { event, .. })) => return Ok(Some(event)),
            Some(Err(error @ Error::Transport { .. })) if resumable => {
                // What broke it says more than that it can't be had again.
                if session.reconnect().await.is_err() {
                    return Err(error.into());
                }
            }
            Some(Ok(SessionEvent::Failed { error, .. }) | Err(error)) => return Err(error.into()),
            Some(Ok(_)) | None => return Ok(None),
        }
    }
}

/// Unique enough to find in a log.
pub(crate) fn drawn_id() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("cli-{:x}-{now:x}", std::process::id())
}

/// Text goes to standard output, what is said about it to standard error.
struct Output {
    show: Show,
    text: String,
    samples: Samples,
    waiting: ProgressBar,
}

impl Output {
    fn new(show: Show, samples: usize) -> Output {
        let waiting = match show {
            // Draws nothing where standard error is no terminal.
            Show::Text => ProgressBar::new_spinner().with_message("sent"),
            Show::Json => ProgressBar::hidden(),
        };
        waiting.enable_steady_tick(Duration::from_millis(100));
        Output {
            show,
            text: String::new(),
            samples: Samples::new(samples),
            waiting,
        }
    }

    fn show(&mut self, event: &Event) -> Result<(), Failure> {
        if let Event::Delta(delta) = event {
            self.text.push_str(&delta.text);
        }
        match self.show {
            Show::Json => json::print(&json::Line::from(event)),
            Show::Text => self.show_text(event),
        }
    }

    fn show_text(&mut self, event: &Event) -> Result<(), Failure> {
        match event {
            Event::Queued(queued) => {
                let (tokens, ahead) = (queued.prompt_tokens, queued.ahead);
                let wait = match queued.wait_seconds {
                    Some(seconds) if seconds >= 1.0 => format!(", about {seconds:.0} s"),
                    _ => String::new(),
                };
                self.waiting
                    .set_message(format!("{tokens} prompt tokens, {ahead} ahead{wait}"));
                Ok(())
            }
            Event::Started(started) => {
                self.samples.seed = started.seed;
                self.waiting.set_message("reading the prompt");
                Ok(())
            }
            Event::Delta(delta) => {
                self.waiting.finish_and_clear();
                if self.samples.are_many() {
                    self.samples.take(delta);
                    return Ok(());
                }
                stdout::write(&delta.text)
            }
            Event::Finished(finished) => {
                self.waiting.finish_and_clear();
                match self.samples.are_many() {
                    true => self.samples.end(finished)?,
                    false => stdout::write("\n")?,
                }
                if finished.remaining == 0 && io::stderr().is_terminal() {
                    eprintln!("[{}]", summary(finished));
                }
                Ok(())
            }
        }
    }
}

fn summary(finished: &Finished) -> String {
    let usage = finished.usage.unwrap_or_default();
    let timings = finished.timings.unwrap_or_default();
    let cached = match usage.cached_tokens {
        0 => String::new(),
        cached => format!(" ({cached} cached)"),
    };
    let mut summary = format!(
        "{} prompt{cached} and {} generated tokens, first after {:.2} s",
        usage.prompt_tokens, usage.completion_tokens, timings.time_to_first_token_seconds,
    );
    // The first token comes with the prefill and is none of the decode time.
    let decoded = usage.completion_tokens.saturating_sub(1);
    if decoded > 0 && timings.decode_seconds > 0.0 {
        let rate = f64::from(decoded) / timings.decode_seconds;
        summary.push_str(&format!(", then {rate:.1} a second"));
    }
    summary.push_str(&format!("; {}", json::reason_name(finished.reason())));
    summary
}
