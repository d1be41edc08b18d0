//! Limits, by cases worked by hand.
#![forbid(unsafe_code)]

mod acme;

use std::{sync::Barrier, time::Duration};

use acme::{Acme, ms, s};
use ternion_policy::{
    Admitted, Cause, Credential, KeyHash,
    MaxOutput::{Asked, AtMost},
    Policy, Refusal, Role, Tenants,
};

#[test]
fn requests_come_back_one_by_one() {
    let acme = Acme::new("requests_per_minute = 3");
    for _ in 0..3 {
        acme.policy.enter(&acme.caller, s(100)).unwrap();
    }
    let refusal = acme.policy.enter(&acme.caller, s(105)).unwrap_err();
    let (limit, retry_after) = (3, s(15));
    assert_eq!(
        refusal.cause(),
        &Cause::RequestsPerMinute { limit, retry_after }
    );
    assert_eq!(refusal.retry_after(), Some(retry_after));
    assert_eq!(
        refusal.to_string(),
        "tenant acme may make 3 requests a minute; retry in 15s"
    );
    acme.policy.enter(&acme.caller, ms(119_999)).unwrap_err();
    acme.policy.enter(&acme.caller, s(120)).unwrap();
    acme.policy.enter(&acme.caller, s(120)).unwrap_err();
}

#[test]
fn samples_are_let_in_together_and_count_one_by_one() {
    let acme = Acme::new(
        "requests_per_minute = 6\nconcurrent_requests = 5\ntokens_per_minute = 600\n\
         max_output_tokens = 100",
    );
    let enter = |samples| acme.policy.enter_samples(&acme.caller, samples, s(0));
    let three = enter(3).unwrap();
    let refusal = enter(3).unwrap_err();
    assert!(matches!(
        refusal.cause(),
        Cause::ConcurrentRequests { limit: 5, .. }
    ));
    assert_eq!(acme.usage().running, 3, "none of the others is in");
    let refusal = enter(6).unwrap_err();
    assert_eq!(refusal.cause(), &Cause::TooManySamples { got: 6, limit: 5 });
    assert_eq!(refusal.retry_after(), None);

    // The prompt once, and the output of each.
    let mut admitted = three.admit(50, Asked(100), s(0)).unwrap();
    assert_eq!(admitted.max_output_tokens(), 100);
    let cause = Cause::TokensPerMinute {
        limit: 600,
        asked: 300,
        retry_after: s(5),
    };
    let refusal = enter(2).unwrap().admit(100, Asked(100), s(0)).unwrap_err();
    assert_eq!(refusal.cause(), &cause);
    admitted.used(120, s(1));
    drop(admitted);
    assert_eq!(acme.usage().running, 0);
    let usage = acme.usage();
    assert_eq!(
        (usage.admitted, usage.input_tokens, usage.output_tokens),
        (1, 50, 120),
        "three samples are one request"
    );

    // What it has not used is there again, and a minute has three requests left.
    let refusal = enter(4).unwrap_err();
    let retry_after = s(10);
    assert_eq!(
        refusal.cause(),
        &Cause::RequestsPerMinute {
            limit: 6,
            retry_after
        }
    );
    let later = acme.policy.enter_samples(&acme.caller, 3, s(60)).unwrap();
    let default = later.admit(550, AtMost(1000), s(60)).unwrap();
    assert_eq!(default.max_output_tokens(), 50 / 3);
}

#[test]
fn more_samples_than_the_smaller_of_two_limits_never_get_in() {
    let admit = |limits: &str, samples| {
        let acme = Acme::new(limits);
        acme.policy.enter_samples(&acme.caller, samples, s(0))
    };
    for limits in [
        "requests_per_minute = 4\nconcurrent_requests = 7",
        "requests_per_minute = 7\nconcurrent_requests = 4",
        "requests_per_minute = 4",
        "concurrent_requests = 4",
    ] {
        admit(limits, 4).unwrap();
        let refusal = admit(limits, 5).unwrap_err();
        assert_eq!(refusal.cause(), &Cause::TooManySamples { got: 5, limit: 4 });
    }
}

