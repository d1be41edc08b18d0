//! Nothing from outside is trusted: bad input gets a precise answer, and the
//! server goes on serving.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;

use prost::bytes::{Buf, BufMut};
use ternion_client::proto::{ChatMessage, GenerateRequest, Sampling, Stopping};
use ternion_client::{Client, Error, Generate, user};
use ternion_tests::{Server, answer, fixture, greedy, server_tool};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// The demo's context, prompt and output together.
const CONTEXT: u32 = 1024;

/// What is wrong with a request, and how the server has to say so.
struct Refusal {
    request: Generate,
    code: Code,
    field: &'static str,
}

fn refusal(field: &'static str, change: impl FnOnce(&mut GenerateRequest)) -> Refusal {
    let mut request = greedy(&[1016, 591], 4);
    change(&mut request.request);
    Refusal {
        request,
        code: Code::InvalidArgument,
        field,
    }
}

fn sampling(field: &'static str, change: fn(&mut Sampling)) -> Refusal {
    refusal(field, |request| {
        change(request.sampling.get_or_insert_default())
    })
}

fn stopping(field: &'static str, change: fn(&mut Stopping)) -> Refusal {
    refusal(field, |request| {
        change(request.stopping.get_or_insert_default())
    })
}

fn input(field: &'static str, request: Generate) -> Refusal {
    refusal(field, |bad| *bad = request.request)
}

fn out_of_range(refusal: Refusal) -> Refusal {
    Refusal {
        code: Code::OutOfRange,
        ..refusal
    }
}

fn refusals() -> Vec<Refusal> {
    let message = |role: &str| ChatMessage {
        role: role.into(),
        content: "Hello".into(),
    };
    vec![
        sampling("sampling.temperature", |s| s.temperature = Some(-0.1)),
        sampling("sampling.temperature", |s| s.temperature = Some(100.5)),
        sampling("sampling.temperature", |s| s.temperature = Some(f32::NAN)),
        sampling("sampling.temperature", |s| {
            s.temperature = Some(f32::INFINITY)
        }),
        sampling("sampling.top_p", |s| s.top_p = Some(0.0)),
        sampling("sampling.top_p", |s| s.top_p = Some(-1.0)),
        sampling("sampling.top_p", |s| s.top_p = Some(1.01)),
        sampling("sampling.min_p", |s| s.min_p = Some(-0.01)),
        sampling("sampling.min_p", |s| s.min_p = Some(f32::NAN)),
        sampling("sampling.repetition_penalty", |s| {
            s.repetition_penalty = Some(0.0)
        }),
        sampling("sampling.repetition_penalty", |s| {
            s.repetition_penalty = Some(-1.0)
        }),
        sampling("sampling.repetition_penalty", |s| {
            s.repetition_penalty = Some(10.5)
        }),
        sampling("sampling.presence_penalty", |s| {
            s.presence_penalty = Some(2.5)
        }),
        sampling("sampling.frequency_penalty", |s| {
            s.frequency_penalty = Some(-2.5)
        }),
        stopping("stopping.max_tokens", |s| s.max_tokens = Some(0)),
        stopping("stopping.min_tokens", |s| s.min_tokens = Some(5)),
        stopping("stopping.stop", |s| s.stop = vec!["x".into(); 17]),
        stopping("stopping.stop[0]", |s| s.stop = vec![String::new()]),
        stopping("stopping.stop[1]", |s| {
            s.stop = vec!["x".into(), "x".repeat(257)]
        }),
        stopping("stopping.stop_token_ids", |s| {
            s.stop_token_ids = vec![1; 65]
        }),
        stopping("stopping.stop_token_ids[1]", |s| {
            s.stop_token_ids = vec![1, 1024]
        }),
        out_of_range(stopping("stopping.max_tokens", |s| {
            s.max_tokens = Some(CONTEXT)
        })),
        out_of_range(stopping("stopping.max_tokens", |s| {
            s.max_tokens = Some(u32::MAX)
        })),
        refusal("priority", |r| r.priority = Some(101)),
        refusal("priority", |r| r.priority = Some(i32::MIN)),
        refusal("logprobs", |r| r.logprobs = Some(21)),
        refusal("request_id", |r| r.request_id = "x".repeat(129)),
        refusal("input", |r| r.input = None),
        input("token_ids.ids", Generate::token_ids([])),
        input("token_ids.ids[2]", Generate::token_ids([1, 2, 1024])),
        input("token_ids.ids[0]", Generate::token_ids([u32::MAX])),
        input("chat.messages", Generate::chat([])),
        input(
            "chat.messages[1].role",
            Generate::chat([user("Hello"), message("")]),
        ),
        out_of_range(input(
            "token_ids",
            Generate::token_ids([1; CONTEXT as usize + 1]),
        )),
        out_of_range(input("text", Generate::text("a b ".repeat(3000)))),
        out_of_range(input("text", Generate::text("a".repeat(3_000_000)))),
    ]
}

