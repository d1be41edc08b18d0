//! `WRITING.md` against what it writes about.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const CONFORMANCE: &str = env!("CARGO_BIN_EXE_ternion-conformance");

/// What the page says, and how example.c is made so.
const MISTAKES: [(&str, &str, &str); 8] = [
    (
        "tokens' results are `rows` apart, not `out_stride`",
        "b * out_stride",
        "b * (row_end - row_begin)",
    ),
    ("results are added to what `out` held", "= -sum;", "-= sum;"),
    (
        "sums of 16 bits: wrong by multiples of 65536, and only in long rows",
        "static int32_t add_products(int32_t sum",
        "static int16_t add_products(int16_t sum",
    ),
    (
        "activations are read as uint8",
        "(int8_t)activations[c];",
        "activations[c];",
    ),
    (
        "-128 becomes -127",
        "(int8_t)activations[c];",
        "(activations[c] == 128 ? -127 : (int8_t)activations[c]);",
    ),
    (
        "each call of `pack` begins at the front of the buffer",
        "packed + r * row_bytes(cols)",
        "packed + (r - row_begin) * row_bytes(cols)",
    ),
    (
        "a last tile that isn't full is refused",
        "(row_end % ROW_TILE == 0 || row_end == rows)",
        "row_end % ROW_TILE == 0",
    ),
    (
        "any byte is a weight",
        "trits[c] < -1 || trits[c] > 1",
        "trits[c] == 99",
    ),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

fn page() -> String {
    read("kernel-plugins/WRITING.md")
}

fn example() -> String {
    read("kernel-plugins/example-c/example.c")
}

/// The fenced blocks of the page in a language.
fn blocks(language: &str) -> Vec<String> {
    let page = page();
    let opening = format!("```{language}\n");
    let blocks = page.split(&opening).skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// A command of the page and what it prints there.
struct Step {
    command: String,
    output: String,
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in blocks("console").iter().flat_map(|block| block.lines()) {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                output: String::new(),
            });
        } else {
            let step = steps.last_mut().expect("a block begins with a command");
            let text = if goes_on {
                &mut step.command
            } else {
                &mut step.output
            };
            text.push('\n');
            text.push_str(line);
        }
        goes_on = line.ends_with('\\');
    }
    steps
}

/// A directory in which the page's commands find what they name, and leave
/// what they make. Our programs are those that were built for this test.
struct Workplace(TempDir);

impl Workplace {
    fn new() -> Workplace {
        let dir = tempfile::tempdir().unwrap();
        let headers = dir.path().join("kernel-plugins/abi");
        fs::create_dir_all(&headers).unwrap();
        symlink(
            repository().join("kernel-plugins/abi/include"),
            headers.join("include"),
        )
        .unwrap();
        fs::create_dir(dir.path().join("kernel-plugins/example-c")).unwrap();
        let workplace = Workplace(dir);
        workplace.write_example(&example());
        workplace
    }

    fn write_example(&self, text: &str) {
        fs::write(
            self.0.path().join("kernel-plugins/example-c/example.c"),
            text,
        )
        .unwrap();
    }

    fn run(&self, command: &str) -> Output {
        let command = command
            .replace("cargo conformance", CONFORMANCE)
            .replace("target/release/ternion-conformance", CONFORMANCE);
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &command])
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Runs a command that has to succeed.
    fn make(&self, command: &str) {
        let output = self.run(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
    }
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn its_commands_do_what_they_show() {
    let workplace = Workplace::new();
    let mut compared = 0;
    for Step {
        command,
        output: shown,
    } in steps()
    {
        // Serving is what the end-to-end tests do.
        if command.starts_with("cargo serve") {
            continue;
        }
        let output = workplace.run(&command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}");
        if !shown.is_empty() {
            assert_eq!(printed(&output).trim(), shown.trim(), "{command}");
            compared += 1;
        }
    }
    assert_eq!(compared, 1);
    let aliases = read(".cargo/config.toml");
    assert!(aliases.contains(
        "conformance = \"run --quiet --release --package ternion-kernel-conformance --\""
    ));
}

#[test]
fn its_c_is_that_of_the_example() {
    let example = example();
    let blocks = blocks("c");
    assert!(blocks.len() >= 4);
    for block in blocks {
        assert!(example.contains(&block), "not in example.c:\n{block}");
    }
}

#[test]
fn each_mistake_is_found_and_told_as_it_says() {
    let page = page();
    let rows: HashMap<&str, &str> = page
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| ")?
                .strip_suffix(" |")?
                .split_once(" | ")
        })
        .filter(|(_, told)| told.contains("WRONG"))
        .map(|(mistake, told)| (mistake, told.trim_matches('`')))
        .collect();
    assert_eq!(rows.len(), MISTAKES.len());
    let build = &steps()[0].command;
    let workplace = Workplace::new();
    for (mistake, right, wrong) in MISTAKES {
        let text = example();
        assert!(text.contains(right), "{mistake}");
        workplace.write_example(&text.replacen(right, wrong, usize::MAX));
        workplace.make(build);
        let output = workplace.run(&format!("{CONFORMANCE} ./libternion_kernel_example.so"));
        assert_eq!(output.status.code(), Some(1), "{mistake}");
        let printed = printed(&output);
        let told = rows.get(mistake).expect("the page has it");
        let first = printed.lines().find(|line| line.contains("WRONG"));
        assert_eq!(first.map(str::trim), Some(*told), "{mistake}");
    }
}

