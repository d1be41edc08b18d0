use super::super::observation::{Failure, Observation, Outcome, Refusal};
use super::*;

/// A request that was sent so late, and heard of so late after that.
fn tally(late_ms: u64, accepted_ms: u64, peak_in_flight: usize) -> Tally {
    let mut tally = Tally::new(Slo::default(), Duration::ZERO, 1);
    let due = tally.start();
    let sent = due + Duration::from_millis(late_ms);
    let accepted = sent + Duration::from_millis(accepted_ms);
    tally.add(&Observation {
        tenant: 0,
        due,
        sent,
        accepted: Some(accepted),
        ended: accepted,
        deltas: Vec::new(),
        prompt_tokens: 1,
        cached_tokens: 0,
        output_tokens: 0,
        queued: None,
        outcome: Outcome::Finished(FinishReason::Length),
    });
    tally.peak_in_flight = peak_in_flight;
    tally
}

#[test]
fn quantiles_have_the_values_of_their_names() {
    let mut latency = Latency::new();
    for ms in 1..=100 {
        latency.record(Duration::from_millis(ms));
    }
    let quantiles = Quantiles::from(&latency);
    let columns = quantiles.columns();
    // A histogram knows three digits.
    for (told, ms) in columns.iter().zip([50.0, 90.0, 95.0, 99.0, 100.0, 50.5]) {
        assert!((told * 1e3 / ms - 1.0).abs() < 0.001, "{columns:?}");
    }
    assert_eq!(quantiles.count, 100);
}

/// Of one of two tenants, due and sent after so many seconds, and then
/// accepted, at its only token and at its end after 10, 20 and 30 ms.
fn observation(tally: &Tally, tenant: usize, due: u64, outcome: Outcome) -> Observation {
    let due = tally.start() + Duration::from_secs(due);
    let after = |ms| due + Duration::from_millis(ms);
    Observation {
        tenant,
        due,
        sent: due,
        accepted: Some(after(10)),
        ended: after(30),
        deltas: vec![(after(20), 1)],
        prompt_tokens: 4,
        cached_tokens: 3,
        output_tokens: 1,
        queued: Some(Duration::from_millis(5)),
        outcome,
    }
}

fn length() -> Outcome {
    Outcome::Finished(FinishReason::Length)
}

#[test]
fn a_run_is_measured_by_what_came_of_its_requests() {
    let mut tally = Tally::new(Slo::default(), Duration::ZERO, 2);
    let refusal = Refusal {
        code: "X".into(),
        reason: "FULL".into(),
        busy: true,
        retry_after: true,
    };
    for outcome in [
        length(),
        length(),
        Outcome::Finished(FinishReason::Stop),
        Outcome::Finished(FinishReason::Drained),
        Outcome::Finished(FinishReason::Drained),
        Outcome::Finished(FinishReason::DeadlineExceeded),
        Outcome::Refused(refusal),
        Outcome::Failed(Failure::new("transport", "cut")),
    ] {
        tally.add(&observation(&tally, 0, 0, outcome));
    }
    tally.add_not_sent(0, tally.start());
    let measured = Measured::new(&tally.all, Slo::default(), 4.0);
    let requests = &measured.requests;
    assert_eq!((requests.sent, requests.not_sent), (8, 1));
    assert_eq!((requests.complete, requests.drained), (3, 2));
    assert_eq!((requests.deadline_exceeded, requests.refused), (1, 1));
    assert_eq!(requests.errors, 1);
    let Throughput {
        requests_per_second,
        prompt_tokens_per_second,
        output_tokens_per_second,
    } = measured.throughput;
    // Of four seconds; what did not end well was computed all the same.
    assert_eq!(requests_per_second, 0.75);
    assert_eq!(
        (prompt_tokens_per_second, output_tokens_per_second),
        (8.0, 2.0)
    );
    let goodput = &measured.goodput;
    assert_eq!(goodput.requests_per_second, 0.75);
    assert_eq!(goodput.output_tokens_per_second, 0.75);
    assert!((goodput.share - 3.0 / 9.0).abs() < 1e-9, "{goodput:?}");
    let Tokens {
        prompt,
        cached,
        output,
    } = measured.tokens;
    assert_eq!((prompt, cached, output), (32, 24, 8));
    for (name, times) in measured.times() {
        let (count, ms) = match name {
            "first token" => (8, 20.0),
            "whole request" => (3, 30.0),
            "accepted" => (8, 10.0),
            "in the queue" => (8, 5.0),
            "refusal" => (1, 30.0),
            _ => (0, 0.0),
        };
        assert_eq!(
            (times.count, (times.max * 1e3).round()),
            (count, ms),
            "{name}"
        );
    }
}

