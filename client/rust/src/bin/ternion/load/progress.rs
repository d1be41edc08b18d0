use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::observation::{Observation, Outcome};

/// What a person sees of a run while it goes on. Draws nothing where standard
/// error is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    length: Length,
    start: Instant,
    shown: Instant,
    output_tokens: u64,
    refused: u64,
    errors: u64,
}

/// By what the bar fills.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length {
    Requests(u64),
    Time(Duration),
    Unknown,
}

/// Drawing for each of thousands of requests would delay them.
const INTERVAL: Duration = Duration::from_millis(200);

impl Progress {
    /// `name` tells runs of one command apart.
    pub(crate) fn new(length: Length, name: &str, shown: bool) -> Progress {
        let bar = match length {
            _ if !shown => ProgressBar::hidden(),
            Length::Requests(requests) => styled(
                ProgressBar::new(requests),
                "{prefix}{bar:30} {pos}/{len} requests, {msg}",
            ),
            Length::Time(time) => styled(
                ProgressBar::new(time.as_millis().try_into().unwrap_or(u64::MAX)),
                "{prefix}{bar:30} {elapsed}, {msg}",
            ),
            Length::Unknown => styled(
                ProgressBar::new_spinner(),
                "{prefix}{spinner} {elapsed}, {msg}",
            ),
        };
        bar.set_prefix(name.to_owned());
        if shown {
            bar.enable_steady_tick(INTERVAL);
        }
        Progress {
            bar,
            length,
            start: Instant::now(),
            shown: Instant::now(),
            output_tokens: 0,
            refused: 0,
            errors: 0,
        }
    }

    pub(crate) fn ended(&mut self, observation: &Observation) {
        self.output_tokens += observation.output_tokens;
        match observation.outcome {
            Outcome::Refused(_) => self.refused += 1,
            Outcome::Failed(_) => self.errors += 1,
            Outcome::Finished(_) => {}
        }
        if matches!(self.length, Length::Requests(_)) {
            self.bar.inc(1);
        }
    }

    pub(crate) fn running(&mut self, running: usize) {
        if self.bar.is_hidden() || self.shown.elapsed() < INTERVAL {
            return;
        }
        self.shown = Instant::now();
        let elapsed = self.start.elapsed();
        if let Length::Time(_) = self.length {
            self.bar
                .set_position(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
        }
        self.bar.set_message(format!(
            "{running} running, {:.0} tokens/s, {} refused, {} errors",
            self.output_tokens as f64 / elapsed.as_secs_f64().max(1e-3),
            self.refused,
            self.errors
        ));
    }

    pub(crate) fn stopped(&self) {
        if !self.bar.is_hidden() {
            self.bar
                .println("waiting for what runs; Ctrl-C again gives up");
        }
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
}
