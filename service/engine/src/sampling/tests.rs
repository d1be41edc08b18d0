use super::*;

fn sample(logits: &[f32], sampling: &Sampling, generated: &[u32]) -> Result<Sampled, Unsampleable> {
    Sampler::default().sample(
        Row::Whole(logits),
        &Choice {
            sampling,
            prompt: &[],
            generated,
            forbidden: [&[], &[]],
        },
    )
}

fn greedy(logits: &[f32], sampling: Sampling, prompt: &[u32], generated: &[u32]) -> u32 {
    let choice = Choice {
        sampling: &sampling,
        prompt,
        generated,
        forbidden: [&[], &[]],
    };
    Sampler::default()
        .sample(Row::Whole(logits), &choice)
        .unwrap()
        .token
}

/// How often each of the tokens is drawn in 20 000 draws, in percent.
fn percentages<const N: usize>(logits: [f32; N], sampling: Sampling) -> [f64; N] {
    let mut counts = [0u32; N];
    let mut sampler = Sampler::default();
    for seed in 0..20_000 {
        let sampling = Sampling {
            seed,
            ..sampling.clone()
        };
        let choice = Choice {
            sampling: &sampling,
            prompt: &[],
            generated: &[],
            forbidden: [&[], &[]],
        };
        counts[sampler.sample(Row::Whole(&logits), &choice).unwrap().token as usize] += 1;
    }
    counts.map(|count| f64::from(count) / 200.0)
}

/// The standard deviation of a percentage is at most 0.36 over 20 000 draws;
/// four of them are allowed, and none where a token must not come at all.
#[track_caller]
fn assert_percentages<const N: usize>(logits: [f32; N], sampling: Sampling, want: [f64; N]) {
    let got = percentages(logits, sampling);
    for (got_one, want_one) in got.iter().zip(want) {
        let slack = if want_one == 0.0 { 0.0 } else { 1.4 };
        assert!(
            (got_one - want_one).abs() <= slack,
            "{got:?} instead of {want:?}"
        );
    }
}

/// Logits of the probabilities 1/2, 1/4, 1/8, 1/8, in the order 1/8, 1/2, 1/8, 1/4.
fn halves() -> [f32; 4] {
    [0.125f32, 0.5, 0.125, 0.25].map(f32::ln)
}

fn warm() -> Sampling {
    Sampling {
        temperature: 1.0,
        ..Sampling::default()
    }
}

#[test]
fn greedy_takes_the_lowest_id_of_equals() {
    let sampling = Sampling::default();
    assert_eq!(greedy(&[1.0, 3.0, 2.0, 3.0], sampling.clone(), &[], &[]), 1);
    assert_eq!(
        greedy(&[-5.0, f32::NEG_INFINITY], sampling.clone(), &[], &[]),
        0
    );
    assert_eq!(greedy(&[-0.0, 0.0], sampling, &[], &[]), 0);
}

#[test]
fn without_truncation_tokens_come_as_often_as_they_are_likely() {
    assert_percentages(halves(), warm(), [12.5, 50.0, 12.5, 25.0]);
}

#[test]
fn temperature_two_takes_the_square_root_of_the_odds() {
    // Probabilities 0.2 and 0.8: odds 4 become 2.
    let logits = [0.2f32.ln(), 0.8f32.ln()];
    let sampling = Sampling {
        temperature: 2.0,
        ..warm()
    };
    assert_percentages(logits, sampling, [33.333, 66.667]);
}

#[test]
fn temperature_one_half_squares_the_odds() {
    let logits = [0.2f32.ln(), 0.8f32.ln()];
    let sampling = Sampling {
        temperature: 0.5,
        ..warm()
    };
    assert_percentages(logits, sampling, [100.0 / 17.0, 1600.0 / 17.0]);
}

