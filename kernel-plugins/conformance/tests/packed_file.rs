//! A file of packed weights gives the matrices that were put into it, or an
//! error; and gets its name only when it is whole, whoever else writes, dies,
//! or has put something in its place.
#![cfg(unix)]

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ternion_kernel_host::{
    CacheDir, Kernel, Origin, PackedFile, PackedFileError, PackedMatrix, PackedPlan, PackedWriter,
    PackedWriterError, Prepared,
};

const SHAPES: [(usize, usize); 3] = [(70, 300), (32, 16), (33, 129)];
const LIMIT: u64 = 1 << 20;
const ORIGIN: Origin = Origin {
    stamp: Some([7; 32]),
    content: [9; 32],
};

fn i2s() -> Kernel {
    // SAFETY: the table is a static that follows the contract.
    unsafe { Kernel::from_table(ternion_kernel_i2s::ternion_kernel_v1()) }.unwrap()
}

struct Place {
    root: tempfile::TempDir,
    cache: CacheDir,
    kernel: Kernel,
}

impl Place {
    fn new() -> Place {
        let root = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(&root.path().join("cache")).unwrap();
        let kernel = i2s();
        Place {
            root,
            cache,
            kernel,
        }
    }

    fn plan(&self, model: &str) -> PackedPlan {
        PackedPlan::new(&self.kernel, model, &SHAPES).unwrap()
    }

    fn matrix(&self, index: usize) -> PackedMatrix {
        let (rows, cols) = SHAPES[index];
        let pack = self.kernel.pack(rows, cols, |range, trits| {
            let first = range.start * cols;
            for (i, trit) in trits.iter_mut().enumerate() {
                *trit = ((first + i) * (index + 5) % 7 % 3) as i8 - 1;
            }
            Ok::<(), Infallible>(())
        });
        pack.unwrap()
    }

    fn begin<'a>(&'a self, plan: &'a PackedPlan) -> PackedWriter<'a> {
        PackedWriter::begin(&self.cache, plan, Duration::ZERO).unwrap()
    }

    fn write(&self, plan: &PackedPlan) {
        let writer = self.begin(plan);
        writer.reserve(LIMIT).unwrap();
        fill(self, &writer);
        writer.finish(&ORIGIN).unwrap();
    }

    /// All matrices of the file, or what is wrong with it.
    fn read(&self, plan: &PackedPlan) -> Result<Option<Vec<(PackedMatrix, f32)>>, PackedFileError> {
        let Some(file) = PackedFile::open(&self.cache, plan)? else {
            return Ok(None);
        };
        assert_eq!(file.origin(), ORIGIN);
        (0..SHAPES.len())
            .map(|i| file.matrix(i))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache.path()).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
        names.sort();
        names
    }

    /// The one file there is.
    fn only(&self) -> PathBuf {
        let names = self.names();
        assert_eq!(names.len(), 1, "{names:?}");
        self.cache.path().join(&names[0])
    }
}

fn fill(place: &Place, writer: &PackedWriter<'_>) {
    for index in 0..SHAPES.len() {
        writer
            .put(index, &place.matrix(index), index as f32 + 0.5)
            .unwrap();
    }
}

fn product(kernel: &Kernel, matrix: &PackedMatrix) -> Vec<i32> {
    let activations: Vec<i8> = (0..matrix.cols()).map(|i| (i * 37 % 251) as i8).collect();
    let mut prepared = Prepared::default();
    kernel
        .prepare(matrix.cols(), 1, &activations, &mut prepared)
        .unwrap();
    let mut out = vec![0; matrix.rows()];
    kernel
        .gemm(matrix, &prepared, 0..matrix.rows(), &mut out, matrix.rows())
        .unwrap();
    out
}

#[test]
fn what_was_put_in_comes_out() {
    let place = Place::new();
    let plan = place.plan("m");
    assert!(place.read(&plan).unwrap().is_none());
    place.write(&plan);
    assert_eq!(place.only().metadata().unwrap().len(), plan.bytes() as u64);
    let read = place.read(&plan).unwrap().unwrap();
    for (index, (matrix, scale)) in read.iter().enumerate() {
        assert_eq!((matrix.rows(), matrix.cols()), SHAPES[index]);
        let packed = place.matrix(index);
        assert_eq!(
            product(&place.kernel, matrix),
            product(&place.kernel, &packed)
        );
        assert_eq!(*scale, index as f32 + 0.5);
    }
    // It is used on when its file is gone.
    fs::remove_file(place.only()).unwrap();
    assert!(
        product(&place.kernel, &read[0].0)
            .iter()
            .any(|sum| *sum != 0)
    );
}

