//! What may follow a sequence's last token, from its own text.
//!
//! Text that repeats itself says what comes next: the tokens that followed the
//! last time its end occurred (prompt lookup decoding, Saxena, 2023). Where it
//! repeats itself with changes, the end of it occurred nowhere; so the place
//! that guesses are from is kept across a difference, one token further, and
//! what was replaced there by what is noted, to be replaced again.

use super::acceptance::{Acceptance, Support, Witness};

/// As many tokens that are the same are as good as more.
const MAX_MATCH: usize = 16;
/// How far back is looked. What lies further costs more than it is good for.
const MAX_BACK: usize = 1 << 15;
/// A place is lost after so many differences with hardly a token between.
const MAX_DIFFERENCES: u32 = 3;
/// Tokens that must be the same behind a difference for it to be over.
const AGREEMENT: usize = 2;
/// How many tokens may have been left out of earlier text, for its repetition to
/// be found again at once.
const MAX_SKIPPED: usize = 4;
/// Tokens that replace each other, at most.
const MAX_REPLACED: usize = 8;
/// Replacements that are remembered.
const MAX_REPLACEMENTS: usize = 16;

/// A token that is guessed to come.
#[derive(Debug, Clone, Copy)]
struct Guess {
    token: u32,
    support: Support,
    /// Where it is from.
    source: usize,
    /// Where the one behind it is from.
    next: usize,
}

/// Earlier text that the sequence repeats.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Of what comes next.
    source: usize,
    support: Support,
    /// That are not made up for.
    differences: u32,
}

/// That some tokens of a sequence took the place of others.
#[derive(Debug, Clone, Copy)]
struct Replacement {
    old: (usize, usize),
    new: (usize, usize),
}

/// The guesses at what follows a sequence. Reuses its memory.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    place: Option<Place>,
    /// Where the difference began that is not over, there and here.
    parted: Option<(usize, usize)>,
    guesses: Vec<Guess>,
    replacements: Vec<Replacement>,
    /// How many the step computes; with none the first is only watched.
    pub(crate) len: usize,
}

impl Draft {
    /// Guesses at most so many tokens. None of it is computed yet.
    pub(crate) fn look_up(&mut self, tokens: &[u32], acceptance: &Acceptance, max: usize) {
        self.clear();
        let found = Place::look_up(tokens);
        self.note_replacement(tokens, found);
        let rank = |place: &Place| acceptance.of(place.support);
        let kept = self.place.filter(|p| p.differences < MAX_DIFFERENCES);
        self.place = match (kept, found) {
            (Some(kept), Some(found)) if rank(&found) > rank(&kept) => Some(found),
            (kept, found) => kept.or(found),
        };
        if let Some(place) = self.place {
            self.fill(tokens, place, max);
        }
    }

    /// Forgets the guesses, and the place they are from.
    pub(crate) fn abandon(&mut self) {
        self.clear();
        self.place = None;
    }

    /// Forgets the guesses. The place they are from is where those behind the
    /// tokens that came are from.
    pub(crate) fn clear(&mut self) {
        self.guesses.clear();
        self.len = 0;
    }

    pub(crate) fn supports(&self) -> impl Iterator<Item = Support> {
        self.guesses.iter().map(|guess| guess.support)
    }

    /// Those that the step computes.
    pub(crate) fn computed(&self) -> impl Iterator<Item = u32> {
        self.guesses[..self.len].iter().map(|guess| guess.token)
    }

    /// Learns which token came where the n-th guess was: the last of these.
    /// Returns what spoke for the guess and whether it has come true, if there
    /// was one.
    pub(crate) fn compare(&mut self, n: usize, tokens: &[u32]) -> Option<(Support, bool)> {
        let (guess, place) = (*self.guesses.get(n)?, self.place.as_mut()?);
        let (&token, before) = tokens.split_last()?;
        let came_true = guess.token == token;
        if came_true {
            place.source = guess.next;
            place.support = guess.support.next();
            if matches!(place.support, Support::Resumed(AGREEMENT..)) {
                place.differences = 0;
            }
        } else {
            // Either another token took its place, or some were left out.
            let next = guess.source + 1;
            let mut skipped = before.iter().skip(next).take(MAX_SKIPPED);
            (place.source, place.support) = match skipped.position(|&skipped| skipped == token) {
                Some(skipped) => (next + skipped + 1, Support::Resumed(1)),
                None => (next, Support::Resumed(0)),
            };
            place.differences += 1;
            self.parted.get_or_insert((guess.source, before.len()));
            if guess.support == Support::Replaced {
                self.replacements.retain(|r| !r.is_at(before, guess.source));
            }
        }
        Some((guess.support, came_true))
    }

