//! Memory for vectors.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// Floats that begin at a cache line, so that no vector lies in two.
#[derive(Debug)]
pub struct Aligned {
    memory: Vec<f32>,
    begin: usize,
    len: usize,
}

impl Aligned {
    /// So many zeros.
    pub fn new(len: usize) -> Aligned {
        let memory = vec![0.0; len + LINE / size_of::<f32>()];
        let begin = memory.as_ptr().align_offset(LINE);
        Aligned { memory, begin, len }
    }

    /// `len` floats, new zeros if there are less. What grows little by little is
    /// moved seldom: its room doubles.
    pub fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.len < len {
            *self = Aligned::new(len.max(2 * self.len));
        }
        &mut self[..len]
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[self.begin..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.begin..][..self.len]
    }
}