#[test]
fn a_tenants_share_is_of_the_service_while_requests_were_due() {
    let mut tally = Tally::new(Slo::default(), Duration::from_secs(1), 2);
    // Each has four tokens of a prompt and one of the output, which are six.
    for (tenant, due) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (1, 2), (0, 3)] {
        tally.add(&observation(&tally, tenant, due, length()));
    }
    tally.last_due = Duration::from_secs(3);
    let tenant = |name, weight| Tenant {
        weight,
        ..Tenant::named(name)
    };
    let tenants = [tenant("a", 3.0), tenant("b", 1.0)];
    let (fairness, reports) = by_tenant(&tenants, Slo::default(), &tally, 1.0);
    let shares = reports.iter().map(|tenant| {
        (
            tenant.name.as_str(),
            tenant.measured.requests.sent,
            tenant.entitled_share,
            tenant.service_share,
        )
    });
    let shares: Vec<_> = shares.collect();
    assert_eq!(shares, [("a", 2, 0.75, 0.25), ("b", 3, 0.25, 0.75)]);
    // 6 for a weight of 3, and 18 for 1: (2 + 18)^2 / (2 * (4 + 324)).
    let index = fairness.jain_index.expect("there is service");
    assert!((index - 400.0 / 656.0).abs() < 1e-9, "{index}");
}

#[test]
fn each_tenant_has_connections_of_its_own() {
    let load = LoadReport {
        endpoints: vec!["http://h:1".into()],
        protocol: Protocol::Grpc,
        connections: 1,
        sessions: None,
        attempts: 1,
        seed: 0,
        rate: None,
        burstiness: None,
        concurrency: None,
        arrivals: String::new(),
        prompts: String::new(),
        warm_up_seconds: 0.0,
        shared_prefix: 0.0,
        temperature: None,
    };
    let server = ServerReport {
        model: String::new(),
        digest: String::new(),
        kernel: String::new(),
        context_limit: None,
    };
    let warnings = |tenants: usize| {
        let tenants = vec![Tenant::named("t"); tenants];
        let mut tally = Tally::new(Slo::default(), Duration::ZERO, tenants.len());
        let mut slow = observation(&tally, 0, 0, length());
        slow.accepted = Some(slow.sent + Duration::from_millis(500));
        tally.add(&slow);
        tally.peak_in_flight = 300;
        let (load, server) = (load.clone(), server.clone());
        Report::new(load, server, Slo::default(), &tenants, &tally).warnings
    };
    let [warning] = &warnings(2)[..] else {
        panic!("more than a hundred on each");
    };
    assert!(warning.starts_with("up to 150 requests"), "{warning}");
    assert!(warnings(3).is_empty(), "a hundred each are allowed");
}

#[test]
fn a_generator_that_fell_behind_says_so() {
    assert!(warnings(&tally(9, 0, 1), Some(1)).is_empty());
    let [warning] = &warnings(&tally(50, 0, 1), Some(1))[..] else {
        panic!("it was late");
    };
    assert!(
        warning.contains("fell behind") && warning.contains("50 ms"),
        "{warning}"
    );
}

#[test]
fn so_does_one_whose_connections_were_full() {
    let told = |tally, connections| !warnings(&tally, connections).is_empty();
    assert!(told(tally(0, 500, 300), Some(1)));
    assert!(
        !told(tally(0, 500, 300), Some(3)),
        "a hundred each are allowed"
    );
    assert!(!told(tally(0, 50, 300), Some(1)), "the server answered");
    assert!(!told(tally(0, 500, 300), None), "they share none");
}

#[test]
fn what_was_not_sent_is_told() {
    let mut tally = tally(0, 0, 1);
    tally.add_not_sent(0, tally.start());
    let [warning] = &warnings(&tally, None)[..] else {
        panic!("one was not sent");
    };
    assert!(warning.starts_with("1 requests were not sent"), "{warning}");
}