#[test]
fn a_wait_is_rounded_up_to_a_millisecond() {
    // One in 8571.43 ms.
    let acme = Acme::new("requests_per_minute = 7");
    for _ in 0..7 {
        acme.policy.enter(&acme.caller, s(0)).unwrap();
    }
    let refusal = acme.policy.enter(&acme.caller, s(0)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(ms(8572)));
    let refusal = acme.policy.enter(&acme.caller, ms(8571)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(ms(1)));
    acme.policy.enter(&acme.caller, ms(8572)).unwrap();
}

#[test]
fn prompt_and_output_are_set_aside_and_what_is_not_used_comes_back() {
    let acme = Acme::new("tokens_per_minute = 600");
    let enter = || acme.policy.enter(&acme.caller, s(0)).unwrap();
    let mut first = enter().admit(100, Asked(400), s(0)).unwrap();
    assert_eq!(first.max_output_tokens(), 400);
    // 100 are left, 10 come every second.
    let refusal = enter().admit(50, Asked(80), s(0)).unwrap_err();
    let cause = Cause::TokensPerMinute {
        limit: 600,
        asked: 130,
        retry_after: s(3),
    };
    assert_eq!(refusal.cause(), &cause);
    assert_eq!(
        refusal.to_string(),
        "tenant acme may use 600 tokens a minute, and this request needs 130; retry in 3s"
    );
    first.started();
    first.used(3, s(1));
    first.used(250, s(2));
    drop(first);
    // Of its 400, 250 were used.
    let refusal = enter().admit(0, Asked(251), s(0)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(ms(100)));
    drop(enter().admit(0, Asked(250), s(0)).unwrap());
    let usage = acme.usage();
    assert_eq!((usage.input_tokens, usage.output_tokens), (100, 250));
}

#[test]
fn a_request_that_never_starts_costs_no_tokens() {
    let acme = Acme::new("tokens_per_minute = 600");
    let enter = || acme.policy.enter(&acme.caller, s(0)).unwrap();
    drop(enter().admit(500, Asked(100), s(0)).unwrap());
    enter().admit(500, Asked(100), s(0)).unwrap().used(0, s(0));
    let mut again = enter().admit(500, Asked(100), s(0)).unwrap();
    again.started();
    drop(again);
    let refusal = enter().admit(1, Asked(100), s(0)).unwrap_err();
    assert_eq!(
        refusal.retry_after(),
        Some(ms(100)),
        "500 are used, 100 came back"
    );
    let usage = acme.usage();
    assert_eq!((usage.input_tokens, usage.output_tokens), (500, 0));
}

#[test]
fn a_token_means_that_the_prompt_was_computed() {
    let acme = Acme::new("tokens_per_minute = 600");
    let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
    ticket.admit(500, Asked(100), s(0)).unwrap().used(1, s(0));
    assert_eq!(acme.usage().input_tokens, 500);
    let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
    let refusal = ticket.admit(100, Asked(0), s(0)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(ms(100)), "99 are left");
}

#[test]
fn a_running_total_only_grows() {
    let acme = Acme::new("tokens_per_minute = 600");
    let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
    let mut admitted = ticket.admit(0, Asked(600), s(0)).unwrap();
    for total in [5, 5, 3, 7] {
        admitted.used(total, s(1));
    }
    assert_eq!(acme.usage().output_tokens, 7);
    // More than there may be: counted, and nothing comes back.
    admitted.used(1000, s(1));
    drop(admitted);
    assert_eq!(acme.usage().output_tokens, 1000);
    let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
    let refusal = ticket.admit(0, Asked(1), s(0)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(ms(100)));
}