#[test]
fn top_k_keeps_the_likeliest_and_of_equals_the_lowest_id() {
    let top_k = |top_k| Sampling { top_k, ..warm() };
    assert_percentages(halves(), top_k(1), [0.0, 100.0, 0.0, 0.0]);
    assert_percentages(halves(), top_k(2), [0.0, 66.667, 0.0, 33.333]);
    // 1/8, 1/2 and 1/4 of 7/8.
    assert_percentages(halves(), top_k(3), [14.286, 57.143, 0.0, 28.571]);
    assert_percentages(halves(), top_k(4), [12.5, 50.0, 12.5, 25.0]);
    assert_percentages(halves(), top_k(9), [12.5, 50.0, 12.5, 25.0]);
}

#[test]
fn top_p_keeps_the_fewest_that_sum_to_p() {
    let top_p = |top_p| Sampling { top_p, ..warm() };
    assert_percentages(halves(), top_p(0.01), [0.0, 100.0, 0.0, 0.0]);
    assert_percentages(halves(), top_p(0.49), [0.0, 100.0, 0.0, 0.0]);
    assert_percentages(halves(), top_p(0.51), [0.0, 66.667, 0.0, 33.333]);
    assert_percentages(halves(), top_p(0.80), [14.286, 57.143, 0.0, 28.571]);
    assert_percentages(halves(), top_p(0.90), [12.5, 50.0, 12.5, 25.0]);
}

#[test]
fn top_p_is_of_what_top_k_left() {
    // Of 1/2 and 1/4 the first has 2/3: enough for 0.6, where of all it has 1/2.
    let sampling = Sampling {
        top_k: 2,
        top_p: 0.6,
        ..warm()
    };
    assert_percentages(halves(), sampling, [0.0, 100.0, 0.0, 0.0]);
}

#[test]
fn top_p_of_a_flat_row_longer_than_a_chunk() {
    // 1000 equal tokens: 0.3 keeps the 300 lowest ids (the sum in f64 of 1s is
    // exact, and 0.3f32 is a little above 0.3).
    let logits = [1.0f32; 1000];
    let sampling = Sampling {
        top_p: 0.3,
        ..warm()
    };
    let got = percentages(logits, sampling);
    assert!(got[..301].iter().all(|percent| *percent > 0.0));
    assert_eq!(got[301..].iter().sum::<f64>(), 0.0);
}

#[test]
fn min_p_is_relative_to_the_likeliest() {
    let min_p = |min_p| Sampling { min_p, ..warm() };
    assert_percentages(halves(), min_p(0.2), [12.5, 50.0, 12.5, 25.0]);
    assert_percentages(halves(), min_p(0.3), [0.0, 66.667, 0.0, 33.333]);
    assert_percentages(halves(), min_p(0.6), [0.0, 100.0, 0.0, 0.0]);
    assert_percentages(halves(), min_p(1.0), [0.0, 100.0, 0.0, 0.0]);
}

#[test]
fn temperature_comes_before_min_p() {
    // At temperature 2 the odds of 1/4 to 1/2 are 0.71, of 1/8 to 1/2 0.5.
    let sampling = Sampling {
        temperature: 2.0,
        min_p: 0.6,
        ..warm()
    };
    let total = 1.0 + 0.5f64.sqrt();
    let want = [0.0, 100.0 / total, 0.0, 100.0 * 0.5f64.sqrt() / total];
    assert_percentages(halves(), sampling, want);
}

#[test]
fn extreme_temperatures_do_not_overflow() {
    let logits = [-3e38, 0.0, 3e38, 3e38];
    let at = |temperature| Sampling {
        temperature,
        ..warm()
    };
    assert_percentages(logits, at(f32::MIN_POSITIVE), [0.0, 0.0, 50.0, 50.0]);
    assert_percentages([0.0, 1.0], at(f32::MAX), [50.0, 50.0]);
}

