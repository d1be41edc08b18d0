//! Against plain loops in f64, and against the order that the module promises.

use super::*;

/// A fixed, patternless sequence in -1..1.
pub(super) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// The promised order, written as slowly as possible.
fn dot_in_order(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = vec![0.0_f32; 32];
    for i in 0..a.len() {
        lanes[i % 32] = a[i].mul_add(b[i], lanes[i % 32]);
    }
    while lanes.len() > 1 {
        let upper = lanes.split_off(lanes.len() / 2);
        for (low, high) in lanes.iter_mut().zip(upper) {
            *low += high;
        }
    }
    lanes[0]
}

const LENGTHS: [usize; 12] = [0, 1, 3, 31, 32, 33, 64, 100, 127, 128, 688, 2561];

#[test]
fn dot_products_have_the_promised_order() {
    for len in LENGTHS {
        let (a, b) = (noise(len, 1), noise(len, 2));
        assert_eq!(
            dot(&a, &b).to_bits(),
            dot_in_order(&a, &b).to_bits(),
            "f32, {len}"
        );

        let bytes: Vec<u8> = b.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(
            dot_f32_bytes(&a, &bytes).to_bits(),
            dot_in_order(&a, &b).to_bits()
        );

        let halves: Vec<_> = b.iter().map(|x| half::f16::from_f32(*x)).collect();
        let exact: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(
            dot_f16(&a, &bytes).to_bits(),
            dot_in_order(&a, &exact).to_bits()
        );
        let mut widened = vec![0.0; len];
        widen_f16(&bytes, &mut widened);
        assert_eq!(widened, exact);

        let halves: Vec<_> = b.iter().map(|x| half::bf16::from_f32(*x)).collect();
        let exact: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        let bytes: Vec<u8> = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(
            dot_bf16(&a, &bytes).to_bits(),
            dot_in_order(&a, &exact).to_bits()
        );
        widen_bf16(&bytes, &mut widened);
        assert_eq!(widened, exact);
    }
}

