//! What this node can serve: `bench --advise`.
//!
//! **The model.** A stream that gets `rate` tokens a second takes part in `rate`
//! steps a second, and for each token that is generated `prompt / output`
//! tokens of prompts have to be computed. With `s` streams, a step of `s`
//! generated tokens that takes `step(s)`, and prompts computed at `p` tokens a
//! second, each second has
//!
//! ```text
//! rate * (step(s) + s * prompt / output / p)
//! ```
//!
//! seconds of work. As many streams are served as leave that below one. `step`
//! is measured, at the context that a stream has on average (the prompt and
//! half of the output), for powers of two, and is a line between them; `p` is
//! measured too. Then a step of just that kind, so many streams and their share
//! of a prompt, is measured itself, and fewer streams are advised if it takes
//! longer than it may.
//!
//! What it leaves out: requests that come in crowds wait for each other, and
//! pages that all streams need at their longest are counted, not those of an
//! average. Prompts that begin alike, and guesses at repeated text, make a
//! server faster than this says.

use std::fmt;
use std::io::Write;

use serde::Serialize;
use ternion_compute::KvConfig;

use super::{
    limits::Limit,
    passes::{BLOCK_SIZE, Bench},
    room::Need,
    row::Subject,
};
use crate::preset::{PRESETS, Preset};
use crate::processors::Placement;

/// Steps of which the median is taken.
const STEPS: usize = 9;

/// How often fewer streams are tried than the model says.
const ATTEMPTS: usize = 6;

/// What is asked of the node.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Wish {
    /// Tokens a second of each stream.
    pub(super) tokens_per_second: f64,
    /// Of a request, on average.
    pub(super) prompt_tokens: usize,
    pub(super) output_tokens: usize,
}

impl Wish {
    /// Context of a stream on average.
    pub(super) fn depth(&self) -> usize {
        self.prompt_tokens + self.output_tokens / 2
    }

    /// Tokens of prompts that go with so many generated ones.
    fn share_of_prompt(&self, generated: usize) -> usize {
        (generated * self.prompt_tokens).div_ceil(self.output_tokens)
    }

    /// KV pages that a request takes in the end.
    pub(super) fn pages(&self) -> usize {
        (self.prompt_tokens + self.output_tokens).div_ceil(BLOCK_SIZE)
    }

    /// Longest that a step may take.
    fn step_seconds(&self) -> f64 {
        1.0 / self.tokens_per_second
    }
}

/// A measured step of `streams` tokens.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct StepTime {
    streams: usize,
    seconds: f64,
}

/// Steps and prompts as they were measured.
#[derive(Debug)]
struct Speed {
    /// Ascending, not empty.
    steps: Vec<StepTime>,
    prompt_tokens_per_second: f64,
}

impl Speed {
    /// Between two measured numbers of streams a line; beyond them, nothing.
    fn step_seconds(&self, streams: usize) -> Option<f64> {
        let after = self.steps.iter().position(|step| step.streams >= streams)?;
        let high = self.steps[after];
        let Some(low) = after.checked_sub(1).map(|before| self.steps[before]) else {
            return Some(high.seconds);
        };
        let along = (streams - low.streams) as f64 / (high.streams - low.streams) as f64;
        Some(low.seconds + along * (high.seconds - low.seconds))
    }

    /// Seconds of work in each second.
    fn busy(&self, wish: &Wish, streams: usize) -> Option<f64> {
        let prompts = streams as f64 * wish.prompt_tokens as f64 / wish.output_tokens as f64;
        let work = self.step_seconds(streams)? + prompts / self.prompt_tokens_per_second;
        Some(wish.tokens_per_second * work)
    }

    /// Most streams that the model gives.
    fn streams(&self, wish: &Wish) -> usize {
        let fits = |streams: &usize| self.busy(wish, *streams).is_some_and(|busy| busy <= 1.0);
        (1..).take_while(fits).last().unwrap_or(0)
    }

    /// Most tokens of a step that may still end in time, with so many streams.
    fn step_tokens(&self, wish: &Wish, streams: usize) -> usize {
        let rest = wish.step_seconds() - self.step_seconds(streams).unwrap_or(0.0);
        let prompt = (rest * self.prompt_tokens_per_second) as usize;
        // Longer chunks make a prompt no faster.
        let prompt = prompt.min(super::PROMPT_STEP);
        streams + prompt.max(wish.share_of_prompt(streams)).max(1)
    }
}

/// Who is advised, and with what.
pub(super) struct Node<'a> {
    pub(super) subject: &'a Subject,
    pub(super) placement: &'a Placement,
    pub(super) preset: Option<&'static Preset>,
    pub(super) limit: Option<Limit>,
    /// Bytes that may be used.
    pub(super) memory: u64,
    /// Of the model, without KV cache.
    pub(super) need: Need,
    pub(super) kv: KvConfig,
    pub(super) page_bytes: u64,
    pub(super) context: usize,
    /// As many as the KV cache of this run has pages for.
    pub(super) max_streams: usize,
}

