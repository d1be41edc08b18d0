#![no_main]
#![forbid(unsafe_code)]

// The loader expects panics of the library that reads this format and turns them into errors; without this they would
// end the process before. Those that get past the loader still do.
libfuzzer_sys::fuzz_target!(
    init: {
        let _ = std::panic::take_hook();
    },
    |data: &[u8]| {
        ternion_fuzz::tokenizer_json::run(data);
    }
);
