//! The states of a sequence and what leads from one to another.

/// Where a sequence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Has a reader, but no blocks.
    Waiting,
    /// Has blocks and takes part in steps.
    Running,
    /// Its reader has no room for a token.
    Parked {
        /// Whether it still has the blocks of what it has computed.
        with_blocks: bool,
    },
    /// Nothing of it is left but its last event.
    Finished,
}

/// What happens to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The scheduler gives it blocks for all its tokens.
    Admit,
    /// The scheduler takes its blocks for somebody else.
    Preempt,
    /// Its reader has run out of room.
    Park,
    /// Its reader has room again.
    Resume,
    /// It ends, for whatever reason.
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no {cause:?} for a sequence that is {state:?}")]
pub(crate) struct InvalidTransition {
    pub(crate) state: State,
    pub(crate) cause: Cause,
}

impl State {
    pub(crate) fn on(self, cause: Cause) -> Result<State, InvalidTransition> {
        use {Cause::*, State::*};
        Ok(match (self, cause) {
            (Waiting, Admit) => Running,
            (Waiting, Park) => Parked { with_blocks: false },
            (Running, Preempt) => Waiting,
            (Running, Park) => Parked { with_blocks: true },
            (Parked { with_blocks: true }, Preempt) => Parked { with_blocks: false },
            (Parked { with_blocks: true }, Resume) => Running,
            (Parked { with_blocks: false }, Resume) => Waiting,
            (Waiting | Running | Parked { .. }, Finish) => Finished,
            (state, cause) => return Err(InvalidTransition { state, cause }),
        })
    }

    pub(crate) fn has_blocks(self) -> bool {
        matches!(self, State::Running | State::Parked { with_blocks: true })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn every_state_and_cause() {
        let states = [
            State::Waiting,
            State::Running,
            State::Parked { with_blocks: true },
            State::Parked { with_blocks: false },
            State::Finished,
        ];
        let causes = [
            Cause::Admit,
            Cause::Preempt,
            Cause::Park,
            Cause::Resume,
            Cause::Finish,
        ];
        let mut table = String::new();
        for state in states {
            writeln!(table, "{state:?}").unwrap();
            for cause in causes {
                match state.on(cause) {
                    Ok(next) => writeln!(table, "    {cause:?} -> {next:?}").unwrap(),
                    Err(error) => writeln!(table, "    {cause:?}: {error}").unwrap(),
                }
            }
        }
        insta::assert_snapshot!(table);
    }
}
