use super::*;

const BOUNDS: Bounds = Bounds {
    max_samples: 4,
    vocab_size: 1000,
    context_limit: 64,
    kv_tokens: 64,
};

fn request() -> v1::GenerateRequest {
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Text("hello".to_owned())),
        ..v1::GenerateRequest::default()
    }
}

fn with_sampling(sampling: v1::Sampling) -> v1::GenerateRequest {
    v1::GenerateRequest {
        sampling: Some(sampling),
        ..request()
    }
}

fn with_stopping(stopping: v1::Stopping) -> v1::GenerateRequest {
    v1::GenerateRequest {
        stopping: Some(stopping),
        ..request()
    }
}

fn with_messages(messages: Vec<v1::ChatMessage>) -> v1::GenerateRequest {
    let chat = v1::ChatInput { messages };
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::Chat(chat)),
        ..request()
    }
}

fn with_ids(ids: Vec<u32>) -> v1::GenerateRequest {
    let ids = v1::TokenIds { ids };
    v1::GenerateRequest {
        input: Some(v1::generate_request::Input::TokenIds(ids)),
        ..request()
    }
}

fn fields_wrong_in(request: v1::GenerateRequest) -> Vec<String> {
    match check(request, &BOUNDS, &Sampling::default(), 7) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.0.into_iter().map(|v| v.field).collect(),
    }
}

#[test]
fn numbers_outside_their_range_name_their_field() {
    type Set = fn(&mut v1::Sampling, f32);
    let cases: [(&str, Set, &[f32], &[f32]); 6] = [
        (
            "sampling.temperature",
            |s, v| s.temperature = Some(v),
            &[0.0, 0.7, 100.0],
            &[-0.1, 100.1],
        ),
        (
            "sampling.top_p",
            |s, v| s.top_p = Some(v),
            &[0.001, 1.0],
            &[0.0, -1.0, 1.01],
        ),
        (
            "sampling.min_p",
            |s, v| s.min_p = Some(v),
            &[0.0, 1.0],
            &[-0.01, 1.01],
        ),
        (
            "sampling.repetition_penalty",
            |s, v| s.repetition_penalty = Some(v),
            &[0.1, 10.0],
            &[0.0, -1.0, 10.1],
        ),
        (
            "sampling.presence_penalty",
            |s, v| s.presence_penalty = Some(v),
            &[-2.0, 2.0],
            &[-2.1, 2.1],
        ),
        (
            "sampling.frequency_penalty",
            |s, v| s.frequency_penalty = Some(v),
            &[-2.0, 2.0],
            &[-2.1, 2.1],
        ),
    ];
    for (field, set, good, bad) in cases {
        let fields = |value| {
            let mut sampling = v1::Sampling::default();
            set(&mut sampling, value);
            fields_wrong_in(with_sampling(sampling))
        };
        for value in good {
            assert!(fields(*value).is_empty(), "{field} {value}");
        }
        let never = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for value in bad.iter().chain(&never) {
            assert_eq!(fields(*value), [field], "{field} {value}");
        }
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let request = v1::GenerateRequest {
        input: None,
        sampling: Some(v1::Sampling {
            temperature: Some(-1.0),
            top_p: Some(2.0),
            ..v1::Sampling::default()
        }),
        stopping: Some(v1::Stopping {
            max_tokens: Some(0),
            stop: vec![String::new(), "fine".to_owned(), "x".repeat(257)],
            stop_token_ids: vec![1, 1000],
            ..v1::Stopping::default()
        }),
        priority: Some(i32::MIN),
        logprobs: Some(21),
        request_id: "x".repeat(129),
        ..v1::GenerateRequest::default()
    };
    assert_eq!(
        fields_wrong_in(request),
        [
            "sampling.temperature",
            "sampling.top_p",
            "logprobs",
            "priority",
            "request_id",
            "stopping.max_tokens",
            "stopping.stop[0]",
            "stopping.stop[2]",
            "stopping.stop_token_ids[1]",
            "input",
        ],
    );
}

#[test]
fn lists_and_counts_have_limits() {
    let message = |role: &str| v1::ChatMessage {
        role: role.to_owned(),
        content: "hi".to_owned(),
    };
    let cases = [
        (
            with_stopping(v1::Stopping {
                stop: vec!["s".to_owned(); 17],
                ..v1::Stopping::default()
            }),
            vec!["stopping.stop"],
        ),
        (
            with_stopping(v1::Stopping {
                stop: vec!["s".repeat(256); 16],
                stop_token_ids: vec![999; 64],
                ..v1::Stopping::default()
            }),
            vec![],
        ),
        (
            with_stopping(v1::Stopping {
                stop_token_ids: vec![1; 65],
                ..v1::Stopping::default()
            }),
            vec!["stopping.stop_token_ids"],
        ),
        (
            with_stopping(v1::Stopping {
                max_tokens: Some(3),
                min_tokens: Some(4),
                ..v1::Stopping::default()
            }),
            vec!["stopping.min_tokens"],
        ),
        (with_messages(vec![]), vec!["chat.messages"]),
        (
            with_messages(vec![message("user"); 1025]),
            vec!["chat.messages"],
        ),
        (
            with_messages(vec![message("user"), message("")]),
            vec!["chat.messages[1].role"],
        ),
        (with_messages(vec![message("user")]), vec![]),
        (with_ids(vec![]), vec!["token_ids.ids"]),
        (with_ids(vec![0, 999]), vec![]),
        (with_ids(vec![0, 1000, 5000]), vec!["token_ids.ids[1]"]),
    ];
    for (i, (request, expected)) in cases.into_iter().enumerate() {
        assert_eq!(fields_wrong_in(request), expected, "case {i}");
    }
}

#[test]
fn violations_are_told_up_to_a_number_that_fits_into_headers() {
    let bad = v1::ChatMessage::default();
    let wrong = fields_wrong_in(with_messages(vec![bad; 500]));
    assert_eq!(wrong.len(), MAX_VIOLATIONS);
}

#[test]
fn absent_fields_take_the_models_defaults_and_the_drawn_seed() {
    let defaults = Sampling {
        temperature: 0.6,
        top_p: 0.9,
        top_k: 40,
        ..Sampling::default()
    };
    let own = v1::Sampling {
        temperature: Some(0.0),
        ..v1::Sampling::default()
    };
    let checked = check(with_sampling(own), &BOUNDS, &defaults, 7).expect("good");
    assert_eq!(
        checked.sampling,
        Sampling {
            temperature: 0.0,
            top_p: 0.9,
            top_k: 40,
            seed: 7,
            ..Sampling::default()
        },
        "an explicit zero is not an absent field"
    );
    assert!(!checked.max_tokens_given);
    assert_eq!(
        checked.input,
        Input::Text {
            text: "hello".to_owned(),
            parse_special: true,
            add_bos: true,
        }
    );
    let seeded = v1::Sampling {
        seed: Some(0),
        ..v1::Sampling::default()
    };
    let checked = check(with_sampling(seeded), &BOUNDS, &defaults, 7).expect("good");
    assert_eq!(checked.sampling.seed, 0);
}
