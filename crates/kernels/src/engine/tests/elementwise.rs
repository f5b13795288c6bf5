use super::{Random, assert_same_bits, engine, isas};

/// Lengths around every vector and unrolling size.
const LENGTHS: [usize; 14] = [0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 130];

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// 0.5 x (1 + tanh z), without the cancellation of `1 + tanh z` for negative z.
fn gelu(x: f64) -> f64 {
    let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    x / (1.0 + (-2.0 * z).exp())
}

#[test]
fn gates_follow_f64() {
    type Reference = fn(f64) -> f64;
    for isa in isas() {
        let engine = engine(isa, 1);
        // Dense over the range where they bend, and far beyond both ends.
        let x: Vec<f32> =
            (-20_000..20_000).map(|i| i as f32 * 1e-3).chain([-1e30, -500.0, -88.0, 88.0, 1e30]).collect();
        let up: Vec<f32> = x.iter().map(|x| if *x > 0.0 { 2.0 } else { -0.5 }).collect();
        for (reference, is_silu) in [(silu as Reference, true), (gelu as Reference, false)] {
            let mut out = x.clone();
            if is_silu {
                engine.silu_mul(&mut out, &up)
            } else {
                engine.gelu_mul(&mut out, &up)
            }
            for ((x, up), out) in x.iter().zip(&up).zip(&out) {
                let exact = reference(f64::from(*x)) * f64::from(*up);
                // The error of e^x relative to the sigmoid; gelu's argument, up to x^3, costs more in the far tail.
                let bound = exact.abs() * if is_silu { 5e-7 } else { 2e-6 * (1.0 + f64::from(*x).abs()) } + 1e-30;
                assert!((f64::from(*out) - exact).abs() <= bound, "{isa} silu {is_silu} at {x}: {out} not {exact}");
            }
        }
        let mut extremes = [f32::NAN, f32::INFINITY, f32::MAX, -f32::MAX, 0.0];
        engine.silu_mul(&mut extremes, &[1.0; 5]);
        assert!(extremes[0].is_nan());
        assert_eq!(extremes[1..], [f32::INFINITY, f32::MAX, 0.0, 0.0]);
    }
}

#[test]
fn lengths_do_not_change_values() {
    for isa in isas() {
        let engine = engine(isa, 1);
        let mut random = Random::new(1);
        let (x, y) = (random.values(130), random.values(130));
        let run = |op: &dyn Fn(&mut [f32], &[f32]), from: usize, len: usize| {
            let mut out = x[from..from + len].to_vec();
            op(&mut out, &y[from..from + len]);
            out
        };
        type Operation<'a> = &'a dyn Fn(&mut [f32], &[f32]);
        let ops: [Operation<'_>; 3] =
            [&|a, b| engine.silu_mul(a, b), &|a, b| engine.gelu_mul(a, b), &|a, b| engine.add(a, b)];
        for op in ops {
            let whole = run(op, 0, 130);
            for len in LENGTHS {
                for from in [0, 1, 5].into_iter().filter(|from| from + len <= 130) {
                    assert_same_bits(&run(op, from, len), &whole[from..from + len]);
                }
            }
        }
        let sums: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_same_bits(&run(&|a, b| engine.add(a, b), 0, 130), &sums);
    }
}

#[test]
fn rms_norm_follows_f64() {
    for isa in isas() {
        let engine = engine(isa, 1);
        let mut random = Random::new(2);
        for len in LENGTHS.into_iter().chain([576, 2048]).filter(|len| *len > 0) {
            let (x, w) = (random.values(3 * len), random.values(len));
            for (eps, plus) in [(1e-5, 0.0), (1e-6, 1.0)] {
                let mut out = vec![f32::NAN; 3 * len];
                engine.rms_norm(&x, &w, eps, plus, &mut out);
                for (x, out) in x.chunks(len).zip(out.chunks(len)) {
                    let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / len as f64;
                    for i in 0..len {
                        let exact = f64::from(x[i]) / (mean + f64::from(eps)).sqrt() * f64::from(w[i] + plus);
                        assert!((f64::from(out[i]) - exact).abs() <= 1e-6 * exact.abs(), "{isa} {len}: {i}");
                    }
                }
                let mut alone = vec![f32::NAN; len];
                engine.rms_norm(&x[len..2 * len], &w, eps, plus, &mut alone);
                assert_same_bits(&alone, &out[len..2 * len]);
            }
        }
        engine.rms_norm(&[], &[], 1e-5, 0.0, &mut []);
    }
}

#[test]
fn rotations_follow_the_formula_on_every_isa() {
    for isa in isas() {
        let engine = engine(isa, 1);
        let mut random = Random::new(3);
        for (head_dim, pairs) in [(2, 1), (6, 3), (64, 32), (80, 40), (64, 16), (8, 0)] {
            let x = random.values(3 * head_dim);
            let angles = random.values(pairs);
            let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
            let expected = |partner: &dyn Fn(usize) -> (usize, usize)| {
                let mut out = x.clone();
                for head in 0..3 {
                    for i in 0..pairs {
                        let (a, b) = partner(i);
                        let (a, b) = (head * head_dim + a, head * head_dim + b);
                        out[a] = x[a] * cos[i] - x[b] * sin[i];
                        out[b] = x[a] * sin[i] + x[b] * cos[i];
                    }
                }
                out
            };
            let mut halves = x.clone();
            engine.rope_halves(&mut halves, head_dim, &cos, &sin);
            assert_same_bits(&halves, &expected(&|i| (i, i + pairs)));
            let mut interleaved = x.clone();
            engine.rope_interleaved(&mut interleaved, head_dim, &cos, &sin);
            assert_same_bits(&interleaved, &expected(&|i| (2 * i, 2 * i + 1)));
        }
    }
}
