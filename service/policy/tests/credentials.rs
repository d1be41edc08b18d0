//! Who is who.
#![forbid(unsafe_code)]

mod acme;

use acme::{Acme, KEY, s, tenants, with_key};
use ternion_policy::{
    Caller, Cause, Credential, KeyHash, MaxOutput::Asked, Policy, Role, Tenants, Unauthenticated,
};

/// Two tenants with keys and certificates.
fn two() -> Policy {
    let hash = |key| KeyHash::of(key).to_string();
    let text = format!(
        r#"
        [[tenants]]
        name = "acme"
        roles = ["inference", "admin"]
        keys = [{{ id = "old", hash = "{}" }}, {{ id = "new", hash = "{}" }}]
        certificates = [{{ san = "spiffe://prod/acme" }}, {{ san = "Acme.Example" }}]

        [[tenants]]
        name = "globex"
        roles = ["admin"]
        keys = [{{ id = "new", hash = "{}" }}]
        certificates = [{{ san = "globex.example" }}]
        "#,
        hash("tn_old"),
        hash("tn_new"),
        hash("tn_globex"),
    );
    Policy::new(Tenants::parse(&text).unwrap())
}

fn find(policy: &Policy, key: Option<&str>, sans: &[&str]) -> Result<Caller, Unauthenticated> {
    let sans: Vec<String> = sans.iter().map(|san| (*san).to_owned()).collect();
    policy.authenticate(&Credential {
        key,
        certificate_sans: &sans,
    })
}

#[track_caller]
fn assert_is(caller: Result<Caller, Unauthenticated>, tenant: &str, identity: &str) {
    let caller = caller.unwrap();
    assert_eq!(
        (caller.tenant().as_str(), caller.identity()),
        (tenant, identity)
    );
    assert!(!caller.is_anonymous());
}

#[test]
fn every_key_of_a_tenant_is_it() {
    let policy = two();
    assert_is(find(&policy, Some("tn_old"), &[]), "acme", "old");
    assert_is(find(&policy, Some("tn_new"), &[]), "acme", "new");
    assert_is(find(&policy, Some("tn_globex"), &[]), "globex", "new");
}

#[test]
fn a_hash_is_no_key() {
    let policy = two();
    let hash = KeyHash::of("tn_old").to_string();
    for key in ["", "tn_", "tn_old ", "TN_OLD", "tn_ol", &hash, &hash[7..]] {
        let error = find(&policy, Some(key), &[]).unwrap_err();
        assert_eq!(error, Unauthenticated::UnknownKey, "{key}");
        assert_eq!(error.to_string(), "API key is not known");
    }
}

#[test]
fn a_certificate_counts_where_no_key_is_given() {
    let policy = two();
    let uri = "spiffe://prod/acme";
    assert_is(find(&policy, None, &[uri]), "acme", uri);
    assert_is(find(&policy, None, &["x.example", uri]), "acme", uri);
    assert_is(find(&policy, Some("tn_globex"), &[uri]), "globex", "new");
    let error = find(&policy, Some("tn_wrong"), &[uri]).unwrap_err();
    assert_eq!(error, Unauthenticated::UnknownKey);
}

#[test]
fn dns_names_are_blind_to_case_and_uris_are_not() {
    let policy = two();
    assert_is(
        find(&policy, None, &["aCME.EXAMPLE"]),
        "acme",
        "acme.example",
    );
    for san in [
        "spiffe://prod/Acme",
        "spiffe://prod/acme/",
        "www.acme.example",
        "example",
    ] {
        find(&policy, None, &[san]).unwrap_err();
    }
}

#[test]
fn a_refusal_says_what_was_missing() {
    let policy = two();
    let error = find(&policy, None, &[]).unwrap_err();
    assert_eq!(error, Unauthenticated::NoCredential);
    assert_eq!(
        error.to_string(),
        "no credential: an API key or a client certificate is needed"
    );
    for (sans, rest) in [
        (vec!["a.example"], ""),
        (vec!["a.example", "b"], " or its other one"),
        (vec!["a.example", "b", "c"], " or its 2 others"),
    ] {
        assert_eq!(
            find(&policy, None, &sans).unwrap_err().to_string(),
            format!("client certificate is not known: no tenant has the name \"a.example\"{rest}")
        );
    }
}

