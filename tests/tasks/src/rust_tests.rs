//! The tests of the workspace.
//!
//! What failed is told again at the end of everything: a log is cut at its front, and hours of lines come after a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use crate::cargo::cargo;
use crate::outcome::Outcome;

/// Of what one program's failed tests printed: a message comes first, backtraces of helpers after it.
const MAX_REPORT_BYTES: usize = 6000;

/// All of them, whatever fails.
pub fn rust_tests() -> Outcome {
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    match run_and_watch(&mut command) {
        Ok(None) => Outcome::Passed,
        Ok(Some(reports)) => Outcome::Failed(format!("cargo test\n{reports}")),
        Err(error) => Outcome::Failed(format!("cargo test: {error}")),
    }
}

/// Returns what failed.
fn run_and_watch(command: &mut Command) -> std::io::Result<Option<String>> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = thread::scope(|scope| {
        let stdout = scope.spawn(|| watch(stdout, std::io::stdout(), &FAILED_TESTS));
        let stderr = scope.spawn(|| watch(stderr, std::io::stderr(), &FAILED_PROGRAMS));
        let join = |lines: thread::ScopedJoinHandle<'_, _>| lines.join().expect("it cannot panic");
        (join(stdout), join(stderr))
    });
    let status = child.wait()?;
    Ok(match status.success() {
        true => None,
        false => Some([stdout, stderr].concat()),
    })
}

/// Lines from one that begins so up to one that begins so.
struct Report {
    begin: &'static str,
    end: &'static str,
}

/// As a test program prints them.
const FAILED_TESTS: Report = Report {
    begin: "failures:",
    end: "test result:",
};

/// As cargo prints them: those whose tests failed, those that died, what does not compile.
const FAILED_PROGRAMS: Report = Report {
    begin: "error",
    end: "    Finished",
};

/// Passes everything on, and returns the reports in it.
fn watch(from: Option<impl Read>, mut to: impl Write, report: &Report) -> String {
    let mut reports = String::new();
    // Where the report that is being read began.
    let mut begin = None;
    let lines = from
        .into_iter()
        .flat_map(|from| BufReader::new(from).split(b'\n'));
    for line in lines.map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        // Whoever reads may have gone; the tests go on.
        let _ = writeln!(to, "{line}");
        if line.starts_with(report.begin) && begin.is_none() {
            begin = Some(reports.len());
        }
        let Some(start) = begin else {
            continue;
        };
        let is_end = line.starts_with(report.end);
        if is_end || reports.len() - start + line.len() < MAX_REPORT_BYTES {
            reports.push_str(&line);
            reports.push('\n');
        }
        if is_end {
            begin = None;
        }
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
running 2 tests
test a ... ok
test b ... FAILED

failures:

---- b stdout ----
one is not two

failures:
    b

test result: FAILED. 1 passed; 1 failed

running 1 test
test c ... ok

test result: ok. 1 passed; 0 failed
";

    #[test]
    fn what_failed_is_told_again() {
        let mut passed_on = Vec::new();
        let reports = watch(Some(PRINTED.as_bytes()), &mut passed_on, &FAILED_TESTS);
        assert_eq!(String::from_utf8(passed_on).unwrap(), PRINTED);
        let begin = PRINTED.find("failures:").unwrap();
        let end = PRINTED.find("\nrunning 1 test").unwrap();
        assert_eq!(reports, PRINTED[begin..end]);
    }

    #[test]
    fn a_long_report_keeps_its_front_and_its_end() {
        let line = "x".repeat(100);
        let printed = format!(
            "failures:\n{}test result: FAILED\n",
            format!("{line}\n").repeat(1000)
        );
        let reports = watch(Some(printed.as_bytes()), std::io::sink(), &FAILED_TESTS);
        assert!(reports.len() < MAX_REPORT_BYTES + 100, "{}", reports.len());
        assert!(reports.starts_with("failures:\nxxx"));
        assert!(reports.ends_with("xxx\ntest result: FAILED\n"));
    }
}