#[tokio::test]
async fn every_bad_field_is_named() {
    let server = Server::start(&[]);
    let client = server.client().await;
    for Refusal {
        request,
        code,
        field,
    } in refusals()
    {
        let error = failure(&client, request).await;
        assert_eq!(error.code(), code, "{field}: {error:?}");
        let named: Vec<_> = error
            .violations()
            .iter()
            .map(|v| v.field.as_str())
            .collect();
        assert_eq!(named, [field], "{error}");
    }
    assert_serving(&server).await;
}

/// A template that refuses the messages, and one that fails whatever they are.
#[tokio::test]
async fn a_template_that_fails_is_the_models_fault_unless_it_says_otherwise() {
    let dir = tempfile::tempdir().expect("a directory for models");
    let hf = copy_of("hf-bitnet/model", dir.path());
    let template = "{% if messages[0].content == 'nest' %}{% set ns = namespace(x=[1]) %}\
        {% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}\
        {% elif messages[0].role != 'user' %}{{ raise_exception('only users may begin') }}\
        {% elif messages[0].content == 'run' %}{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}\
        {% elif messages[0].content == 'filter' %}{{ messages | no_such_filter }}\
        {% else %}{{ messages[0].content }}{% endif %}";
    std::fs::write(hf.join("chat_template.jinja"), template).expect("it can be written");
    let server = Server::start(&["--model", hf.to_str().expect("it is UTF-8")]);
    let client = server.client().await;

    let system = ternion_client::system("be brief");
    let refused = failure(&client, Generate::chat([system])).await;
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let [violation] = refused.violations() else {
        panic!("{refused:?}");
    };
    assert_eq!(violation.field, "chat.messages");
    assert!(
        refused.to_string().contains("only users may begin"),
        "{refused}"
    );

    for content in ["nest", "run", "filter"] {
        let broken = failure(&client, Generate::chat([user(content)])).await;
        assert_eq!(
            broken.code(),
            Code::FailedPrecondition,
            "{content}: {broken:?}"
        );
        assert!(
            broken.to_string().contains("is broken"),
            "{content}: {broken}"
        );
    }
    let fine = Generate::chat([user("fine")]).stopping(Stopping {
        max_tokens: Some(1),
        ..Stopping::default()
    });
    assert_eq!(answer(&client, fine).await.token_ids.len(), 1);
}

#[tokio::test]
async fn everything_wrong_is_said_at_once() {
    let server = Server::start(&[]);
    let client = server.client().await;
    let request = Generate::token_ids([])
        .sampling(Sampling {
            temperature: Some(-1.0),
            top_p: Some(2.0),
            ..Sampling::default()
        })
        .stopping(Stopping {
            max_tokens: Some(0),
            ..Stopping::default()
        });
    let error = failure(&client, request).await;
    let mut named: Vec<_> = error
        .violations()
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    named.sort_unstable();
    let want = [
        "sampling.temperature",
        "sampling.top_p",
        "stopping.max_tokens",
        "token_ids.ids",
    ];
    assert_eq!(named, want);
}

