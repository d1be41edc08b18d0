//! KV blocks and who holds them.
//!
//! A block may be in several tables, and in the prefix cache besides. Each of
//! them has a claim on it ([`Held`]), the pool counts the claims, and a block
//! without one is free. What is in a block that is shared is never written
//! again: only full blocks are shared, and a sequence writes behind those. One
//! that is not full yet is copied for whoever is to go on behind it.

use crate::prefix_cache::{Key, PrefixCache};

/// Index of a KV block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(pub u32);

/// A claim on a block.
///
/// Not `Clone`, and of no use but to be given back to the pool that made it:
/// whoever drops one has leaked the block.
#[derive(Debug)]
pub(crate) struct Held(BlockId);

impl Held {
    pub(crate) fn id(&self) -> BlockId {
        self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        debug_assert!(
            std::thread::panicking(),
            "leaked a claim on KV block {}",
            self.0.0,
        );
    }
}

/// The KV blocks one sequence holds, in position order.
///
/// [`BlockPool::release`] consumes the table, and is the only way to give
/// blocks back.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    blocks: Vec<Held>,
}

impl BlockTable {
    pub(crate) fn blocks(&self) -> impl DoubleEndedIterator<Item = BlockId> {
        self.blocks.iter().map(Held::id)
    }

    pub(crate) fn get(&self, place: usize) -> Option<BlockId> {
        self.blocks.get(place).map(Held::id)
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }
}

/// All KV blocks.
#[derive(Debug)]
pub(crate) struct BlockPool {
    /// Blocks without a claim. A stack: what was freed last is likeliest to be
    /// in a CPU cache.
    free: Vec<BlockId>,
    /// Claims on each block: one for each table it is in, and one if it is in
    /// the prefix cache.
    claims: Vec<u32>,
    cache: PrefixCache,
    block_size: usize,
    /// Blocks that the prefix cache gave up for others.
    num_evicted: u64,
}

impl BlockPool {
    pub(crate) fn new(num_blocks: usize, block_size: usize) -> BlockPool {
        let num_blocks = u32::try_from(num_blocks).expect("Limits::check bounds num_blocks");
        BlockPool {
            free: (0..num_blocks).rev().map(BlockId).collect(),
            claims: vec![0; num_blocks as usize],
            cache: PrefixCache::new(num_blocks),
            block_size,
            num_evicted: 0,
        }
    }

    /// Makes a table hold `num_tokens` tokens. With too few free blocks it
    /// changes nothing and returns false.
    pub(crate) fn grow(&mut self, table: &mut BlockTable, num_tokens: usize) -> bool {
        let missing = num_tokens
            .div_ceil(self.block_size)
            .saturating_sub(table.len());
        if missing > self.num_free() {
            return false;
        }
        for _ in 0..missing {
            let block = self.take_free();
            table.blocks.push(self.claim(block));
        }
        true
    }

    fn take_free(&mut self) -> BlockId {
        if self.free.is_empty() {
            let evicted = self.cache.evict().expect("some block is free or idle");
            self.num_evicted += 1;
            self.drop_claim(evicted);
        }
        self.free.pop().expect("one was there, or was just evicted")
    }

    /// Gives back the last block first: see [`PrefixCache`] for why.
    pub(crate) fn release(&mut self, mut table: BlockTable) {
        while let Some(held) = table.blocks.pop() {
            self.drop_claim(held);
        }
    }

    /// Fills an empty table with the blocks that are cached under the first of
    /// these keys, up to the first one that is not there.
    pub(crate) fn take_cached(&mut self, table: &mut BlockTable, keys: &[Key]) {
        assert_eq!(table.len(), 0, "cached blocks are the first of a table");
        for key in keys {
            let Some(block) = self.cache.get(key) else {
                return;
            };
            table.blocks.push(self.claim_cached(block));
        }
    }

    pub(crate) fn is_cached(&self, key: &Key) -> bool {
        self.cache.get(key).is_some()
    }