/// The advice.
#[derive(Serialize)]
struct Advice<'a> {
    #[serde(flatten)]
    subject: &'a Subject,
    /// In words.
    placement: String,
    preset: Option<&'static str>,
    wish: Wish,
    /// At [`Wish::depth`].
    steps: Vec<StepTime>,
    prompt_tokens_per_second: f64,
    read_gb_per_second: Option<f64>,
    giga_products_per_second: Option<f64>,
    /// What the model says, before it was tried.
    modelled_streams: usize,
    /// 0: not even one.
    streams: usize,
    /// Of each stream, in steps with prompts among them; null without streams.
    measured_tokens_per_second: Option<f64>,
    /// Whether more were not tried, for want of memory or by the preset.
    is_capped: bool,
    /// `null` without streams.
    settings: Option<Suggested>,
    kv_bytes: u64,
    /// Of the model, its KV cache and a step.
    memory_bytes: u64,
    memory_limit_bytes: u64,
}

/// Settings as the server has them.
#[derive(Serialize)]
struct Suggested {
    threads: usize,
    #[serde(rename = "scheduler.max_num_seqs")]
    max_num_seqs: usize,
    #[serde(rename = "scheduler.max_num_batched_tokens")]
    max_num_batched_tokens: usize,
    #[serde(rename = "kv.block_size")]
    block_size: usize,
    #[serde(rename = "kv.pages")]
    pages: usize,
    #[serde(rename = "kv.type")]
    kv: String,
    context_limit: usize,
}

/// Measures, and prints what follows.
pub(super) fn advise(
    bench: &mut Bench,
    node: &Node<'_>,
    wish: Wish,
    json: bool,
) -> anyhow::Result<()> {
    let speed = measure(bench, node, &wish)?;
    let modelled = speed.streams(&wish).min(node.max_streams);
    let (streams, measured) = confirm(bench, &wish, modelled)?;
    let pages = streams * wish.pages();
    let kv_bytes = pages as u64 * node.page_bytes;
    let advice = Advice {
        subject: node.subject,
        placement: node.placement.to_string(),
        preset: node.preset.map(|preset| preset.name),
        wish,
        prompt_tokens_per_second: speed.prompt_tokens_per_second,
        read_gb_per_second: node.limit.map(|limit| limit.bandwidth / 1e9),
        giga_products_per_second: node.limit.map(|limit| limit.products / 1e9),
        modelled_streams: modelled,
        streams,
        measured_tokens_per_second: measured,
        is_capped: modelled == node.max_streams && modelled > 0,
        settings: (streams > 0).then(|| Suggested {
            threads: node.subject.threads,
            max_num_seqs: streams,
            max_num_batched_tokens: speed.step_tokens(&wish, streams),
            block_size: node.kv.block_size,
            pages,
            kv: node.subject.kv.clone(),
            context_limit: (pages * BLOCK_SIZE).min(node.context),
        }),
        kv_bytes,
        memory_bytes: node.need.total() + kv_bytes,
        memory_limit_bytes: node.memory,
        steps: speed.steps,
    };
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, &advice)?;
        writeln!(out)?;
        return Ok(());
    }
    write!(out, "{advice}")?;
    match node.preset {
        Some(preset) => writeln!(out, "preset    {preset}")?,
        None => {
            for preset in &PRESETS {
                writeln!(out, "--preset  {preset}")?;
            }
        }
    }
    Ok(())
}

/// Steps of 1, 2, 4, ... streams, up to one that takes too long.
fn measure(bench: &mut Bench, node: &Node<'_>, wish: &Wish) -> anyhow::Result<Speed> {
    let mut steps: Vec<StepTime> = Vec::new();
    let doublings = std::iter::successors(Some(1_usize), |n| n.checked_mul(2));
    let below = doublings.take_while(|n| *n < node.max_streams);
    for streams in below.chain([node.max_streams]) {
        let seconds = bench.step(streams, wish.depth(), 0, STEPS)?;
        // More streams never take less; where the machine was disturbed, the
        // line would go down, and streams be counted that are none.
        let seconds = steps
            .last()
            .map_or(seconds, |last| last.seconds.max(seconds));
        steps.push(StepTime { streams, seconds });
        if seconds > wish.step_seconds() {
            break;
        }
    }
    let mut prompts = Vec::new();
    for _ in 0..3 {
        let run = bench.prompt(0, wish.prompt_tokens)?;
        prompts.push(run.tokens as f64 / run.took.as_secs_f64());
    }
    prompts.sort_by(f64::total_cmp);
    Ok(Speed {
        steps,
        prompt_tokens_per_second: prompts[prompts.len() / 2],
    })
}

