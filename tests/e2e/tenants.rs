//! Who may call, what, and how much: keys, certificates, roles, limits and
//! the audit log, as clients and operators see them.
#![forbid(unsafe_code)]

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use prost_types::FileDescriptorSet;
use serde_json::Value;
use ternion_client::proto::{DetokenizeRequest, FinishReason};
use ternion_client::{Client, Error, Event, Events, Generate, Session, SessionEvent, user};
use ternion_tests::{Answer, Authority, Certificate, Server, answer, greedy, server_tool, ternion};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

/// How long a changed file may take to count: it is looked at every 2 s.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(20);

/// An API key and its hash, as an operator makes them.
struct Key {
    key: String,
    hash: String,
}

fn keygen() -> Key {
    let made = server_tool(&["keygen", "--json"]).succeeded().json();
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    Key {
        key: text("key"),
        hash: text("hash"),
    }
}

/// A directory with a tenants file, which may be rewritten.
struct Tenants {
    dir: tempfile::TempDir,
    text: String,
}

impl Tenants {
    fn new() -> Tenants {
        Tenants {
            dir: tempfile::tempdir().expect("a temporary directory"),
            text: String::new(),
        }
    }

    /// Adds a tenant with a key. `limits` are lines of its table.
    fn with(mut self, name: &str, roles: &str, key: &Key, limits: &str) -> Tenants {
        let hash = &key.hash;
        self.text += &format!(
            "[[tenants]]\nname = '{name}'\nroles = [{roles}]\n\
             [[tenants.keys]]\nid = 'key-of-{name}'\nhash = '{hash}'\n\
             [tenants.limits]\n{limits}\n"
        );
        self.write();
        self
    }

    fn with_certificate(mut self, name: &str, san: &str) -> Tenants {
        self.text +=
            &format!("[[tenants]]\nname = '{name}'\n[[tenants.certificates]]\nsan = '{san}'\n");
        self.write();
        self
    }

    fn write(&self) {
        std::fs::write(self.path(), &self.text).expect("a directory of the test");
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn path(&self) -> PathBuf {
        self.dir().join("tenants.toml")
    }

    fn serve(&self, more: &[&str]) -> Server {
        let path = self.path();
        let path = path.to_str().expect("UTF-8");
        Server::start(&[&["--tenants", path], more].concat())
    }
}

async fn client(server: &Server, key: &Key) -> Client {
    let builder = Client::builder(server.endpoint()).api_key(&key.key);
    builder.connect().await.expect("it is up")
}

async fn channel(server: &Server) -> Channel {
    let endpoint = Channel::from_shared(server.endpoint().to_owned()).expect("it is one");
    endpoint.connect().await.expect("it is up")
}

/// Calls an RPC with an empty message.
async fn call(channel: &Channel, path: &str, metadata: &[(&'static str, &str)]) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.expect("it is up");
    let mut map = MetadataMap::new();
    for (name, value) in metadata {
        map.append(*name, value.parse().expect("ASCII"));
    }
    let request = Request::from_parts(map, tonic::Extensions::default(), ());
    let path = path.parse().expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match grpc.server_streaming(request, path, codec).await {
        Err(status) => status,
        Ok(answer) => match answer.into_inner().message().await {
            Err(status) => status,
            Ok(_) => Status::ok(""),
        },
    }
}

#[tokio::test]
async fn certificates_that_nobody_is_asked_for_are_told() {
    let tenants = Tenants::new().with_certificate("acme", "spiffe://prod/acme");
    let mut server = tenants.serve(&[]);
    let told = |log: &str| log.contains("tls.client_ca is not set") && log.contains("acme");
    server.log_with(told).await;
}

/// Path of every RPC of the protocol.
fn rpcs() -> Vec<String> {
    let set = FileDescriptorSet::decode(ternion_proto::FILE_DESCRIPTOR_SET).expect("a set");
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let (package, service) = (file.package(), service.name());
                paths.push(format!("/{package}.{service}/{}", method.name()));
            }
        }
    }
    assert!(paths.len() >= 12, "{paths:?}");
    paths
}

fn reason(error: &Error) -> String {
    let status = error.status().expect("the server answered");
    let info = status.get_details_error_info();
    info.expect("every refusal has a reason").reason
}

