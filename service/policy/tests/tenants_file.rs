//! Every mistake in a tenants file, and what is said about it.
#![forbid(unsafe_code)]

use ternion_policy::{KeyHash, Tenants};

/// A hash that is right, and two others.
const HASH: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF";
const OTHER: &str = "sha256:1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// `text` with `HASH`, `OTHER` and a whole tenant `ACME` filled in.
fn filled(text: &str) -> String {
    let acme = "[[tenants]]\nname = 'acme'\nkeys = [{ id = 'one', hash = 'HASH' }]\n";
    text.replace("ACME", acme)
        .replace("HASH", HASH)
        .replace("OTHER", OTHER)
}

#[track_caller]
fn assert_mistakes(text: &str, expected: &[&str]) {
    let error = Tenants::parse(&filled(text)).expect_err(text);
    let lines: Vec<String> = error.mistakes().iter().map(ToString::to_string).collect();
    assert_eq!(lines, expected, "{text}");
    assert_eq!(error.to_string(), expected.join("\n"));
}

#[track_caller]
fn names(text: &str) -> Vec<String> {
    let tenants = Tenants::parse(&filled(text)).unwrap();
    assert_eq!(tenants.len(), tenants.names().count());
    tenants.names().map(str::to_owned).collect()
}

#[test]
fn the_example_of_the_documentation_is_one() {
    let source = include_str!("../src/tenants.rs");
    let (_, rest) = source.split_once("/// ```toml\n").unwrap();
    let (example, _) = rest.split_once("/// ```\n").unwrap();
    let example = example.replace("///", "").replace("sha256:…", "HASH");
    assert_eq!(names(&example), ["acme"]);
}

#[test]
fn much_may_be_left_out() {
    assert_eq!(names("ACME"), ["acme"]);
    let by_certificate = "[[tenants]]\nname = '0-9'\ncertificates = [{ san = 'a.b' }]";
    assert_eq!(names(by_certificate), ["0-9"]);
    assert_eq!(names(&format!("ACME\n{by_certificate}")), ["acme", "0-9"]);
    assert_eq!(names("ACME limits = {}"), ["acme"]);
    assert_eq!(names("ACME limits.max_prompt_tokens = 0x7ff"), ["acme"]);
    // Ids differ within a tenant only.
    let globex = "[[tenants]]\nname = 'globex'\nkeys = [{ id = 'one', hash = 'OTHER' }]";
    assert_eq!(names(&format!("ACME\n{globex}")), ["acme", "globex"]);
}

#[test]
fn those_with_certificates_are_known_by_name() {
    let san = |san: &str| format!("certificates = [{{ san = '{san}' }}]");
    let text = format!(
        "ACME\n{}\n[[tenants]]\nname = 'globex'\nkeys = [{{ id = 'one', hash = 'OTHER' }}]\n\
         [[tenants]]\nname = 'initech'\n{}",
        san("a.example"),
        san("b.example")
    );
    let tenants = Tenants::parse(&filled(&text)).unwrap();
    let with: Vec<&str> = tenants.with_certificates().collect();
    assert_eq!(with, ["acme", "initech"]);
}

#[test]
fn a_hash_is_that_of_sha256sum() {
    // printf %s tn_AAAA… | sha256sum
    let key = format!("tn_{}", "A".repeat(43));
    assert_eq!(
        KeyHash::of(&key).to_string(),
        "sha256:e763c8761b54bb4d81109e068f693183f291e9cc0235f88d568a9b3ca6e8d054"
    );
}

#[test]
fn what_is_not_toml_is_said_with_its_line() {
    assert_mistakes(
        "ACME\n[[tenants]\nname = a\n[[tenants]]\nname = \n",
        &[
            "not TOML: unclosed array table, expected `]` (line 5)",
            "not TOML: string values must be quoted, expected literal string (line 8)",
        ],
    );
    assert_mistakes("ACME name = 'again'", &["not TOML: duplicate key (line 4)"]);
}

