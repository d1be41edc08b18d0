//! Kernel plugins, from files in a directory to a [`Kernel`] that is safe to
//! call.
//!
//! A plugin is a shared library behind the table of `ternion-kernel-abi`.
//! [`survey`] looks through directories, refuses what can't be trusted or
//! doesn't fit, and selects one of the rest; what it says of every file is
//! what an operator sees. [`Kernel::open`] opens a single one.
//!
//! **What safe means here.** A library is code, and code that has been loaded
//! can do anything: so a file that others could have written isn't loaded. Of
//! a plugin that follows the contract, and of one whose sizes and statuses are
//! merely wrong, nothing that is called through [`Kernel`], with whatever
//! arguments, reads or writes out of bounds: lengths, ranges, strides and
//! ownership are checked before each call.
#![warn(missing_docs)]

mod arena;
mod buffer;
#[cfg(unix)]
mod cache_dir;
mod cpu_features;
mod elf;
mod huge_pages;
mod kernel;
mod mapped_bytes;
mod open;
#[cfg(unix)]
mod packed_file;
mod packed_matrix;
#[cfg(unix)]
mod packed_plan;
#[cfg(unix)]
mod packed_writer;
#[cfg(unix)]
mod parts_file;
#[cfg(unix)]
mod parts_plan;
#[cfg(unix)]
mod parts_writer;
mod plugin_file;
mod prepared;
mod sha256;
mod survey;
#[cfg(unix)]
mod trust;
mod weights_memory;

pub use arena::{Arena, Toucher};
#[cfg(unix)]
pub use cache_dir::{CacheDir, CacheError};
pub use cpu_features::cpu_features;
pub use elf::ElfError;
pub use kernel::{Kernel, KernelError};
pub use mapped_bytes::MappedBytes;
pub use open::{OpenError, Stage};
#[cfg(unix)]
pub use packed_file::PackedFile;
pub use packed_matrix::{PackError, PackedMatrix};
#[cfg(unix)]
pub use packed_plan::{PackedPlan, PlanError};
#[cfg(unix)]
pub use packed_writer::PackedWriter;
#[cfg(unix)]
pub use parts_file::{Origin, PackedFileError, PartsFile};
#[cfg(unix)]
pub use parts_plan::{PartsPlan, Word};
#[cfg(unix)]
pub use parts_writer::{PackedWriterError, PartsWriter};
pub use plugin_file::PluginFile;
pub use prepared::Prepared;
pub use sha256::{NotADigest, Sha256};
pub use survey::{
    Choice, Found, Identity, NoKernel, Rejection, Search, SearchPath, State, Survey, Tried,
    Unreadable, survey,
};
#[cfg(unix)]
pub use trust::Exposed;