#[test]
fn a_refused_request_takes_nothing() {
    let acme = Acme::new(
        "requests_per_minute = 2\ntokens_per_minute = 600\nconcurrent_requests = 1\n\
         max_prompt_tokens = 400\nmax_output_tokens = 300",
    );
    let enter = || acme.policy.enter(&acme.caller, s(0)).unwrap();
    let mut held = enter().admit(300, Asked(200), s(0)).unwrap();
    held.used(200, s(0));
    for _ in 0..10 {
        acme.policy.enter(&acme.caller, s(0)).unwrap_err();
    }
    drop(held);
    for _ in 0..10 {
        enter().admit(401, Asked(1), s(0)).unwrap_err();
        enter().admit(1, Asked(301), s(0)).unwrap_err();
        enter().admit(400, Asked(201), s(0)).unwrap_err();
        enter().admit(50, Asked(51), s(0)).unwrap_err();
    }
    let usage = acme.usage();
    assert_eq!((usage.admitted, usage.running), (1, 0));
    let expected = [
        ("requests_per_minute", 0),
        ("tokens_per_minute", 10),
        ("concurrent_requests", 10),
        ("max_prompt_tokens", 10),
        ("max_output_tokens", 10),
        ("never_fits", 10),
        ("too_many_samples", 0),
        ("revoked", 0),
    ];
    assert_eq!(usage.refused, expected);
    // The other of the two requests, and the other 100 of the tokens.
    drop(enter().admit(50, Asked(50), s(0)).unwrap());
    acme.policy.enter(&acme.caller, s(0)).unwrap_err();
}

#[test]
fn a_ticket_that_asks_for_nothing_was_a_request_all_the_same() {
    let acme = Acme::new("requests_per_minute = 1\nconcurrent_requests = 1");
    drop(acme.policy.enter(&acme.caller, s(0)).unwrap());
    assert_eq!(acme.usage().running, 0);
    let refusal = acme.policy.enter(&acme.caller, s(0)).unwrap_err();
    assert_eq!(refusal.cause().name(), "requests_per_minute");
}

#[test]
fn sizes_have_limits_of_their_own() {
    let acme = Acme::new("max_prompt_tokens = 400\nmax_output_tokens = 300");
    let admit = |prompt, output| {
        let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
        ticket.admit(prompt, output, s(0))
    };
    let refusal = admit(401, Asked(1)).unwrap_err();
    assert_eq!(
        refusal.cause(),
        &Cause::PromptTooLong {
            got: 401,
            limit: 400
        }
    );
    assert_eq!(refusal.retry_after(), None);
    assert_eq!(
        refusal.to_string(),
        "prompt has 401 tokens; tenant acme may send 400"
    );
    let refusal = admit(400, Asked(301)).unwrap_err();
    assert_eq!(
        refusal.cause(),
        &Cause::OutputTooLong {
            got: 301,
            limit: 300
        }
    );
    assert_eq!(refusal.retry_after(), None);
    assert_eq!(
        refusal.to_string(),
        "301 output tokens are asked for; tenant acme may have 300"
    );
    let max_output = |admitted: Result<Admitted, Refusal>| admitted.unwrap().max_output_tokens();
    assert_eq!(max_output(admit(400, Asked(300))), 300);
    assert_eq!(max_output(admit(400, AtMost(301))), 300, "a default is cut");
    assert_eq!(max_output(admit(400, AtMost(17))), 17);
}

#[test]
fn a_default_is_cut_to_what_a_minute_can_give() {
    let acme = Acme::new("tokens_per_minute = 600");
    let admit = |prompt, output| {
        let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
        ticket.admit(prompt, output, s(0))
    };
    assert_eq!(admit(100, AtMost(1000)).unwrap().max_output_tokens(), 500);
    assert_eq!(admit(599, AtMost(1000)).unwrap().max_output_tokens(), 1);
    for (prompt, output, asked) in [
        (600, AtMost(1000), 601),
        (100, Asked(501), 601),
        (u64::MAX, Asked(u64::MAX), u64::MAX),
    ] {
        let refusal = admit(prompt, output).unwrap_err();
        assert_eq!(refusal.cause(), &Cause::NeverFits { asked, limit: 600 });
        assert_eq!(refusal.retry_after(), None);
    }
    assert_eq!(
        admit(600, AtMost(1)).unwrap_err().to_string(),
        "request needs 601 tokens; tenant acme may use 600 a minute"
    );
}

