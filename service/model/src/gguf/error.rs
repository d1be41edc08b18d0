/// What is wrong with a GGUF file. Offsets count from the start of the file.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("byte {offset}: {what} needs {needed} bytes, {left} are left")]
    Truncated {
        what: String,
        offset: usize,
        needed: u64,
        left: usize,
    },

    #[error("byte 4: version is {version}, expected 2 or 3{}", swapped(*version))]
    Version { version: u32 },

    #[error("byte {offset}: {what} is {got}, the limit is {limit}")]
    TooLarge {
        what: String,
        offset: usize,
        got: u64,
        limit: u64,
    },

    #[error("byte {offset}: {what} is {got}, expected {want}")]
    Unexpected {
        what: String,
        offset: usize,
        got: String,
        want: &'static str,
    },

    #[error("byte {offset}: {what} {name} appears twice")]
    Duplicate {
        what: &'static str,
        name: String,
        offset: usize,
    },

    #[error(
        "byte {offset}: tensor {tensor}: shape {shape:?} of {kind} is not a whole number of its blocks, or too large"
    )]
    Shape {
        tensor: String,
        offset: usize,
        shape: Vec<u64>,
        kind: &'static str,
    },

    #[error(
        "byte {offset}: tensor {tensor}: {bytes} bytes at data offset {start} do not lie within the {available} bytes of data at byte {data_start}"
    )]
    OutOfRange {
        tensor: String,
        offset: usize,
        start: u64,
        bytes: u64,
        data_start: usize,
        available: usize,
    },

    #[error("tensors {first} and {second} overlap at byte {offset}")]
    Overlap {
        first: String,
        second: String,
        offset: usize,
    },
}

fn swapped(version: u32) -> &'static str {
    if (2..=3).contains(&version.swap_bytes()) {
        " (the file is big-endian)"
    } else {
        ""
    }
}
