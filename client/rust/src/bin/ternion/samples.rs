//! Several answers to one prompt, as text: each is printed when it has ended,
//! in order, whichever ends first.

use ternion_client::proto::{Delta, Finished};

use crate::failure::Failure;
use crate::stdout;

/// What is known of the answers.
pub(crate) struct Samples {
    /// Of the first one; each other one has that of the one before plus 1.
    pub(crate) seed: u64,
    samples: Vec<Sample>,
    printed: usize,
}

#[derive(Clone, Default)]
struct Sample {
    text: String,
    has_ended: bool,
}

impl Samples {
    pub(crate) fn new(count: usize) -> Samples {
        Samples {
            seed: 0,
            samples: vec![Sample::default(); count],
            printed: 0,
        }
    }

    pub(crate) fn are_many(&self) -> bool {
        self.samples.len() > 1
    }

    pub(crate) fn take(&mut self, delta: &Delta) {
        if let Some(sample) = self.samples.get_mut(delta.index as usize) {
            sample.text.push_str(&delta.text);
        }
    }

    /// Prints those that have ended, up to the first that has not.
    pub(crate) fn end(&mut self, finished: &Finished) -> Result<(), Failure> {
        if let Some(sample) = self.samples.get_mut(finished.index as usize) {
            sample.has_ended = true;
        }
        let count = self.samples.len();
        while let Some(sample) = self.samples.get(self.printed)
            && sample.has_ended
        {
            let seed = self.seed.wrapping_add(self.printed as u64);
            self.printed += 1;
            let (number, text) = (self.printed, &sample.text);
            stdout::write(&format!("--- {number} of {count}, seed {seed}\n{text}\n"))?;
        }
        Ok(())
    }
}
