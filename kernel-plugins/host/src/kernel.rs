//! A plugin's functions, made safe to call.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use libloading::Library;
use ternion_kernel_abi as abi;

use crate::open::{self, CheckedTable, Functions, OpenError};
use crate::packed_matrix::PackedMatrix;
use crate::plugin_file::PluginFile;
use crate::prepared::Prepared;
use crate::sha256::Sha256;
use crate::weights_memory::WeightsMemory;

/// Rows and columns a plugin may round a shape up by, when its buffer sizes
/// are judged.
const SLACK: u64 = 4096;
/// Bytes of a packed weight beyond which a size is a mistake.
const MAX_WEIGHT_BYTES: u64 = 4;
/// Bytes of a prepared activation beyond which a size is a mistake. Lookup
/// tables take the most: 16 entries of two bytes for every two activations.
const MAX_ACTIVATION_BYTES: u64 = 64;

/// An opened plugin that this CPU can run. Cloning it is cheap, and its
/// library stays loaded until the last clone and the last matrix packed by it
/// are gone.
#[derive(Clone)]
pub struct Kernel(Arc<Plugin>);

struct Plugin {
    table: CheckedTable,
    /// None for a table that is part of this program. The functions of `table`
    /// are in here. Fields drop in order: the table before the library, and the
    /// library before the file that it was loaded from.
    _library: Option<Library>,
    file: Option<PluginFile>,
    weights_memory: WeightsMemory,
}