#[tokio::test]
async fn no_rpc_is_served_without_a_credential() {
    let (acme, ops) = (keygen(), keygen());
    let tenants = Tenants::new().with("acme", "'inference'", &acme, "").with(
        "operators",
        "'admin'",
        &ops,
        "",
    );
    let server = tenants.serve(&[]);
    let channel = channel(&server).await;
    let bearer = |key: &Key| format!("Bearer {}", key.key);
    let unknown = "/ternion.v1.InferenceService/Nothing".to_owned();
    for path in rpcs().iter().chain([&unknown]) {
        let stranger = call(&channel, path, &[]).await;
        assert_eq!(stranger.code(), Code::Unauthenticated, "{path}");
        let wrong = format!("{}x", bearer(&acme));
        for metadata in [
            &[("authorization", wrong.as_str())][..],
            &[("authorization", "Basic YWNtZTphY21l")],
            &[("x-api-key", acme.key.as_str())],
            &[("x-tenant", "acme"), ("x-forwarded-user", "acme")],
        ] {
            let status = call(&channel, path, metadata).await;
            assert_eq!(status.code(), Code::Unauthenticated, "{path}: {metadata:?}");
            let told = format!("{} {:?}", status.message(), status.get_details_error_info());
            for secret in ["acme", "operators", "key-of"] {
                assert!(!told.contains(secret), "{path}: {told}");
            }
        }
        // The right key for the wrong role.
        let other = match path.contains("AdminService") {
            true => &acme,
            false => &ops,
        };
        let status = call(&channel, path, &[("authorization", &bearer(other))]).await;
        assert_eq!(status.code(), Code::PermissionDenied, "{path}");
        let info = status.get_details_error_info().expect("a reason");
        let expected = match *path == unknown {
            true => "RPC_UNKNOWN",
            false => "ROLE_MISSING",
        };
        assert_eq!(info.reason, expected, "{path}");
    }
    for (path, code) in [
        ("/grpc.health.v1.Health/Check", Code::Ok),
        // An empty question is let in, and then no good one.
        (
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            Code::InvalidArgument,
        ),
    ] {
        let status = call(&channel, path, &[]).await;
        assert_eq!(status.code(), code, "{path}: {status}");
    }

    let load = client(&server, &ops).await.load().await;
    load.expect("an operator may look at the load");
    let answer = answer(&client(&server, &acme).await, greedy(&[1016, 591], 5)).await;
    assert_eq!(answer.token_ids.len(), 5);
    let refused = client(&server, &acme).await.drain().await;
    let refused = refused.expect_err("acme is no operator");
    assert!(matches!(refused, Error::Denied { .. }), "{refused:?}");
}

#[tokio::test]
async fn the_command_line_takes_a_key() {
    let key = keygen();
    let server = Tenants::new().with("acme", "'inference'", &key, "");
    let server = server.serve(&["--reflection", "off"]);
    let models = |arguments: &[&str], variable: Option<&str>| {
        let mut command = ternion();
        command.args(["models", "--json", "--endpoint", server.endpoint()]);
        command.args(arguments);
        command.envs(variable.map(|key| ("TERNION_API_KEY", key)));
        let output = command.output().expect("ternion can be run");
        ternion_tests::Ran::from(output)
    };
    assert_eq!(models(&[], None).code, Some(3));
    let denied = models(&["--api-key", "tn_wrong"], None);
    assert_eq!(denied.code, Some(3));
    assert!(denied.stdout.contains("UNAUTHENTICATED"), "{denied:?}");
    for ran in [
        models(&["--api-key", &key.key], None),
        models(&[], Some(&key.key)),
    ] {
        assert!(ran.succeeded().stdout.contains("ternion-demo"));
    }
    // Reflection that is switched off is not there for anyone.
    let channel = channel(&server).await;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
        let status = call(&channel, &path, &[]).await;
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn tls_flags(paths: &[PathBuf; 2]) -> [&str; 4] {
    let [certificate, key] = paths;
    [
        "--tls-certificate",
        path(certificate),
        "--tls-key",
        path(key),
    ]
}

async fn connect(
    server: &Server,
    ca: &Authority,
    certificate: Option<&Certificate>,
    key: Option<&str>,
) -> Result<Client, Error> {
    let mut builder = Client::builder(server.endpoint()).ca(ca.pem());
    if let Some(Certificate { certificate, key }) = certificate {
        builder = builder.client_certificate(certificate.as_str(), key.as_str());
    }
    if let Some(key) = key {
        builder = builder.api_key(key);
    }
    let client = builder.connect().await?;
    // With TLS 1.3 a client that isn't wanted learns it after it connected.
    client.models().await?;
    Ok(client)
}

fn is_cut_off<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Transport { .. }))
}

