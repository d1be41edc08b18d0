//! Full blocks that can be used again, found by what is in them.
//!
//! Keys and values of a position depend on the tokens at and before it, to the
//! bit. So a full block is named by a hash over its tokens and the name of the
//! block before it, and whoever has the same tokens from the beginning on may
//! use it as it is. The first name of a chain is a hash of the request's salt:
//! sequences with different salts have no names in common, so that neither what
//! they are answered nor how long it takes depends on what others asked. What a
//! prompt has in common with a public one is nobody's secret, and has the same
//! names whatever the salt, which comes in behind it.
//!
//! A name is the whole of BLAKE3's 256 bits. To make two contents have one
//! name is to break the hash, so tokens are not kept to be compared as well.

use std::collections::HashMap;

use crate::SequenceId;
use crate::block_pool::{BlockId, Held};
use crate::lru::Lru;

/// Names the tokens of a full block and of all before it, under a salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

/// The keys of a sequence's full blocks, in position order.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Goes into the name of the first block that isn't public.
    root: Key,
    /// How many of the first tokens are public.
    public: usize,
    /// Whether the samples of one request are all that can ever use them, and
    /// so no more of them than their prompt.
    pub(crate) is_private: bool,
    keys: Vec<Key>,
    /// How many of its table's blocks are in the cache: the first ones, always.
    pub(crate) num_kept: usize,
    /// Whether what it computes may be kept. See
    /// [`Scheduler::distrust_pages`](crate::scheduler::Scheduler::distrust_pages).
    pub(crate) is_trusted: bool,
}

impl Chain {
    pub(crate) fn new(salt: u128, public: usize) -> Chain {
        Chain {
            public,
            ..Chain::from_root(&salt.to_le_bytes(), false)
        }
    }

    /// For the samples of a request that has nothing in common with others. Half
    /// as long as a salt, the name of the first of them is none.
    pub(crate) fn private(first: SequenceId) -> Chain {
        Chain::from_root(&first.0.to_le_bytes(), true)
    }

    fn from_root(root: &[u8], is_private: bool) -> Chain {
        Chain {
            root: Key(*blake3::hash(root).as_bytes()),
            public: 0,
            is_private,
            keys: Vec::new(),
            num_kept: 0,
            is_trusted: true,
        }
    }

    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Makes room for the keys of so many blocks.
    pub(crate) fn reserve(&mut self, num_blocks: usize) {
        let more = num_blocks.saturating_sub(self.keys.len());
        self.keys.reserve_exact(more);
    }

    /// Names the full blocks among `tokens` that have no name yet.
    pub(crate) fn extend(&mut self, tokens: &[u32], block_size: usize) {
        let num_public = self.public / block_size;
        let blocks = tokens.chunks_exact(block_size).enumerate();
        for (index, block) in blocks.skip(self.keys.len()) {
            // A root is the hash of less than any block, so nobody's name.
            let mut hasher = blake3::Hasher::new();
            if index == num_public {
                hasher.update(&self.root.0);
            }
            if let Some(parent) = self.keys.last() {
                hasher.update(&parent.0);
            }
            for token in block {
                hasher.update(&token.to_le_bytes());
            }
            self.keys.push(Key(*hasher.finalize().as_bytes()));
        }
    }
}

/// The cache's part of the pool's books: which blocks it holds, under which
/// keys, and in what order it would give them up.
#[derive(Debug)]
pub(crate) struct PrefixCache {
    blocks: HashMap<Key, Held>,
    /// The key of each block that it holds.
    keys: Vec<Option<Key>>,
    /// Blocks that nobody else holds. A table that holds a block holds all
    /// before it, and [`BlockPool::release`] begins at a table's end; so a
    /// block is always given up before those that lead to it.
    ///
    /// [`BlockPool::release`]: crate::block_pool::BlockPool::release
    idle: Lru,
}

