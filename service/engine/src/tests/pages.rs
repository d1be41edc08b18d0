//! Who wrote what is in each page, as the executor saw it.

use std::collections::HashMap;

use crate::{Batch, BlockCopy, Limits, SequenceId, StepReport};

/// Sees to it that no sequence reads what it must not: of those without its
/// salt nothing, and without a salt nothing but its own and that of the other
/// samples of its request.
#[derive(Debug)]
pub(super) struct Pages {
    block_size: usize,
    /// The last sequence that wrote to each page.
    writers: Vec<Option<SequenceId>>,
    /// The salt of each sequence, and the first sample of its request.
    kinds: HashMap<SequenceId, (Option<u128>, SequenceId)>,
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

    pub(super) fn submitted(&mut self, id: SequenceId, salt: Option<u128>, first: SequenceId) {
        self.kinds.insert(id, (salt, first));
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
            for block in read {
                let writer = self.writers[block.0 as usize].expect("it was written");
                self.check_reader(*id, writer);
                *in_tables.entry(block).or_insert(0) += 1;
            }
            for block in written {
                if let Some(writer) = copied.remove(block) {
                    self.check_reader(*id, writer);
                    assert_ne!(span.position % self.block_size, 0, "copied for nothing");
                }
                self.writers[block.0 as usize] = Some(*id);
            }
        }
        self.num_shared += in_tables.values().filter(|tables| **tables > 1).count();
        assert!(copied.is_empty(), "{copied:?} are copied and not written");
    }

    fn check_reader(&self, id: SequenceId, writer: SequenceId) {
        let ((salt, first), (of_writer, first_of_writer)) = (self.kinds[&id], self.kinds[&writer]);
        assert!(
            first == first_of_writer || (salt.is_some() && salt == of_writer),
            "{id:?} with salt {salt:?} reads what {writer:?} with {of_writer:?} wrote"
        );
    }
}
