//! Who wrote what is in each page, as the executor saw it.

use std::collections::HashMap;

use crate::{Batch, Limits, SequenceId, StepReport};

/// Sees to it that no sequence reads what it must not: of those without its
/// salt nothing, and without a salt nothing but its own.
#[derive(Debug)]
pub(super) struct Pages {
    block_size: usize,
    /// The last sequence that wrote to each page.
    writers: Vec<Option<SequenceId>>,
    salts: HashMap<SequenceId, Option<u128>>,
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
            salts: HashMap::new(),
            began_at: HashMap::new(),
            num_shared: 0,
        }
    }

    pub(super) fn submitted(&mut self, id: SequenceId, salt: Option<u128>) {
        self.salts.insert(id, salt);
    }

    pub(super) fn watch(&mut self, report: &StepReport, batch: &Batch) {
        let mut in_tables = HashMap::new();
        for (span, (id, _)) in batch.spans.iter().zip(&report.scheduled) {
            self.began_at.entry(*id).or_insert(span.position);
            let (read, written) = batch
                .table_of(span)
                .split_at(span.position / self.block_size);
            for block in read {
                let writer = self.writers[block.0 as usize].expect("it was written");
                let (salt, of_writer) = (self.salts[id], self.salts[&writer]);
                assert!(
                    writer == *id || (salt.is_some() && salt == of_writer),
                    "{id:?} with salt {salt:?} reads what {writer:?} with {of_writer:?} wrote"
                );
                *in_tables.entry(block).or_insert(0) += 1;
            }
            for block in written {
                self.writers[block.0 as usize] = Some(*id);
            }
        }
        self.num_shared += in_tables.values().filter(|tables| **tables > 1).count();
    }
}
