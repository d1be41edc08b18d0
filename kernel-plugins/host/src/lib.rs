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

mod buffer;
#[cfg(unix)]
mod cache_dir;
mod elf;
mod kernel;
mod open;
#[cfg(unix)]
mod packed_file;
mod packed_matrix;
#[cfg(unix)]
mod packed_plan;
#[cfg(unix)]
mod packed_writer;
mod prepared;
mod survey;
#[cfg(unix)]
mod trust;

#[cfg(unix)]
pub use cache_dir::{CacheDir, CacheError};
pub use kernel::{Kernel, KernelError};
pub use open::OpenError;
#[cfg(unix)]
pub use packed_file::{Origin, PackedFile, PackedFileError};
pub use packed_matrix::{PackError, PackedMatrix};
#[cfg(unix)]
pub use packed_plan::{PackedPlan, PlanError};
#[cfg(unix)]
pub use packed_writer::{PackedWriter, PackedWriterError};
pub use prepared::Prepared;
pub use survey::{Found, Identity, NoKernel, SearchPath, State, Survey, Unreadable, survey};
#[cfg(unix)]
pub use trust::Exposed;