    /// Puts a full block of a table into the cache. If there is one of the same
    /// content already, the table gets that instead.
    pub(crate) fn keep(&mut self, table: &mut BlockTable, place: usize, key: Key) {
        let held = &mut table.blocks[place];
        if let Some(block) = self.cache.get(&key) {
            let other = self.claim_cached(block);
            let own = std::mem::replace(held, other);
            self.drop_claim(own);
        } else {
            let block = held.id();
            let held = self.claim(block);
            self.cache.insert(key, held);
        }
    }

    /// Takes blocks out of the prefix cache that are in no table any more and
    /// that nobody will ask for again.
    pub(crate) fn forget(&mut self, keys: &[Key]) {
        for key in keys.iter().rev() {
            if let Some(held) = self.cache.remove(key) {
                self.drop_claim(held);
            }
        }
    }

    /// Empties the prefix cache. Tables keep what they hold.
    pub(crate) fn forget_all(&mut self) {
        for held in self.cache.clear() {
            self.drop_claim(held);
        }
    }

    fn claim(&mut self, block: BlockId) -> Held {
        self.claims[block.0 as usize] += 1;
        Held(block)
    }

    fn claim_cached(&mut self, block: BlockId) -> Held {
        if self.num_tables(block) == 0 {
            self.cache.is_used(block);
        }
        self.claim(block)
    }

    fn drop_claim(&mut self, held: Held) {
        let block = held.0;
        std::mem::forget(held);
        let claims = &mut self.claims[block.0 as usize];
        *claims -= 1;
        match *claims {
            0 => self.free.push(block),
            1 if self.cache.holds(block) => self.cache.idles(block),
            _ => {}
        }
    }

    /// Tables that a block is in.
    pub(crate) fn num_tables(&self, block: BlockId) -> u32 {
        let cached = u32::from(self.cache.holds(block));
        self.claims[block.0 as usize] - cached
    }

    /// Blocks that are in no table: those that nobody holds, and those that
    /// the prefix cache gives up as soon as they are needed.
    pub(crate) fn num_free(&self) -> usize {
        self.free.len() + self.cache.num_idle()
    }

    /// Blocks in the prefix cache, whether they are in tables or not.
    pub(crate) fn num_kept(&self) -> usize {
        self.cache.len()
    }

    /// Blocks that the prefix cache has given up for others so far.
    pub(crate) fn num_evicted(&self) -> u64 {
        self.num_evicted
    }
}

impl Drop for BlockPool {
    fn drop(&mut self) {
        self.forget_all();
    }
}

#[cfg(test)]
impl BlockPool {
    /// How many of the first keys have blocks in the cache.
    pub(crate) fn num_cached(&self, keys: &[Key]) -> usize {
        keys.iter().take_while(|key| self.is_cached(key)).count()
    }

