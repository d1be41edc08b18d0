//! Who wins a draw among those that `top_p` and `min_p` leave, as far as some
//! of the logits tell.
//!
//! What is left are the likeliest tokens, down to some place. Of the likeliest
//! ones the logits are known, and of all others together what they weigh at
//! most. That puts the sum of all weights between two numbers, and with it says
//! of most of the likeliest whether they are left. Where the winner among all
//! that may be left is one that surely is, the draw is decided; else it takes
//! all logits.

use ternion_engine::{Draw, Race, Standing, TokenLogit};

/// Sums of weights here and where all logits are known differ by less,
/// relative.
const ROUNDING: f64 = 1e-9;

/// One of the likeliest tokens.
#[derive(Clone, Copy)]
struct Likely {
    entry: TokenLogit,
    /// 1 for the likeliest of all.
    weight: f64,
    /// Of those that are likelier.
    before: f64,
    standing: Standing,
}

/// What is known of one position.
pub(super) struct Nucleus {
    race: Race,
    draw: Draw,
    /// From the likeliest down, without a gap.
    likely: Vec<Likely>,
    /// What the known ones weigh.
    known: f64,
    /// The first in the race of the known ones that are not among the likely.
    behind: Option<Standing>,
}

/// What is known of the other tokens, or of some of them.
#[derive(Clone, Copy, Default)]
pub(super) struct Others {
    /// What they weigh at most.
    pub(super) weight: f64,
    /// The first in the race of those that may come in before the likely ones.
    pub(super) first: Option<Standing>,
}

impl Nucleus {
    pub(super) fn new(draw: Draw) -> Nucleus {
        Nucleus {
            race: draw.race(),
            draw,
            likely: Vec::new(),
            known: 0.0,
            behind: None,
        }
    }

    /// Takes the known logits, in any order; all that are at least `least` are
    /// among them.
    pub(super) fn begin(
        &mut self,
        draw: Draw,
        known: impl Iterator<Item = TokenLogit> + Clone,
        least: f32,
    ) {
        (self.draw, self.race) = (draw, draw.race());
        let largest = known.clone().map(|entry| entry.logit);
        let largest = largest.fold(f32::NEG_INFINITY, f32::max);
        let temperature = f64::from(draw.temperature);
        let weight = |logit: f32| libm::exp((f64::from(logit) - f64::from(largest)) / temperature);
        self.known = known.clone().map(|entry| weight(entry.logit)).sum();
        let race = self.race;
        let standing = |entry: &TokenLogit| race.standing(entry.token, entry.logit);
        let behind = known.clone().filter(|entry| entry.logit < least);
        self.behind = behind.map(|entry| standing(&entry)).max();
        self.likely.clear();
        let likely = known.filter(|entry| entry.logit >= least);
        self.likely.extend(likely.map(|entry| Likely {
            entry,
            weight: weight(entry.logit),
            before: 0.0,
            standing: standing(&entry),
        }));
        self.likely.sort_unstable_by(|a, b| {
            let by_logit = b.entry.logit.total_cmp(&a.entry.logit);
            by_logit.then(a.entry.token.cmp(&b.entry.token))
        });
        let mut before = 0.0;
        for likely in &mut self.likely {
            likely.before = before;
            before += likely.weight;
        }
    }

    /// The largest logit; `None` where none is known.
    pub(super) fn largest(&self) -> Option<f32> {
        Some(self.likely.first()?.entry.logit)
    }

    /// The first of those that are left whatever the others are.
    pub(super) fn surely_first(&self) -> Option<Standing> {
        let surely = self.likely.iter().filter(|likely| self.is_left(likely));
        surely.map(|likely| likely.standing).max()
    }

    fn is_left(&self, likely: &Likely) -> bool {
        let enough = self.known * f64::from(self.draw.top_p) * (1.0 - ROUNDING);
        let min_p = f64::from(self.draw.min_p) * (1.0 + ROUNDING);
        // The likeliest is, whatever it weighs.
        likely.before == 0.0
            || (self.draw.top_p >= 1.0 || likely.before < enough) && likely.weight >= min_p
    }

    /// Whether a token is cut with so much before it and this weight.
    fn is_cut(&self, before: f64, weight: f64, others: &Others) -> bool {
        let enough = (self.known + others.weight) * f64::from(self.draw.top_p) * (1.0 + ROUNDING);
        let min_p = f64::from(self.draw.min_p) * (1.0 - ROUNDING);
        self.draw.top_p < 1.0 && before >= enough || weight < min_p
    }

    /// Who is drawn, if that is certain.
    pub(super) fn winner(&self, others: &Others) -> Option<TokenLogit> {
        let last = self.likely.last()?;
        let may_be_left = |likely: &&Likely| !self.is_cut(likely.before, likely.weight, others);
        let likely = self.likely.iter().filter(may_be_left);
        let first = likely.max_by_key(|likely| likely.standing)?;
        // No other is likelier than the last of these, and before it are all.
        let others_are_cut = self.is_cut(last.before + last.weight, last.weight, others);
        let other = others.first.max(self.behind);
        let is_first = others_are_cut || other.is_none_or(|other| other < first.standing);
        (is_first && self.is_left(first)).then_some(first.entry)
    }
}

impl Others {
    /// These and those.
    pub(super) fn and(self, others: Others) -> Others {
        Others {
            weight: self.weight + others.weight,
            first: self.first.max(others.first),
        }
    }
}
