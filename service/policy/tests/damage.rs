//! Damaged tenants files: tenants or mistakes, never a panic.
#![forbid(unsafe_code)]

mod acme;

use proptest::prelude::*;
use ternion_policy::{KeyHash, Tenants};

/// Two tenants that have everything.
fn whole() -> String {
    let hash = |key| KeyHash::of(key).to_string();
    format!(
        "# Who may call\n\
         [[tenants]]\n\
         name = \"acme\"\n\
         roles = [\"inference\", \"admin\"]\n\
         \n\
         [[tenants.keys]]\n\
         id = \"2026-11\"\n\
         hash = \"{}\"\n\
         [[tenants.keys]]\n\
         id = 'old'\n\
         hash = '{}'\n\
         [tenants.limits]\n\
         requests_per_minute = 60\n\
         tokens_per_minute = 100_000\n\
         concurrent_requests = 0x8\n\
         max_prompt_tokens = 2048\n\
         max_output_tokens = 512\n\
         \n\
         [[tenants]]\n\
         name = \"\"\"glob\\\nex\"\"\"\n\
         certificates = [{{ san = \"spiffe://prod/globex\" }}, {{ san = \"globex.example\" }}]\n",
        hash("one"),
        hash("two"),
    )
}

/// Whether the text is refused, with something to say about each mistake.
fn refused(text: &str) -> bool {
    match Tenants::parse(text) {
        Ok(tenants) => {
            assert!(tenants.len() > 0 && tenants.names().all(|name| !name.is_empty()));
            false
        }
        Err(error) => {
            let lines = text.lines().count().max(1);
            assert!(!error.mistakes().is_empty());
            for mistake in error.mistakes() {
                assert!((1..=lines + 1).contains(&mistake.line), "{mistake}");
                assert!(mistake.message.len() > 5, "{mistake}");
                assert!(mistake.to_string().len() < 1000, "{mistake}");
            }
            assert!(error.to_string().lines().count() <= 101);
            true
        }
    }
}

#[test]
fn the_whole_is_right_until_it_is_damaged() {
    assert!(!refused(&whole()));
}

#[test]
fn no_truncation_causes_a_panic() {
    let whole = whole();
    let noticed = (0..whole.len())
        .filter(|len| refused(&whole[..*len]))
        .count();
    assert!(noticed > 500, "{noticed} of {}", whole.len());
}

#[test]
fn no_line_left_out_or_doubled_causes_a_panic() {
    let whole = whole();
    let lines: Vec<&str> = whole.lines().collect();
    let mut noticed = 0;
    for at in 0..lines.len() {
        for with in [&[][..], &[lines[at], lines[at]]] {
            let damaged = [&lines[..at], with, &lines[at + 1..]].concat();
            noticed += usize::from(refused(&damaged.join("\n")));
        }
    }
    assert!(noticed > 25, "{noticed} of {}", 2 * lines.len());
}

#[test]
fn depth_is_bounded() {
    for deep in [
        "[".repeat(1 << 20),
        format!("tenants = {}", "[".repeat(1 << 19)),
        format!("tenants = {}{}", "[".repeat(1 << 18), "]".repeat(1 << 18)),
        format!("tenants = {}", "{a=".repeat(1 << 18)),
        format!("[{}]", "a.".repeat(1 << 18)),
        format!("{}a = 1", "a.".repeat(1 << 18)),
        "[[a]]\n".repeat(1 << 17),
        "a\n".repeat(1 << 19),
        "\"".repeat(1 << 20),
        "\n".repeat(1 << 20),
        format!("'{}' = 1", "a".repeat((1 << 20) - 10)),
    ] {
        assert!(refused(&deep), "{}", &deep[..20]);
    }
}

/// Words that a tenants file is made of, and some that it isn't.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "[[tenants]]\n",
        "[tenants.limits]\n",
        "[[tenants.keys]]\n",
        "[[tenants.certificates]]\n",
        "name = ",
        "roles = ",
        "id = ",
        "hash = ",
        "san = ",
        "tokens_per_minute = ",
        "tenants = ",
        "keys = ",
        "limits = ",
        "'acme'",
        "\"b-1\"",
        "'admin'",
        "'spiffe://a/b'",
        "'tn_x'",
        "'sha256:'",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "\n",
        "\n",
        "\n",
        "=",
        ".",
        "#",
        "1",
        "-1",
        "0x",
        "1e9",
        "nan",
        "true",
        "2026-11-25T00:00:00Z",
        "'",
        "\"",
        "\"\"\"",
        "'''",
        "\\",
        "\\u0000",
        "\u{feff}",
        "\r",
        "\u{0}",
        "é",
        "𝔘",
    ];
    prop_oneof![
        8 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        1 => Just(format!("'{}'", KeyHash::of("x"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_flip_causes_a_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8), 1..5)) {
        let mut bytes = whole().into_bytes();
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1_u8 << bit;
        }
        refused(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_splice_causes_a_panic(
        from in any::<prop::sample::Index>(),
        len in 0_usize..40,
        words in prop::collection::vec(word(), 0..6),
    ) {
        let whole = whole();
        let from = from.index(whole.len());
        let to = (from + len).min(whole.len());
        refused(&[&whole[..from], &words.concat(), &whole[to..]].concat());
    }

    #[test]
    fn no_heap_of_words_causes_a_panic(words in prop::collection::vec(word(), 0..40)) {
        refused(&words.concat());
    }
}