#[test]
fn a_certificate_of_two_tenants_is_of_neither() {
    let policy = two();
    let sans = ["spiffe://prod/acme", "acme.example", "globex.example"];
    assert_is(find(&policy, None, &sans[..2]), "acme", sans[0]);
    assert_eq!(
        find(&policy, None, &sans).unwrap_err().to_string(),
        "client certificate is ambiguous: \"spiffe://prod/acme\" and \"globex.example\" are \
         different tenants' names"
    );
}

#[test]
fn a_role_is_had_or_not() {
    let policy = two();
    let acme = find(&policy, Some("tn_old"), &[]).unwrap();
    let globex = find(&policy, Some("tn_globex"), &[]).unwrap();
    assert_eq!(acme.allowed(Role::Admin).unwrap().tenant(), acme.tenant());
    acme.allowed(Role::Inference).unwrap();
    globex.allowed(Role::Admin).unwrap();
    let forbidden = globex.allowed(Role::Inference).unwrap_err();
    assert_eq!(
        forbidden.to_string(),
        "tenant globex has not the role inference"
    );
    let one = Acme::new("");
    assert_eq!(
        one.caller.allowed(Role::Admin).unwrap_err().to_string(),
        "tenant acme has not the role admin",
        "inference is what a tenant has unless told otherwise"
    );
}

#[test]
fn an_administrator_does_not_enter_as_one() {
    let policy = two();
    let admin = find(&policy, Some("tn_globex"), &[])
        .unwrap()
        .allowed(Role::Admin)
        .unwrap();
    let refusal = policy.enter(&admin, s(0)).unwrap_err();
    assert_eq!(refusal.cause(), &Cause::Revoked);
    assert_eq!(refusal.retry_after(), None);
    assert_eq!(refusal.tenant().as_str(), "globex");
    assert_eq!(
        refusal.to_string(),
        "credential of tenant globex no longer allows inference"
    );
    let usage = policy.usage();
    assert_eq!(usage[1].refused.last(), Some(&("revoked", 1)));
}

#[test]
fn an_open_policy_asks_nobody() {
    let policy = Policy::open();
    assert!(policy.is_open() && !two().is_open());
    for key in [None, Some("whatever")] {
        let caller = find(&policy, key, &["any.example"]).unwrap();
        assert!(caller.is_anonymous());
        assert_eq!(
            (caller.tenant().as_str(), caller.identity()),
            ("anonymous", "anonymous")
        );
        caller.allowed(Role::Admin).unwrap();
        caller.allowed(Role::Inference).unwrap();
    }
}

#[test]
fn a_key_does_not_show_in_logs() {
    let credential = Credential {
        key: Some("tn_secret"),
        certificate_sans: &[],
    };
    let policy = two();
    let caller = find(&policy, Some("tn_old"), &[]).unwrap();
    let shown = format!("{credential:?} {caller:?} {policy:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("tn_old"),
        "{shown}"
    );
}

#[test]
fn a_reload_takes_keys_away_and_brings_new_ones() {
    let acme = Acme::new("");
    let next = Tenants::parse(&acme::file("acme", "tn_next", "")).unwrap();
    let running = acme.policy.enter(&acme.caller, s(0)).unwrap();
    acme.policy.reload(next, s(1));
    let error = find(&acme.policy, Some(KEY), &[]).unwrap_err();
    assert_eq!(error, Unauthenticated::UnknownKey);
    // One that came before, with the key that is gone.
    let refusal = acme.policy.enter(&acme.caller, s(1)).unwrap_err();
    assert_eq!(refusal.cause(), &Cause::Revoked);
    // What was let in goes on.
    running.admit(1, Asked(1), s(1)).unwrap();
    let caller = with_key(&acme.policy, "tn_next")
        .allowed(Role::Inference)
        .unwrap();
    acme.policy.enter(&caller, s(1)).unwrap();
}

