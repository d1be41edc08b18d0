//! Whole rows of a step, sampled from side by side.
//!
//! To sample from a vocabulary of logits takes a millisecond, and what comes of
//! it depends on the row and its sequence alone. So all threads do it, a row
//! each, before anything is done about the tokens. Behind a guess it waits
//! until the guess has come true, and is the engine's alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};

use crate::crew::Crew;
use crate::sampling::{Choice, Sampled, Sampler};
use crate::{Row, SequenceId, panic_message};

/// A token, or why there is none.
pub(crate) type Outcome = Result<Sampled, String>;

/// Reused from step to step.
#[derive(Debug, Default)]
pub(crate) struct WholeRows {
    /// One a worker, for the memory that it works in.
    samplers: Vec<Mutex<Sampler>>,
    rows: Vec<WholeRow>,
    /// The next whose outcome is taken.
    next: usize,
}

#[derive(Debug)]
struct WholeRow {
    id: SequenceId,
    /// Which of the step's rows.
    row: usize,
    outcome: Mutex<Option<Outcome>>,
}

impl WholeRows {
    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.next = 0;
    }

    /// Row `row` of the step is the whole row that a sequence's next token is
    /// sampled from.
    pub(crate) fn push(&mut self, id: SequenceId, row: usize) {
        let outcome = Mutex::new(None);
        self.rows.push(WholeRow { id, row, outcome });
    }

    /// Samples from all of them.
    pub(crate) fn sample<'a>(
        &mut self,
        crew: &dyn Crew,
        row: impl Fn(usize) -> Row<'a> + Sync,
        choice: impl Fn(SequenceId) -> Choice<'a> + Sync,
    ) {
        self.samplers.resize_with(crew.size(), Mutex::default);
        let WholeRows { samplers, rows, .. } = &*self;
        crew.each(rows.len(), &|worker, index| {
            let WholeRow { id, row: at, .. } = rows[index];
            let mut sampler = lock(&samplers[worker]);
            // What was half done when it panicked ends with the sequence.
            let sampled = catch_unwind(AssertUnwindSafe(|| sampler.sample(row(at), &choice(id))));
            *lock(&rows[index].outcome) = Some(match sampled {
                Ok(sampled) => sampled.map_err(|error| error.to_string()),
                Err(panic) => Err(panic_message(&*panic)),
            });
        });
    }

    /// What came of the next row, if that is this sequence's. They are taken in
    /// the order in which they were pushed.
    pub(crate) fn take(&mut self, id: SequenceId) -> Option<Outcome> {
        let row = self.rows.get(self.next).filter(|row| row.id == id)?;
        self.next += 1;
        lock(&row.outcome).take()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic passes a worker by")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampling;
    use crate::crew::Alone;

    /// Each item on a thread of its own.
    struct Many(usize);

    impl Crew for Many {
        fn size(&self) -> usize {
            self.0
        }

        fn each(&self, count: usize, work: &(dyn Fn(usize, usize) + Sync)) {
            assert!(count <= self.0, "a worker has one call at a time");
            std::thread::scope(|scope| {
                for item in 0..count {
                    scope.spawn(move || work(item, item));
                }
            });
        }
    }

    fn sampling(seed: u64) -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p: 0.9,
            repetition_penalty: 1.2,
            num_logprobs: Some(3),
            seed,
            ..Sampling::default()
        }
    }

    fn outcomes(crew: &dyn Crew, logits: &[Vec<f32>]) -> Vec<Option<Outcome>> {
        let samplings: Vec<_> = (0..logits.len()).map(|n| sampling(n as u64)).collect();
        let mut rows = WholeRows::default();
        // The second time on what the first left.
        for _ in 0..2 {
            rows.clear();
            for row in 0..logits.len() {
                rows.push(SequenceId(10 + row as u64), row);
            }
            let choice = |id: SequenceId| Choice {
                sampling: &samplings[id.0 as usize - 10],
                prompt: &[1, 2],
                generated: &[3],
                forbidden: [&[], &[]],
            };
            rows.sample(crew, |row| Row::Whole(&logits[row]), choice);
        }
        let ids = (0..logits.len()).map(|row| SequenceId(10 + row as u64));
        ids.map(|id| {
            assert_eq!(rows.take(SequenceId(3)), None, "it has no whole row");
            rows.take(id)
        })
        .collect()
    }

    #[test]
    fn who_samples_does_not_matter() {
        let logit = |row: usize, token: usize| ((row * 31 + token) * 7919 % 1009) as f32 / 200.0;
        let mut logits: Vec<Vec<f32>> = (0..7)
            .map(|row| (0..500).map(|token| logit(row, token)).collect())
            .collect();
        logits[4][9] = f32::NAN;
        let alone = outcomes(&Alone, &logits);
        assert_eq!(outcomes(&Many(7), &logits), alone);
        for (row, outcome) in alone.iter().enumerate() {
            let outcome = outcome.as_ref().expect("it was sampled from");
            assert_eq!(outcome.is_err(), row == 4, "{outcome:?}");
        }
    }

    #[test]
    fn a_panic_is_the_failure_of_its_row() {
        let mut rows = WholeRows::default();
        for row in 0..3 {
            rows.push(SequenceId(row), row as usize);
        }
        let sampling = sampling(1);
        rows.sample(
            &Many(3),
            |_| Row::Whole(&[1.0, 2.0]),
            |id| match id.0 {
                1 => panic!("the second"),
                _ => Choice {
                    sampling: &sampling,
                    prompt: &[],
                    generated: &[],
                    forbidden: [&[], &[]],
                },
            },
        );
        let failed: Vec<_> = (0..3).map(|id| rows.take(SequenceId(id))).collect();
        assert!(matches!(failed[0], Some(Ok(_))));
        assert_eq!(failed[1], Some(Err("panic: the second".to_owned())));
        assert!(matches!(failed[2], Some(Ok(_))));
    }
}