/// Runs steps as they will be, and takes streams away until they are in time.
fn confirm(
    bench: &mut Bench,
    wish: &Wish,
    mut streams: usize,
) -> anyhow::Result<(usize, Option<f64>)> {
    for _ in 0..ATTEMPTS {
        if streams == 0 {
            break;
        }
        let prompt = wish.share_of_prompt(streams).min(wish.prompt_tokens);
        let rate = 1.0 / bench.step(streams, wish.depth(), prompt, STEPS)?;
        if rate >= wish.tokens_per_second {
            return Ok((streams, Some(rate)));
        }
        let fewer = (streams as f64 * rate / wish.tokens_per_second) as usize;
        streams = fewer.min(streams - 1);
    }
    Ok((0, None))
}

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let Subject {
            model,
            kernel,
            head,
            ..
        } = self.subject;
        writeln!(f, "model     {model} on {kernel}, head {head}")?;
        write!(f, "node      {}", self.placement)?;
        if let (Some(read), Some(products)) =
            (self.read_gb_per_second, self.giga_products_per_second)
        {
            write!(f, ", memory {read:.1} GB/s, {products:.0} G products/s")?;
        }
        writeln!(f, ", {:.1} GiB", gib(self.memory_limit_bytes))?;
        let depth = self.wish.depth();
        writeln!(
            f,
            "measured  a step at {depth} tokens of context, and a prompt:"
        )?;
        for StepTime { streams, seconds } in &self.steps {
            writeln!(
                f,
                "          {streams:>4} stream{} {:7.1} ms, {:7.2} tokens/s each, {:8.2} in all",
                if *streams == 1 { " " } else { "s" },
                1e3 * seconds,
                1.0 / seconds,
                *streams as f64 / seconds,
            )?;
        }
        writeln!(
            f,
            "          {} tokens of a prompt, {:.1} tokens/s",
            self.wish.prompt_tokens, self.prompt_tokens_per_second
        )?;
        let Wish {
            tokens_per_second: rate,
            prompt_tokens,
            output_tokens,
        } = self.wish;
        write!(
            f,
            "advice    requests of {prompt_tokens} tokens, answered with {output_tokens} at {rate} \
             tokens/s or more: "
        )?;
        let (Some(measured), Some(settings)) = (self.measured_tokens_per_second, &self.settings)
        else {
            return writeln!(f, "not one stream; use a smaller model or a lower --rate");
        };
        let Suggested {
            threads,
            max_num_seqs,
            max_num_batched_tokens,
            pages,
            context_limit,
            block_size,
            kv,
        } = settings;
        let more = if self.is_capped {
            " (more were not tried)"
        } else {
            ""
        };
        writeln!(
            f,
            "{} streams at a time{more}, measured with prompts between: {measured:.2} tokens/s each",
            self.streams
        )?;
        writeln!(
            f,
            "settings  --threads {threads} --max-num-seqs {max_num_seqs} --max-num-batched-tokens \
             {max_num_batched_tokens} --kv {kv} --kv-block-size {block_size} --kv-pages {pages} \
             --context-limit {context_limit}",
        )?;
        writeln!(
            f,
            "memory    {:.2} GiB: model and a step {:.2}, {pages} KV pages of {block_size} tokens \
             {:.2}",
            gib(self.memory_bytes),
            gib(self.memory_bytes - self.kv_bytes),
            gib(self.kv_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WISH: Wish = Wish {
        tokens_per_second: 10.0,
        prompt_tokens: 400,
        output_tokens: 100,
    };

    /// 20 ms for one, 30 for two, 70 for four streams; 1000 prompt tokens a
    /// second.
    fn speed() -> Speed {
        let steps = [(1, 0.02), (2, 0.03), (4, 0.07)];
        Speed {
            steps: steps
                .map(|(streams, seconds)| StepTime { streams, seconds })
                .into(),
            prompt_tokens_per_second: 1000.0,
        }
    }

    #[test]
    fn streams_are_those_that_leave_time_for_their_prompts() {
        let speed = speed();
        // 3 lies between 2 and 4, and takes 50 ms, its prompts 4 x 3 ms.
        let busy = |streams| speed.busy(&WISH, streams);
        assert!((busy(3).expect("measured around") - 0.62).abs() < 1e-9);
        assert_eq!(busy(5), None, "nobody knows");
        assert_eq!(speed.streams(&WISH), 4);
        let wish = |rate| Wish {
            tokens_per_second: rate,
            ..WISH
        };
        // 86 ms of work for four, 62 for three, 38 for two, 24 for one.
        assert_eq!(speed.streams(&wish(1.0 / 0.085)), 3);
        assert_eq!(speed.streams(&wish(1.0 / 0.061)), 2);
        assert_eq!(speed.streams(&wish(1.0 / 0.037)), 1);
        assert_eq!(speed.streams(&wish(1.0 / 0.023)), 0);
    }

    #[test]
    fn a_step_has_room_for_the_prompts_that_its_tokens_bring() {
        let speed = speed();
        // 100 ms less 30 leave 70 tokens of prompt at 1000 a second.
        assert_eq!(speed.step_tokens(&WISH, 2), 72);
        // Never less than what comes in.
        let slow = Wish {
            tokens_per_second: 30.0,
            ..WISH
        };
        assert_eq!(speed.step_tokens(&slow, 2), 2 + 8);
        assert_eq!(WISH.share_of_prompt(2), 8);
        assert_eq!(WISH.pages(), 32);
        assert_eq!(WISH.depth(), 450);
    }
}
