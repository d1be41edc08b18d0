//! Whether a shared library is all there.
//!
//! The dynamic loader maps the parts that an ELF file's headers name and
//! touches them, without a look at the file's length: of a file that was cut
//! short, say by an interrupted copy, the process dies with SIGBUS instead of
//! getting an error. So the length is compared with the headers first. What
//! isn't 64-bit ELF in this machine's byte order is left to the loader, which
//! says no by itself.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

const MAGIC: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const NATIVE_ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };

const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PT_LOAD: u32 = 1;

/// The length the headers speak of, where it is more than the file has.
pub(crate) fn missing_length(file: &mut File) -> io::Result<Option<u64>> {
    let len = file.metadata()?.len();
    let mut start = Vec::new();
    file.take(HEADER_BYTES as u64).read_to_end(&mut start)?;
    if !start.starts_with(MAGIC)
        || start
            .get(4..6)
            .is_some_and(|id| id != [CLASS_64, NATIVE_ORDER])
    {
        return Ok(None);
    }
    let Some(header) = start.first_chunk::<HEADER_BYTES>() else {
        return Ok(Some(HEADER_BYTES as u64));
    };
    // elf(5): e_phoff, e_shoff, and the sizes and counts of both tables.
    let programs = table_end(u64_at(header, 32), u16_at(header, 54), u16_at(header, 56));
    let sections = table_end(u64_at(header, 40), u16_at(header, 58), u16_at(header, 60));
    let mut needed = programs.max(sections);
    if programs <= len && usize::from(u16_at(header, 54)) == PROGRAM_HEADER_BYTES {
        file.seek(SeekFrom::Start(u64_at(header, 32)))?;
        for _ in 0..u16_at(header, 56) {
            let mut program = [0; PROGRAM_HEADER_BYTES];
            file.read_exact(&mut program)?;
            // p_type, p_offset, p_filesz.
            if u32::from_ne_bytes(bytes_at(&program, 0)) == PT_LOAD {
                let end = u64_at(&program, 8).saturating_add(u64_at(&program, 32));
                needed = needed.max(end);
            }
        }
    }
    Ok((needed > len).then_some(needed))
}

fn table_end(offset: u64, entry_bytes: u16, entries: u16) -> u64 {
    offset.saturating_add(u64::from(entry_bytes) * u64::from(entries))
}

fn bytes_at<const N: usize>(header: &[u8], offset: usize) -> [u8; N] {
    *header[offset..]
        .first_chunk()
        .expect("offsets are constants inside a header of constant size")
}

fn u16_at(header: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(bytes_at(header, offset))
}

fn u64_at(header: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes_at(header, offset))
}
