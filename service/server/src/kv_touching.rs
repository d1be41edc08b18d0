//! The thread that makes the KV cache resident.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context;
use ternion_compute::KvTouch;

/// How much others go before this thread when processors are busy: it gets
/// about a tenth of one.
const NICENESS: i32 = 10;

/// Touches what the first requests get, beside the rest of the start, and once
/// requests are served everything else: the engine hands out pages in the order
/// in which they are touched, and a page that isn't yet when it is used comes
/// with its use.
pub(crate) struct KvTouching {
    /// Hung up when the first pages are there.
    first: Mutex<Receiver<()>>,
    go_on: SyncSender<()>,
}

impl KvTouching {
    pub(crate) fn begin(touch: KvTouch, bytes: u64) -> anyhow::Result<KvTouching> {
        let (is_first, first) = sync_channel(0);
        let (go_on, told) = sync_channel(1);
        std::thread::Builder::new()
            .name("ternion-kv".to_owned())
            .spawn(move || {
                let begun = touch.first();
                drop(is_first);
                // Without a server there is nobody to do it for.
                if told.recv().is_ok() {
                    report(begun.and_then(|_| rest(&touch)), bytes);
                }
            })
            .context("can't start a thread for the KV cache")?;
        Ok(KvTouching {
            first: Mutex::new(first),
            go_on,
        })
    }

    /// Waits for the pages that the first requests get.
    pub(crate) fn wait_for_first(&self) {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        while first.recv().is_ok() {}
    }

    /// Requests are served: the rest may come.
    pub(crate) fn go_on(&self) {
        // There is room for one, and more are not needed.
        let _ = self.go_on.try_send(());
    }
}

/// In seconds; `None` if the server has ended meanwhile.
fn rest(touch: &KvTouch) -> io::Result<Option<f64>> {
    // Of this thread, on Linux. Where it can't be, it is as important as others.
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let begin = Instant::now();
    let is_done = touch.rest()?;
    Ok(is_done.then(|| begin.elapsed().as_secs_f64()))
}

fn report(touched: io::Result<Option<f64>>, bytes: u64) {
    match touched {
        Ok(Some(seconds)) => tracing::info!(bytes, seconds, "the KV cache is resident"),
        Ok(None) => {}
        Err(error) => tracing::info!(%error, "the KV cache becomes resident as it is used"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ternion_compute::{KvConfig, KvPool, KvPrecision, architecture_of};

    #[test]
    fn it_ends_with_and_without_a_server() {
        let architecture = architecture_of("tiny").expect("a known shape");
        let config = KvConfig {
            num_blocks: 20,
            block_size: 16,
            precision: KvPrecision::F16,
        };
        for is_served in [false, true] {
            let pool = KvPool::reserve(config, &architecture).expect("there is that much");
            let touching = KvTouching::begin(pool.touch(), 1).expect("a thread");
            touching.wait_for_first();
            touching.wait_for_first();
            if is_served {
                touching.go_on();
                touching.go_on();
            }
        }
    }
}