#[test]
fn a_file_that_is_too_long_is_not_read() {
    let text = format!("ACME #{}", "x".repeat(1 << 20));
    let len = filled(&text).len();
    let message = format!("file has {len} bytes, at most 1048576 may be (line 1)");
    assert_mistakes(&text, &[&message]);
    let len = filled("ACME #").len();
    assert_eq!(
        names(&format!("ACME #{}", "x".repeat((1 << 20) - len))),
        ["acme"]
    );
}

#[test]
fn a_key_that_is_not_known_is_a_slip_or_another_word() {
    assert_mistakes(
        "tenant = 1",
        &[
            "tenant: is not known; did you mean tenants? (line 1)",
            "tenants: there are none, so nobody could call (line 1)",
        ],
    );
    assert_mistakes(
        "ACME\nlimits = { request_per_minute = 1, tokens_per_hour = 1, burst = 2 }\n\
         certificate = []\nx = 1",
        &[
            "tenants[0].limits.request_per_minute: is not known; did you mean \
             requests_per_minute? (line 5)",
            "tenants[0].limits.tokens_per_hour: is not known; did you mean tokens_per_minute? \
             (line 5)",
            "tenants[0].limits.burst: is not known; known are requests_per_minute, \
             tokens_per_minute, concurrent_requests, max_prompt_tokens, max_output_tokens (line 5)",
            "tenants[0].certificate: is not known; did you mean certificates? (line 6)",
            "tenants[0].x: is not known; known are name, roles, cache_group, keys, certificates, \
             weight, limits (line 7)",
        ],
    );
    assert_mistakes(
        "[[tenants]]\nname = 'acme'\nkeys = [{ id = 'one', hash = 'HASH', name = 'x' }]\n\
         certificates = [{ san = 'a.b', id = 'x' }]",
        &[
            "tenants[0].keys[0].name: is not known; known are id, hash (line 3)",
            "tenants[0].certificates[0].id: is not known; known are san (line 4)",
        ],
    );
}

#[test]
fn odd_names_are_shown_tamed() {
    assert_mistakes(
        "ACME\n\"\\u0007 ünd\" = 1\n\"\" = 2",
        &[
            "tenants[0].\"\\u{7} ünd\": is not known; known are name, roles, cache_group, keys, \
             certificates, weight, limits (line 5)",
            "tenants[0].\"\": is not known; known are name, roles, cache_group, keys, certificates, \
             weight, limits (line 6)",
        ],
    );
    let long = "ü".repeat(65);
    let message = format!(
        "\"{}…\": is not known; known are tenants (line 4)",
        "ü".repeat(64)
    );
    // Before any table, so in the root.
    assert_mistakes(&format!("\n\n\n'{long}' = 1\nACME"), &[&message]);
}

#[test]
fn there_must_be_tenants() {
    let none = "tenants: there are none, so nobody could call (line 1)";
    assert_mistakes("", &[none]);
    assert_mistakes("# nobody\n", &[none]);
    assert_mistakes("tenants = []", &[none]);
}

#[test]
fn lists_of_tables_are_easily_written_as_tables() {
    assert_mistakes(
        "[tenants]\nname = 'acme'",
        &["tenants: must be a list of tables, each headed [[tenants]] (line 1)"],
    );
    assert_mistakes(
        "[[tenants]]\nname = 'acme'\n[tenants.keys]\nid = 'one'\nhash = 'HASH'\n\
         [tenants.certificates]\nsan = 'a.b'",
        &[
            "tenants[0].keys: must be a list of tables, each headed [[tenants.keys]] (line 3)",
            "tenants[0].certificates: must be a list of tables, each headed \
             [[tenants.certificates]] (line 6)",
        ],
    );
}