impl PrefixCache {
    pub(crate) fn new(num_blocks: u32) -> PrefixCache {
        PrefixCache {
            blocks: HashMap::with_capacity(num_blocks as usize),
            keys: vec![None; num_blocks as usize],
            idle: Lru::new(num_blocks),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(crate) fn num_idle(&self) -> usize {
        self.idle.len()
    }

    pub(crate) fn get(&self, key: &Key) -> Option<BlockId> {
        self.blocks.get(key).map(Held::id)
    }

    pub(crate) fn holds(&self, block: BlockId) -> bool {
        self.keys[block.0 as usize].is_some()
    }

    /// Takes up a block that somebody else holds as well.
    pub(crate) fn insert(&mut self, key: Key, held: Held) {
        self.keys[held.id().0 as usize] = Some(key);
        let before = self.blocks.insert(key, held);
        assert!(before.is_none(), "a content is kept once");
    }

    /// Nobody else holds the block any more.
    pub(crate) fn idles(&mut self, block: BlockId) {
        self.idle.push(block);
    }

    /// Somebody else holds the block again.
    pub(crate) fn is_used(&mut self, block: BlockId) {
        self.idle.remove(block);
    }

    /// Gives up the block that was idle for longest.
    pub(crate) fn evict(&mut self) -> Option<Held> {
        let block = self.idle.oldest()?;
        self.idle.remove(block);
        let key = self.keys[block.0 as usize].take();
        let key = key.expect("what is idle is in the cache");
        Some(self.blocks.remove(&key).expect("keys name what is there"))
    }

    /// Gives up the block of a key, if it is idle.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Held> {
        let held = self.blocks.remove(key)?;
        self.keys[held.id().0 as usize] = None;
        self.idle.remove(held.id());
        Some(held)
    }

    /// Gives up everything.
    pub(crate) fn clear(&mut self) -> Vec<Held> {
        self.keys.fill(None);
        while let Some(block) = self.idle.oldest() {
            self.idle.remove(block);
        }
        self.blocks.drain().map(|(_, held)| held).collect()
    }

    #[cfg(test)]
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.blocks.values().map(Held::id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(salt: u128, tokens: &[u32]) -> Vec<Key> {
        let mut chain = Chain::new(salt, 0);
        chain.extend(tokens, 3);
        chain.keys
    }

    #[test]
    fn a_key_names_all_tokens_to_the_end_of_its_block_and_nothing_behind() {
        let whole = keys(7, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(whole.len(), 2, "the third block is not full");
        assert_eq!(keys(7, &[1, 2, 3, 4, 5, 6, 9, 9, 9])[..2], whole);
        assert_eq!(keys(7, &[1, 2, 3, 4, 5, 0])[0], whole[0]);
        assert_ne!(keys(7, &[1, 2, 3, 4, 5, 0])[1], whole[1]);
        assert_ne!(keys(7, &[1, 2, 0, 4, 5, 6])[1], whole[1]);
        // The same block at another place is another content.
        let [first, second] = keys(7, &[1, 2, 3, 1, 2, 3])[..] else {
            panic!("two blocks are full");
        };
        assert_ne!(first, second);
    }

    #[test]
    fn different_salts_have_no_key_in_common() {
        let tokens = [1, 2, 3, 4, 5, 6];
        for salt in [1, u128::MAX, 1 << 64] {
            for (a, b) in keys(0, &tokens).iter().zip(keys(salt, &tokens)) {
                assert_ne!(*a, b);
            }
        }
    }

    #[test]
    fn what_is_public_has_the_same_names_whatever_the_salt() {
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let of = |salt, public| {
            let mut chain = Chain::new(salt, public);
            chain.extend(&tokens, 3);
            chain.keys
        };
        let in_common = |public: [usize; 2]| {
            let [a, b] = [of(1, public[0]), of(2, public[1])];
            let same: Vec<bool> = a.iter().zip(&b).map(|(a, b)| a == b).collect();
            same
        };
        assert_eq!(in_common([6, 6]), [true, true, false, false]);
        // Of a block that isn't public to its end nothing is.
        assert_eq!(in_common([8, 7]), [true, true, false, false]);
        assert_eq!(in_common([8, 4]), [true, false, false, false]);
        assert_eq!(in_common([12, 12]), [true; 4]);
        assert_eq!(in_common([0, 0]), [false; 4]);
        assert_ne!(of(1, 3)[1], of(1, 0)[1], "the same tokens, kept apart");
        assert_eq!(of(1, 8), of(1, 6));
    }

    #[test]
    fn private_keys_are_those_of_no_salt_and_no_other_request() {
        let tokens = [1, 2, 3, 4, 5, 6];
        let of = |mut chain: Chain| {
            chain.extend(&tokens, 3);
            chain.keys
        };
        let seven = of(Chain::private(SequenceId(7)));
        for other in [Chain::private(SequenceId(8)), Chain::new(7, 0)] {
            for (a, b) in seven.iter().zip(of(other)) {
                assert_ne!(*a, b);
            }
        }
    }

    #[test]
    fn keys_found_piece_by_piece_are_those_found_at_once() {
        let tokens: Vec<u32> = (0..20).collect();
        let mut chain = Chain::new(3, 0);
        for len in 0..=tokens.len() {
            chain.extend(&tokens[..len], 3);
        }
        assert_eq!(chain.keys, keys(3, &tokens));
    }
}