#[tokio::test]
async fn tls_is_for_those_who_trust_its_authority() {
    let key = keygen();
    let tenants = Tenants::new().with("acme", "'inference'", &key, "");
    let (authority, other) = (Authority::new(), Authority::new());
    let paths = authority.server().write(tenants.dir(), "server");
    let server = tenants.serve(&tls_flags(&paths));
    assert!(server.endpoint().starts_with("https://"));

    // Clients that connect and then say nothing hold nobody up.
    let silent: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(server.address()).expect("it accepts"))
        .collect();
    let client = connect(&server, &authority, None, Some(&key.key)).await;
    let client = client.expect("the right authority and key");
    let answer = answer(&client, greedy(&[1016, 591], 5)).await;
    assert_eq!(answer.token_ids.len(), 5);
    drop(silent);

    let nobody = connect(&server, &authority, None, None).await;
    let nobody = nobody.expect_err("no key");
    assert_eq!(nobody.code(), Code::Unauthenticated);
    assert!(is_cut_off(
        connect(&server, &other, None, Some(&key.key)).await
    ));
    let plain = Client::connect(format!("http://{}", server.address())).await;
    let plain = match plain {
        Ok(client) => client.models().await,
        Err(error) => Err(error),
    };
    assert!(is_cut_off(plain));

    let ca = tenants.dir().join("ca.pem");
    std::fs::write(&ca, authority.pem()).expect("a directory of the test");
    let models = ternion()
        .args(["models", "--endpoint", server.endpoint(), "--ca", path(&ca)])
        .args(["--api-key", &key.key])
        .output();
    let models = ternion_tests::Ran::from(models.expect("ternion can be run"));
    assert!(models.succeeded().stdout.contains("ternion-demo"));
}

#[tokio::test]
async fn a_client_certificate_says_who_calls() {
    let key = keygen();
    let tenants = Tenants::new()
        .with("acme", "'inference'", &key, "")
        .with_certificate("robots", "spiffe://prod/robots")
        .with_certificate("names", "robot.example.org");
    let (authority, clients) = (Authority::new(), Authority::new());
    let paths = authority.server().write(tenants.dir(), "server");
    let ca = tenants.dir().join("clients.pem");
    std::fs::write(&ca, clients.pem()).expect("a directory of the test");
    let mut flags = tls_flags(&paths).to_vec();
    flags.extend(["--tls-client-ca", path(&ca), "--log-format", "json"]);
    let mut server = tenants.serve(&flags);

    let robot = clients.client("spiffe://prod/robots");
    for certificate in [&robot, &clients.dns_client("robot.example.org")] {
        let client = connect(&server, &authority, Some(certificate), None).await;
        answer(&client.expect("it is known"), greedy(&[1016, 591], 5)).await;
    }
    let lines = audit_lines(&mut server, 2).await;
    let who = |line: &Value| (line["tenant"].clone(), line["identity"].clone());
    assert_eq!(
        who(&lines[0]),
        ("robots".into(), "spiffe://prod/robots".into())
    );
    assert_eq!(who(&lines[1]), ("names".into(), "robot.example.org".into()));

    // A key counts alone.
    let client = connect(&server, &authority, Some(&robot), Some(&key.key)).await;
    client.expect("a good key on a good connection");
    let error = connect(&server, &authority, Some(&robot), Some("tn_wrong")).await;
    let error = error.expect_err("a wrong key");
    assert_eq!(error.code(), Code::Unauthenticated);
    let stranger = clients.client("spiffe://prod/stranger");
    let error = connect(&server, &authority, Some(&stranger), None).await;
    let error = error.expect_err("a name that is nobody's");
    assert_eq!(error.code(), Code::Unauthenticated);

    for (what, certificate) in [
        ("none", None),
        ("expired", Some(clients.expired("spiffe://prod/robots"))),
        (
            "of another authority",
            Some(authority.client("spiffe://prod/robots")),
        ),
    ] {
        let connected = connect(&server, &authority, certificate.as_ref(), Some(&key.key)).await;
        assert!(is_cut_off(connected), "a certificate that is {what}");
    }
    drop(server);

    // Optional: without a certificate, the key counts.
    flags.extend(["--tls-client-auth", "optional"]);
    let server = tenants.serve(&flags);
    let client = connect(&server, &authority, None, Some(&key.key)).await;
    client.expect("a key alone");
    let client = connect(&server, &authority, Some(&robot), None).await;
    client.expect("a certificate alone");
    let expired = clients.expired("spiffe://prod/robots");
    let expired = connect(&server, &authority, Some(&expired), Some(&key.key)).await;
    assert!(is_cut_off(expired));
}

