//! Frames of a request that may have to be sent again.

use std::collections::VecDeque;

use prost::Message;

use crate::frames::Frame;

/// What a frame takes besides what it holds, about.
const FRAME_OVERHEAD: usize = 128;

/// The newest frames of a request, and which of them its reader was given.
/// What the reader was given long ago is forgotten when there is too much;
/// what it was not given never is.
#[derive(Debug)]
pub(crate) struct FrameLog {
    frames: VecDeque<Frame>,
    /// Sequence number of the first of them.
    begin: u64,
    /// That of the next one for the reader.
    next: u64,
    bytes: usize,
    limit: usize,
}

impl FrameLog {
    pub(crate) fn new(limit: usize) -> FrameLog {
        FrameLog {
            frames: VecDeque::new(),
            begin: 0,
            next: 0,
            bytes: 0,
            limit,
        }
    }

    pub(crate) fn push(&mut self, frame: Frame) {
        self.bytes += size(&frame);
        self.frames.push_back(frame);
        self.forget();
    }

    /// The next frame for the reader, if it was not given all.
    pub(crate) fn next(&mut self) -> Option<(u64, Frame)> {
        let seq = self.next;
        let frame = self.frames.get(self.num_given())?.clone();
        self.next += 1;
        self.forget();
        Some((seq, frame))
    }

    /// Goes on behind a frame, or at the first, if what follows is still there.
    pub(crate) fn rewind(&mut self, last: Option<u64>) -> Result<(), Rewind> {
        let next = last.map_or(0, |last| last.saturating_add(1));
        if next < self.begin {
            return Err(Rewind::Forgotten { begin: self.begin });
        }
        if next > self.end() {
            return Err(Rewind::Ahead { end: self.end() });
        }
        self.next = next;
        Ok(())
    }

    /// Frames that the reader was not given.
    pub(crate) fn num_left(&self) -> usize {
        self.frames.len() - self.num_given()
    }

    /// Sequence number of the frame that comes next.
    pub(crate) fn end(&self) -> u64 {
        self.begin + self.frames.len() as u64
    }

    /// Whether more would not be forgotten for want of room, but kept beyond it.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= self.limit
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    fn num_given(&self) -> usize {
        // The difference is at most the number of frames, which fits.
        (self.next - self.begin) as usize
    }

    fn forget(&mut self) {
        while self.bytes > self.limit
            && self.num_given() > 0
            && let Some(frame) = self.frames.pop_front()
        {
            self.bytes -= size(&frame);
            self.begin += 1;
        }
    }
}

/// Why a reader can't go on where it wants to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewind {
    /// What it missed is partly gone.
    Forgotten { begin: u64 },
    /// There is no such frame yet.
    Ahead { end: u64 },
}

fn size(frame: &Frame) -> usize {
    FRAME_OVERHEAD
        + match frame {
            Frame::Queued(queued) => queued.encoded_len(),
            Frame::Started(started) => started.encoded_len(),
            // An alternative takes more here than on the wire.
            Frame::Delta(delta) => 2 * delta.encoded_len(),
            Frame::Finished(finished) => finished.encoded_len(),
        }
}

#[cfg(test)]
mod tests {
    use ternion_proto::v1;

    use super::*;

    fn frame(token: u32) -> Frame {
        Frame::Delta(v1::Delta {
            token_ids: vec![token],
            ..v1::Delta::default()
        })
    }

    fn given(log: &mut FrameLog) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| log.next())
            .map(|(seq, frame)| match frame {
                Frame::Delta(delta) => (seq, delta.token_ids[0]),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_reader_gets_exactly_what_it_missed() {
        let mut log = FrameLog::new(1 << 20);
        (0..5).for_each(|n| log.push(frame(10 + n)));
        assert_eq!(given(&mut log).len(), 5);
        log.push(frame(15));
        log.rewind(Some(3)).expect("it is there");
        assert_eq!(log.num_left(), 2);
        assert_eq!(given(&mut log), [(4, 14), (5, 15)]);
        log.rewind(None).expect("all are there");
        assert_eq!(given(&mut log)[0], (0, 10));
        log.rewind(Some(5)).expect("nothing is missing");
        assert_eq!(given(&mut log), []);
        assert_eq!(log.rewind(Some(6)), Err(Rewind::Ahead { end: 6 }));
        assert_eq!(log.rewind(Some(u64::MAX)), Err(Rewind::Ahead { end: 6 }));
    }

    #[test]
    fn what_was_given_is_forgotten_and_what_was_not_is_not() {
        let mut log = FrameLog::new(4 * FRAME_OVERHEAD);
        (0..9).for_each(|n| log.push(frame(n)));
        assert!(log.is_full());
        let all: Vec<_> = (0..9).map(|n| (n, n as u32)).collect();
        assert_eq!(given(&mut log), all);
        assert!(!log.is_full(), "there is room again");
        assert!(log.bytes() <= 4 * FRAME_OVERHEAD);
        assert_eq!(log.end(), 9);
        assert_eq!(log.rewind(Some(0)), Err(Rewind::Forgotten { begin: 6 }));
        log.rewind(Some(5)).expect("from there on it is kept");
        assert_eq!(given(&mut log), [(6, 6), (7, 7), (8, 8)]);
    }
}
