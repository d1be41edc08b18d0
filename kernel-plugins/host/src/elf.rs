//! What an ELF file says of itself, read without loading it.
//!
//! The dynamic loader maps the parts that the headers name and touches them,
//! without a look at the file's length: of a file that was cut short, say by an
//! interrupted copy, the process dies with SIGBUS instead of getting an error.
//! And by the time a library can be asked anything, its initialisers have run.
//! So length, machine and what it requires of the CPU are read first.

use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, elf};

/// Section with the names of the CPU features that a plugin requires, from
/// `TERNION_KERNEL_REQUIRES` of the header.
const REQUIRES: &[u8] = b".ternion.requires";
/// Room for every feature there is.
const MAX_REQUIRES_BYTES: usize = 4096;

const NATIVE_MACHINE: elf::Machine = if cfg!(target_arch = "x86_64") {
    elf::EM_X86_64
} else if cfg!(target_arch = "aarch64") {
    elf::EM_AARCH64
} else {
    elf::EM_NONE
};
const NATIVE_ORDER: elf::DataEncoding = if cfg!(target_endian = "little") {
    elf::ELFDATA2LSB
} else {
    elf::ELFDATA2MSB
};

/// Why a file is not a library of this machine's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ElfError {
    #[error("is not a library: it does not begin as an ELF file does")]
    NotElf,
    #[error("is cut short: {len} bytes of {needed}")]
    Truncated { len: u64, needed: u64 },
    #[error(
        "is a library for {found}, and this machine is {}",
        std::env::consts::ARCH
    )]
    Machine { found: String },
    #[error("is an ELF file but not a shared library")]
    NotShared,
    #[error("has headers that can't be read: {0}")]
    Malformed(String),
    #[error("has a .ternion.requires section that is not a list of names")]
    Requires,
}

/// Checks that a file is a whole shared library for this machine, and reads
/// which CPU features it requires.
pub(crate) fn required_features(bytes: &[u8]) -> Result<Vec<String>, ElfError> {
    let ident = bytes.get(..6).unwrap_or(bytes);
    if !ident.starts_with(&elf::ELFMAG) {
        return Err(ElfError::NotElf);
    }
    if ident.get(4) == Some(&elf::ELFCLASS32.0) {
        return Err(ElfError::Machine {
            found: "32 bits".into(),
        });
    }
    if ident.get(5).is_some_and(|order| *order != NATIVE_ORDER.0) {
        return Err(ElfError::Machine {
            found: "the other byte order".into(),
        });
    }
    let len = bytes.len() as u64;
    let needed = size_of::<FileHeader64<Endianness>>() as u64;
    if len < needed {
        return Err(ElfError::Truncated { len, needed });
    }
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(malformed)?;
    let endian = header.endian().map_err(malformed)?;
    let machine = header.e_machine(endian);
    if machine != NATIVE_MACHINE {
        return Err(ElfError::Machine {
            found: machine_name(machine),
        });
    }
    if header.e_type(endian) != elf::ET_DYN {
        return Err(ElfError::NotShared);
    }
    check_length(bytes, header, endian)?;
    let sections = header.sections(endian, bytes).map_err(malformed)?;
    match sections.section_by_name(endian, REQUIRES) {
        None => Ok(Vec::new()),
        Some((_, section)) => names(section.data(endian, bytes).map_err(malformed)?),
    }
}

/// elf(5): e_phoff, e_shoff, and the sizes and counts of both tables; then
/// what the loader maps.
fn check_length(
    bytes: &[u8],
    header: &FileHeader64<Endianness>,
    endian: Endianness,
) -> Result<(), ElfError> {
    let len = bytes.len() as u64;
    let table_end = |offset: u64, entry_bytes: u16, entries: u16| {
        offset.saturating_add(u64::from(entry_bytes) * u64::from(entries))
    };
    let programs = table_end(
        header.e_phoff(endian),
        header.e_phentsize(endian),
        header.e_phnum(endian),
    );
    let sections = table_end(
        header.e_shoff(endian),
        header.e_shentsize(endian),
        header.e_shnum(endian),
    );
    let mut needed = programs.max(sections);
    if programs <= len {
        for program in header.program_headers(endian, bytes).map_err(malformed)? {
            if program.p_type(endian) == PT_LOAD {
                let (offset, size) = program.file_range(endian);
                needed = needed.max(offset.saturating_add(size));
            }
        }
    }
    match needed > len {
        true => Err(ElfError::Truncated { len, needed }),
        false => Ok(()),
    }
}

/// Separated by commas or, where a linker put several texts side by side, by
/// their NULs.
fn names(text: &[u8]) -> Result<Vec<String>, ElfError> {
    if text.len() > MAX_REQUIRES_BYTES {
        return Err(ElfError::Requires);
    }
    let is_name = |name: &[u8]| {
        name.iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    text.split(|byte| matches!(byte, b',' | 0))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty())
        .map(|name| match is_name(name) {
            true => Ok(String::from_utf8_lossy(name).into_owned()),
            false => Err(ElfError::Requires),
        })
        .collect()
}

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_X86_64 => "x86_64".into(),
        elf::EM_AARCH64 => "aarch64".into(),
        elf::EM_RISCV => "riscv".into(),
        elf::EM_PPC64 => "powerpc64".into(),
        elf::EM_S390 => "s390x".into(),
        machine => format!("ELF machine {}", machine.0),
    }
}

fn malformed(error: object::read::Error) -> ElfError {
    ElfError::Malformed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_separated_by_commas_and_ends_of_texts() {
        let expected: Vec<String> = vec!["avx2".into(), "sse4.1".into(), "fma".into()];
        assert_eq!(names(b"avx2, sse4.1\0\0fma\0"), Ok(expected));
        assert_eq!(names(b"\0"), Ok(vec![]));
        for bad in [&b"avx2;fma\0"[..], b"\xff\0", b"a b\0", &[b'a'; 4097]] {
            assert_eq!(names(bad), Err(ElfError::Requires));
        }
    }

    /// Whatever bytes stand in the headers.
    #[test]
    fn broken_headers_are_errors() {
        let whole = std::fs::read("/proc/self/exe").unwrap();
        let whole = &whole[..whole.len().min(1 << 16)];
        for at in 0..64 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = whole.to_vec();
                broken[at] = value;
                let _ = required_features(&broken);
            }
        }
        assert_eq!(required_features(b""), Err(ElfError::NotElf));
        assert_eq!(required_features(b"#!/bin/sh"), Err(ElfError::NotElf));
    }
}
