//! A model that is being opened while the rest of the start goes on.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use ternion_model::{Model, Outline};

use crate::launch;

/// A large vocabulary takes as long as all the rest of a warm start, and keeps
/// one processor busy. What it is known of the model by then is enough to try
/// the kernels and to reserve memory.
pub(crate) struct Opening {
    outline: Outline,
    thread: JoinHandle<anyhow::Result<(Model, Duration)>>,
    /// Hung up at its end.
    is_over: Mutex<Receiver<Outline>>,
}

impl Opening {
    /// Begins, and returns as soon as the outline is known.
    pub(crate) fn begin(path: Option<PathBuf>) -> anyhow::Result<Opening> {
        let (tell, told) = channel();
        let thread = std::thread::Builder::new()
            .name("ternion-model".to_owned())
            .spawn(move || {
                let begin = Instant::now();
                let model = launch::open_model_telling(path.as_deref(), &mut |outline| {
                    // Nobody listens to what is told a second time.
                    let _ = tell.send(outline);
                })?;
                Ok((model, begin.elapsed()))
            })
            .context("can't start a thread for the model")?;
        match told.recv() {
            Ok(outline) => Ok(Opening {
                outline,
                thread,
                is_over: Mutex::new(told),
            }),
            Err(_) => Err(join(thread)
                .err()
                .context("the model was opened and told nothing")?),
        }
    }

    pub(crate) fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Waits until the thread is done.
    pub(crate) fn wait(&self) {
        let is_over = self.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        while is_over.recv().is_ok() {}
    }

    /// The model, and how long it took.
    pub(crate) fn finish(self) -> anyhow::Result<(Model, Duration)> {
        join(self.thread)
    }
}

fn join<T>(thread: JoinHandle<anyhow::Result<T>>) -> anyhow::Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outline_is_the_models() {
        let opening = Opening::begin(None).expect("the demo opens");
        let outline = opening.outline().clone();
        opening.wait();
        let (model, _) = opening.finish().expect("the demo opens");
        assert_eq!(outline.architecture, model.architecture);
        assert_eq!(outline.reference, model.reference);
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        let nowhere = PathBuf::from("/nowhere/model.gguf");
        let error = Opening::begin(Some(nowhere))
            .err()
            .expect("nothing is there");
        assert!(
            format!("{error:#}").contains("/nowhere/model.gguf"),
            "{error:#}"
        );
    }
}