#[test]
fn a_key_that_changes_hands_does_not_take_its_holder_along() {
    let acme = Acme::new("");
    let text = acme::file("acme", "tn_other", "") + &acme::file("globex", KEY, "");
    acme.policy.reload(Tenants::parse(&text).unwrap(), s(1));
    let refusal = acme.policy.enter(&acme.caller, s(1)).unwrap_err();
    assert_eq!(refusal.cause(), &Cause::Revoked);
    assert_is(find(&acme.policy, Some(KEY), &[]), "globex", "one");
}

#[test]
fn a_certificate_that_changes_hands_does_not_take_its_holder_along() {
    let policy = two();
    let caller = find(&policy, None, &["acme.example"]).unwrap();
    let caller = caller.allowed(Role::Inference).unwrap();
    let tenant = |name: &str, san: &str| {
        format!("[[tenants]]\nname = {name:?}\ncertificates = [{{ san = {san:?} }}]\n")
    };
    let text = tenant("acme", "other.example") + &tenant("globex", "acme.example");
    policy.reload(Tenants::parse(&text).unwrap(), s(1));
    let refusal = policy.enter(&caller, s(1)).unwrap_err();
    assert_eq!(refusal.cause(), &Cause::Revoked);
    assert_eq!(refusal.tenant().as_str(), "acme");
    assert_is(
        find(&policy, None, &["acme.example"]),
        "globex",
        "acme.example",
    );
}

