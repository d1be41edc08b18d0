use super::*;
use crate::random;

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

/// A draw of some seed and index.
fn draw(logits: &[f32], sampling: &Sampling, seed: u64, index: usize) -> u32 {
    let sampling = Sampling {
        seed,
        ..sampling.clone()
    };
    sample(logits, &sampling, &vec![0; index]).unwrap().token
}

/// Pearson's statistic, as deviations above what chance makes it. Of what is
/// expected less often than five times all is one.
fn surprise(seen: &[u32], expected: &[f64]) -> f64 {
    let (mut sum, mut cells, mut rare) = (0.0, 0.0, (0.0, 0.0));
    let mut add = |seen: f64, expected: f64| {
        sum += (seen - expected).powi(2) / expected;
        cells += 1.0;
    };
    for (seen, expected) in seen.iter().zip(expected) {
        if *expected < 5.0 {
            rare = (rare.0 + f64::from(*seen), rare.1 + expected);
        } else {
            add(f64::from(*seen), *expected);
        }
    }
    if rare.1 >= 5.0 {
        add(rare.0, rare.1);
    } else {
        assert!(rare.0 <= 20.0, "{rare:?}");
    }
    let freedom: f64 = cells - 1.0;
    (sum - freedom) / (2.0 * freedom).sqrt()
}

