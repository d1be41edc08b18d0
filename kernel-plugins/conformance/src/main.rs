//! `ternion-conformance FILE…`: any kernel plugin against the scalar
//! reference, shape by shape.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ternion_kernel_conformance::{Mismatch, full_on_shape, shapes};
use ternion_kernel_host::Kernel;

const USAGE: &str = "\
usage: ternion-conformance [--shape ROWSxCOLS]… FILE…

Multiplies with every kernel plugin that is named and compares each result with the scalar reference: shapes that fill
no tile, or those that are asked for, extreme values, many batches, several threads. Of a shape that is wrong it tells
the first wrong number.

exit status: 0 all are exact, 1 one is wrong, 2 one can't be opened or run here, 64 wrong arguments";

struct Arguments {
    files: Vec<PathBuf>,
    shapes: Vec<(usize, usize)>,
}

/// What came of a file, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Exact = 0,
    Wrong = 1,
    NotOpened = 2,
}

fn main() -> io::Result<ExitCode> {
    if std::env::args_os().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return Ok(ExitCode::SUCCESS);
    }
    let Some(Arguments { files, shapes }) = arguments() else {
        eprintln!("{USAGE}");
        return Ok(ExitCode::from(64));
    };
    let mut worst = Verdict::Exact;
    for file in &files {
        worst = worst.max(examine(file, &shapes)?);
    }
    Ok(ExitCode::from(worst as u8))
}

fn arguments() -> Option<Arguments> {
    let (mut files, mut asked_for) = (Vec::new(), Vec::new());
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--shape" {
            asked_for.push(shape(&arguments.next()?)?);
        } else if argument.as_encoded_bytes().starts_with(b"-") {
            return None;
        } else {
            files.push(argument.into());
        }
    }
    let shapes = match asked_for.is_empty() {
        true => shapes().collect(),
        false => asked_for,
    };
    (!files.is_empty()).then_some(Arguments { files, shapes })
}

fn shape(text: &OsString) -> Option<(usize, usize)> {
    let (rows, cols) = text.to_str()?.split_once('x')?;
    Some((rows.parse().ok()?, cols.parse().ok()?))
}

fn examine(file: &Path, shapes: &[(usize, usize)]) -> io::Result<Verdict> {
    let mut out = io::stdout().lock();
    let kernel = match Kernel::open(file) {
        Ok(kernel) => kernel,
        Err(error) => {
            writeln!(out, "{} {error}", file.display())?;
            return Ok(Verdict::NotOpened);
        }
    };
    let (name, version, isa) = (kernel.name(), kernel.version(), kernel.isa());
    let (score, row_tile) = (kernel.score(), kernel.row_tile());
    writeln!(
        out,
        "{}: {name} {version}, {isa}, score {score}, row tile {row_tile}",
        file.display()
    )?;
    let (mut exact, mut supported) = (0, 0);
    for &(rows, cols) in shapes {
        // Told before it is tried, as a plugin may end the process.
        write!(out, "{:>12}  ", format!("{rows}x{cols}"))?;
        out.flush()?;
        if !kernel.supports(rows, cols) {
            writeln!(out, "not supported")?;
            continue;
        }
        supported += 1;
        match full_on_shape(&kernel, rows, cols) {
            Ok(()) => {
                exact += 1;
                writeln!(out, "exact")?;
            }
            Err(Mismatch { inputs, fault, .. }) => writeln!(out, "WRONG, {inputs}: {fault}")?,
        }
    }
    writeln!(
        out,
        "{exact} of {} shapes are exact, {} wrong, {} not supported",
        shapes.len(),
        supported - exact,
        shapes.len() - supported
    )?;
    // A plugin that supports nothing has shown nothing.
    Ok(if exact == supported && supported > 0 {
        Verdict::Exact
    } else {
        Verdict::Wrong
    })
}