#[tokio::test]
async fn an_unknown_model_is_not_found_by_name() {
    let server = Server::start(&[]);
    let client = server.client().await;
    let errors = [
        failure(&client, greedy(&[1], 1).model("nobody")).await,
        client.model("nobody").await.expect_err("there is none"),
    ];
    for error in errors {
        let Error::NotFound {
            resource: Some(resource),
            ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(
            (resource.kind.as_str(), resource.name.as_str()),
            ("model", "nobody")
        );
    }
    assert_serving(&server).await;
}

#[tokio::test]
async fn a_session_outlives_its_bad_requests() {
    let server = Server::start(&[]);
    let client = server.client().await;
    let mut session = client.session().await.expect("a session opens");
    for (i, refusal) in refusals().into_iter().enumerate() {
        // Here the frame's id is the request's.
        if refusal.field == "request_id" {
            continue;
        }
        session
            .start(i.to_string(), refusal.request)
            .await
            .expect("it is open");
        match session
            .next()
            .await
            .expect("it goes on")
            .expect("it goes on")
        {
            ternion_client::SessionEvent::Failed { id, error, .. } => {
                assert_eq!(id, i.to_string());
                assert_eq!(error.code(), refusal.code, "{}", refusal.field);
            }
            event => panic!("{}: {event:?}", refusal.field),
        }
    }
    assert_serving(&server).await;
}

/// Of a request that must not be served.
async fn failure(client: &Client, request: Generate) -> Error {
    let mut answer = ternion_tests::Answer::default();
    match client.generate(request).await {
        Err(error) => error,
        Ok(mut events) => answer
            .read(&mut events)
            .await
            .expect_err("it must not be served"),
    }
}

async fn assert_serving(server: &Server) {
    let client = server.client().await;
    let answer = answer(&client, greedy(&[1016, 591], 4)).await;
    assert_eq!(answer.token_ids.len(), 4);
    Server::idle(&client).await;
}

/// Sends bytes as if they were a message.
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

async fn send_bytes(channel: &Channel, bytes: &[u8]) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|error| Status::unknown(error.to_string()))?;
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(
        "/ternion.v1.InferenceService/Generate",
    );
    let response = grpc
        .server_streaming(Request::new(bytes.to_vec()), path, Bytes)
        .await?;
    let mut stream = response.into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let server = Server::start(&[]);
    let endpoint = Endpoint::from_shared(server.endpoint().to_owned()).expect("it is one");
    let channel = endpoint.connect().await.expect("it is up");
    // Tag 0x12 is `text`, 0x0a `model`, both of wire type 2.
    let cases: [(&str, &[u8]); 6] = [
        ("text that is not UTF-8", b"\x12\x03a\xff\xfe"),
        ("a name that is not UTF-8", b"\x0a\x02\xc3\x28"),
        ("a text longer than the message", b"\x12\x10abc"),
        (
            "a length without end",
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        ("a text of the wrong type", b"\x10\x05"),
        ("half a tag", b"\x80"),
    ];
    for (what, bytes) in cases {
        let status = send_bytes(&channel, bytes).await.expect_err(what);
        // INTERNAL is what gRPC itself calls a message that can't be parsed.
        let expected = [Code::InvalidArgument, Code::Internal];
        assert!(expected.contains(&status.code()), "{what}: {status:?}");
        assert!(!status.message().is_empty(), "{what}: {status:?}");
    }
    assert_serving(&server).await;
}

#[tokio::test]
async fn connections_that_talk_nonsense_are_dropped() {
    let server = Server::start(&[]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A HEADERS frame that promises 100 bytes, and one of an absurd length.
    let truncated: &[u8] = &[0, 0, 100, 1, 4, 0, 0, 0, 1, 0x82];
    let huge: &[u8] = &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1];
    let conversations = [
        Vec::new(),
        vec![0; 4096],
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        preface[..10].to_vec(),
        preface.to_vec(),
        [preface, settings, truncated].concat(),
        [preface, settings, huge].concat(),
    ];
    for bytes in conversations {
        let mut stream = TcpStream::connect(server.address()).expect("it is up");
        // The server may hang up before it has read everything.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_serving(&server).await;
}

#[test]
fn truncated_models_are_refused() {
    let dir = tempfile::tempdir().expect("a directory for models");
    let gguf = read("bitnetcpp/tiny2-i2_s.gguf");
    let path = dir.path().join("model.gguf");
    let header = [0, 1, 3, 4, 7, 8, 16, 24, 100, 1000, 10_000];
    for length in header.into_iter().chain(tenths(gguf.len())) {
        std::fs::write(&path, &gguf[..length]).expect("it can be written");
        assert_refused(&path, &format!("{length} bytes of the file"));
    }

    let hf = copy_of("hf-bitnet/model", dir.path());
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let whole = std::fs::read(hf.join(name)).expect("copied above");
        for length in [0, 1, 7, 8, 9].into_iter().chain(tenths(whole.len())) {
            std::fs::write(hf.join(name), &whole[..length]).expect("it can be written");
            assert_refused(&hf, &format!("{length} bytes of {name}"));
        }
        std::fs::remove_file(hf.join(name)).expect("written above");
        assert_refused(&hf, &format!("no {name}"));
        std::fs::write(hf.join(name), whole).expect("it can be written");
    }
    inspect(&hf).succeeded();
}

fn tenths(length: usize) -> impl Iterator<Item = usize> {
    (1..10)
        .map(move |tenth| length * tenth / 10)
        .chain([length - 1])
}

