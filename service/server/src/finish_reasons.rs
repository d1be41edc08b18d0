//! Why the samples of a request ended, in words of telemetry.

use ternion_proto::v1;

use crate::frames::Outcome;

pub(crate) const ERROR: &str = "error";
pub(crate) const ABANDONED: &str = "abandoned";

/// From an answer that is all that was to be said to one that isn't.
const BY_HARM: [&str; 8] = [
    "unspecified",
    "stop",
    "length",
    "drained",
    "cancelled",
    "deadline_exceeded",
    ABANDONED,
    ERROR,
];

/// Of those samples that have ended.
#[derive(Debug, Default)]
pub(crate) struct FinishReasons {
    /// By index.
    samples: Vec<Option<&'static str>>,
}

impl FinishReasons {
    pub(crate) fn add(&mut self, index: u32, outcome: &Outcome) {
        let index = index as usize;
        if self.samples.len() <= index {
            self.samples.resize(index + 1, None);
        }
        self.samples[index] = Some(of(outcome));
    }

    /// Each sample's, where the request ended like this: what had ended by
    /// itself stays, and the rest ended with the request.
    pub(crate) fn each(&self, request: &'static str, samples: usize) -> Vec<&'static str> {
        let fails = matches!(request, ERROR | ABANDONED);
        let own = |index| {
            let own = self.samples.get(index).copied().flatten()?;
            (!fails || matches!(own, "stop" | "length")).then_some(own)
        };
        (0..samples.max(1))
            .map(|index| own(index).unwrap_or(request))
            .collect()
    }
}

/// The request's: that of the sample which fared worst.
pub(crate) fn worst(each: &[&'static str]) -> &'static str {
    let harm = |reason: &&&str| BY_HARM.iter().position(|known| known == *reason);
    each.iter().max_by_key(harm).copied().unwrap_or(ERROR)
}

pub(crate) fn of(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Failed(_) => ERROR,
        Outcome::Finished(reason, _) => match reason {
            v1::FinishReason::Unspecified => "unspecified",
            v1::FinishReason::Stop => "stop",
            v1::FinishReason::Length => "length",
            v1::FinishReason::Cancelled => "cancelled",
            v1::FinishReason::DeadlineExceeded => "deadline_exceeded",
            v1::FinishReason::Drained => "drained",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(ended: &[(u32, v1::FinishReason)]) -> FinishReasons {
        let mut reasons = FinishReasons::default();
        for (index, reason) in ended {
            reasons.add(*index, &Outcome::Finished(*reason, None));
        }
        reasons
    }

    #[test]
    fn each_sample_has_its_own_by_index() {
        use v1::FinishReason::{Length, Stop};

        let ended = reasons(&[(2, Length), (0, Stop), (1, Stop)]);
        let each = ended.each("stop", 3);
        assert_eq!(each, ["stop", "stop", "length"]);
        assert_eq!(worst(&each), "length");
    }

    #[test]
    fn what_had_not_ended_by_itself_ends_with_the_request() {
        use v1::FinishReason::{Cancelled, Stop};

        let ended = reasons(&[(1, Stop), (0, Cancelled)]);
        assert_eq!(ended.each("cancelled", 2), ["cancelled", "stop"]);
        assert_eq!(ended.each(ERROR, 3), [ERROR, "stop", ERROR]);
        assert_eq!(ended.each(ABANDONED, 3), [ABANDONED, "stop", ABANDONED]);
        assert_eq!(worst(&ended.each(ERROR, 3)), ERROR);
    }

    #[test]
    fn one_sample_ends_as_its_request() {
        assert_eq!(FinishReasons::default().each(ABANDONED, 0), [ABANDONED]);
        let ended = reasons(&[(0, v1::FinishReason::Cancelled)]);
        assert_eq!(ended.each(ERROR, 1), [ERROR]);
    }
}
