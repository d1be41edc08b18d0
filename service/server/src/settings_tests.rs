use super::*;

fn environment_of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn flags_of(pairs: &[(&str, &[&str])]) -> Vec<(&'static Setting, Vec<String>)> {
    pairs
        .iter()
        .map(|(key, values)| {
            let setting = SETTINGS
                .iter()
                .find(|setting| setting.key == *key)
                .expect("a known key");
            (setting, values.iter().map(|v| (*v).to_owned()).collect())
        })
        .collect()
}

fn mistakes_of(sources: &Sources) -> Vec<String> {
    sources.resolve().expect_err("mistakes are reported").0
}

struct Written {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn written(name: &str, text: &str) -> Written {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("a writable directory");
    Written { _dir: dir, path }
}

#[test]
fn without_sources_the_defaults_hold() {
    let settings = Sources::default()
        .resolve()
        .expect("defaults are good")
        .settings;
    assert_eq!(settings.listen.to_string(), "127.0.0.1:50051");
    assert_eq!(settings.model, None);
    assert_eq!(settings.drain_timeout, Duration::from_secs(25));
    assert_eq!(settings.kv.block_size, 16);
    assert_eq!(settings.limits.max_message_bytes, 4 << 20);
    assert_eq!(settings.telemetry.log_format, LogFormat::Text);
    assert!(settings.plugin_dirs.is_empty());
}

#[test]
fn later_sources_override_earlier_ones() {
    let file = written(
        "t.toml",
        "kernel = 'file'\nmodel_name = 'file'\nthreads = 3\n[kv]\nblock_size = 8\n",
    );
    let resolved = Sources {
        file: Some(file.path.clone()),
        environment: environment_of(&[
            ("TERNION_MODEL_NAME", "variable"),
            ("TERNION_KERNEL", "variable"),
            ("TERNION_KV__PAGES", "77"),
        ]),
        flags: flags_of(&[("kernel", &["flag"]), ("plugin_dirs", &["/a", "/b"])]),
    }
    .resolve()
    .expect("all good");
    let settings = &resolved.settings;
    assert_eq!(settings.kernel.as_deref(), Some("flag"));
    assert_eq!(settings.model_name.as_deref(), Some("variable"));
    assert_eq!(settings.threads, Some(3));
    assert_eq!((settings.kv.block_size, settings.kv.pages), (8, Some(77)));
    assert_eq!(settings.plugin_dirs, [Path::new("/a"), Path::new("/b")]);
    let origin = |key: &str| {
        let entry = resolved.entries.iter().find(|e| e.setting.key == key);
        entry.expect("listed").origin.to_string()
    };
    assert_eq!(origin("kernel"), "flag --kernel");
    assert_eq!(origin("kv.pages"), "environment TERNION_KV__PAGES");
    assert_eq!(origin("threads"), format!("file {}", file.path.display()));
    assert_eq!(origin("outbox.capacity"), "default");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_key_and_source() {
    let file = written(
        "t.yaml",
        "kv:\n  blok_size: 8\nscheduler: 5\nlimits:\n  max_message_bytes: lots\nthreads: 2.5\n",
    );
    let path = file.path.display().to_string();
    let sources = Sources {
        file: Some(file.path.clone()),
        environment: environment_of(&[
            ("TERNION_OUTBOX__CAPACITY", "0"),
            ("TERNION_TELEMETRY__OTLP_ENDPOINT", "https://example.com"),
            ("TERNION_TELEMETRY__LOG_FILTER", "a=b=c"),
            ("TERNION_WHATEVER_IS_THIS", "1"),
        ]),
        flags: flags_of(&[
            ("listen", &["here"]),
            ("drain_timeout", &["soon"]),
            ("telemetry.log_format", &["xml"]),
            ("model", &[""]),
            ("kv.pages", &["1"]),
            ("kv.memory_bytes", &["1GiB"]),
        ]),
    };
    let mistakes = mistakes_of(&sources);
    let expected = [
        format!("kv.blok_size: no such setting, did you mean kv.block_size? (file {path})"),
        format!("scheduler: is a table, not a single value (file {path})"),
        "whatever_is_this: no such setting (environment TERNION_WHATEVER_IS_THIS)".to_owned(),
        "listen: \"here\" is not an IP address and port, such as 127.0.0.1:50051 (flag --listen)"
            .to_owned(),
        "model: must not be empty (flag --model)".to_owned(),
        format!("threads: 2.5 is not a whole number of 0 or more (file {path})"),
        "drain_timeout: \"soon\" is not a time, such as 500ms, 30s or 2m (flag --drain-timeout)"
            .to_owned(),
        "outbox.capacity: 0 is out of range, 1 to 65536 (environment TERNION_OUTBOX__CAPACITY)"
            .to_owned(),
        format!(
            "limits.max_message_bytes: \"lots\" is not a number of bytes, such as 1048576 or 2GiB \
             (file {path})"
        ),
        "telemetry.otlp_endpoint: https is not supported here, only http \
         (environment TERNION_TELEMETRY__OTLP_ENDPOINT)"
            .to_owned(),
        "telemetry.log_format: \"xml\" is none of text, json (flag --log-format)".to_owned(),
        "kv.pages, kv.memory_bytes: set one of them, not both".to_owned(),
    ];
    for expected in &expected {
        assert!(
            mistakes.contains(expected),
            "no {expected:?} in {mistakes:#?}"
        );
    }
    // The filter's own message is tracing's to choose.
    assert!(
        mistakes
            .iter()
            .any(|m| m.starts_with("telemetry.log_filter: \"a=b=c\" is not a log filter")),
        "{mistakes:#?}"
    );
    assert_eq!(mistakes.len(), expected.len() + 1, "{mistakes:#?}");
}

#[test]
fn an_unreadable_file_does_not_hide_other_mistakes() {
    let broken = written("t.toml", "threads = = 2\n");
    for (path, what) in [
        (
            PathBuf::from("no-such-file.toml"),
            "file no-such-file.toml: not found",
        ),
        (broken.path.clone(), "threads"),
    ] {
        let mistakes = mistakes_of(&Sources {
            file: Some(path),
            environment: environment_of(&[("TERNION_THREADS", "0")]),
            flags: Vec::new(),
        });
        assert_eq!(mistakes.len(), 2, "{mistakes:#?}");
        assert!(mistakes[0].contains(what), "{mistakes:#?}");
        assert!(
            mistakes[1].starts_with("threads: 0 is out of range"),
            "{mistakes:#?}"
        );
    }
}

#[test]
fn a_batch_too_small_for_its_requests_is_a_mistake() {
    let mistakes = mistakes_of(&Sources {
        flags: flags_of(&[
            ("scheduler.max_num_seqs", &["32"]),
            ("scheduler.max_num_batched_tokens", &["31"]),
        ]),
        ..Sources::default()
    });
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    assert!(mistakes[0].contains("31 is less than"), "{mistakes:#?}");
}

#[test]
fn variables_that_kubernetes_or_the_client_own_are_passed_over() {
    let sources = Sources {
        environment: environment_of(&[
            ("TERNION_SERVICE_HOST", "10.0.0.1"),
            ("TERNION_SERVICE_PORT", "50051"),
            ("TERNION_SERVICE_PORT_GRPC", "50051"),
            ("TERNION_PORT", "tcp://10.0.0.1:50051"),
            ("TERNION_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("TERNION_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("TERNION_CANARY_SERVICE_HOST", "10.0.0.2"),
            ("TERNION_ENDPOINT", "http://127.0.0.1:50051"),
            ("TERNION_THREADS", ""),
            ("PATH", "/bin"),
        ]),
        ..Sources::default()
    };
    sources.resolve().expect("none of these is a setting");
}

#[test]
fn sizes_and_times_take_units() {
    let resolved = Sources {
        flags: flags_of(&[
            ("kv.memory_bytes", &["3MiB"]),
            ("limits.max_message_bytes", &["2048"]),
            ("drain_timeout", &["2m"]),
        ]),
        ..Sources::default()
    }
    .resolve()
    .expect("all good")
    .settings;
    assert_eq!(resolved.kv.memory_bytes, Some(3 * 1024 * 1024));
    assert_eq!(resolved.limits.max_message_bytes, 2048);
    assert_eq!(resolved.drain_timeout, Duration::from_secs(120));
    for bad in [
        "9999999999999999999999",
        "99999999999999999TiB",
        "-1",
        "1 potato",
    ] {
        let mistakes = mistakes_of(&Sources {
            flags: flags_of(&[("kv.memory_bytes", &[bad])]),
            ..Sources::default()
        });
        assert_eq!(mistakes.len(), 1, "{bad}: {mistakes:#?}");
    }
}

#[test]
fn every_default_and_every_setting_reach_the_struct() {
    // A setting of the list without a field, or a field without a setting,
    // fails here rather than at somebody's start.
    let samples: Vec<(&str, Vec<String>)> = SETTINGS
        .iter()
        .filter(|setting| setting.key != "kv.pages")
        .map(|setting| {
            use crate::setting_kind::Kind;
            let sample = match setting.kind {
                Kind::Address | Kind::AddressOrOff => "[::1]:1".to_owned(),
                Kind::Path | Kind::Name => "x".to_owned(),
                Kind::Directories | Kind::DirectoryOrOff => "/x".to_owned(),
                Kind::Digests => "0".repeat(64),
                Kind::Count { max, .. } | Kind::Bytes { max, .. } => max.to_string(),
                Kind::Duration { max_seconds } | Kind::Age { max_seconds } => {
                    format!("{max_seconds}s")
                }
                Kind::Choice(choices) => choices[0].to_owned(),
                Kind::Switch => "on".to_owned(),
                Kind::HttpEndpoint => "http://h:1".to_owned(),
                Kind::LogFilter => "debug".to_owned(),
            };
            (setting.key, vec![sample])
        })
        .collect();
    let flags = SETTINGS
        .iter()
        .filter_map(|setting| {
            let (_, values) = samples.iter().find(|(key, _)| *key == setting.key)?;
            Some((setting, values.clone()))
        })
        .collect();
    let resolved = Sources {
        flags,
        ..Sources::default()
    }
    .resolve()
    .expect("the largest allowed values are good");
    assert_eq!(resolved.settings.threads, Some(1024));
}

#[test]
fn a_slip_is_told_from_another_word() {
    for (key, expected) in [
        ("kernal", Some("kernel")),
        ("block_size", Some("kv.block_size")),
        ("kv.blok_size", Some("kv.block_size")),
        ("scheduler.max_num_seq", Some("scheduler.max_num_seqs")),
        ("schedular.max_queued", Some("scheduler.max_queued")),
        ("bogus", None),
        ("x", None),
        ("whatever_is_this", None),
    ] {
        assert_eq!(nearest(key), expected, "{key}");
    }
}

#[test]
fn an_open_server_listens_on_loopback_only() {
    let flags = |more: &[(&str, &[&str])]| Sources {
        flags: flags_of(&[&[("listen", &["0.0.0.0:50051"][..])], more].concat()),
        ..Sources::default()
    };
    let mistakes = mistakes_of(&flags(&[]));
    let [mistake] = &mistakes[..] else {
        panic!("{mistakes:?}");
    };
    assert!(mistake.starts_with("listen: 0.0.0.0:50051"), "{mistake}");
    for choice in ["tenants", "anonymous", "127.0.0.1"] {
        assert!(mistake.contains(choice), "{choice} is not named: {mistake}");
    }
    // TLS alone says who the server is, not who may call.
    let tls: &[(&str, &[&str])] = &[("tls.certificate", &["c"]), ("tls.key", &["k"])];
    assert_eq!(mistakes_of(&flags(tls)).len(), 1);
    let choices: [&[(&str, &[&str])]; 3] = [
        &[("anonymous", &["anywhere"])],
        &[("tenants", &["t.toml"])],
        &[("listen", &["[::1]:50051"])],
    ];
    for choice in choices {
        flags(choice).resolve().expect("a choice was made");
    }
}

#[test]
fn settings_of_tls_come_together() {
    for (given, missing) in [
        ("tls.certificate", "tls.key: "),
        ("tls.key", "tls.certificate: "),
        (
            "tls.client_ca",
            "tls.client_ca: client certificates need TLS",
        ),
    ] {
        let mistakes = mistakes_of(&Sources {
            flags: flags_of(&[(given, &["x.pem"])]),
            ..Sources::default()
        });
        let [mistake] = &mistakes[..] else {
            panic!("{mistakes:?}");
        };
        assert!(mistake.starts_with(missing), "{mistake}");
    }
}

#[test]
fn a_switch_is_on_or_off_in_every_form() {
    for (text, expected) in [
        ("reflection = 'on'", true),
        ("reflection = true", true),
        ("reflection = 'off'", false),
        ("reflection = false", false),
    ] {
        let file = written("t.toml", text);
        let resolved = Sources {
            file: Some(file.path.clone()),
            ..Sources::default()
        }
        .resolve();
        let settings = resolved.expect("a good file").settings;
        assert_eq!(settings.reflection, expected, "{text}");
        assert!(settings.kv.prefix_cache, "the default");
    }
    let mistakes = mistakes_of(&Sources {
        environment: environment_of(&[("TERNION_REFLECTION", "maybe")]),
        ..Sources::default()
    });
    assert!(mistakes[0].contains("neither on nor off"), "{mistakes:?}");
}

#[test]
fn what_can_be_turned_off_is_on_or_off() {
    let resolved = |pairs: &[(&str, &[&str])]| Sources {
        flags: flags_of(pairs),
        ..Sources::default()
    };
    let defaults = resolved(&[]).resolve().expect("good").settings;
    let listen = defaults
        .operations
        .listen
        .map(|address| address.to_string());
    assert_eq!(listen.as_deref(), Some("127.0.0.1:9464"));
    assert!(!defaults.telemetry.vllm_metric_names);

    let turned = resolved(&[
        ("operations.listen", &["off"]),
        ("telemetry.vllm_metric_names", &["on"]),
    ]);
    let turned = turned.resolve().expect("good").settings;
    assert_eq!(turned.operations.listen, None);
    assert!(turned.telemetry.vllm_metric_names);

    let mistakes = mistakes_of(&resolved(&[
        ("operations.listen", &["no"]),
        ("telemetry.vllm_metric_names", &["maybe"]),
    ]));
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(mistakes[0].contains("nor off"), "{mistakes:?}");
    assert!(mistakes[1].contains("neither on nor off"), "{mistakes:?}");
}

#[test]
fn plugins_lie_where_no_working_directory_leads() {
    for flags in [
        flags_of(&[("plugin_dirs", &["plugins"])]),
        flags_of(&[("plugin_dirs", &["/plugins", "./plugins"])]),
        flags_of(&[("plugin_dirs", &["/plugins", ""])]),
        flags_of(&[("cache_dir", &["cache"])]),
        flags_of(&[("cache_dir", &["on"])]),
    ] {
        let (key, bad) = (flags[0].0, flags[0].1.last().cloned());
        let bad = bad.expect("one is given");
        let mistakes = mistakes_of(&Sources {
            flags,
            ..Sources::default()
        });
        let expected = format!(
            "{}: {bad:?} is not an absolute path (flag --{})",
            key.key, key.flag
        );
        assert_eq!(mistakes, [expected]);
    }
}

#[test]
fn digests_are_of_one_form_and_never_none() {
    let digest = "AB".repeat(32);
    let list = format!("sha256:{digest},{}", "1".repeat(64));
    let settings = Sources {
        environment: environment_of(&[("TERNION_PLUGIN_SHA256", &list)]),
        ..Sources::default()
    }
    .resolve()
    .expect("both are digests")
    .settings;
    let expected = [digest.to_lowercase(), "1".repeat(64)];
    assert_eq!(settings.plugin_sha256.as_deref(), Some(&expected[..]));

    for bad in [&digest[1..], "sha256:", "sha512:00", &"g".repeat(64)] {
        let mistakes = mistakes_of(&Sources {
            flags: flags_of(&[("plugin_sha256", &[bad])]),
            ..Sources::default()
        });
        assert_eq!(mistakes.len(), 1, "{bad}: {mistakes:?}");
        assert!(
            mistakes[0]
                .ends_with("is not a SHA-256 digest of 64 hex digits (flag --plugin-sha256)"),
            "{mistakes:?}"
        );
    }
    let empty = written("t.toml", "plugin_sha256 = []\n");
    let mistakes = mistakes_of(&Sources {
        file: Some(empty.path.clone()),
        ..Sources::default()
    });
    assert!(mistakes[0].starts_with("plugin_sha256: has no SHA-256 digests"));
}

#[test]
fn an_idle_engine_must_not_look_stalled() {
    let mistakes = mistakes_of(&Sources {
        flags: flags_of(&[("operations.stall_timeout", &["999ms"])]),
        ..Sources::default()
    });
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(mistakes[0].starts_with("operations.stall_timeout: must be at least 1s"));
}

#[test]
fn every_setting_is_in_the_operators_page() {
    let page = include_str!("../OPERATING.md");
    let rows: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for setting in SETTINGS {
        let key = format!("`{}`", setting.key);
        let row = rows.iter().find(|row| row.contains(&key));
        let row = row.unwrap_or_else(|| panic!("{key} is missing"));
        // Sizes and times are written there as here.
        if let Some(default) = setting.default {
            assert!(row.contains(default), "{key} has default {default}: {row}");
        }
    }
}

#[test]
fn a_preset_is_weaker_than_what_is_set_in_any_way() {
    let file = written(
        "t.toml",
        "preset = 'mobile'\n[scheduler]\nmax_num_seqs = 2\n",
    );
    let resolved = Sources {
        file: Some(file.path.clone()),
        environment: environment_of(&[("TERNION_MEMORY_LIMIT", "3GiB")]),
        flags: flags_of(&[("threads", &["7"])]),
    }
    .resolve()
    .expect("all good");
    let settings = &resolved.settings;
    assert_eq!(settings.scheduler.max_num_seqs, 2);
    assert_eq!(settings.scheduler.max_num_batched_tokens, 128);
    assert_eq!(settings.threads, Some(7));
    assert_eq!(settings.memory_limit, Some(3 << 30));
    let total = memory_room().total;
    assert_eq!(settings.memory_room().total, total.min(3 << 30));
    // A bound is told, and asked for where the model is known.
    assert_eq!(settings.context_limit, None);
    let context = resolved
        .entries
        .iter()
        .find(|e| e.setting.key == "context_limit");
    let context = context.expect("it is listed");
    assert_eq!(
        (&context.value, context.origin.to_string().as_str()),
        (&4096.into(), "preset mobile")
    );
}

#[test]
fn a_preset_bounds_what_is_not_set() {
    let settings = |pairs: &[(&str, &[&str])]| {
        let sources = Sources {
            flags: flags_of(pairs),
            ..Sources::default()
        };
        sources.resolve().expect("all good").settings
    };
    let mobile = settings(&[("preset", &["mobile"])]);
    assert_eq!((mobile.threads, mobile.wanted().most), (None, Some(4)));
    let total = memory_room().total;
    assert_eq!(mobile.memory_room().total, total.min(2 << 30));
    let server = settings(&[("preset", &["server"])]);
    assert_eq!(server.wanted().most, None);
    assert_eq!(server.memory_room().total, total);
    assert_eq!(server.scheduler.max_num_seqs, 32);
    let none = settings(&[]);
    assert_eq!((none.preset, none.scheduler.max_num_seqs), (None, 16));
}

#[test]
fn the_operators_page_has_the_presets() {
    let page = include_str!("../OPERATING.md");
    for preset in &crate::preset::PRESETS {
        let begin = format!("| `{}` |", preset.name);
        let row = page.lines().find(|line| line.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("no row of {}", preset.name));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let bound = |value: Option<u64>, unit: &str, cell: &str| match value {
            Some(value) => assert_eq!(cell, format!("at most {value}{unit}"), "{row}"),
            None => assert!(!cell.contains("at most"), "{row}"),
        };
        bound(preset.threads.map(|n| n as u64), "", cells[3]);
        bound(preset.memory.map(|bytes| bytes >> 30), " GiB", cells[4]);
        bound(preset.context.map(|n| n as u64), "", cells[5]);
        assert_eq!(cells[6], preset.max_num_seqs.to_string());
        assert_eq!(cells[7], preset.max_num_batched_tokens.to_string());
    }
}