#[test]
fn flipped_bits_never_crash() {
    let dir = tempfile::tempdir().expect("a directory for models");
    let gguf = read("bitnetcpp/tiny2-i2_s.gguf");
    let path = dir.path().join("model.gguf");
    // The header, where counts, types, lengths and offsets are.
    for i in 0..24 {
        let byte = i * 37 % 900;
        let mut flipped = gguf.clone();
        flipped[byte] ^= 1 << (i % 8);
        std::fs::write(&path, flipped).expect("it can be written");
        assert_no_crash(&path, &format!("bit {} of byte {byte}", i % 8));
    }

    let hf = copy_of("hf-bitnet/model", dir.path());
    let whole = read("hf-bitnet/model/model.safetensors");
    for i in 0..24 {
        let byte = i * 53;
        let mut flipped = whole.clone();
        flipped[byte] ^= 1 << (i % 8);
        std::fs::write(hf.join("model.safetensors"), flipped).expect("it can be written");
        assert_no_crash(&hf, &format!("bit {} of byte {byte}", i % 8));
    }
}

#[test]
fn a_path_without_a_model_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_refused(dir.path(), "an empty directory");
    assert_refused(&dir.path().join("nothing"), "no file");
    assert_refused(Path::new("/dev/null"), "a device");
}

fn inspect(model: &Path) -> ternion_tests::Ran {
    server_tool(&["inspect", "--json", "--model", text(model)])
}

fn assert_refused(model: &Path, what: &str) {
    let ran = inspect(model);
    assert_eq!(ran.code, Some(1), "{what}: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");
    assert!(ran.stderr.lines().count() <= 5, "{what}: {ran:?}");
    assert!(ran.stdout.is_empty(), "{what}: {ran:?}");
}

/// A flipped bit may leave a model that can be read, such as one with another
/// name, and then it must also run.
fn assert_no_crash(model: &Path, what: &str) {
    let ran = server_tool(&["score", "--tokens", "1,2", "--json", "--model", text(model)]);
    assert!(matches!(ran.code, Some(0 | 1)), "{what}: {ran:?}");
    assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");
}

#[test]
fn files_that_are_no_plugins_are_refused_with_reasons() {
    let dir = tempfile::tempdir().expect("a directory for plugins");
    let good = good_plugin();
    let plugin = std::fs::read(&good).expect("the server uses it");
    let files: [(&str, &[u8]); 4] = [
        ("libternion_kernel_empty.so", b""),
        ("libternion_kernel_text.so", b"this is no library\n"),
        ("libternion_kernel_half.so", &plugin[..plugin.len() / 2]),
        ("libternion_kernel_good.so", &plugin),
    ];
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).expect("it can be written");
    }
    let plugins = text(dir.path());
    let found = server_tool(&["kernels", "--json", "--plugin-dir", plugins])
        .succeeded()
        .json();
    let found = found.as_array().expect("an array");
    assert_eq!(found.len(), files.len());
    for file in found {
        let path = file["path"].as_str().expect("a path");
        let state = if path.ends_with("good.so") {
            "selected"
        } else {
            "refused"
        };
        assert_eq!(file["state"], state, "{file}");
        assert!(
            file["reason"]
                .as_str()
                .is_some_and(|reason| !reason.is_empty()),
            "{file}"
        );
    }

    // It starts all the same.
    drop(Server::start(&["--plugin-dir", plugins]));

    std::fs::remove_file(dir.path().join("libternion_kernel_good.so")).expect("written above");
    let none = server_tool(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        "off",
        "--plugin-dir",
        plugins,
    ]);
    assert_eq!(none.code, Some(1), "{none:?}");
    for (name, _) in &files[..3] {
        assert!(none.stderr.contains(name), "{name} is not named: {none:?}");
    }
}

/// Path of the plugin that is selected without configuration.
fn good_plugin() -> String {
    let found = server_tool(&["kernels", "--json"]).succeeded().json();
    let selected = found
        .as_array()
        .and_then(|found| found.iter().find(|file| file["state"] == "selected"));
    let path = selected.and_then(|file| file["path"].as_str());
    path.expect("one is selected").to_owned()
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(fixture(path)).expect("a fixture")
}

fn copy_of(model: &str, dir: &Path) -> std::path::PathBuf {
    let copy = dir.join("model");
    std::fs::create_dir(&copy).expect("a fresh directory");
    for file in std::fs::read_dir(fixture(model)).expect("a fixture") {
        let file = file.expect("it can be listed");
        let bytes = std::fs::read(file.path()).expect("a fixture");
        std::fs::write(copy.join(file.file_name()), bytes).expect("it can be written");
    }
    copy
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}