#[test]
fn every_byte_counts() {
    let place = Place::new();
    let plan = place.plan("m");
    place.write(&plan);
    let path = place.only();
    let whole = fs::read(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    // All that is before the checks, and as many of the others as take a second.
    for at in (0..136).chain((136..whole.len()).step_by(11)) {
        let damaged = whole[at] ^ 1 << (at % 8);
        file.write_all_at(&[damaged], at as u64).unwrap();
        let error = place.read(&plan).expect_err("a changed byte");
        let in_header = matches!(error, PackedFileError::Header { .. });
        assert_eq!(in_header, at < 4096, "byte {at}: {error}");
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    for len in [0, 1, 4096, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = place.read(&plan).unwrap_err();
        assert!(matches!(error, PackedFileError::Length { .. }), "{error}");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    let error = place.read(&plan).unwrap_err();
    assert!(matches!(error, PackedFileError::Length { .. }), "{error}");
    // And is made good by writing it again.
    place.write(&plan);
    assert_eq!(fs::read(&path).unwrap(), whole);
}

#[test]
fn another_model_plugin_or_shape_is_another_file() {
    let place = Place::new();
    place.write(&place.plan("m"));
    assert!(place.read(&place.plan("n")).unwrap().is_none());
    // SAFETY: the table is a static, and its copy is leaked.
    let mut table = unsafe { *ternion_kernel_i2s::ternion_kernel_v1() };
    table.version = c"0.0.0-other".as_ptr();
    // SAFETY: as above; the functions are those of i2s.
    let other = unsafe { Kernel::from_table(Box::leak(Box::new(table))) }.unwrap();
    let plan = PackedPlan::new(&other, "m", &SHAPES).unwrap();
    assert!(place.read(&plan).unwrap().is_none());
    let mut shapes = SHAPES;
    shapes.swap(0, 2);
    let plan = PackedPlan::new(&place.kernel, "m", &shapes).unwrap();
    assert!(place.read(&plan).unwrap().is_none());
    // By whatever name it goes.
    fs::rename(place.only(), place.root.path().join("moved")).unwrap();
    place.write(&place.plan("n"));
    fs::rename(place.root.path().join("moved"), place.only()).unwrap();
    let error = place.read(&place.plan("n")).unwrap_err();
    assert!(matches!(error, PackedFileError::Header { .. }), "{error}");
}

#[test]
fn two_that_write_the_same_file_write_it_once() {
    let place = Place::new();
    let plan = place.plan("m");
    let first = place.begin(&plan);
    let busy = PackedWriter::begin(&place.cache, &plan, Duration::from_millis(50)).unwrap_err();
    assert!(matches!(busy, PackedWriterError::Busy { .. }), "{busy}");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| {
            let since = Instant::now();
            let second = PackedWriter::begin(&place.cache, &plan, Duration::from_secs(60)).unwrap();
            // The first is done: what it wrote is there, and isn't touched.
            assert!(place.read(&plan).unwrap().is_some());
            drop(second);
            since.elapsed()
        });
        std::thread::sleep(Duration::from_millis(200));
        first.reserve(LIMIT).unwrap();
        fill(&place, &first);
        first.finish(&ORIGIN).unwrap();
        assert!(second.join().unwrap() >= Duration::from_millis(150));
    });
    assert!(place.read(&plan).unwrap().is_some());
    place.only();
}

#[test]
fn what_is_not_finished_is_not_there() {
    let place = Place::new();
    let plan = place.plan("m");
    let writer = place.begin(&plan);
    writer.reserve(LIMIT).unwrap();
    fill(&place, &writer);
    assert!(place.read(&plan).unwrap().is_none());
    let unfinished = place.only();
    assert_eq!(unfinished.metadata().unwrap().len(), plan.bytes() as u64);
    drop(writer);
    assert!(place.names().is_empty());

    // What a killed writer leaves, of this file and of another.
    fs::write(&unfinished, vec![0xaa; 3 * plan.bytes()]).unwrap();
    let other = place.cache.path().join(".packed-other");
    fs::write(&other, "left").unwrap();
    place.write(&plan);
    assert!(place.read(&plan).unwrap().is_some());
    place.only();
}

#[test]
fn the_unfinished_file_of_a_living_writer_stays() {
    let place = Place::new();
    let (m, n) = (place.plan("m"), place.plan("n"));
    let writer = place.begin(&m);
    writer.reserve(LIMIT).unwrap();
    place.write(&n);
    fill(&place, &writer);
    writer.finish(&ORIGIN).unwrap();
    assert!(place.read(&m).unwrap().is_some() && place.read(&n).unwrap().is_some());
}

#[test]
fn links_are_not_followed_and_their_targets_left_alone() {
    let place = Place::new();
    let plan = place.plan("m");
    place.write(&plan);
    let (name, target) = (place.only(), place.root.path().join("target"));
    fs::rename(&name, &target).unwrap();
    symlink(&target, &name).unwrap();
    let before = fs::read(&target).unwrap();
    let error = place.read(&plan).unwrap_err();
    assert!(matches!(error, PackedFileError::Cache(_)), "{error}");
    place.write(&plan);
    assert!(place.read(&plan).unwrap().is_some());
    assert!(!fs::symlink_metadata(&name).unwrap().is_symlink());
    assert_eq!(fs::read(&target).unwrap(), before);

    // Nor when it is written.
    let unfinished = unfinished_of(&name);
    symlink(&target, &unfinished).unwrap();
    let error = PackedWriter::begin(&place.cache, &plan, Duration::ZERO).unwrap_err();
    assert!(matches!(error, PackedWriterError::Cache(_)), "{error}");
    assert_eq!(fs::read(&target).unwrap(), before);
}

fn unfinished_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!(".{name}"))
}

#[test]
fn those_used_longest_ago_make_room() {
    let place = Place::new();
    let plans = ["a", "b", "c", "d"].map(|model| place.plan(model));
    let there = || {
        plans
            .each_ref()
            .map(|plan| place.read(plan).unwrap().is_some())
    };
    let pause = || std::thread::sleep(Duration::from_millis(20));
    let limit = 3 * plans[0].bytes() as u64;
    for plan in &plans[..3] {
        place.write(plan);
        pause();
    }
    // `a` is the oldest but was used last.
    place.read(&plans[0]).unwrap();
    let writer = place.begin(&plans[3]);
    writer.reserve(limit).unwrap();
    fill(&place, &writer);
    writer.finish(&ORIGIN).unwrap();
    assert_eq!(there(), [true, false, true, true]);

    let writer = place.begin(&plans[1]);
    let error = writer.reserve(limit / 4).unwrap_err();
    assert!(
        matches!(error, PackedWriterError::OverLimit { .. }),
        "{error}"
    );
    assert_eq!(there(), [true, false, true, true]);
}