/// Runs the page's commands for a sanitizer on an example with a mistake, and
/// returns what it said.
fn sanitized(name: &str, right: &str, wrong: &str) -> String {
    let text = example();
    assert!(text.contains(right), "{right}");
    let workplace = Workplace::new();
    workplace.write_example(&text.replace(right, wrong));
    let steps = steps();
    let is_build = |step: &&Step| step.command.contains(&format!("-fsanitize={name}"));
    let build = steps
        .iter()
        .position(|step| is_build(&step))
        .expect("the page has it");
    workplace.make(&steps[build].command);
    let output = workplace.run(&steps[build + 1].command);
    assert!(!output.status.success(), "{}", printed(&output));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn results_beyond_the_last_row_are_found_by_its_address_sanitizer() {
    let said = sanitized(
        "address",
        "num_rows = row_end - r < ROW_TILE ? row_end - r : ROW_TILE",
        "num_rows = ROW_TILE",
    );
    assert!(said.contains("heap-buffer-overflow"), "{said}");
    assert!(said.contains("example.c"), "{said}");
}

#[test]
fn a_scratch_array_of_all_threads_is_found_by_its_thread_sanitizer() {
    let said = sanitized(
        "thread",
        "uint8_t codes[ROW_TILE]",
        "static uint8_t codes[ROW_TILE]",
    );
    assert!(said.contains("data race"), "{said}");
    assert!(said.contains("example.c"), "{said}");
}

#[test]
fn what_is_no_plugin_and_what_supports_nothing_do_not_pass() {
    let workplace = Workplace::new();
    let conformance = |arguments: &str| workplace.run(&format!("{CONFORMANCE} {arguments}"));
    assert_eq!(conformance("").status.code(), Some(64));
    assert_eq!(conformance("--quick").status.code(), Some(64));
    for wrong in ["--shape 3x2", "--shape 3 a.so", "--shape 3x-2 a.so"] {
        assert_eq!(conformance(wrong).status.code(), Some(64), "{wrong}");
    }
    assert_eq!(conformance("--help").status.code(), Some(0));

    let output = conformance("kernel-plugins/example-c/example.c nothing.so");
    assert_eq!(output.status.code(), Some(2));
    let said = printed(&output);
    assert!(said.contains("example.c is not a library"), "{said}");
    assert!(said.contains("nothing.so can't be read"), "{said}");

    let requires = "\nTERNION_KERNEL_REQUIRES(\"quantum\");\n";
    workplace.write_example(&(example() + requires));
    workplace.make(&steps()[0].command);
    let output = conformance("./libternion_kernel_example.so");
    assert_eq!(output.status.code(), Some(2));
    assert!(printed(&output).contains("quantum"));

    workplace.write_example(&example().replace("return rows > 0 &&", "return 0 && rows > 0 &&"));
    workplace.make(&steps()[0].command);
    let output = conformance("./libternion_kernel_example.so");
    assert_eq!(output.status.code(), Some(1));
    let said = printed(&output);
    assert!(
        said.contains("0 of 18 shapes are exact, 0 wrong, 18 not supported"),
        "{said}"
    );
}