#[test]
fn a_reload_takes_certificates_roles_and_tenants_away() {
    let policy = two();
    let caller = |san| {
        let caller = find(&policy, None, &[san]).unwrap();
        caller.allowed(Role::Admin).unwrap()
    };
    let (by_uri, by_dns, globex) = (
        caller("spiffe://prod/acme"),
        caller("acme.example"),
        caller("globex.example"),
    );
    policy.enter(&by_uri, s(0)).unwrap();
    policy.enter(&by_dns, s(0)).unwrap();
    let acme = |roles: &str, san: &str| {
        let text = format!(
            "[[tenants]]\nname = \"acme\"\nroles = [{roles:?}]\ncertificates = [{{ san = {san:?} }}]"
        );
        policy.reload(Tenants::parse(&text).unwrap(), s(1));
    };
    acme("inference", "acme.example");
    policy.enter(&by_dns, s(1)).unwrap();
    for gone in [&by_uri, &globex] {
        let refusal = policy.enter(gone, s(1)).unwrap_err();
        assert_eq!(refusal.cause(), &Cause::Revoked);
    }
    acme("admin", "acme.example");
    assert_eq!(
        policy.enter(&by_dns, s(1)).unwrap_err().cause(),
        &Cause::Revoked
    );
    let names: Vec<_> = policy
        .usage()
        .into_iter()
        .map(|usage| usage.tenant)
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn an_open_door_can_be_closed() {
    let policy = Policy::open();
    let caller = find(&policy, None, &[])
        .unwrap()
        .allowed(Role::Inference)
        .unwrap();
    policy.reload(tenants(""), s(1));
    assert!(!policy.is_open());
    assert_eq!(
        policy.enter(&caller, s(1)).unwrap_err().cause(),
        &Cause::Revoked
    );
    find(&policy, None, &[]).unwrap_err();
}

#[test]
fn a_reload_keeps_the_books_and_changes_the_limits() {
    let acme =
        Acme::new("requests_per_minute = 60\ntokens_per_minute = 600\nconcurrent_requests = 9");
    let enter = |now| acme.policy.enter(&acme.caller, now);
    let mut held: Vec<_> = (0..3)
        .map(|_| enter(s(0)).unwrap().admit(100, Asked(100), s(0)).unwrap())
        .collect();
    held[0].used(100, s(0));
    // From here on: 2 s of the old rate have brought 20 tokens.
    acme.policy.reload(
        tenants("requests_per_minute = 2\ntokens_per_minute = 6000\nconcurrent_requests = 4"),
        s(2),
    );
    let refusal = enter(s(2)).unwrap().admit(0, Asked(120), s(2)).unwrap_err();
    assert_eq!(
        refusal.retry_after(),
        Some(s(1)),
        "100 a second from now on"
    );
    held.push(enter(s(2)).unwrap().admit(0, Asked(20), s(2)).unwrap());
    // Four run and three may: two of the four must end, and as none has yet,
    // each is taken to last a second.
    acme.policy.reload(
        tenants("requests_per_minute = 2\nconcurrent_requests = 3"),
        s(2),
    );
    let refusal = enter(s(2)).unwrap_err();
    let (limit, retry_after) = (3, acme::ms(500));
    assert_eq!(
        refusal.cause(),
        &Cause::ConcurrentRequests { limit, retry_after }
    );
    drop(held);
    assert_eq!(acme.usage().running, 0);
    assert_eq!(acme.usage().admitted, 4);
    // No limit on tokens is left; the one on requests is.
    drop(
        enter(s(2))
            .unwrap()
            .admit(1 << 40, Asked(1 << 40), s(2))
            .unwrap(),
    );
    assert_eq!(enter(s(2)).unwrap_err().retry_after(), Some(s(30)));
}

#[test]
fn a_tenant_keeps_its_number_and_takes_its_new_weight() {
    let with = |acme: &str, other: &str| {
        let tenant = |name: &str, weight: &str| {
            let text = acme::file(name, &format!("tn_{name}"), "");
            text.replace("[[tenants.keys]]", &format!("{weight}\n[[tenants.keys]]"))
        };
        let text = tenant("other", other) + &tenant("acme", acme);
        Tenants::parse(&text).unwrap()
    };
    let policy = Policy::new(with("", "weight = 3"));
    let share = |name: &str| {
        let caller = with_key(&policy, &format!("tn_{name}"));
        let caller = caller.allowed(Role::Inference).unwrap();
        let ticket = policy.enter(&caller, s(0)).unwrap();
        let admitted = ticket.admit(1, Asked(1), s(0)).unwrap();
        (admitted.tenant_number(), admitted.weight())
    };
    let (acme, other) = (share("acme"), share("other"));
    assert_ne!(acme.0, other.0);
    assert_eq!((acme.1, other.1), (1, 3));
    policy.reload(with("weight = 2", ""), s(0));
    assert_eq!((share("acme"), share("other")), ((acme.0, 2), (other.0, 1)));
    // Who comes later gets a number of its own.
    policy.reload(tenants(""), s(0));
    policy.reload(with("", ""), s(0));
    assert_eq!(share("acme").0, acme.0);
    assert!(![acme.0, other.0].contains(&share("other").0));
}

#[test]
fn many_tenants_have_as_many_numbers() {
    const COUNT: usize = 1000;
    let files = (0..COUNT).map(|n| acme::file(&format!("t{n}"), &format!("tn_{n}"), ""));
    let policy = Policy::new(Tenants::parse(&files.collect::<String>()).unwrap());
    let number = |n| {
        let caller = with_key(&policy, &format!("tn_{n}"));
        let caller = caller.allowed(Role::Inference).unwrap();
        policy.enter(&caller, s(0)).unwrap().tenant_number()
    };
    let numbers: std::collections::BTreeSet<u32> = (0..COUNT).map(number).collect();
    assert_eq!(numbers.len(), COUNT);
    assert!(numbers.last() < Some(&65536));
}

#[test]
fn what_no_limit_took_no_limit_gets_back() {
    let acme = Acme::new("");
    let enter = || acme.policy.enter(&acme.caller, s(0)).unwrap();
    let held = enter().admit(500, Asked(100), s(0)).unwrap();
    acme.policy.reload(tenants("tokens_per_minute = 600"), s(0));
    let mut all = enter().admit(300, Asked(300), s(0)).unwrap();
    all.used(300, s(0));
    drop(held);
    drop(all);
    let refusal = enter().admit(0, Asked(1), s(0)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(acme::ms(100)));
}