#[test]
fn every_value_has_its_type() {
    for (value, got) in [
        ("'x'", "a string"),
        ("1", "an integer"),
        ("1.5", "a float"),
        ("true", "a boolean"),
        ("2026-11-25", "a datetime"),
        ("[]", "an array"),
        ("{}", "a table"),
    ] {
        let say =
            |path: &str, expected: &str| format!("{path}: must be {expected}, not {got} (line 1)");
        let check = |text: &str, path: &str, expected: &str| {
            assert_mistakes(&text.replace("VALUE", value), &[&say(path, expected)]);
        };
        if !matches!(value, "[]" | "{}") {
            check("tenants = VALUE", "tenants", "an array");
            check(
                "tenants = [{ name = 'a', keys = VALUE }]",
                "tenants[0].keys",
                "an array",
            );
            check(
                "tenants = [{ name = 'a', certificates = VALUE }]",
                "tenants[0].certificates",
                "an array",
            );
        }
        let certificate = "certificates = [{ san = 'a.b' }]";
        if value != "[]" {
            let text = format!("tenants = [{{ name = 'a', roles = VALUE, {certificate} }}]");
            check(&text, "tenants[0].roles", "an array");
        }
        if value != "{}" {
            check("tenants = [VALUE]", "tenants[0]", "a table");
            let text = format!("tenants = [{{ name = 'a', limits = VALUE, {certificate} }}]");
            check(&text, "tenants[0].limits", "a table");
            check(
                "tenants = [{ name = 'a', keys = [VALUE] }]",
                "tenants[0].keys[0]",
                "a table",
            );
            check(
                "tenants = [{ name = 'a', certificates = [VALUE] }]",
                "tenants[0].certificates[0]",
                "a table",
            );
        }
        if value != "'x'" {
            let text = format!("tenants = [{{ name = VALUE, {certificate} }}]");
            check(&text, "tenants[0].name", "a string");
            let text = format!("tenants = [{{ name = 'a', cache_group = VALUE, {certificate} }}]");
            check(&text, "tenants[0].cache_group", "a string");
            let text = format!("tenants = [{{ name = 'a', roles = [VALUE], {certificate} }}]");
            check(&text, "tenants[0].roles[0]", "a string");
            check(
                "tenants = [{ name = 'a', keys = [{ id = VALUE, hash = 'HASH' }] }]",
                "tenants[0].keys[0].id",
                "a string",
            );
            check(
                "tenants = [{ name = 'a', keys = [{ id = 'x', hash = VALUE }] }]",
                "tenants[0].keys[0].hash",
                "a string",
            );
            check(
                "tenants = [{ name = 'a', certificates = [{ san = VALUE }] }]",
                "tenants[0].certificates[0].san",
                "a string",
            );
        }
        if value != "1" {
            let text = format!(
                "tenants = [{{ name = 'a', limits.max_prompt_tokens = VALUE, {certificate} }}]"
            );
            check(
                &text,
                "tenants[0].limits.max_prompt_tokens",
                "a whole number",
            );
        }
    }
}

#[test]
fn what_is_needed_is_missed() {
    assert_mistakes(
        "\n[[tenants]]\n\n[[tenants.keys]]\n\n[[tenants.certificates]]\n",
        &[
            "tenants[0].name: is missing (line 2)",
            "tenants[0].keys[0].id: is missing (line 4)",
            "tenants[0].keys[0].hash: is missing (line 4)",
            "tenants[0].certificates[0].san: is missing (line 6)",
        ],
    );
    assert_mistakes(
        "ACME\n[[tenants]]\nname = 'globex'\n",
        &["tenants[1]: has neither keys nor certificates, so nobody could be it (line 5)"],
    );
}

#[test]
fn names_are_short_and_plain() {
    let tenant = |name: &str| {
        format!("[[tenants]]\nname = '{name}'\nkeys = [{{ id = 'one', hash = 'HASH' }}]")
    };
    let longest = "a".repeat(64);
    assert_eq!(names(&tenant(&longest)), [longest.as_str()]);
    for name in ["", "Acme", "acme corp", "acme_corp", "ácme", "a.b", "a\tb"] {
        let shown = name.replace('\t', "\\t");
        let message =
            format!("tenants[0].name: must be 1 to 64 of a-z, 0-9 and -, not \"{shown}\" (line 2)");
        assert_mistakes(&tenant(name), &[&message]);
    }
    let message =
        format!("tenants[0].name: must be 1 to 64 of a-z, 0-9 and -, not \"{longest}…\" (line 2)");
    assert_mistakes(&tenant(&"a".repeat(65)), &[&message]);
    // Characters are counted, not their bytes.
    let wide = "é".repeat(64);
    let message =
        format!("tenants[0].name: must be 1 to 64 of a-z, 0-9 and -, not \"{wide}\" (line 2)");
    assert_mistakes(&tenant(&wide), &[&message]);
    assert_mistakes(
        &tenant("anonymous"),
        &["tenants[0].name: anonymous is what callers are without tenants (line 2)"],
    );
}