#[test]
fn a_slot_is_free_when_its_request_is_gone() {
    let acme = Acme::new("concurrent_requests = 2");
    let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
    let other = acme.policy.enter(&acme.caller, s(0)).unwrap();
    assert_eq!(acme.usage().running, 2);
    let admitted = ticket.admit(1, Asked(1), s(0)).unwrap();
    assert_eq!(
        acme.usage().running,
        2,
        "a ticket and what it becomes are one"
    );
    let refusal = acme.policy.enter(&acme.caller, s(0)).unwrap_err();
    // A second is assumed while nothing has ended: two end in a second.
    let (limit, retry_after) = (2, ms(500));
    assert_eq!(
        refusal.cause(),
        &Cause::ConcurrentRequests { limit, retry_after }
    );
    assert_eq!(
        refusal.to_string(),
        "tenant acme may run 2 requests at once; retry in about 500ms"
    );
    drop(admitted);
    let third = acme.policy.enter(&acme.caller, s(0)).unwrap();
    acme.policy.enter(&acme.caller, s(0)).unwrap_err();
    drop((other, third));
    assert_eq!(acme.usage().running, 0);
}

#[test]
fn a_wait_for_a_slot_is_learnt_from_requests_that_ended() {
    let acme = Acme::new("concurrent_requests = 2");
    let ticket = acme.policy.enter(&acme.caller, s(10)).unwrap();
    let mut admitted = ticket.admit(1, Asked(2), s(11)).unwrap();
    admitted.used(1, s(12));
    admitted.used(2, s(14));
    drop(admitted);
    let _held: Vec<_> = (0..2)
        .map(|_| acme.policy.enter(&acme.caller, s(20)).unwrap())
        .collect();
    // It took 4 s; of two such, one ends in 2 s.
    let refusal = acme.policy.enter(&acme.caller, s(20)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(s(2)));
}

#[test]
fn a_slot_is_no_use_without_a_request_of_the_minute() {
    let acme = Acme::new("concurrent_requests = 1\nrequests_per_minute = 1");
    let _held = acme.policy.enter(&acme.caller, s(0)).unwrap();
    let refusal = acme.policy.enter(&acme.caller, s(10)).unwrap_err();
    let (limit, retry_after) = (1, s(50));
    assert_eq!(
        refusal.cause(),
        &Cause::ConcurrentRequests { limit, retry_after }
    );
}

#[test]
fn requests_that_end_at_once_leave_a_wait_of_a_millisecond() {
    let acme = Acme::new("concurrent_requests = 1");
    let ticket = acme.policy.enter(&acme.caller, s(0)).unwrap();
    ticket.admit(1, Asked(1), s(0)).unwrap().used(1, s(0));
    let _held = acme.policy.enter(&acme.caller, s(0)).unwrap();
    let refusal = acme.policy.enter(&acme.caller, s(0)).unwrap_err();
    assert_eq!(refusal.retry_after(), Some(ms(1)));
}

#[test]
fn without_limits_all_is_counted_and_nothing_refused() {
    let policy = Policy::open();
    let credential = Credential {
        key: None,
        certificate_sans: &[],
    };
    let caller = policy.authenticate(&credential).unwrap();
    let caller = caller.allowed(Role::Inference).unwrap();
    for _ in 0..3 {
        let ticket = policy.enter(&caller, s(0)).unwrap();
        let mut admitted = ticket.admit(u64::MAX, AtMost(u64::MAX), s(0)).unwrap();
        assert_eq!(admitted.max_output_tokens(), u64::MAX);
        assert_eq!(admitted.tenant().as_str(), "anonymous");
        admitted.used(u64::MAX, Duration::MAX);
    }
    let [usage] = &policy.usage()[..] else {
        panic!("one tenant");
    };
    assert_eq!(usage.tenant.as_str(), "anonymous");
    assert_eq!((usage.admitted, usage.running), (3, 0));
    assert_eq!(usage.input_tokens, u64::MAX, "full rather than wrapped");
}