#[test]
fn files_that_are_wrong_are_named_at_start() {
    let tenants = Tenants::new();
    let dir = tenants.dir();
    let authority = Authority::new();
    let good = authority.server().write(dir, "good");
    let other = authority.server().write(dir, "other");
    let old = authority.expired("spiffe://old").write(dir, "old");
    let garbage = dir.join("garbage.pem");
    std::fs::write(&garbage, "nothing of use").expect("a directory of the test");
    let missing = dir.join("missing.pem");
    let tls = |certificate: &Path, key: &Path| {
        [
            "--tls-certificate",
            path(certificate),
            "--tls-key",
            path(key),
        ]
        .map(str::to_owned)
    };
    let with_ca = |ca: &Path| {
        let mut flags = tls(&good[0], &good[1]).to_vec();
        flags.extend(["--tls-client-ca", path(ca)].map(str::to_owned));
        flags
    };
    std::fs::write(tenants.path(), "[[tenants]]\nname = 'A'\nrolls = []\n").expect("writable");
    let tenants_flags = vec!["--tenants".to_owned(), path(&tenants.path()).to_owned()];
    let no_tenants = vec!["--tenants".to_owned(), path(&missing).to_owned()];
    for (flags, expected) in [
        (
            tls(&missing, &good[1]).to_vec(),
            ["tls.certificate: ", "missing.pem", "can't be read"],
        ),
        (
            tls(&garbage, &good[1]).to_vec(),
            ["tls.certificate: ", "garbage.pem", "no certificate"],
        ),
        (
            tls(&good[0], &garbage).to_vec(),
            ["tls.key: ", "garbage.pem", "no private key"],
        ),
        (
            tls(&good[0], &other[1]).to_vec(),
            ["tls.key: ", "other.key", "is not the key of"],
        ),
        (
            tls(&old[0], &old[1]).to_vec(),
            ["tls.certificate: ", "old.pem", "has expired"],
        ),
        (
            with_ca(&missing),
            ["tls.client_ca: ", "missing.pem", "can't be read"],
        ),
        (
            with_ca(&old[0]),
            ["tls.client_ca: ", "old.pem", "has expired"],
        ),
        (
            tenants_flags,
            ["tenants: ", "tenants.toml", "tenants[0].name"],
        ),
        (no_tenants, ["tenants: ", "missing.pem", "can't be read"]),
        (
            vec!["--listen".to_owned(), "0.0.0.0:0".to_owned()],
            ["listen: 0.0.0.0:0", "tenants", "anonymous"],
        ),
    ] {
        let mut arguments = vec!["serve", "--listen", "127.0.0.1:0"];
        if flags[0] == "--listen" {
            arguments.truncate(1);
        }
        arguments.extend(flags.iter().map(String::as_str));
        let ran = server_tool(&arguments);
        assert_eq!(ran.code, Some(64), "{ran:?}");
        for part in expected {
            assert!(ran.stderr.contains(part), "{part:?} is not in {ran:?}");
        }
        assert!(!ran.stderr.contains("PRIVATE KEY"), "{ran:?}");
    }
}

#[tokio::test]
async fn without_tenants_the_banner_says_who_is_served() {
    let mut server = Server::start(&[]);
    let log = server.log_with(|log| log.contains("callers")).await;
    let line = log.lines().find(|line| line.starts_with("callers"));
    let line = line.expect("waited for");
    assert!(line.contains("without a credential"), "{line}");
    assert!(line.contains("this machine"), "{line}");
    // A key does no harm where none is needed.
    let client = client(&server, &keygen()).await;
    client.models().await.expect("anyone is served");
    client.load().await.expect("anyone is served");
}

/// When a refused call may be made again, as an interval on this clock: its
/// ends are the sending of the call and the arrival of its answer, both later
/// by what the refusal says.
#[derive(Debug)]
struct Release {
    earliest: Instant,
    latest: Instant,
}

async fn refused<T, F>(call: F) -> (Error, Release)
where
    T: std::fmt::Debug,
    F: Future<Output = Result<T, Error>>,
{
    let sent = Instant::now();
    let error = call.await.expect_err("the limit is reached");
    let received = Instant::now();
    assert!(
        matches!(error, Error::ResourceExhausted { .. }),
        "{error:?}"
    );
    let wait = error.retry_after().expect("it says when");
    assert!(!wait.is_zero());
    let release = Release {
        earliest: sent + wait,
        latest: received + wait,
    };
    (error, release)
}

impl Release {
    /// Whether both can mean one moment. Waits are rounded up to a
    /// millisecond.
    fn agrees_with(&self, other: &Release) -> bool {
        let slack = Duration::from_millis(1);
        self.earliest <= other.latest + slack && other.earliest <= self.latest + slack
    }
}

fn quota(error: &Error) -> (String, String) {
    let status = error.status().expect("the server answered");
    let quota = status.get_details_quota_failure().expect("a quota");
    let [violation] = &quota.violations[..] else {
        panic!("{quota:?}");
    };
    (violation.subject.clone(), reason(error))
}

#[tokio::test]
async fn requests_a_minute_are_released_when_the_refusal_said() {
    let (acme, other) = (keygen(), keygen());
    let tenants = Tenants::new()
        .with("acme", "'inference'", &acme, "requests_per_minute = 60")
        .with("other", "'inference'", &other, "");
    let server = tenants.serve(&[]);
    let client = client(&server, &acme).await;
    let call = || {
        client.detokenize(DetokenizeRequest {
            token_ids: vec![1016],
            ..DetokenizeRequest::default()
        })
    };

    // A minute's worth at once, and one a second.
    let begun = Instant::now();
    let mut served = 0;
    while call().await.is_ok() {
        served += 1;
    }
    let refilled = begun.elapsed().as_secs();
    assert!((60..=61 + refilled).contains(&served), "{served}");

    let (error, release) = refused(call()).await;
    assert_eq!(
        quota(&error),
        ("acme".to_owned(), "REQUESTS_PER_MINUTE".to_owned())
    );
    // One takes a second to come back, and a part of it may have passed.
    assert!(release.latest <= Instant::now() + Duration::from_secs(1));
    tokio::time::sleep_until(release.latest.into()).await;
    call().await.expect("it is the time that was told");

    // Now the bucket holds less than one; half-way to the next, the answer is
    // the same moment.
    let (_, release) = refused(call()).await;
    let half = release.earliest.saturating_duration_since(Instant::now()) / 2;
    tokio::time::sleep(half).await;
    let (_, again) = refused(call()).await;
    assert!(release.agrees_with(&again), "{release:?} {again:?}");
    // And text counts from the same bucket.
    let (error, _) = refused(client.generate(greedy(&[1016], 1))).await;
    assert_eq!(quota(&error).1, "REQUESTS_PER_MINUTE");
    tokio::time::sleep_until(release.latest.into()).await;
    call().await.expect("a refused call takes nothing");

    let other = crate::client(&server, &other).await;
    answer(&other, greedy(&[1016], 1)).await;
}

