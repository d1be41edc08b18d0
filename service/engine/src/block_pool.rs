//! KV blocks and who owns them.

/// Index of a KV block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// The KV blocks one sequence owns, in position order.
///
/// Not `Clone`: a block has one owner. [`BlockPool::release`] consumes the
/// table, and is the only way to give blocks back.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    pub(crate) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        debug_assert!(
            self.blocks.is_empty() || std::thread::panicking(),
            "leaked {} KV blocks",
            self.blocks.len(),
        );
    }
}

/// All KV blocks that nobody owns.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// A stack: what was freed last is likeliest to be in a CPU cache.
    free: Vec<BlockId>,
    block_size: usize,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: usize, block_size: usize) -> BlockPool {
        let num_blocks = u32::try_from(num_blocks).expect("Limits::check bounds num_blocks");
        BlockPool {
            free: (0..num_blocks).rev().map(BlockId).collect(),
            block_size,
        }
    }

    /// Makes a table hold `num_tokens` tokens. With too few free blocks it
    /// changes nothing and returns false.
    pub(crate) fn grow(&mut self, table: &mut BlockTable, num_tokens: usize) -> bool {
        let missing = num_tokens
            .div_ceil(self.block_size)
            .saturating_sub(table.len());
        let Some(rest) = self.free.len().checked_sub(missing) else {
            return false;
        };
        table.blocks.extend(self.free.drain(rest..).rev());
        true
    }

    pub(crate) fn release(&mut self, mut table: BlockTable) {
        self.free.extend(table.blocks.drain(..).rev());
    }

    pub(crate) fn num_free(&self) -> usize {
        self.free.len()
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> &[BlockId] {
        &self.free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(table: &BlockTable) -> Vec<u32> {
        table.blocks().iter().map(|block| block.0).collect()
    }

    #[test]
    fn a_table_grows_by_what_it_misses() {
        let mut pool = BlockPool::new(4, 2);
        let mut table = BlockTable::default();
        assert!(pool.grow(&mut table, 3));
        assert_eq!(ids(&table), [0, 1]);
        assert!(pool.grow(&mut table, 4));
        assert_eq!(ids(&table), [0, 1], "4 tokens fit in 2 blocks of 2");
        assert!(pool.grow(&mut table, 5));
        assert_eq!(ids(&table), [0, 1, 2]);
        assert_eq!(pool.num_free(), 1);
        pool.release(table);
        assert_eq!(pool.num_free(), 4);
    }

    #[test]
    fn growth_that_does_not_fit_changes_nothing() {
        let mut pool = BlockPool::new(3, 2);
        let (mut a, mut b) = (BlockTable::default(), BlockTable::default());
        assert!(pool.grow(&mut a, 3));
        assert!(!pool.grow(&mut b, 3));
        assert_eq!((b.len(), pool.num_free()), (0, 1));
        pool.release(a);
        assert!(pool.grow(&mut b, 6));
        assert_eq!(ids(&b), [0, 1, 2]);
        pool.release(b);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "leaked 2 KV blocks")]
    fn a_table_must_not_be_dropped_with_blocks() {
        let mut table = BlockTable::default();
        assert!(BlockPool::new(2, 1).grow(&mut table, 2));
    }
}