#[test]
fn tenants_do_not_feel_each_other() {
    let text = ["acme", "globex"].map(|name| {
        let limits = "requests_per_minute = 1\nconcurrent_requests = 1\ntokens_per_minute = 10";
        acme::file(name, name, limits)
    });
    let tenants = Tenants::parse(&text.concat()).unwrap();
    let policy = Policy::new(tenants);
    let [one, other] = ["acme", "globex"].map(|key| {
        acme::with_key(&policy, key)
            .allowed(Role::Inference)
            .unwrap()
    });
    let mut held = policy
        .enter(&one, s(0))
        .unwrap()
        .admit(5, Asked(5), s(0))
        .unwrap();
    held.used(5, s(0));
    policy.enter(&one, s(0)).unwrap_err();
    policy
        .enter(&other, s(0))
        .unwrap()
        .admit(5, Asked(5), s(0))
        .unwrap();
    let usage = policy.usage();
    let running: Vec<_> = usage
        .iter()
        .map(|usage| (usage.tenant.as_str(), usage.running, usage.output_tokens))
        .collect();
    assert_eq!(running, [("acme", 1, 5), ("globex", 0, 0)]);
}

#[test]
fn threads_share_one_minute() {
    const THREADS: usize = 4;
    let acme =
        Acme::new("requests_per_minute = 500\nconcurrent_requests = 3\ntokens_per_minute = 1000");
    let start = Barrier::new(THREADS);
    let admitted = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let one = |_: &usize| {
                        let ticket = acme.policy.enter(&acme.caller, s(1));
                        let admitted = ticket.and_then(|ticket| ticket.admit(2, Asked(8), s(1)));
                        admitted.map(|mut admitted| admitted.used(3, s(1))).is_ok()
                    };
                    (0..1000).filter(one).count()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<usize>()
    });
    let usage = acme.usage();
    assert_eq!(usage.running, 0);
    assert_eq!(usage.admitted, admitted as u64);
    assert_eq!(usage.output_tokens, 3 * admitted as u64);
    let refused: u64 = usage.refused.iter().map(|(_, count)| count).sum();
    assert_eq!(usage.admitted + refused, 4000);
    // 5 of 10 are used each time, until fewer than 10 are left: 199 times.
    // Requests that meet may refuse each other, but not at the end.
    let last = |_: &usize| {
        let ticket = acme.policy.enter(&acme.caller, s(1)).unwrap();
        let admitted = ticket.admit(2, Asked(8), s(1));
        admitted.map(|mut admitted| admitted.used(3, s(1))).is_ok()
    };
    let rest = (0..1000).take_while(last).count();
    assert_eq!(admitted + rest, 199);
}

#[test]
fn only_tenants_of_a_group_have_a_cache_salt_in_common() {
    let policy = |groups: [&str; 3]| {
        let tenants = groups.iter().enumerate().map(|(n, group)| {
            let hash = KeyHash::of(&format!("tn_{n}"));
            format!(
                "[[tenants]]\nname = 't{n}'\n{group}\nkeys = [{{ id = '1', hash = '{hash}' }}]\n"
            )
        });
        let text: String = tenants.collect();
        Policy::new(Tenants::parse(&text).unwrap())
    };
    let salts = |policy: &Policy| {
        [0, 1, 2].map(|n| {
            let credential = Credential {
                key: Some(&format!("tn_{n}")),
                certificate_sans: &[],
            };
            let caller = policy.authenticate(&credential).unwrap();
            let caller = caller.allowed(Role::Inference).unwrap();
            let ticket = policy.enter(&caller, s(0)).unwrap();
            ticket.admit(1, Asked(1), s(0)).unwrap().cache_salt()
        })
    };
    let [a, b, c] = salts(&policy(["", "", ""]));
    assert!(a != b && b != c && a != c);
    let mixed = policy(["cache_group = 'g'", "cache_group = 'g'", ""]);
    let [in_group, b, other] = salts(&mixed);
    assert!(in_group == b && in_group != other && other == c);
    // Who is taken out of a group loses sight of what it has.
    mixed.reload(
        Tenants::parse(&format!(
            "[[tenants]]\nname = 't0'\nkeys = [{{ id = '1', hash = '{}' }}]\n\
             [[tenants]]\nname = 't1'\ncache_group = 'g'\nkeys = [{{ id = '1', hash = '{}' }}]\n\
             [[tenants]]\nname = 't2'\nkeys = [{{ id = '1', hash = '{}' }}]\n",
            KeyHash::of("tn_0"),
            KeyHash::of("tn_1"),
            KeyHash::of("tn_2"),
        ))
        .unwrap(),
        s(0),
    );
    assert_eq!(salts(&mixed), [a, in_group, c]);
}