#[tokio::test]
async fn tokens_a_minute_are_released_when_the_refusal_said() {
    let key = keygen();
    let tenants = Tenants::new().with("acme", "'inference'", &key, "tokens_per_minute = 60");
    let server = tenants.serve(&[]);
    let client = client(&server, &key).await;

    let never = client.generate(greedy(&[1016, 591], 59)).await;
    let never = never.expect_err("61 are more than there ever are");
    assert_eq!(never.code(), Code::FailedPrecondition, "{never:?}");
    assert_eq!(reason(&never), "NEVER_FITS");
    let status = never.status().expect("the server answered");
    assert!(status.get_details_precondition_failure().is_some());

    // Two of prompt and 28 of output, twice: then the minute's are used up.
    for _ in 0..2 {
        let answer = answer(&client, greedy(&[1016, 591], 28)).await;
        let usage = answer.finished().usage.expect("every ending has it");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, 28));
    }
    // One a second comes back. On a slow machine some have.
    let small = || greedy(&[1016, 591], 1);
    let mut events = Vec::new();
    while let Ok(stream) = client.generate(small()).await {
        events.push(stream);
    }
    let (error, release) = refused(client.generate(small())).await;
    assert_eq!(
        quota(&error),
        ("acme".to_owned(), "TOKENS_PER_MINUTE".to_owned())
    );
    let info = error.status().and_then(StatusExt::get_details_error_info);
    let info = info.expect("every refusal has a reason");
    assert_eq!(info.metadata["asked"], "3");
    assert_eq!(info.metadata["limit"], "60");
    let half = release.earliest.saturating_duration_since(Instant::now()) / 2;
    tokio::time::sleep(half).await;
    let (_, again) = refused(client.generate(small())).await;
    assert!(release.agrees_with(&again), "{release:?} {again:?}");
    tokio::time::sleep_until(release.latest.into()).await;
    answer(&client, small()).await;
}

