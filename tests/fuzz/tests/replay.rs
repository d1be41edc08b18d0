//! Every input of the corpus, through the function it is for.
#![forbid(unsafe_code)]

use std::path::Path;

use ternion_fuzz::TARGETS;

#[test]
fn nothing_in_the_corpus_fails() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let directory = corpus.join(target.name);
        let mut inputs: Vec<_> = std::fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
            .map(|entry| entry.expect("it can be listed").path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{} has no seed", target.name);
        for input in inputs {
            // Shown by a test that fails.
            println!("{}", input.display());
            let taken = (target.run)(&std::fs::read(&input).expect("it can be read"));
            // Seeds have names of their own; what a fuzzer found has its symptom and a hash.
            let seed = input.extension().is_none();
            assert!(taken || !seed, "{} is refused", input.display());
        }
    }
}