#[test]
fn groups_have_names_like_tenants() {
    assert_eq!(names("ACME cache_group = 'emea-1'"), ["acme"]);
    for group in ["", "EMEA", "a b"] {
        let message = format!(
            "tenants[0].cache_group: must be 1 to 64 of a-z, 0-9 and -, not \"{group}\" (line 4)"
        );
        assert_mistakes(&format!("ACME cache_group = '{group}'"), &[&message]);
    }
}

#[test]
fn roles_are_known_and_some() {
    for roles in [
        "['inference']",
        "['admin']",
        "['admin', 'inference']",
        "['admin', 'admin']",
    ] {
        assert_eq!(names(&format!("ACME\nroles = {roles}")), ["acme"]);
    }
    assert_mistakes(
        "ACME\nroles = []",
        &["tenants[0].roles: there are none, so the tenant could call nothing (line 5)"],
    );
    assert_mistakes(
        "ACME\nroles = ['Admin', 'root']",
        &[
            "tenants[0].roles[0]: must be inference or admin, not \"Admin\" (line 5)",
            "tenants[0].roles[1]: must be inference or admin, not \"root\" (line 5)",
        ],
    );
    assert_mistakes(
        "ACME\nroles = ['admin', 'admin', 'what is beyond is not read']",
        &["tenants[0].roles: has 3 items, at most 2 may be (line 5)"],
    );
}

#[test]
fn key_ids_can_stand_in_a_log() {
    let tenant =
        |id: &str| format!("[[tenants]]\nname = 'a'\nkeys = [\n{{ id = '{id}', hash = 'HASH' }}]");
    assert_eq!(names(&tenant("2026-11_B.c")), ["a"]);
    assert_eq!(names(&tenant(&"x".repeat(64))), ["a"]);
    for id in ["", "a b", "é", "a\tb", "x=y", &"x".repeat(65)] {
        assert_mistakes(
            &tenant(id),
            &["tenants[0].keys[0].id: must be 1 to 64 of a-z, A-Z, 0-9, -, _ and . (line 4)"],
        );
    }
    assert_mistakes(
        &tenant(&format!("tn_{}", "A".repeat(43))),
        &[
            "tenants[0].keys[0].id: looks like a key, and ids are written to logs: choose a name \
             such as a date (line 4)",
        ],
    );
    assert_mistakes(
        "[[tenants]]\nname = 'a'\nkeys = [\n{ id = 'x', hash = 'HASH' },\n{ id = 'x', hash = \
         'OTHER' }]",
        &["tenants[0].keys[1].id: is the same as tenants[0].keys[0].id (line 5)"],
    );
}

#[test]
fn hashes_are_hashes() {
    let tenant =
        |hash: &str| format!("[[tenants]]\nname = 'a'\nkeys = [{{ id = 'x', hash = '{hash}' }}]");
    let digits = &HASH["sha256:".len()..];
    for hash in [
        String::new(),
        "sha256:".to_owned(),
        digits.to_owned(),
        format!("sha512:{digits}"),
        format!("SHA256:{digits}"),
        format!("sha256: {digits}"),
        format!("sha256:{digits}0"),
        format!("sha256:{digits}00"),
        format!("sha256:{}", &digits[1..]),
        format!("sha256:{}g", &digits[1..]),
        format!("sha256:{}é", &digits[2..]),
        format!("sha256:+{}", &digits[1..]),
    ] {
        assert_mistakes(
            &tenant(&hash),
            &[
                "tenants[0].keys[0].hash: must be sha256: and 64 hexadecimal digits, as of \
                 `printf %s \"$KEY\" | sha256sum` (line 3)",
            ],
        );
    }
    assert_mistakes(
        &tenant(&format!("tn_{}", "A".repeat(43))),
        &[
            "tenants[0].keys[0].hash: is a key itself, which is now no secret any more: make a \
             new one, and write its hash (line 3)",
        ],
    );
}

