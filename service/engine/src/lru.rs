//! Blocks in the order in which they were last used.

use crate::BlockId;

/// A list threaded through an array, with a place for every block of the pool:
/// nothing is allocated when blocks come and go.
#[derive(Debug)]
pub(crate) struct Lru {
    /// One a block, and the last one is the list's two ends.
    links: Vec<Link>,
    len: usize,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

impl Lru {
    pub(crate) fn new(num_blocks: u32) -> Lru {
        let alone = |place| Link {
            older: place,
            newer: place,
        };
        Lru {
            links: (0..=num_blocks).map(alone).collect(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The block was used just now. It must not be in the list.
    pub(crate) fn push(&mut self, block: BlockId) {
        let newest = self.links[self.ends() as usize].older;
        self.join(newest, block.0);
        self.join(block.0, self.ends());
        self.len += 1;
    }

    /// Takes a block out. It must be in the list.
    pub(crate) fn remove(&mut self, block: BlockId) {
        let Link { older, newer } = self.links[block.0 as usize];
        self.join(older, newer);
        self.len -= 1;
    }

    /// The one that was not used for longest.
    pub(crate) fn oldest(&self) -> Option<BlockId> {
        let oldest = self.links[self.ends() as usize].newer;
        (oldest != self.ends()).then_some(BlockId(oldest))
    }

    fn ends(&self) -> u32 {
        (self.links.len() - 1) as u32
    }

    fn join(&mut self, older: u32, newer: u32) {
        self.links[older as usize].newer = newer;
        self.links[newer as usize].older = older;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(mut lru: Lru) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some(block) = lru.oldest() {
            lru.remove(block);
            order.push(block.0);
        }
        assert_eq!(lru.len(), 0);
        order
    }

    #[test]
    fn the_oldest_comes_first_wherever_others_are_taken_out() {
        for taken in 0..4 {
            let mut lru = Lru::new(5);
            let order = [2, 0, 4, 1];
            order.iter().for_each(|&block| lru.push(BlockId(block)));
            let mut left = order.to_vec();
            let again = left.remove(taken);
            lru.remove(BlockId(again));
            assert_eq!(lru.len(), 3);
            lru.push(BlockId(again));
            left.push(again);
            assert_eq!(drained(lru), left);
        }
    }
}