fn softmax(logits: &[f32], temperature: f32) -> Vec<f64> {
    let weights = logits
        .iter()
        .map(|logit| f64::from(*logit / temperature).exp());
    let weights: Vec<f64> = weights.collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// Few likely ones and a long tail, as a model's are.
fn peaked(len: usize) -> Vec<f32> {
    (0..len)
        .map(|n| (n * 7919 % 1009) as f32 / 300.0 - if n % 23 == 0 { 0.0 } else { 3.0 })
        .collect()
}

#[test]
fn draws_are_those_of_the_softmax() {
    const DRAWS: u32 = 60_000;
    for (len, temperature) in [(2, 1.0), (50, 0.5), (50, 1.0), (700, 1.0), (700, 2.5)] {
        let logits = peaked(len);
        let sampling = Sampling {
            temperature,
            ..warm()
        };
        // By seed, by index, and by both.
        for (seeds, indices) in [(1, 0), (0, 1), (1, 1)] {
            let mut seen = vec![0; len];
            let mut sampler = Sampler::default();
            let generated = vec![0; DRAWS as usize];
            for n in 0..DRAWS as usize {
                let choice = Choice {
                    sampling: &Sampling {
                        seed: n as u64 * seeds,
                        ..sampling.clone()
                    },
                    prompt: &[],
                    generated: &generated[..n * indices],
                    forbidden: [&[], &[]],
                };
                let sampled = sampler.sample(Row::Whole(&logits), &choice).unwrap();
                seen[sampled.token as usize] += 1;
            }
            let expected = softmax(&logits, temperature);
            let expected: Vec<f64> = expected.iter().map(|p| p * f64::from(DRAWS)).collect();
            let surprise = surprise(&seen, &expected);
            assert!(
                surprise < 4.0,
                "{len}, {temperature}: {surprise} deviations"
            );
        }
    }
}

#[test]
fn draws_of_neighbouring_seeds_and_indices_are_independent() {
    const DRAWS: usize = 40_000;
    let logits = halves();
    let p = softmax(&logits, 1.0);
    let pairs: Vec<f64> = (0..16)
        .map(|n| p[n / 4] * p[n % 4] * DRAWS as f64)
        .collect();
    let at = |seed: u64, index: usize| draw(&logits, &warm(), seed, index) as usize;
    let mut seen = [[0; 16]; 2];
    for n in 0..DRAWS as u64 {
        let first = at(n, 0);
        seen[0][4 * first + at(n, 1)] += 1;
        seen[1][4 * first + at(n + 1, 0)] += 1;
    }
    for seen in seen {
        let surprise = surprise(&seen, &pairs);
        assert!(surprise < 4.0, "{seen:?}: {surprise} deviations");
    }
}

/// What [`Sampling`] says, by sorting everything.
fn plainly(logits: &[f32], sampling: &Sampling, index: u64) -> u32 {
    let draw = Draw {
        seed: sampling.seed,
        index,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
    };
    let mut left: Vec<Candidate> = (0..)
        .zip(logits)
        .map(|(token, &score)| Candidate { score, token })
        .collect();
    left.sort_by(Candidate::by_likelihood);
    if sampling.top_k > 0 {
        left.truncate(sampling.top_k as usize);
    }
    let best = f64::from(left[0].score);
    let weight = |candidate: &Candidate| {
        ((f64::from(candidate.score) - best) / f64::from(sampling.temperature)).exp()
    };
    let enough = left.iter().map(weight).sum::<f64>() * f64::from(sampling.top_p);
    let mut before = 0.0;
    left.retain(|candidate| {
        let is_left = sampling.top_p >= 1.0 || before < enough;
        before += weight(candidate);
        is_left && weight(candidate) >= f64::from(sampling.min_p)
    });
    let standing = |candidate: &Candidate| draw.race().standing(candidate.token, candidate.score);
    left.iter().max_by_key(|left| standing(left)).unwrap().token
}

#[test]
fn cuts_leave_what_sorting_would() {
    let mut cut = 0;
    for len in [1, 5, 16, 33, 1000] {
        for n in 0..400 {
            // With equals among them.
            let logits: Vec<f32> = (0..len)
                .map(|token| (random::bits(n, token) % 97) as f32 / 12.0)
                .collect();
            let one_of =
                |which: u64, all: &[f32]| all[(random::bits(which, n) % all.len() as u64) as usize];
            let sampling = Sampling {
                temperature: one_of(1, &[0.1, 0.6, 1.0, 3.0]),
                top_k: one_of(2, &[0.0, 0.0, 1.0, 7.0, 40.0, 2000.0]) as u32,
                top_p: one_of(3, &[1.0, 0.999, 0.9, 0.5, 0.01]),
                min_p: one_of(4, &[0.0, 0.0, 0.05, 0.7, 1.0]),
                seed: n,
                ..Sampling::default()
            };
            let got = sample(&logits, &sampling, &[0; 3]).unwrap().token;
            assert_eq!(got, plainly(&logits, &sampling, 3), "{sampling:?}");
            let open = Sampling {
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                ..sampling
            };
            cut += u32::from(got != plainly(&logits, &open, 3));
        }
    }
    assert!(cut > 200, "{cut} draws were others than without cuts");
}

/// What is drawn depends on no machine, and on nothing that changes.
#[test]
fn draws_stay_what_they_were() {
    let by_seed: Vec<u32> = (0..8).map(|n| draw(&peaked(700), &warm(), n, 0)).collect();
    let by_index: Vec<u32> = (0..8).map(|n| draw(&peaked(700), &warm(), 1, n)).collect();
    assert_eq!(by_seed, [575, 23, 590, 86, 225, 391, 621, 405]);
    assert_eq!(by_index, [23, 37, 529, 23, 667, 175, 430, 272]);
}

#[test]
fn a_row_of_the_winner_and_some_others_draws_it_too() {
    let logits = peaked(3000);
    for seed in 0..300 {
        let sampling = Sampling { seed, ..warm() };
        let winner = sample(&logits, &sampling, &[]).unwrap().token;
        let tokens = (0..3000).filter(|token| *token == winner || (token * seed as u32) % 50 == 1);
        let entries: Vec<_> = tokens
            .map(|token| crate::TokenLogit {
                token,
                logit: logits[token as usize],
            })
            .collect();
        let choice = Choice {
            sampling: &sampling,
            prompt: &[],
            generated: &[],
            forbidden: [&[], &[]],
        };
        let sampled = Sampler::default().sample(Row::Some(&entries), &choice);
        assert_eq!(sampled.unwrap().token, winner);
    }
}