#[test]
fn nothing_is_there_twice() {
    let upper = HASH.to_uppercase().replace("SHA", "sha");
    assert_mistakes(
        &format!(
            "ACME certificates = [{{ san = 'a.example' }}, {{ san = 'urn:x' }}]\n[[tenants]]\n\
             name = 'acme'\nkeys = [\n{{ id = 'two', hash = '{upper}' }}]\ncertificates = [\n\
             {{ san = 'A.Example' }},\n{{ san = 'urn:X' }},\n{{ san = 'urn:x' }}]"
        ),
        &[
            "tenants[1].name: is the same as tenants[0].name (line 6)",
            "tenants[1].keys[0].hash: is the same as tenants[0].keys[0].hash (line 8)",
            "tenants[1].certificates[0].san: is the same as tenants[0].certificates[0].san \
             (line 10)",
            "tenants[1].certificates[2].san: is the same as tenants[0].certificates[1].san \
             (line 12)",
        ],
    );
}

#[test]
fn sans_are_uris_or_dns_names() {
    let tenant =
        |san: &str| format!("[[tenants]]\nname = 'a'\ncertificates = [{{ san = '{san}' }}]");
    let label = "a".repeat(63);
    let longest = [label.as_str(); 4].join(".")[..253].to_owned();
    let uri = format!("spiffe://{}", "a".repeat(2048 - "spiffe://".len()));
    for san in [
        "localhost",
        "a-1_x.example",
        &longest,
        "spiffe://prod/acme?x#y",
        "urn:uuid:1",
        &uri,
    ] {
        assert_eq!(names(&tenant(san)), ["a"], "{san}");
    }
    for san in ["*.example", "spiffe://*/acme", "*"] {
        let message = format!(
            "tenants[0].certificates[0].san: names are compared whole, and * stands for nothing: \
             \"{san}\" (line 3)"
        );
        assert_mistakes(&tenant(san), &[&message]);
    }
    for san in [
        "",
        ".",
        "a..b",
        "a.example.",
        "a b",
        "é.example",
        "host:50051",
        "::1",
        "urn:",
        "://x",
        "1://x",
        "a b://x",
        "http://",
        "spiffe://prod/a b",
        "spiffe://prod/é",
        "CN=acme",
        &format!("{label}a"),
    ] {
        let message = format!(
            "tenants[0].certificates[0].san: must be a URI (spiffe://prod/acme) or a DNS name: \
             \"{san}\" (line 3)"
        );
        assert_mistakes(&tenant(san), &[&message]);
    }
    for san in [format!("{longest}a"), format!("{uri}a")] {
        let error = Tenants::parse(&tenant(&san)).unwrap_err();
        assert_eq!(error.mistakes().len(), 1);
    }
}

#[test]
fn limits_are_at_least_one_and_not_absurd() {
    for limit in [
        "requests_per_minute",
        "tokens_per_minute",
        "concurrent_requests",
        "max_prompt_tokens",
        "max_output_tokens",
    ] {
        let tenant = |value: &str| format!("ACME\nlimits.{limit} = {value}");
        for value in [
            "1",
            "+1",
            "1_000_000_000_000",
            "0xe8d4a51000",
            "0o17",
            "0b1",
        ] {
            assert_eq!(names(&tenant(value)), ["acme"]);
        }
        for value in [
            "0",
            "-1",
            "-0",
            "1_000_000_000_001",
            "9223372036854775807",
            "99999999999999999999999999999999999999999999999",
        ] {
            let message = format!(
                "tenants[0].limits.{limit}: must be from 1 to 1000000000000; without it there is \
                 no limit (line 5)"
            );
            assert_mistakes(&tenant(value), &[&message]);
        }
    }
}