#[test]
fn repetition_penalty_moves_both_signs_down_and_counts_the_prompt() {
    let twice = || Sampling {
        repetition_penalty: 2.0,
        ..Sampling::default()
    };
    // 3 / 2 = 1.5 is below 2.
    assert_eq!(greedy(&[3.0, 2.0], twice(), &[], &[]), 0);
    assert_eq!(greedy(&[3.0, 2.0], twice(), &[0], &[]), 1);
    assert_eq!(greedy(&[3.0, 2.0], twice(), &[], &[0]), 1);
    // Once, however often it occurs: 5 / 2 = 2.5 stays above 2.
    assert_eq!(greedy(&[5.0, 2.0], twice(), &[0, 0], &[0, 0]), 0);
    // -1 * 2 = -2 is below -1.5.
    assert_eq!(greedy(&[-1.0, -1.5], twice(), &[0], &[]), 1);
}

#[test]
fn presence_counts_once_and_frequency_each_time_in_what_was_generated() {
    let presence = |presence_penalty| Sampling {
        presence_penalty,
        ..Sampling::default()
    };
    let frequency = |frequency_penalty| Sampling {
        frequency_penalty,
        ..Sampling::default()
    };
    let row = [3.0, 2.0];
    assert_eq!(
        greedy(&row, presence(1.5), &[0, 0], &[1]),
        0,
        "not the prompt"
    );
    assert_eq!(greedy(&row, presence(1.5), &[], &[0]), 1);
    assert_eq!(greedy(&row, presence(0.9), &[], &[0, 0, 0]), 0);
    assert_eq!(greedy(&row, frequency(0.4), &[0], &[0, 0]), 0, "3 - 0.8");
    assert_eq!(greedy(&row, frequency(0.4), &[], &[0, 0, 0]), 1, "3 - 1.2");
    assert_eq!(greedy(&row, presence(-1.5), &[], &[1]), 1, "2 + 1.5");
}

#[test]
fn penalties_leave_no_counts_behind() {
    let sampling = Sampling {
        frequency_penalty: 0.4,
        ..Sampling::default()
    };
    let choice = |generated| Choice {
        sampling: &sampling,
        prompt: &[],
        generated,
        forbidden: [&[], &[]],
    };
    let mut sampler = Sampler::default();
    for _ in 0..5 {
        let sampled = sampler
            .sample(Row::Whole(&[3.0, 2.0]), &choice(&[0, 0]))
            .unwrap();
        assert_eq!(sampled.token, 0, "3 - 0.8");
    }
}

#[test]
fn forbidden_tokens_are_not_chosen() {
    let sampling = Sampling::default();
    let choice = Choice {
        sampling: &sampling,
        prompt: &[],
        generated: &[],
        forbidden: [&[1], &[3, 99]],
    };
    let sampled = Sampler::default().sample(Row::Whole(&[1.0, 9.0, 2.0, 9.0]), &choice);
    assert_eq!(sampled.unwrap().token, 2);
    let all = Choice {
        forbidden: [&[0], &[1]],
        ..choice
    };
    let error = Sampler::default().sample(Row::Whole(&[1.0, 2.0]), &all);
    assert_eq!(error, Err(Unsampleable::NothingLeft));
}

#[test]
fn rows_that_cannot_be_sampled_from_are_errors() {
    let sampling = Sampling::default();
    let error = sample(&[1.0, f32::NAN], &sampling, &[]).unwrap_err();
    assert_eq!(error.to_string(), "logit of token 1 is NaN");
    let error = sample(&[f32::INFINITY, 1.0], &warm(), &[]).unwrap_err();
    assert_eq!(error.to_string(), "logit of token 0 is inf");
    let never = [f32::NEG_INFINITY; 3];
    assert_eq!(sample(&never, &warm(), &[]), Err(Unsampleable::NothingLeft));
    let overflow = Sampling {
        repetition_penalty: f32::MIN_POSITIVE,
        ..warm()
    };
    assert_eq!(
        sample(&[10.0, 1.0], &overflow, &[0]),
        Err(Unsampleable::PenaltyOverflow { token: 0 })
    );
}

