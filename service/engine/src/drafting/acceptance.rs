//! How often guesses come true.

/// What speaks for a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// So many tokens before it were the same where it is from.
    Same(usize, Witness),
    /// There was a difference, and so many were the same since.
    Resumed(usize),
    /// What stands where it is from was replaced by it before.
    Replaced,
}

/// What the place with as many same tokens before the one that a guess is from
/// says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Witness {
    /// There is none.
    None,
    Agrees,
    Differs,
}

impl Support {
    /// That of a guess behind one that has come true.
    pub(crate) fn next(self) -> Support {
        match self {
            Support::Same(tokens, witness) => Support::Same(tokens + 1, witness),
            Support::Resumed(tokens) => Support::Resumed(tokens + 1),
            Support::Replaced => Support::Resumed(1),
        }
    }

    fn class(self) -> usize {
        match self {
            Support::Same(tokens @ ..=7, witness) => {
                let row = [0, 0, 1, 2, 3, 3, 3, 3][tokens];
                3 * row + witness as usize
            }
            Support::Same(8..=15, _) | Support::Resumed(8..=15) => 12,
            Support::Same(16.., _) | Support::Resumed(16..) => 13,
            Support::Resumed(0) => 14,
            Support::Resumed(1) => 15,
            Support::Resumed(2..=3) => 16,
            Support::Resumed(4..=7) => 17,
            Support::Replaced => 18,
        }
    }
}

/// How often guesses come true, by class, before any was seen to: about as in
/// code and its next version, parts of a JSON schema, prose and a summary of it.
#[rustfmt::skip]
const USUAL: [f64; 19] = [
    // One, two, three, four to seven tokens the same; by witness.
    0.20, 0.45, 0.07,
    0.45, 0.60, 0.25,
    0.60, 0.65, 0.35,
    0.85, 0.80, 0.35,
    0.90, 0.95,
    // Behind a difference.
    0.25, 0.50, 0.65, 0.85,
    0.45,
];

/// How often guesses have come true of late, by what speaks for them. The longer
/// the text before a guess has been the same, the surer it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptance([f64; USUAL.len()]);

impl Acceptance {
    pub(super) fn usual() -> Acceptance {
        Acceptance(USUAL)
    }

    #[cfg(test)]
    pub(super) fn all(value: f64) -> Acceptance {
        Acceptance([value; USUAL.len()])
    }

    pub(crate) fn of(&self, support: Support) -> f64 {
        self.0[support.class()]
    }

    /// `memory` is how many guesses of a class count.
    pub(super) fn learn(&mut self, support: Support, came_true: bool, memory: f64) {
        let acceptance = &mut self.0[support.class()];
        *acceptance += (f64::from(u8::from(came_true)) - *acceptance) / memory;
    }
}
