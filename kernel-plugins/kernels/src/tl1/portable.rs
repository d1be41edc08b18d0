//! Plain Rust, for CPUs that have no shuffle worth it: right, and no more.

use super::layout::{ROW_TILE, Step};
use super::lookup::{STEP_TABLES, TableBytes};
use super::table::{FIRST, SECOND, Table};
use crate::panel::{FIELD_COLS, Field};

/// A tile's rows times one token over one chunk.
pub(super) fn dot(steps: &[Step], tables: &[TableBytes]) -> [i32; ROW_TILE] {
    let mut sums = [0; ROW_TILE];
    let (tables, _) = tables.as_chunks::<STEP_TABLES>();
    for (step, tables) in steps.iter().zip(tables) {
        let [first, second] = tables.each_ref().map(Table::read);
        for (sum, codes) in sums.iter_mut().zip(step) {
            *sum += first.sum(usize::from(codes & 15)) + second.sum(usize::from(codes >> 4));
        }
    }
    sums
}

/// A panel holds weights plus one.
pub(super) fn unpack(steps: &[Step], panel: &mut [Field]) {
    for (step, field) in steps.iter().zip(panel) {
        let (words, _) = field.0.as_chunks_mut::<FIELD_COLS>();
        for (word, codes) in words.iter_mut().zip(step) {
            let [low, high] = [codes & 15, codes >> 4].map(usize::from);
            *word = [FIRST[low], SECOND[low], FIRST[high], SECOND[high]]
                .map(|weight| (weight + 1).cast_unsigned());
        }
    }
}