    fn fill(&mut self, tokens: &[u32], mut place: Place, max: usize) {
        while self.guesses.len() < max {
            let source = place.source;
            let replacement = self.replacements.iter().rev();
            let mut replacement = replacement.filter(|r| r.is_at(tokens, source));
            match replacement.next().copied() {
                Some(Replacement { old, new }) => {
                    let next = source + len_of(old);
                    for (n, &token) in tokens[new.0..new.1].iter().enumerate() {
                        let is_last = n + 1 == len_of(new);
                        self.guesses.push(Guess {
                            token,
                            support: Support::Replaced,
                            source,
                            next: if is_last { next } else { source },
                        });
                    }
                    place.source = next;
                    place.support = Support::Replaced.next();
                }
                None => {
                    // Repetition goes on beyond the last token.
                    let token = match source.checked_sub(tokens.len()) {
                        None => tokens[source],
                        Some(n) => match self.guesses.get(n) {
                            Some(guess) => guess.token,
                            None => return,
                        },
                    };
                    self.guesses.push(Guess {
                        token,
                        support: place.support,
                        source,
                        next: source + 1,
                    });
                    place.source += 1;
                    place.support = place.support.next();
                }
            }
        }
    }

    /// A difference is over as soon as some tokens are the same again, there or
    /// a little further: what lies between was replaced.
    fn note_replacement(&mut self, tokens: &[u32], found: Option<Place>) {
        let Some((old, new)) = self.parted else {
            return;
        };
        let since = tokens.len() - new;
        let resumed = [self.place, found].into_iter().flatten();
        let replaced = resumed.filter_map(|place| {
            let same = match place.support {
                Support::Same(n, _) | Support::Resumed(n) => n,
                Support::Replaced => 0,
            };
            let (begin, len) = (place.source.checked_sub(same)?, since.checked_sub(same)?);
            let is_short = len <= MAX_REPLACED && (old..old + MAX_REPLACED).contains(&begin);
            (same >= AGREEMENT && is_short).then_some(Replacement {
                old: (old, begin),
                new: (new, new + len),
            })
        });
        let replaced = replaced.min_by_key(|r| len_of(r.old));
        if let Some(mut replacement) = replaced {
            // What was put in or left out is known by the token before it.
            if (len_of(replacement.old) == 0 || len_of(replacement.new) == 0)
                && old > 0
                && tokens[old - 1] == tokens[new - 1]
            {
                replacement.old.0 -= 1;
                replacement.new.0 -= 1;
            }
            self.parted = None;
            if len_of(replacement.old) == 0 {
                return;
            }
            let old = &tokens[replacement.old.0..replacement.old.1];
            self.replacements
                .retain(|r| tokens[r.old.0..r.old.1] != *old);
            if self.replacements.len() == MAX_REPLACEMENTS {
                self.replacements.remove(0);
            }
            self.replacements.push(replacement);
        } else if since > 2 * MAX_REPLACED {
            self.parted = None;
        }
    }
}

fn len_of((begin, end): (usize, usize)) -> usize {
    end - begin
}

impl Replacement {
    fn is_at(&self, tokens: &[u32], source: usize) -> bool {
        tokens
            .get(source..)
            .is_some_and(|rest| rest.starts_with(&tokens[self.old.0..self.old.1]))
    }
}

