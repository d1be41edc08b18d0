//! What a file of packed weights has to look like: parts of known sizes.
//!
//! Everything about such a file but the parts, their checksums and a word to
//! each follows from the model and from who packs it, so a reader computes what
//! it must find and compares. Nothing in a file says where to look for anything.
//!
//! ```text
//! 0     "TRNPACK1"
//! 8     BLAKE3 of everything from 40 to the first part
//! 40    the plan's key
//! 72    the model files' stamp    } of the model that was packed
//! 104   digest of its weights     }
//! 136   for each part: BLAKE3 of its bytes and of those that fill up its
//!       last page, and its word, four bytes
//!       zeros up to a page, then the parts, each at a page
//! ```

use std::ops::Range;

pub(crate) const MAGIC: &[u8; 8] = b"TRNPACK1";
/// Covered by the digest in front of it.
pub(crate) const SEALED: usize = 40;
pub(crate) const KEY: Range<usize> = 40..72;
pub(crate) const STAMP: Range<usize> = 72..104;
pub(crate) const CONTENT: Range<usize> = 104..136;
pub(crate) const CHECKS: usize = 136;
pub(crate) const CHECK: usize = 36;

/// What comes with a part: a matrix' scale.
pub type Word = [u8; 4];

/// Parts lie at multiples of this: what any page and any plugin's alignment
/// divides.
pub(crate) const PAGE: usize = 4096;

/// What a file of the cache consists of.
#[derive(Clone, Debug)]
pub struct PartsPlan {
    kind: &'static str,
    pub(crate) key: [u8; 32],
    pub(crate) parts: Vec<Part>,
    /// Of the file.
    pub(crate) len: usize,
}

/// Where a part lies.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) bytes: usize,
    /// Whole pages of the file.
    pub(crate) pages: Range<usize>,
}

impl PartsPlan {
    /// `kind` is part of the file's name. `key` makes of where parts of these
    /// sizes begin what tells this file from all others of its kind. None if
    /// the file would be longer than there are addresses.
    pub fn new(
        kind: &'static str,
        sizes: &[usize],
        key: impl FnOnce(&[usize]) -> [u8; 32],
    ) -> Option<PartsPlan> {
        let mut len = CHECK
            .checked_mul(sizes.len())?
            .checked_add(CHECKS)?
            .checked_next_multiple_of(PAGE)?;
        let mut parts = Vec::with_capacity(sizes.len());
        for &bytes in sizes {
            let end = len.checked_add(bytes.checked_next_multiple_of(PAGE)?)?;
            i64::try_from(end).ok()?;
            let pages = len..end;
            parts.push(Part { bytes, pages });
            len = end;
        }
        let starts: Vec<usize> = parts.iter().map(|part| part.pages.start).collect();
        Some(PartsPlan {
            kind,
            key: key(&starts),
            parts,
            len,
        })
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> usize {
        self.len
    }

    /// Half of the key is enough for a name; the whole of it is in the file.
    pub(crate) fn file_name(&self) -> String {
        let key: String = self.key[..16].iter().map(|b| format!("{b:02x}")).collect();
        format!("{}-{key}", self.kind)
    }

    /// Bytes of the file in front of the parts.
    pub(crate) fn header_len(&self) -> usize {
        self.parts.first().map_or(self.len, |part| part.pages.start)
    }

    /// Where the check of a part stands.
    pub(crate) fn check(&self, part: usize) -> Range<usize> {
        let start = CHECKS + part * CHECK;
        start..start + CHECK
    }
}