#[test]
fn weights_are_small_whole_numbers() {
    let tenant = |value: &str| format!("ACME\nweight = {value}");
    for value in ["1", "1000"] {
        assert_eq!(names(&tenant(value)), ["acme"]);
    }
    for value in ["0", "-1", "1001"] {
        let message = "tenants[0].weight: must be from 1 to 1000; without it it is 1 (line 5)";
        assert_mistakes(&tenant(value), &[message]);
    }
    assert_mistakes(
        &tenant("0.5"),
        &["tenants[0].weight: must be a whole number, not a float (line 5)"],
    );
}

#[test]
fn lists_have_an_end() {
    let hash = |n: usize| format!("sha256:{n:064x}");
    let keys = |count: usize| {
        let keys = (0..count).map(|n| format!("{{ id = 'k{n}', hash = '{}' }}", hash(n)));
        let keys: Vec<String> = keys.collect();
        format!("[[tenants]]\nname = 'a'\nkeys = [{}]", keys.join(", "))
    };
    assert_eq!(names(&keys(64)), ["a"]);
    assert_mistakes(
        &keys(65),
        &["tenants[0].keys: has 65 items, at most 64 may be (line 3)"],
    );
    let certificates = |count: usize| {
        let sans: Vec<String> = (0..count).map(|n| format!("{{ san = 's{n}' }}")).collect();
        format!(
            "[[tenants]]\nname = 'a'\ncertificates = [{}]",
            sans.join(", ")
        )
    };
    assert_eq!(names(&certificates(64)), ["a"]);
    assert_mistakes(
        &certificates(65),
        &["tenants[0].certificates: has 65 items, at most 64 may be (line 3)"],
    );
    let tenants = |count: usize| {
        let tenants =
            (0..count).map(|n| format!("[[tenants]]\nname='t{n}'\ncertificates=[{{san='s{n}'}}]"));
        tenants.collect::<Vec<String>>().join("\n")
    };
    assert_eq!(names(&tenants(10_000)).len(), 10_000);
    assert_mistakes(
        &tenants(10_001),
        &["tenants: has 10001 items, at most 10000 may be (line 1)"],
    );
}

#[test]
fn all_mistakes_are_told_at_once_up_to_a_hundred() {
    let tenant = "[[tenants]]\nname = 'A'\nkeys = [{ id = '!', hash = '?' }]\n";
    let error = Tenants::parse(&tenant.repeat(33)).unwrap_err();
    assert_eq!(error.mistakes().len(), 99);
    assert_eq!(error.to_string().lines().count(), 99);
    let error = Tenants::parse(&tenant.repeat(1000)).unwrap_err();
    assert_eq!(error.mistakes().len(), 100);
    let text = error.to_string();
    assert_eq!(text.lines().count(), 101);
    assert!(text.ends_with("\n… and 2900 more"), "{text}");
    let mistake = &error.mistakes()[99];
    assert_eq!(
        (mistake.path.as_str(), mistake.line),
        ("tenants[33].name", 101)
    );
}

#[test]
fn keys_are_not_repeated_wherever_they_stand() {
    let key = format!("tn_{}", "s3cr3t".repeat(7));
    for text in [
        "[[tenants]]\nname = 'KEY'",
        "[[tenants]]\nroles = ['KEY']",
        "[[tenants]]\nkeys = [{ id = 'KEY', hash = 'KEY' }]",
        "[[tenants]]\nkeys = [{ id = 'x', hash = ' KEY' }]",
        "[[tenants]]\nkeys = [{ id = 'x', hash = 'sha256:KEY' }]",
        "[[tenants]]\nkeys = ['KEY']",
        "[[tenants]]\ncertificates = [{ san = 'a KEY' }]",
        "[[tenants]]\ncertificates = [{ san = 'KEY*' }]",
        "[[tenants]]\nKEY = 1",
        "'a KEY' = 1",
        "[KEY]",
        "KEY",
        "= KEY",
        "x = KEY",
        "[[tenants]]\nname = 'KEY",
        "[[tenants]]\nname = KEY'",
        "[[tenants]]\nKEY = 1\nKEY = 2",
        "[limits]\ntokens_per_minute = 1KEY",
    ] {
        let error = Tenants::parse(&text.replace("KEY", &key)).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cr3t"), "{text}: {shown}");
    }
}