impl Place {
    /// Behind the longest and latest earlier occurrence of the end.
    fn look_up(tokens: &[u32]) -> Option<Place> {
        let last = *tokens.last()?;
        let first = tokens.len().saturating_sub(MAX_BACK).max(1);
        let (mut best, mut source, mut witness) = (0, 0, Witness::None);
        for place in (first..tokens.len()).rev() {
            // Nearly all places end here.
            if tokens[place - 1] != last {
                continue;
            }
            let pairs = tokens[..place].iter().rev().zip(tokens.iter().rev());
            let same = pairs.take(MAX_MATCH).take_while(|(a, b)| a == b).count();
            if same > best {
                (best, source, witness) = (same, place, Witness::None);
            } else if same == best && witness == Witness::None {
                witness = match tokens[place] == tokens[source] {
                    true => Witness::Agrees,
                    false => Witness::Differs,
                };
            }
            if same == MAX_MATCH {
                break;
            }
        }
        (best > 0).then_some(Place {
            source,
            support: Support::Same(best, witness),
            differences: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a text from its n-th token on; what is guessed behind each.
    fn followed(text: &[u32], from: usize) -> Draft {
        let acceptance = Acceptance::usual();
        let mut draft = Draft::default();
        for n in from..text.len() {
            draft.look_up(&text[..n], &acceptance, 1);
            if draft.compare(0, &text[..=n]).is_none() {
                draft.abandon();
            }
        }
        draft.look_up(text, &acceptance, 16);
        draft
    }

    fn guesses(draft: &Draft, len: usize) -> Vec<u32> {
        draft.guesses[..len.min(draft.guesses.len())]
            .iter()
            .map(|guess| guess.token)
            .collect()
    }

    fn looked_up(tokens: &[u32], len: usize) -> Vec<u32> {
        guesses(&followed(tokens, tokens.len()), len)
    }

    #[test]
    fn what_followed_last_time_follows_again() {
        assert_eq!(looked_up(&[1, 2, 3, 4, 5, 1, 2], 3), [3, 4, 5]);
        // The later of two as long.
        assert_eq!(looked_up(&[1, 2, 3, 1, 2, 4, 1, 2], 1), [4]);
        // The longer before the later.
        let tokens = [7, 1, 2, 3, 9, 1, 2, 4, 7, 1, 2];
        assert_eq!(looked_up(&tokens, 1), [3]);
        assert_eq!(looked_up(&[1, 2, 3, 4, 2], 2), [3, 4], "one token will do");
    }

    #[test]
    fn repetition_is_guessed_to_go_on() {
        assert_eq!(looked_up(&[8, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
        assert_eq!(looked_up(&[5, 5, 5], 4), [5, 5, 5, 5]);
    }

    #[test]
    fn without_an_earlier_occurrence_there_is_no_guess() {
        assert_eq!(looked_up(&[], 3), []);
        assert_eq!(looked_up(&[1], 3), []);
        assert_eq!(looked_up(&[1, 2, 3, 4, 5], 3), []);
    }

    #[test]
    fn what_lies_too_far_back_is_not_looked_at() {
        let text = |distance: u32| [vec![1, 2], vec![7; distance as usize], vec![1]].concat();
        assert_eq!(looked_up(&text(MAX_BACK as u32 - 4), 1), [2]);
        assert_eq!(looked_up(&text(MAX_BACK as u32), 1), []);
    }

    #[test]
    fn a_second_place_speaks_for_a_guess_or_against_it() {
        let support = |tokens: &[u32]| followed(tokens, tokens.len()).supports().next();
        let same = |witness| Some(Support::Same(1, witness));
        assert_eq!(support(&[1, 2, 3, 1]), same(Witness::None));
        assert_eq!(support(&[1, 2, 1, 2, 3, 1]), same(Witness::Agrees));
        assert_eq!(support(&[1, 2, 1, 3, 3, 1]), same(Witness::Differs));
    }

    #[test]
    fn behind_a_difference_the_text_is_guessed_to_go_on_as_before() {
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 50];
        assert_eq!(guesses(&followed(&text, 11), 3), [6, 7, 8]);
    }

    #[test]
    fn what_was_left_out_is_found() {
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 6];
        assert_eq!(guesses(&followed(&text, 11), 3), [7, 8, 9]);
    }

    #[test]
    fn what_was_replaced_is_replaced_again() {
        // A name of one token, of more, of fewer, and another ending of it.
        for (old, new) in [
            (&[50][..], &[60][..]),
            (&[50], &[60, 61, 62]),
            (&[50, 51], &[60]),
            (&[50, 51], &[50]),
            (&[50], &[50, 51]),
        ] {
            let written = |name: &[u32]| {
                let [a, b]: [&[u32]; 2] = [&[1, 2, 3], &[4, 5, 6, 7, 8, 9, 10, 11, 12]];
                let begun = [a, name, b].concat();
                (begun, [&[20, 21, 22][..], name, &[23, 24]].concat())
            };
            let (begun, rest) = written(old);
            let (begun_again, rest_again) = written(new);
            let before = [&begun[..], &rest, &[99]].concat();
            let text = [&before[..], &begun_again, &rest_again[..2]].concat();
            let draft = followed(&text, before.len() + 1);
            assert_eq!(
                guesses(&draft, rest_again.len() - 2),
                rest_again[2..],
                "{old:?} {new:?}"
            );
        }
    }

    #[test]
    fn a_replacement_that_was_none_is_forgotten() {
        let old = [1, 2, 3, 50, 4, 5, 6, 20, 50, 21, 22, 23, 24, 30, 50, 31];
        let new = [1, 2, 3, 60, 4, 5, 6, 20, 50, 21, 22, 23, 24];
        let text = [&old[..], &[99], &new].concat();
        let draft = followed(&text, old.len() + 2);
        assert_eq!(guesses(&draft, 3), [30, 50, 31]);
    }

    #[test]
    fn a_place_is_lost_after_some_differences() {
        let text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 90, 91, 92];
        assert_eq!(guesses(&followed(&text[..15], 11), 1), [6]);
        assert_eq!(guesses(&followed(&text, 11), 1), []);
    }
}