#[test]
fn logprobs_are_of_the_untouched_distribution() {
    let sampling = Sampling {
        top_k: 1,
        temperature: 0.3,
        presence_penalty: 9.0,
        num_logprobs: Some(3),
        ..Sampling::default()
    };
    // Shifted by a constant, which a softmax does not see. Token 1 is the
    // likeliest, but was generated before and is penalised, so 3 is chosen.
    let logits = halves().map(|logit| logit + 7.0);
    let sampled = sample(&logits, &sampling, &[1]).unwrap();
    assert_eq!(sampled.token, 3);
    let near = |got: f32, want: f32| assert!((got - want).abs() < 1e-6, "{got} {want}");
    near(sampled.logprob.unwrap(), 0.25f32.ln());
    let tokens: Vec<u32> = sampled.top.iter().map(|top| top.token).collect();
    assert_eq!(tokens, [1, 3, 0]);
    for (top, want) in sampled.top.iter().zip([0.5f32, 0.25, 0.125]) {
        near(top.logprob, want.ln());
    }
}

#[test]
fn logprobs_only_when_asked_for() {
    let ask = |num_logprobs| {
        let sampling = Sampling {
            num_logprobs,
            ..Sampling::default()
        };
        sample(&halves(), &sampling, &[]).unwrap()
    };
    assert_eq!((ask(None).logprob, ask(None).top.len()), (None, 0));
    assert!(ask(Some(0)).logprob.is_some() && ask(Some(0)).top.is_empty());
    let all = ask(Some(99)).top;
    let tokens: Vec<u32> = all.iter().map(|top| top.token).collect();
    assert_eq!(tokens, [1, 3, 0, 2]);
}

#[test]
fn the_draw_depends_on_seed_and_index_only() {
    let logits = [0.0f32; 64];
    let token = |seed, generated: &[u32]| {
        let sampling = Sampling { seed, ..warm() };
        sample(&logits, &sampling, generated).unwrap().token
    };
    assert_eq!(token(7, &[1, 2]), token(7, &[3, 4]));
    let by_seed: Vec<u32> = (0..8).map(|seed| token(seed, &[])).collect();
    let by_index: Vec<u32> = (0..8).map(|len| token(0, &[0; 8][..len])).collect();
    for tokens in [by_seed, by_index] {
        assert!(tokens.iter().any(|token| *token != tokens[0]), "{tokens:?}");
    }
}

#[test]
fn the_draw_is_the_inverse_of_the_cumulative_distribution() {
    // The first outputs of SplitMix64 from state 0 are e220…, 6e78… and 06c4…,
    // that is 0.883, 0.431 and 0.026 of the range. Cumulated by id, the four
    // tokens end at 0.125, 0.625, 0.75 and 1.
    let tokens = [0, 1, 2].map(|len| {
        let sampling = Sampling { seed: 0, ..warm() };
        sample(&halves(), &sampling, &[0; 2][..len]).unwrap().token
    });
    assert_eq!(tokens, [3, 1, 0]);
}

#[test]
fn what_top_k_keeps_is_cumulated_from_the_likeliest_down() {
    // The numbers above, of 100 equals kept from 1000.
    let sampling = Sampling {
        top_k: 100,
        ..warm()
    };
    let tokens = [0, 1, 2].map(|len| {
        let generated = &[0; 2][..len];
        sample(&[1.0; 1000], &sampling, generated).unwrap().token
    });
    assert_eq!(tokens, [88, 43, 2]);
}

#[test]
fn a_draw_of_zero_passes_over_tokens_too_unlikely_to_weigh_anything() {
    let candidate = |token, weight| Candidate {
        score: 0.0,
        token,
        weight,
    };
    let sampler = Sampler {
        candidates: vec![candidate(0, 0.0), candidate(1, 0.5), candidate(2, 0.5)],
        ..Sampler::default()
    };
    assert_eq!(
        [0.0, 0.25, 0.5].map(|uniform| sampler.draw(uniform)),
        [1, 1, 2]
    );
}