#[test]
fn norm_divides_by_the_root_mean_square() {
    // mean of squares (1 + 4 + 9 + 16 + 0 + 0) / 6 = 5, plus eps 4: root 3.
    let x = [1.0, -2.0, 3.0, -4.0, 0.0, 0.0];
    let weight = [3.0, 3.0, 1.0, 1.5, 1.0, 1.0];
    for norm in [rms_norm, rms_norm_ggml, rms_norm_torch] {
        let mut out = [9.0; 6];
        norm(&x, &weight, 4.0, &mut out);
        let want = [1.0, -2.0, 1.0, -2.0, 0.0, 0.0];
        for (out, want) in out.iter().zip(want) {
            assert!((out - want).abs() < 1e-6, "{out} is not {want}");
        }
    }
    for len in [1, 15, 16, 17, 2560, 20_000] {
        let x = noise(len, 3);
        let mean = x.iter().map(|x| f64::from(x * x)).sum::<f64>() / len as f64;
        for norm in [rms_norm, rms_norm_ggml, rms_norm_torch] {
            let mut out = vec![0.0; len];
            norm(&x, &vec![1.0; len], 1e-5, &mut out);
            for (out, x) in out.iter().zip(&x) {
                let want = f64::from(*x) / (mean + 1e-5).sqrt();
                assert!((f64::from(*out) - want).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn the_norm_of_torch_is_its_to_the_bit() {
    // Last element of `x * torch.rsqrt(x.pow(2).mean() + 1e-5)`, torch 2.7.1,
    // for lengths that end in whole rows, vectors, neither, and in each level.
    for (len, bits) in [
        (8, 0xbf16_3e00),
        (31, 0x3e10_0d4e),
        (32, 0xbf94_cdcc),
        (40, 0xbfac_e4d7),
        (100, 0xbf8a_cbc1),
        (192, 0xbfc9_1591),
        (511, 0xbf86_131a),
        (512, 0x3f8b_ad58),
        (544, 0x3ea3_d675),
        (576, 0xbee7_5c5d),
        (688, 0x3e9e_5dda),
        (2560, 0x3e2d_b3c4),
        (6912, 0xbf6c_dc74),
        (8192, 0xbf22_d2c4),
        (20_000, 0xbfc2_5562),
    ] {
        let x: Vec<f32> = (0..len as u32)
            .map(|i| i.wrapping_mul(2_654_435_761).wrapping_add(12_345) >> 8)
            .map(|n| (n as f32 / (1 << 24) as f32 - 0.5) * 3.0)
            .collect();
        let mut out = vec![0.0; len];
        rms_norm_torch(&x, &vec![1.0; len], 1e-5, &mut out);
        assert_eq!(out[len - 1].to_bits(), bits, "{len} elements");
    }
}

#[test]
fn quantisation_is_that_of_plain_conversions() {
    let mut x = noise(1000, 7);
    x[3] = f32::NAN;
    x[400] = -1.0;
    x[500] = 1.0;
    let broken = [1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -0.0, 1e-45];
    for x in [&x[..], &broken] {
        let mut q = vec![77; x.len()];
        let scale = quantise(x, &mut q);
        let plain: Vec<i8> = x
            .iter()
            .map(|x| (x * scale).round_ties_even() as i8)
            .collect();
        assert_eq!(q, plain);
    }
}

#[test]
fn sums_are_divided_first_and_then_multiplied() {
    let sums: Vec<i32> = (0..77).map(|i| (i - 30) * 1_234_567).collect();
    let (s, w_s) = (97.3, 0.0123);
    let plain = |sum: &i32| *sum as f32 / s * w_s;
    let mut out = vec![0.0; sums.len()];
    scale_sums(&sums, s, w_s, &mut out);
    assert_eq!(out, sums.iter().map(plain).collect::<Vec<_>>());
    let before = noise(sums.len(), 5);
    out.copy_from_slice(&before);
    add_scaled_sums(&sums, s, w_s, &mut out);
    let added = before.iter().zip(&sums).map(|(x, sum)| x + plain(sum));
    assert_eq!(out, added.collect::<Vec<_>>());
}

#[test]
fn quantisation_rounds_to_nearest_even() {
    // The largest value is 127, so the scale is 1 and ties are visible.
    let x = [0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -127.0, 0.49, f32::NAN];
    for quantise in [quantise, quantise_torch] {
        let mut q = [99; 9];
        assert_eq!(quantise(&x, &mut q), 1.0);
        assert_eq!(q, [0, 2, 2, 0, -2, 126, -127, 0, 0]);
    }

    // All zero: the floor of 1e-5 keeps the scale finite.
    let mut q = [99; 40];
    assert_eq!(quantise(&[0.0; 40], &mut q), 127.0 / 1e-5);
    assert_eq!(q, [0; 40]);
}

#[test]
fn half_of_the_largest_activation_falls_where_the_reference_has_it() {
    // 127 / 0x3f0ebafc is 0x4363c93d in torch and numpy's division, and
    // 0x4363c93c as torch's `127 / tensor`: 63.5 goes up, or comes out below.
    let largest = f32::from_bits(0x3f0e_bafc);
    let x = [largest, largest / 2.0];
    let mut q = [99; 2];
    assert_eq!(quantise(&x, &mut q).to_bits(), 0x4363_c93d);
    assert_eq!(q, [127, 64]);
    assert_eq!(quantise_torch(&x, &mut q).to_bits(), 0x4363_c93c);
    assert_eq!(q, [127, 63]);
}

#[test]
fn exponential_is_close_to_the_real_one() {
    for i in -87_000..=88_000 {
        let x = i as f32 / 1000.0;
        let want = f64::from(x).exp();
        let error = (f64::from(exp(x)) - want).abs() / want;
        assert!(error < 2.4e-7, "e^{x}: relative error {error:e}");
    }
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(-1000.0), 0.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert_eq!(exp(1000.0), f32::INFINITY);
    assert!(exp(f32::NAN).is_nan());
}

#[test]
fn gates_match_f64() {
    let (gate, up) = (noise(77, 4), noise(77, 5));
    let (mut relu2, mut silu) = (vec![0.0; 77], vec![0.0; 77]);
    relu2_times(&gate, &up, &mut relu2);
    silu_times(&gate, &up, &mut silu);
    for i in 0..77 {
        let (g, u) = (f64::from(gate[i]), f64::from(up[i]));
        assert!((f64::from(relu2[i]) - g.max(0.0).powi(2) * u).abs() < 1e-6);
        assert!((f64::from(silu[i]) - g / (1.0 + (-g).exp()) * u).abs() < 1e-6);
    }
    let mut out = [1.0, 2.0];
    add_scaled(0.5, &[4.0, -4.0], &mut out);
    assert_eq!(out, [3.0, 0.0]);
}

/// FNV-1a over bytes.
fn digest(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn digest_of(values: &[f32]) -> u64 {
    digest(values.iter().flat_map(|x| x.to_le_bytes()))
}

/// The numbers are what an x86-64 with AVX2 and an aarch64 with NEON told. Who
/// changes an order or a function changes them, and has to mean it.
#[test]
fn every_machine_gives_the_same_bits() {
    let (a, b) = (noise(2561, 7), noise(2561, 8));
    let mut out = vec![0.0; 2561];
    let f32_bytes: Vec<u8> = b.iter().flat_map(|x| x.to_le_bytes()).collect();
    let f16: Vec<u8> = b
        .iter()
        .flat_map(|x| half::f16::from_f32(*x).to_le_bytes())
        .collect();
    let bf16: Vec<u8> = b
        .iter()
        .flat_map(|x| half::bf16::from_f32(*x).to_le_bytes())
        .collect();
    let sums = [
        dot(&a, &b),
        dot_f32_bytes(&a, &f32_bytes),
        dot_f16(&a, &f16),
        dot_bf16(&a, &bf16),
    ];
    let mut got = vec![("dot", digest_of(&sums))];
    for (name, norm) in [
        ("rms_norm", rms_norm as fn(&[f32], &[f32], f32, &mut [f32])),
        ("rms_norm_ggml", rms_norm_ggml),
        ("rms_norm_torch", rms_norm_torch),
    ] {
        norm(&a, &b, 1e-5, &mut out);
        got.push((name, digest_of(&out)));
    }
    relu2_times(&a, &b, &mut out);
    got.push(("relu2", digest_of(&out)));
    let wide: Vec<f32> = a.iter().map(|x| 30.0 * x).collect();
    silu_times(&wide, &b, &mut out);
    got.push(("silu", digest_of(&out)));
    out.copy_from_slice(&wide);
    add_scaled(0.3, &a, &mut out);
    got.push(("add_scaled", digest_of(&out)));
    for (name, quantise) in [
        ("quantise", quantise as fn(&[f32], &mut [i8]) -> f32),
        ("quantise_torch", quantise_torch),
    ] {
        let mut q = vec![0; 2561];
        let scale = quantise(&a, &mut q);
        let bytes = q.iter().map(|q| q.cast_unsigned());
        got.push((name, digest(bytes.chain(scale.to_le_bytes()))));
    }
    assert_eq!(
        got,
        [
            ("dot", 0x96c5_a484_e0f0_57c5),
            ("rms_norm", 0x04e5_52c7_c9c8_f049),
            ("rms_norm_ggml", 0x1e41_fc8b_0214_3765),
            ("rms_norm_torch", 0x1e41_fc8b_0214_3765),
            ("relu2", 0x1ecf_5465_ff1e_4bee),
            ("silu", 0xf5e7_f98a_97c5_f494),
            ("add_scaled", 0x021f_f2e3_3415_d766),
            ("quantise", 0x80e0_af8b_a353_3a25),
            ("quantise_torch", 0xf498_bf83_e8d9_ea38),
        ]
    );
}