    /// Panics unless every block's claims are these tables' and the cache's,
    /// and it is free without any and idle with the cache's alone.
    pub(crate) fn check<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) {
        let mut in_tables = vec![0; self.claims.len()];
        for block in tables.flat_map(BlockTable::blocks) {
            in_tables[block.0 as usize] += 1;
        }
        let mut claims = in_tables.clone();
        for block in self.cache.blocks() {
            assert!(self.cache.holds(block));
            claims[block.0 as usize] += 1;
        }
        assert_eq!(claims, self.claims);
        let mut is_free = vec![false; self.claims.len()];
        for block in &self.free {
            let is_free = &mut is_free[block.0 as usize];
            assert!(!std::mem::replace(is_free, true), "{block:?} is free twice");
        }
        for (block, claims) in claims.iter().enumerate() {
            assert_eq!(is_free[block], *claims == 0, "block {block}");
        }
        let held = in_tables.iter().filter(|tables| **tables > 0).count();
        assert_eq!(self.num_free() + held, self.claims.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix_cache::Chain;

    fn ids(table: &BlockTable) -> Vec<u32> {
        table.blocks().map(|block| block.0).collect()
    }

    fn keys(tokens: &[u32]) -> Vec<Key> {
        let mut chain = Chain::new(0, 0);
        chain.extend(tokens, 2);
        chain.keys().to_vec()
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
    fn a_kept_block_outlives_its_table_until_others_need_it() {
        let mut pool = BlockPool::new(4, 2);
        let keys = keys(&[1, 2, 3, 4]);
        let mut a = BlockTable::default();
        assert!(pool.grow(&mut a, 4));
        (0..2).for_each(|place| pool.keep(&mut a, place, keys[place]));
        pool.release(a);
        assert_eq!((pool.num_free(), pool.num_kept()), (4, 2));
        pool.check([].into_iter());

        let mut b = BlockTable::default();
        pool.take_cached(&mut b, &keys);
        assert_eq!((ids(&b), pool.num_free()), (vec![0, 1], 2));
        let mut c = BlockTable::default();
        pool.take_cached(&mut c, &keys[..1]);
        assert_eq!((ids(&c), pool.num_free()), (vec![0], 2));
        pool.check([&b, &c].into_iter());
        // What is in tables is not given up.
        assert!(!pool.grow(&mut c, 8));
        pool.release(b);
        // The end of a chain goes before its beginning.
        assert!(pool.grow(&mut c, 8));
        assert_eq!((pool.num_kept(), pool.num_evicted()), (1, 1));
        assert_eq!(pool.num_cached(&keys), 1);
        pool.check([&c].into_iter());
        pool.release(c);
    }

    #[test]
    fn one_content_is_kept_once() {
        let mut pool = BlockPool::new(4, 2);
        let keys = keys(&[1, 2]);
        let (mut a, mut b) = (BlockTable::default(), BlockTable::default());
        assert!(pool.grow(&mut a, 2) && pool.grow(&mut b, 2));
        pool.keep(&mut a, 0, keys[0]);
        pool.keep(&mut b, 0, keys[0]);
        assert_eq!((ids(&a), ids(&b)), (vec![0], vec![0]));
        assert_eq!(pool.num_free(), 3);
        pool.check([&a, &b].into_iter());
        pool.release(a);
        pool.check([&b].into_iter());
        pool.release(b);
        pool.check([].into_iter());
    }

    #[test]
    fn what_nobody_will_ask_for_is_free_at_once() {
        let mut pool = BlockPool::new(4, 2);
        let (mine, others) = (keys(&[1, 2, 3, 4]), keys(&[5, 6]));
        let (mut a, mut b) = (BlockTable::default(), BlockTable::default());
        assert!(pool.grow(&mut a, 4) && pool.grow(&mut b, 2));
        (0..2).for_each(|place| pool.keep(&mut a, place, mine[place]));
        pool.keep(&mut b, 0, others[0]);
        pool.release(a);
        pool.release(b);
        pool.forget(&mine);
        pool.forget(&mine);
        assert_eq!((pool.num_kept(), pool.num_free()), (1, 4));
        assert_eq!(pool.num_evicted(), 0, "nobody needed them");
        pool.check([].into_iter());
    }

    #[test]
    fn forgetting_leaves_tables_what_they_hold() {
        let mut pool = BlockPool::new(4, 2);
        let keys = keys(&[1, 2, 3, 4]);
        let mut a = BlockTable::default();
        assert!(pool.grow(&mut a, 4));
        (0..2).for_each(|place| pool.keep(&mut a, place, keys[place]));
        pool.release(a);
        let mut b = BlockTable::default();
        pool.take_cached(&mut b, &keys[..1]);
        pool.forget_all();
        assert_eq!((pool.num_kept(), pool.num_free()), (0, 3));
        pool.check([&b].into_iter());
        pool.release(b);
        assert_eq!(pool.num_free(), 4);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "leaked a claim on KV block 0")]
    fn a_table_must_not_be_dropped_with_blocks() {
        let mut table = BlockTable::default();
        assert!(BlockPool::new(2, 1).grow(&mut table, 2));
    }
}
