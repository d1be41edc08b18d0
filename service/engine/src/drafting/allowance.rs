//! What guesses may cost a sequence.
//!
//! Whether guesses come true can only be guessed from whether they did, and a
//! text may turn at any token. So each sequence has an allowance for guesses
//! that don't: a share of its steps and what guesses have saved it. None is
//! computed that could overdraw it; so no text, however it turns, is slower than
//! by that share and what it began with, as far as step times are known.
//!
//! That is what holds for a sequence alone. Of several in a step each answers for
//! its own guesses; that those of others make its steps longer is the price of
//! more tokens for all together.

/// What a sequence begins with, in steps without guesses.
const FIRST: f64 = 1.0;
/// What each step adds.
const SHARE: f64 = 0.01;
/// What is saved is no credit for ever: a text that does not repeat itself any
/// more is soon left alone.
const MOST: f64 = 8.0;

/// In steps without guesses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance(f64);

impl Allowance {
    pub(crate) fn new() -> Allowance {
        Allowance(FIRST)
    }

    /// Whether guesses may make a step longer by so much.
    pub(super) fn covers(self, added: f64) -> bool {
        added <= self.0
    }

    /// After a step with guesses that saved `saved` steps, and made it longer by
    /// `added`; or one without any.
    pub(super) fn settle(&mut self, saved: f64, added: f64) {
        self.0 = (self.0 + SHARE + saved - added).min(MOST);
    }
}
