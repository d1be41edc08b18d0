//! Files that change while the server runs.

use super::*;

/// How long a changed file may take to count: it is looked at every 2 s.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn changed_files_count_without_a_restart() {
    let (old, new) = (keygen(), keygen());
    let tenants = Tenants::new().with("acme", "'inference'", &old, "");
    let (first, second) = (Authority::new(), Authority::new());
    let paths = first.server().write(tenants.dir(), "server");
    let mut flags = tls_flags(&paths).to_vec();
    flags.extend(ONE_AT_A_TIME);
    let (kernel, mut server) = tenants.serve_slowly(&flags);
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
    kernel.release();
    for mut events in busy {
        let mut answer = Answer::default();
        answer.read(&mut events).await.expect("it goes on");
        assert_eq!(answer.token_ids.len(), MANY_TOKENS as usize);
    }
}