#[tokio::test]
async fn what_was_set_aside_and_not_used_comes_back() {
    let key = keygen();
    let tenants = Tenants::new().with("acme", "'inference'", &key, "tokens_per_minute = 1000");
    // A fast server is not far ahead of its reader.
    let server = tenants.serve(&["--outbox-capacity", "4"]);
    let client = client(&server, &key).await;
    // Each sets 502 of 1000 aside and uses two and a few, so that two would
    // be too many if nothing came back.
    for _ in 0..4 {
        let request = greedy(&[1016, 591], 500);
        let mut events = client.generate(request).await.expect("there is room");
        while !matches!(next(&mut events).await, Event::Delta(_)) {}
        drop(events);
        // The server notices within a step.
        while !client.requests().await.expect("it is up").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn next(events: &mut Events) -> Event {
    let event = ternion_client::StreamExt::next(events).await;
    event.expect("it goes on").expect("it goes on")
}

#[tokio::test]
async fn lengths_are_limited_by_tenant() {
    let key = keygen();
    let limits = "max_prompt_tokens = 4\nmax_output_tokens = 7";
    let tenants = Tenants::new().with("acme", "'inference'", &key, limits);
    let server = tenants.serve(&[]);
    let client = client(&server, &key).await;
    let long = "Once upon a time there was a little girl who lived in a village";
    let stopping = greedy(&[1016], 7).request.stopping.expect("it has");
    for (field, request) in [
        ("token_ids", greedy(&[1016, 591, 580, 1016, 591], 7)),
        ("text", Generate::text(long).stopping(stopping.clone())),
        ("chat", Generate::chat([user(long)]).stopping(stopping)),
        ("stopping.max_tokens", greedy(&[1016, 591, 580, 1016], 8)),
    ] {
        let error = client.generate(request).await;
        let error = error.expect_err("too long");
        assert_eq!(error.code(), Code::OutOfRange, "{field}: {error:?}");
        assert_eq!(error.violations()[0].field, field);
        let expected = match field {
            "stopping.max_tokens" => ("MAX_OUTPUT_TOKENS", "8", "7"),
            "token_ids" => ("MAX_PROMPT_TOKENS", "5", "4"),
            _ => {
                assert_eq!(reason(&error), "MAX_PROMPT_TOKENS");
                continue;
            }
        };
        let info = error.status().and_then(StatusExt::get_details_error_info);
        let info = info.expect("every refusal has a reason");
        let got = (
            info.reason.as_str(),
            info.metadata["got"].as_str(),
            info.metadata["limit"].as_str(),
        );
        assert_eq!(got, expected);
    }
    // Exactly as much as may be; and who names no length gets that.
    let mut unnamed = greedy(&[1016, 591, 580, 1016], 7);
    let named = answer(&client, greedy(&[1016, 591, 580, 1016], 7)).await;
    let stopping = unnamed.request.stopping.as_mut().expect("it has");
    stopping.max_tokens = None;
    let unnamed = answer(&client, unnamed).await;
    for answer in [named, unnamed] {
        assert_eq!(answer.token_ids.len(), 7);
        assert_eq!(answer.finished().reason(), FinishReason::Length);
    }
}

/// Requests that take a while, one after the other.
const ONE_AT_A_TIME: [&str; 2] = ["--max-num-seqs", "1"];
const MANY_TOKENS: u32 = 1000;

fn long(id: &str) -> Generate {
    let mut request = greedy(&[1016, 591], MANY_TOKENS);
    request.request.request_id = id.to_owned();
    request
}

/// Events of one request until its last, or the error it failed with.
async fn session_end(session: &mut Session, wanted: &str) -> Result<FinishReason, Error> {
    loop {
        let event = session.next().await.expect("it goes on");
        match event.expect("the stream lives on") {
            SessionEvent::Failed { id, error, .. } if id == wanted => return Err(error),
            SessionEvent::Event {
                id,
                event: Event::Finished(finished),
            } if id == wanted => return Ok(finished.reason()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn requests_at_once_are_limited_by_tenant() {
    let (acme, other) = (keygen(), keygen());
    let tenants = Tenants::new()
        .with("acme", "'inference'", &acme, "concurrent_requests = 2")
        .with("other", "'inference'", &other, "");
    let server = tenants.serve(&ONE_AT_A_TIME);
    let client = client(&server, &acme).await;
    let mut session = client.session().await.expect("a session opens");
    for id in ["first", "second", "third"] {
        session.start(id, long("")).await.expect("it is open");
    }
    let error = session_end(&mut session, "third").await;
    let error = error.expect_err("two are alive");
    assert_eq!(
        quota(&error),
        ("acme".to_owned(), "CONCURRENT_REQUESTS".to_owned())
    );
    assert!(error.retry_after().is_some());
    let error = client.generate(long("")).await.expect_err("two are alive");
    assert_eq!(quota(&error).1, "CONCURRENT_REQUESTS");
    let theirs = crate::client(&server, &other).await;
    let theirs = theirs.generate(long("")).await;
    let theirs = theirs.expect("another tenant's requests are none of ours");

    session.cancel("second").await.expect("it is open");
    let end = session_end(&mut session, "second").await.expect("it ran");
    assert_eq!(end, FinishReason::Cancelled);
    session.start("third", long("")).await.expect("it is open");
    session.cancel("third").await.expect("it is open");
    let end = session_end(&mut session, "third").await;
    assert_eq!(
        end.expect("there was a place again"),
        FinishReason::Cancelled
    );
    drop((session, theirs));
}

#[tokio::test]
async fn a_place_is_free_as_soon_as_the_last_frame_is_read() {
    let key = keygen();
    let tenants = Tenants::new().with("acme", "'inference'", &key, "concurrent_requests = 1");
    let server = tenants.serve(&[]);
    let client = client(&server, &key).await;
    for _ in 0..50 {
        answer(&client, greedy(&[1016, 591], 1)).await;
    }
    let mut session = client.session().await.expect("a session opens");
    for _ in 0..50 {
        session
            .start("one", greedy(&[1016, 591], 1))
            .await
            .expect("it is open");
        let end = session_end(&mut session, "one").await;
        assert_eq!(end.expect("there is a place"), FinishReason::Length);
    }
}

#[tokio::test]
async fn tenants_see_and_end_their_own_requests_only() {
    let (acme, other) = (keygen(), keygen());
    let tenants = Tenants::new().with("acme", "'inference'", &acme, "").with(
        "other",
        "'inference'",
        &other,
        "",
    );
    let server = tenants.serve(&ONE_AT_A_TIME);
    let (acme, other) = (client(&server, &acme).await, client(&server, &other).await);
    let mut ours = acme.generate(long("same")).await.expect("starts");
    let mut theirs = other.generate(long("same")).await.expect("its own id");
    let again = acme.generate(long("same")).await;
    let again = again.expect_err("it is in use");
    assert_eq!(again.code(), Code::AlreadyExists, "{again:?}");
    let mut session = acme.session().await.expect("a session opens");
    session.start("same", long("")).await.expect("it is open");
    let mut third = other.generate(long("secret-id")).await.expect("starts");

    let listed = async |client: &Client| -> Vec<(String, bool)> {
        let list = client.requests().await.expect("it is up");
        assert!(
            list.windows(2)
                .all(|pair| pair[0].age_seconds >= pair[1].age_seconds),
            "oldest first: {list:?}"
        );
        let facts = list.into_iter().map(|r| (r.request_id, r.in_session));
        facts.collect()
    };
    // The session's request is taken when its frame is read.
    let mut seen = listed(&acme).await;
    while seen.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        seen = listed(&acme).await;
    }
    assert_eq!(
        seen,
        [("same".to_owned(), false), ("same".to_owned(), true)]
    );
    assert_eq!(
        listed(&other).await,
        [("same".to_owned(), false), ("secret-id".to_owned(), false)]
    );

    assert_eq!(acme.cancel("secret-id").await.expect("it is up"), 0);
    assert_eq!(acme.cancel("nothing").await.expect("it is up"), 0);
    assert_eq!(acme.cancel("same").await.expect("it is up"), 2);
    let mut answer = Answer::default();
    answer.read(&mut ours).await.expect("it ends well");
    assert_eq!(answer.finished().reason(), FinishReason::Cancelled);
    let end = session_end(&mut session, "same").await.expect("it ran");
    assert_eq!(end, FinishReason::Cancelled);
    for events in [&mut theirs, &mut third] {
        let mut answer = Answer::default();
        answer.read(events).await.expect("it ends well");
        assert_eq!(answer.finished().reason(), FinishReason::Length);
        assert_eq!(answer.token_ids.len(), MANY_TOKENS as usize);
    }
    assert_eq!(listed(&acme).await, []);
    assert_eq!(listed(&other).await, []);
}

/// The fields of the audit lines, once there are so many.
async fn audit_lines(server: &mut Server, count: usize) -> Vec<Value> {
    let lines = |log: &str| -> Vec<Value> {
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let of_audit = |line: &Value| line["target"] == "ternion_server::audit";
        lines
            .filter(of_audit)
            .map(|line| line["fields"].clone())
            .filter(|fields| fields["message"] == "request ended")
            .collect()
    };
    let log = server.log_with(|log| lines(log).len() >= count).await;
    let lines = lines(log);
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

#[tokio::test]
async fn every_end_of_a_request_is_one_audit_line() {
    let key = keygen();
    let limits = "max_prompt_tokens = 100\nmax_output_tokens = 1000";
    let tenants = Tenants::new().with("acme", "'inference', 'admin'", &key, limits);
    let mut flags = vec!["--log-format", "json", "--log-filter", "debug"];
    flags.extend(ONE_AT_A_TIME);
    let mut server = tenants.serve(&flags);
    let client = client(&server, &key).await;
    let with_id = |mut request: Generate, id: &str| {
        request.request.request_id = id.to_owned();
        request
    };

    // Finished.
    answer(&client, with_id(greedy(&[1016, 591, 580], 5), "finished")).await;
    // Refused.
    let text = "xyzzy plugh ".repeat(100);
    let refused = client
        .generate(with_id(Generate::text(text.as_str()), "refused"))
        .await;
    assert_eq!(refused.expect_err("too long").code(), Code::OutOfRange);
    // Cancelled, while it runs.
    let mut events = client.generate(long("cancelled")).await.expect("starts");
    while !matches!(next(&mut events).await, Event::Delta(_)) {}
    assert_eq!(client.cancel("cancelled").await.expect("it is up"), 1);
    let mut answer = Answer::default();
    answer.read(&mut events).await.expect("it ends well");
    // Abandoned, while it runs.
    let mut events = client.generate(long("abandoned")).await.expect("starts");
    while !matches!(next(&mut events).await, Event::Delta(_)) {}
    drop(events);
    while !client.requests().await.expect("it is up").is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // On a session: refused, and finished.
    let mut session = client.session().await.expect("a session opens");
    session
        .start("too-much", greedy(&[1016], 1001))
        .await
        .expect("it is open");
    let error = session_end(&mut session, "too-much").await;
    assert_eq!(error.expect_err("too long").code(), Code::OutOfRange);
    session
        .start("in-session", greedy(&[1016, 591], 4))
        .await
        .expect("it is open");
    session_end(&mut session, "in-session").await.expect("ends");
    // A call without frames.
    let tokens = client.detokenize(DetokenizeRequest {
        token_ids: vec![1016],
        ..DetokenizeRequest::default()
    });
    tokens.await.expect("it is up");
    // A stranger.
    let stranger = Client::builder(server.endpoint()).api_key("tn_strangers-key");
    let stranger = stranger.connect().await.expect("it is up");
    stranger.models().await.expect_err("nobody knows it");

    // The cancel is a line, too.
    let lines = audit_lines(&mut server, 8).await;
    for line in &lines {
        assert_eq!(line["tenant"], "acme", "{line}");
        assert_eq!(line["identity"], "key-of-acme", "{line}");
        assert!(
            line["total_ms"].as_f64().is_some_and(|ms| ms >= 0.0),
            "{line}"
        );
    }
    let generate = "ternion.v1.InferenceService/Generate";
    let session = "ternion.v1.InferenceService/Session";
    // One each, in whatever order: the server hears of a reader that has gone
    // when it does.
    let line_of = |id: Option<&str>, method: &str| {
        let of = |line: &&Value| line["request_id"].as_str() == id && line["method"] == method;
        let found: Vec<&Value> = lines.iter().filter(of).collect();
        match found[..] {
            [line] => line,
            _ => panic!("{id:?} of {method} in {lines:#?}"),
        }
    };
    for (id, method, code, reason, tokens) in [
        ("finished", generate, "OK", "length", Some((3, 5))),
        ("refused", generate, "OUT_OF_RANGE", "", Some((0, 0))),
        ("cancelled", generate, "CANCELLED", "cancelled", None),
        ("abandoned", generate, "CANCELLED", "abandoned", None),
        ("too-much", session, "OUT_OF_RANGE", "", Some((0, 0))),
        ("in-session", session, "OK", "length", Some((2, 4))),
    ] {
        let line = line_of(Some(id), method);
        assert_eq!(line["code"], code, "{line}");
        assert_eq!(
            line["finish_reason"].as_str().unwrap_or(""),
            reason,
            "{line}"
        );
        let count = |name: &str| line[name].as_u64().expect("a count");
        let got = (count("prompt_tokens"), count("completion_tokens"));
        match tokens {
            Some(tokens) => assert_eq!(got, tokens, "{line}"),
            None => {
                assert_eq!(got.0, 2, "{line}");
                assert!((1..1000).contains(&got.1), "{line}");
            }
        }
        let has_times = |name: &str| line[name].as_f64().is_some();
        let ran_to_an_end = ["length", "cancelled"].contains(&reason);
        assert_eq!(has_times("queue_ms"), ran_to_an_end, "{line}");
        assert_eq!(has_times("ttft_ms"), ran_to_an_end, "{line}");
    }
    line_of(None, "ternion.v1.RequestService/Cancel");
    line_of(None, "ternion.v1.InferenceService/Detokenize");
    let log = server
        .log_with(|log| log.contains("call turned away"))
        .await;
    for secret in [&key.key[3..], "strangers-key", "xyzzy", "plugh"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn changed_files_count_without_a_restart() {
    let (old, new) = (keygen(), keygen());
    let tenants = Tenants::new().with("acme", "'inference'", &old, "");
    let (first, second) = (Authority::new(), Authority::new());
    let paths = first.server().write(tenants.dir(), "server");
    let mut flags = tls_flags(&paths).to_vec();
    flags.extend(ONE_AT_A_TIME);
    let mut server = tenants.serve(&flags);
    let client = connect(&server, &first, None, Some(&old.key)).await;
    let client = client.expect("the right authority and key");
    let mut session = client.session().await.expect("a session opens");
    let mut busy = Vec::new();
    for _ in 0..4 {
        busy.push(client.generate(long("")).await.expect("starts"));
    }

    // A file that is wrong changes nothing.
    std::fs::write(tenants.path(), "[[tenants]]\nname = 7\n").expect("writable");
    server
        .log_with(|log| log.contains("the tenants stay as they were"))
        .await;
    client.models().await.expect("the old key still counts");

    // A symbolic link that is swapped, as Kubernetes does it, and a new key.
    let renewed = Tenants::new().with("acme", "'inference'", &new, "");
    std::fs::remove_file(tenants.path()).expect("it is there");
    std::os::unix::fs::symlink(renewed.path(), tenants.path()).expect("writable");
    second.server().write(tenants.dir(), "server");
    let deadline = Instant::now() + RELOAD_TIMEOUT;
    let renewed = loop {
        match connect(&server, &second, None, Some(&new.key)).await {
            Ok(client) => break client,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    renewed.models().await.expect("the new key counts");
    let error = client.models().await.expect_err("the old key is gone");
    assert_eq!(error.code(), Code::Unauthenticated);
    // Nor does a session that is open go on with it.
    session
        .start("late", greedy(&[1016], 1))
        .await
        .expect("it is open");
    let error = session_end(&mut session, "late").await;
    let error = error.expect_err("its key is gone");
    assert_eq!(error.code(), Code::Unauthenticated);
    assert_eq!(reason(&error), "REVOKED");
    // What ran goes on, on its old connection.
    for mut events in busy {
        let mut answer = Answer::default();
        answer.read(&mut events).await.expect("it goes on");
        assert_eq!(answer.token_ids.len(), MANY_TOKENS as usize);
    }
}
