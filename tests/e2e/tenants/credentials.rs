//! Who may call: keys, certificates, roles, and TLS.

use super::*;

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