/// Why a plugin's function wasn't called, or what it said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say it")]
pub enum KernelError {
    #[error("kernel {kernel} doesn't support matrices of {rows} rows and {cols} columns")]
    Unsupported {
        kernel: String,
        rows: usize,
        cols: usize,
    },
    #[error("{what}: {found} elements, not {expected}")]
    Length {
        what: &'static str,
        found: usize,
        expected: usize,
    },
    #[error("rows {begin}..{end} of {rows} are not whole tiles of {row_tile}")]
    Rows {
        begin: usize,
        end: usize,
        rows: usize,
        row_tile: usize,
    },
    #[error("the matrix has {matrix} columns and the activations have {activations}")]
    Columns { matrix: usize, activations: usize },
    #[error("an output stride of {stride} is less than {rows} rows")]
    Stride { stride: usize, rows: usize },
    #[error("the {what} were made by another kernel than {kernel}")]
    Foreign { what: &'static str, kernel: String },
    #[error("kernel {kernel} asks for {bytes} bytes of {what}, and {limit} would be generous")]
    AbsurdSize {
        kernel: String,
        what: &'static str,
        bytes: u64,
        limit: u64,
    },
    #[error("no memory for {bytes} bytes of {what}")]
    OutOfMemory { what: &'static str, bytes: usize },
    #[error("kernel {kernel} failed in `{function}` with status {status}")]
    Failed {
        kernel: String,
        function: &'static str,
        status: i32,
    },
}

impl Kernel {
    /// Opens a plugin, having checked that nobody else could have written it
    /// and that its table is one this host can use.
    pub fn open(path: &Path) -> Result<Kernel, OpenError> {
        PluginFile::read(path, None)?.open(&mut |_| {})
    }

    pub(crate) fn opened(file: PluginFile, table: CheckedTable, library: Library) -> Kernel {
        Kernel(Arc::new(Plugin {
            table,
            _library: Some(library),
            file: Some(file),
            weights_memory: WeightsMemory::default(),
        }))
    }

    /// A kernel that is part of this program, for tests of a plugin without
    /// the loader in between.
    ///
    /// # Safety
    ///
    /// `table` is null, or points to a table that follows the contract of
    /// `ternion-kernel-abi` and lives as long as the program.
    pub unsafe fn from_table(table: *const abi::Kernel) -> Result<Kernel, OpenError> {
        // SAFETY: the caller's promise is the one asked for.
        let table = unsafe { open::check(table) }?;
        Ok(Kernel(Arc::new(Plugin {
            table,
            _library: None,
            file: None,
            weights_memory: WeightsMemory::default(),
        })))
    }

    /// Where its matrices are packed.
    pub(crate) fn weights_memory(&self) -> &WeightsMemory {
        &self.0.weights_memory
    }

    /// The plugin's short name.
    pub fn name(&self) -> &str {
        &self.0.table.name
    }

    /// The plugin's own version.
    pub fn version(&self) -> &str {
        &self.0.table.version
    }

    /// The instruction set it uses here.
    pub fn isa(&self) -> &str {
        &self.0.table.isa
    }

    /// How well it expects to do: more than zero.
    pub fn score(&self) -> i32 {
        self.0.table.score
    }

    /// The file it was opened from; empty if it is part of this program.
    pub fn path(&self) -> &Path {
        self.0.file.as_ref().map_or(Path::new(""), PluginFile::path)
    }

    /// The digest of that file.
    pub fn sha256(&self) -> Option<Sha256> {
        self.0.file.as_ref().map(PluginFile::sha256)
    }

    /// Ranges of rows begin at multiples of this.
    pub fn row_tile(&self) -> usize {
        self.0.table.row_tile
    }

    /// Whether it multiplies matrices of this shape.
    pub fn supports(&self, rows: usize, cols: usize) -> bool {
        rows > 0
            && cols > 0
            && cols as u64 <= abi::MAX_COLS
            && rows.checked_mul(cols).is_some_and(|n| n <= isize::MAX as usize)
            // SAFETY: a pure function of two numbers.
            && unsafe { (self.functions().supports)(rows as u64, cols as u64) } == 1
    }

    /// Turns row-major activations, `batch` rows of `cols`, into what
    /// [`gemm`](Kernel::gemm) reads. `into` keeps its memory from call to call
    /// and gets more only if it must; after an error it holds nothing.
    pub fn prepare(
        &self,
        cols: usize,
        batch: usize,
        activations: &[i8],
        into: &mut Prepared,
    ) -> Result<(), KernelError> {
        into.clear();
        let expected = batch.saturating_mul(cols);
        check_length("activations", activations.len(), expected)?;
        if cols == 0 || batch == 0 || cols as u64 > abi::MAX_COLS {
            return Err(self.unsupported(batch, cols));
        }
        let bytes = self.prepared_bytes(cols, batch)?;
        let prepared = into.reserve(bytes, self.alignment())?;
        // SAFETY: `activations` is `batch` x `cols` long, `prepared` has the
        // bytes and the alignment the plugin asked for and is ours alone.
        let status = unsafe {
            (self.functions().prepare)(cols as u64, batch as u64, activations.as_ptr(), prepared)
        };
        self.check_status("prepare", status)?;
        into.fill(self, cols, batch);
        Ok(())
    }

    /// Multiplies some rows of a matrix with prepared activations:
    /// `out[b * out_stride + (r - rows.start)]` becomes the product of row `r`
    /// and token `b`. Other elements of `out` stay as they are.
    pub fn gemm(
        &self,
        matrix: &PackedMatrix,
        prepared: &Prepared,
        rows: Range<usize>,
        out: &mut [i32],
        out_stride: usize,
    ) -> Result<(), KernelError> {
        self.check_product(matrix, prepared, &rows)?;
        let (num_rows, batch) = (rows.len(), prepared.batch());
        if num_rows == 0 {
            return Ok(());
        }
        if out_stride < num_rows {
            let (stride, rows) = (out_stride, num_rows);
            return Err(KernelError::Stride { stride, rows });
        }
        let span = (batch - 1)
            .saturating_mul(out_stride)
            .saturating_add(num_rows);
        if out.len() < span {
            return check_length("results", out.len(), span);
        }
        // SAFETY: both buffers were made by this very plugin for these numbers
        // and are only read; the rows are whole tiles of the matrix; `out` is
        // ours alone and long enough for the last result.
        let status = unsafe {
            (self.functions().gemm)(
                matrix.rows() as u64,
                matrix.cols() as u64,
                matrix.as_ptr(),
                batch as u64,
                prepared.as_ptr(),
                rows.start as u64,
                rows.end as u64,
                out.as_mut_ptr(),
                out_stride as u64,
            )
        };
        self.check_status("gemm", status)
    }

    fn check_product(
        &self,
        matrix: &PackedMatrix,
        prepared: &Prepared,
        rows: &Range<usize>,
    ) -> Result<(), KernelError> {
        let foreign = |what| KernelError::Foreign {
            what,
            kernel: self.name().to_owned(),
        };
        if !self.is(matrix.kernel()) {
            return Err(foreign("packed weights"));
        }
        if !prepared.kernel().is_some_and(|kernel| self.is(kernel)) {
            return Err(foreign("prepared activations"));
        }
        if matrix.cols() != prepared.cols() {
            return Err(KernelError::Columns {
                matrix: matrix.cols(),
                activations: prepared.cols(),
            });
        }
        self.check_rows(rows, matrix.rows())
    }

    /// Whether the range lies in the matrix and consists of whole tiles, the
    /// last of which may be cut by the matrix' end.
    pub(crate) fn check_rows(&self, range: &Range<usize>, rows: usize) -> Result<(), KernelError> {
        let row_tile = self.row_tile();
        let whole = range.start <= range.end
            && range.end <= rows
            && range.start.is_multiple_of(row_tile)
            && (range.end.is_multiple_of(row_tile) || range.end == rows);
        match whole {
            true => Ok(()),
            false => Err(KernelError::Rows {
                begin: range.start,
                end: range.end,
                rows,
                row_tile,
            }),
        }
    }

    /// Bytes of a packed matrix, if the shape is supported.
    ///
    /// # Errors
    ///
    /// If it is not, or what the plugin says is no size.
    pub fn packed_bytes(&self, rows: usize, cols: usize) -> Result<usize, KernelError> {
        if !self.supports(rows, cols) {
            return Err(self.unsupported(rows, cols));
        }
        // SAFETY: a pure function of two numbers.
        let bytes = unsafe { (self.functions().packed_bytes)(rows as u64, cols as u64) };
        let limit = (rows as u64)
            .saturating_add(SLACK)
            .saturating_mul(cols as u64 + SLACK)
            .saturating_mul(MAX_WEIGHT_BYTES);
        self.check_size("packed weights", bytes, limit)
    }

    fn prepared_bytes(&self, cols: usize, batch: usize) -> Result<usize, KernelError> {
        // SAFETY: a pure function of two numbers.
        let bytes = unsafe { (self.functions().prepared_bytes)(cols as u64, batch as u64) };
        let limit = (cols as u64 + SLACK)
            .saturating_mul(batch as u64)
            .saturating_mul(MAX_ACTIVATION_BYTES);
        self.check_size("prepared activations", bytes, limit)
    }

    /// A size of zero can't hold anything, so it is as wrong as a huge one.
    fn check_size(&self, what: &'static str, bytes: u64, limit: u64) -> Result<usize, KernelError> {
        match usize::try_from(bytes) {
            Ok(size) if size > 0 && bytes <= limit => Ok(size),
            _ => Err(KernelError::AbsurdSize {
                kernel: self.name().to_owned(),
                what,
                bytes,
                limit,
            }),
        }
    }

    pub(crate) fn check_status(
        &self,
        function: &'static str,
        status: i32,
    ) -> Result<(), KernelError> {
        match status {
            abi::OK => Ok(()),
            _ => Err(KernelError::Failed {
                kernel: self.name().to_owned(),
                function,
                status,
            }),
        }
    }

    fn unsupported(&self, rows: usize, cols: usize) -> KernelError {
        KernelError::Unsupported {
            kernel: self.name().to_owned(),
            rows,
            cols,
        }
    }

    /// Whether both are one opened plugin. Two openings of one file are two:
    /// nothing says that the file is still the same.
    pub(crate) fn is(&self, other: &Kernel) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn alignment(&self) -> usize {
        self.0.table.alignment
    }

    pub(crate) fn functions(&self) -> &Functions {
        &self.0.table.functions
    }
}

pub(crate) fn check_length(
    what: &'static str,
    found: usize,
    expected: usize,
) -> Result<(), KernelError> {
    match found == expected {
        true => Ok(()),
        false => Err(KernelError::Length {
            what,
            found,
            expected,
        }),
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("name", &self.name())
            .field("isa", &self.isa())
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
