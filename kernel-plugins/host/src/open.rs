//! From a file to a table that can be relied on, or a reason why not.

use std::ffi::{CStr, c_char};
use std::io;
use std::path::Path;

use libloading::Library;
use ternion_kernel_abi as abi;

use crate::elf::ElfError;
use crate::plugin_file::{MAX_BYTES, Source};
use crate::sha256::Sha256;
#[cfg(unix)]
use crate::trust::Exposed;

/// Largest alignment and row tile a plugin may ask for.
const MAX_GRANULARITY: u32 = 4096;

/// Why a file isn't used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OpenError {
    #[error("can't be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("is not a file")]
    NotAFile,
    #[cfg(unix)]
    #[error("{0}")]
    Exposed(Exposed),
    #[error("is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge,
    #[error("is not among the files allowed: its SHA-256 is {0}")]
    NotAllowed(Sha256),
    #[error("was changed while it was looked at")]
    Changed,
    #[error("can't be copied into memory: {0}")]
    NoCopy(#[source] io::Error),
    #[error("{0}")]
    Elf(#[from] ElfError),
    #[error("requires {0:?}, which is no CPU feature this host knows")]
    UnknownFeature(String),
    /// Nothing is wrong with the plugin; it is for another CPU.
    #[error("requires {}, which this CPU or its operating system doesn't have", .0.join(", "))]
    MissingFeatures(Vec<String>),
    #[error("is not a library that can be loaded: {}", loader_text(.0))]
    NotALibrary(#[source] libloading::Error),
    #[error("exports no ternion_kernel_v1: {}", loader_text(.0))]
    NoEntry(#[source] libloading::Error),
    #[error("returned no table from ternion_kernel_v1")]
    NoTable,
    #[error(
        "has kernel ABI version {found}, and this host has {}",
        abi::ABI_VERSION
    )]
    AbiVersion { found: u32 },
    #[error(
        "is too old: its table has {found} bytes, and this host needs {}",
        abi::KERNEL_SIZE_V1
    )]
    TooOld { found: u32 },
    #[error("has no function `{slot}`")]
    NoFunction { slot: &'static str },
    #[error("has no {what}")]
    NoText { what: &'static str },
    #[error("has a {what} that is not UTF-8")]
    TextNotUtf8 { what: &'static str },
    #[error("has a {what} with a control character")]
    ControlCharacter { what: &'static str },
    #[error("asks for row tiles of {0}, not 1 to {MAX_GRANULARITY}")]
    RowTile(u32),
    #[error("asks for an alignment of {0}, not a power of two up to {MAX_GRANULARITY}")]
    Alignment(u32),
    /// Nothing is wrong with the plugin; it is for another machine.
    #[error("can't run on this CPU")]
    CannotRun,
}

impl OpenError {
    /// Whether nothing is wrong with the plugin but that it is for other
    /// machines.
    pub fn is_for_other_machines(&self) -> bool {
        matches!(
            self,
            OpenError::CannotRun
                | OpenError::MissingFeatures(_)
                | OpenError::Elf(ElfError::Machine { .. })
        )
    }
}

/// What of a plugin runs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// What the library runs when it is loaded: constructors, and those of
    /// libraries that it needs.
    Initialiser,
    /// `ternion_kernel_v1`.
    Entry,
    /// `probe` and `isa`.
    Probe,
}

/// What the system's loader said; libloading itself says "dlopen failed".
fn loader_text(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(said) => said.to_string(),
        None => error.to_string(),
    }
}

/// A table whose slots are filled and whose numbers make sense.
pub(crate) struct CheckedTable {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) isa: String,
    pub(crate) score: i32,
    pub(crate) alignment: usize,
    pub(crate) row_tile: usize,
    pub(crate) functions: Functions,
}

/// The table's functions, each of which is there.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    pub(crate) supports: unsafe extern "C" fn(u64, u64) -> i32,
    pub(crate) packed_bytes: unsafe extern "C" fn(u64, u64) -> u64,
    pub(crate) pack: unsafe extern "C" fn(u64, u64, u64, u64, *const i8, *mut u8) -> i32,
    pub(crate) prepared_bytes: unsafe extern "C" fn(u64, u64) -> u64,
    pub(crate) prepare: unsafe extern "C" fn(u64, u64, *const i8, *mut u8) -> i32,
    pub(crate) gemm:
        unsafe extern "C" fn(u64, u64, *const u8, u64, *const u8, u64, u64, *mut i32, u64) -> i32,
}

