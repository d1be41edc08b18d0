//! Who wrote what is in each page, as the executor saw it.

use std::collections::HashMap;

use crate::{Batch, BlockCopy, Limits, Request, SequenceId, StepReport};

/// What a sequence may have in common with others.
#[derive(Debug, Clone, Copy)]
struct Kind {
    salt: Option<u128>,
    /// Its first pages that are public.
    num_public: usize,
    /// The first sample of its request.
    first: SequenceId,
}

/// Sees to it that no sequence reads what it must not: of those without its
/// salt nothing but what is public, and without a salt nothing but its own and that of the other
/// samples of its request.
#[derive(Debug)]
pub(super) struct Pages {
    block_size: usize,
    /// The last sequence that wrote to each page.
    writers: Vec<Option<SequenceId>>,
    kinds: HashMap<SequenceId, Kind>,
    /// Where the first span of each sequence began.
    pub(super) began_at: HashMap<SequenceId, usize>,
    /// Pages in more than one table of a batch.
    pub(super) num_shared: usize,
}

impl Pages {
    pub(super) fn new(limits: &Limits) -> Pages {
        Pages {
            block_size: limits.block_size,
            writers: vec![None; limits.num_blocks],
            kinds: HashMap::new(),
            began_at: HashMap::new(),
            num_shared: 0,
        }
    }

    pub(super) fn submitted(&mut self, id: SequenceId, request: &Request, first: SequenceId) {
        let kind = Kind {
            salt: request.salt,
            num_public: request.num_public / self.block_size,
            first,
        };
        self.kinds.insert(id, kind);
    }

    pub(super) fn watch(&mut self, report: &StepReport, batch: &Batch, copies: &[BlockCopy]) {
        let mut in_tables = HashMap::new();
        let mut copied = HashMap::new();
        for copy in copies {
            let writer = self.writers[copy.from.0 as usize].expect("it was written");
            self.writers[copy.to.0 as usize] = Some(writer);
            let before = copied.insert(copy.to, writer);
            assert_eq!(before, None, "{:?} is copied to twice", copy.to);
        }
        for (span, (id, _)) in batch.spans.iter().zip(&report.scheduled) {
            self.began_at.entry(*id).or_insert(span.position);
            let (read, written) = batch
                .table_of(span)
                .split_at(span.position / self.block_size);
            for (index, block) in read.iter().enumerate() {
                let writer = self.writers[block.0 as usize].expect("it was written");
                self.check_reader(*id, writer, index);
                *in_tables.entry(block).or_insert(0) += 1;
            }
            for (index, block) in (read.len()..).zip(written) {
                if let Some(writer) = copied.remove(block) {
                    self.check_reader(*id, writer, index);
                    assert_ne!(span.position % self.block_size, 0, "copied for nothing");
                }
                self.writers[block.0 as usize] = Some(*id);
            }
        }
        self.num_shared += in_tables.values().filter(|tables| **tables > 1).count();
        assert!(copied.is_empty(), "{copied:?} are copied and not written");
    }

    /// Whether a sequence may read what another wrote to its page of that place.
    fn check_reader(&self, id: SequenceId, writer: SequenceId, index: usize) {
        let (reader, wrote) = (self.kinds[&id], self.kinds[&writer]);
        let is_public = index < reader.num_public.min(wrote.num_public);
        let is_shared = is_public || reader.salt == wrote.salt;
        assert!(
            reader.first == wrote.first
                || (reader.salt.is_some() && wrote.salt.is_some() && is_shared),
            "{id:?}, {reader:?}, reads page {index} that {writer:?}, {wrote:?}, wrote"
        );
    }
}