/// Loads a library and checks its table. The table's functions are in the
/// library and must not outlive it, and it must not outlive its source: by the
/// name of what is loaded the loader knows it, and would take a second source
/// of that name for the first.
pub(crate) fn load(
    source: &Source,
    stage: &mut dyn FnMut(Stage),
) -> Result<(CheckedTable, Library), OpenError> {
    stage(Stage::Initialiser);
    let library = open_library(&source.path()).map_err(OpenError::NotALibrary)?;
    stage(Stage::Entry);
    // SAFETY: loading ran the library's initialisers already, so it is trusted;
    // that its symbol of this name has this type is what the name stands for.
    let table = unsafe {
        let entry = library
            .get::<abi::Entry>(abi::ENTRY_SYMBOL)
            .map_err(OpenError::NoEntry)?;
        entry()
    };
    stage(Stage::Probe);
    // SAFETY: the contract says that the table lives as long as the library.
    let checked = unsafe { check(table) }?;
    Ok((checked, library))
}

/// Checks a table before anything in it is used.
///
/// # Safety
///
/// `table` is null, or points to what the contract says a table is, of which
/// only the first `struct_size` bytes are there.
pub(crate) unsafe fn check(table: *const abi::Kernel) -> Result<CheckedTable, OpenError> {
    if table.is_null() || !table.is_aligned() {
        return Err(OpenError::NoTable);
    }
    // SAFETY: every version of the table begins with these two.
    let (version, size) = unsafe { ((*table).abi_version, (*table).struct_size) };
    if version != abi::ABI_VERSION {
        return Err(OpenError::AbiVersion { found: version });
    }
    // A plugin may know more than we do, as tables grow at their end.
    if size < abi::KERNEL_SIZE_V1 {
        return Err(OpenError::TooOld { found: size });
    }
    // SAFETY: so many bytes are there.
    let table = unsafe { table.read() };
    let functions = Functions {
        supports: filled(table.supports, "supports")?,
        packed_bytes: filled(table.packed_bytes, "packed_bytes")?,
        pack: filled(table.pack, "pack")?,
        prepared_bytes: filled(table.prepared_bytes, "prepared_bytes")?,
        prepare: filled(table.prepare, "prepare")?,
        gemm: filled(table.gemm, "gemm")?,
    };
    let isa = filled(table.isa, "isa")?;
    let probe = filled(table.probe, "probe")?;
    if !(1..=MAX_GRANULARITY).contains(&table.row_tile) {
        return Err(OpenError::RowTile(table.row_tile));
    }
    if !table.alignment.is_power_of_two() || table.alignment > MAX_GRANULARITY {
        return Err(OpenError::Alignment(table.alignment));
    }
    // SAFETY: the contract says that these are null or static C strings, and
    // that `probe` and `isa` may be called at any time.
    let (name, version, score, isa) = unsafe {
        (
            text(table.name, "name")?,
            text(table.version, "version")?,
            probe(),
            isa(),
        )
    };
    if score <= 0 {
        return Err(OpenError::CannotRun);
    }
    Ok(CheckedTable {
        name,
        version,
        // SAFETY: as above.
        isa: unsafe { text(isa, "instruction set") }?,
        score,
        alignment: table.alignment as usize,
        row_tile: table.row_tile as usize,
        functions,
    })
}

fn filled<F>(function: Option<F>, slot: &'static str) -> Result<F, OpenError> {
    function.ok_or(OpenError::NoFunction { slot })
}

/// # Safety
///
/// `text` is null or a C string.
unsafe fn text(text: *const c_char, what: &'static str) -> Result<String, OpenError> {
    if text.is_null() {
        return Err(OpenError::NoText { what });
    }
    // SAFETY: not null, so a C string.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_str().map_err(|_| OpenError::TextNotUtf8 { what })?;
    if text.is_empty() {
        return Err(OpenError::NoText { what });
    }
    // Names reach logs and terminals.
    if text.contains(char::is_control) {
        return Err(OpenError::ControlCharacter { what });
    }
    Ok(text.to_owned())
}

#[cfg(unix)]
fn open_library(path: &Path) -> Result<Library, libloading::Error> {
    use libloading::os::unix;

    // Now and not lazily: a symbol that is missing is an error here, and not
    // the end of the process at the first call.
    // SAFETY: running the library's initialisers is what loading a plugin
    // means; that the file is one is what the directory stands for.
    unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_LOCAL) }.map(Library::from)
}

#[cfg(not(unix))]
fn open_library(path: &Path) -> Result<Library, libloading::Error> {
    // SAFETY: as above.
    unsafe { Library::new(path) }
}
