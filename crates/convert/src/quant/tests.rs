use super::test_data::gaussian;
use super::*;
use sherry_kernels::format::half::f16_to_f32;

const FROM: (&str, &str) = ("model.safetensors", "model.layers.0.mlp.up_proj.weight");

fn quantized(
    values: &[f32],
    cols: usize,
    spec: QuantSpec,
    importance: Option<&[f32]>,
) -> Result<(PackedRows, TensorReport)> {
    quantize_matrix((Path::new(FROM.0), FROM.1), values, cols, &spec, importance)
}

fn message(values: &[f32], cols: usize, spec: QuantSpec, importance: Option<&[f32]>) -> String {
    quantized(values, cols, spec, importance).unwrap_err().to_string()
}

fn dense(format: TernaryFormat, projection: Projection, scale: ScaleGroup) -> QuantSpec {
    QuantSpec { format, order: QuadOrder::Contiguous, scale, projection }
}

const GROUP_128: ScaleGroup = ScaleGroup::Group(128);

/// A second decoder, from the words of format.md: what the packed rows stand for, in natural order.
fn decoded(packed: &PackedRows) -> Vec<f32> {
    let PackedLayout { format, rows, cols, order, scale } = packed.layout;
    let mut out = Vec::new();
    for row in 0..rows {
        let codes = &packed.codes[row * format.row_bytes(cols)..][..format.row_bytes(cols)];
        let scales = &packed.scales[row * scale.per_row(cols)..][..scale.per_row(cols)];
        let five_bits = |g: usize| {
            let unit = &codes[g / 8 * 5..][..5];
            let nibble = unit[g % 8 / 2] >> (4 * (g % 2)) & 15;
            (nibble, unit[4] >> (g % 8) & 1)
        };
        let weight = |col: usize| -> i8 {
            match format {
                TernaryFormat::Sherry => {
                    let (g, lane) = match order {
                        QuadOrder::Contiguous => (col / 4, col % 4),
                        QuadOrder::Stride16 => (col / 64 * 16 + col % 16, col % 64 / 16),
                    };
                    let (nibble, sign) = five_bits(g);
                    let zero = usize::from(nibble >> 2);
                    if lane == zero {
                        return 0;
                    }
                    let first = if sign == 1 { -1 } else { 1 };
                    match lane - usize::from(lane > zero) {
                        0 => first,
                        1 if nibble & 1 == 1 => -first,
                        2 if nibble & 2 == 2 => -first,
                        _ => first,
                    }
                }
                TernaryFormat::Ternary167 => {
                    let (magnitude, sign) = five_bits(col / 3);
                    let value = if sign == 1 { -(magnitude as i8) } else { magnitude as i8 };
                    let digits = (value + 13) as u8;
                    (digits / [9, 3, 1][col % 3] % 3) as i8 - 1
                }
                TernaryFormat::Ternary2 => (codes[col / 4] >> (2 * (col % 4)) & 3) as i8 - 1,
                TernaryFormat::Binary => 2 * (codes[col / 8] >> (col % 8) & 1) as i8 - 1,
            }
        };
        for col in 0..cols {
            let group = match scale {
                ScaleGroup::Tensor | ScaleGroup::Row => 0,
                ScaleGroup::Group(size) => col / size,
            };
            out.push(f16_to_f32(scales[group]) * f32::from(weight(col)));
        }
    }
    out
}

fn relative_squared_error(values: &[f32], packed: &PackedRows) -> f64 {
    let (mut error, mut norm) = (0.0, 0.0);
    for (&w, q) in values.iter().zip(decoded(packed)) {
        error += (f64::from(w) - f64::from(q)).powi(2);
        norm += f64::from(w).powi(2);
    }
    error / norm
}

fn specs() -> Vec<QuantSpec> {
    let mut specs = Vec::new();
    for scale in [ScaleGroup::Row, ScaleGroup::Group(64), GROUP_128, ScaleGroup::Group(256)] {
        specs.push(QuantSpec::sherry(scale));
        specs.push(QuantSpec { order: QuadOrder::Stride16, ..QuantSpec::sherry(scale) });
        for projection in [Projection::AbsMean, Projection::AbsMedian, Projection::Twn] {
            specs.push(dense(TernaryFormat::Ternary2, projection, scale));
        }
    }
    specs.push(QuantSpec::sherry(ScaleGroup::Group(32)));
    specs.push(dense(TernaryFormat::Ternary167, Projection::AbsMean, ScaleGroup::Row));
    specs.push(dense(TernaryFormat::Ternary167, Projection::Twn, ScaleGroup::Row));
    specs.push(dense(TernaryFormat::Ternary167, Projection::Twn, ScaleGroup::Group(96)));
    specs
}

#[test]
fn gaussian_weights_lose_what_theory_says() {
    let values = gaussian(1, 512 * 1024);
    for (spec, expected) in [
        (QuantSpec::sherry(GROUP_128), 0.282),
        (QuantSpec { order: QuadOrder::Stride16, ..QuantSpec::sherry(GROUP_128) }, 0.282),
        (dense(TernaryFormat::Ternary2, Projection::AbsMean, GROUP_128), 0.261),
        (dense(TernaryFormat::Ternary2, Projection::Twn, GROUP_128), 0.188),
        (dense(TernaryFormat::Ternary167, Projection::Twn, ScaleGroup::Row), 0.190),
    ] {
        let (packed, report) = quantized(&values, 1024, spec, None).unwrap();
        let measured = relative_squared_error(&values, &packed);
        assert!((measured - expected).abs() < 0.002, "{spec:?}: {measured}");
        assert!((report.relative_squared_error - measured).abs() < 1e-9);
        assert!((report.relative_error - measured.sqrt()).abs() < 1e-9);
        // A least-squares scale makes error and packed weights orthogonal: cosine^2 = 1 - error.
        if spec.projection != Projection::AbsMean {
            assert!((report.cosine.powi(2) - (1.0 - measured)).abs() < 1e-5);
        }
        assert!((report.sqnr_db.unwrap() + 10.0 * measured.log10()).abs() < 1e-6);
    }
}

#[test]
fn reports_agree_with_the_decoded_weights() {
    let (rows, cols) = (37, 448); // a short last group for 128 and 256, a short last task
    let values = gaussian(2, rows * cols);
    for spec in specs() {
        let (packed, report) = quantized(&values, cols, spec, None).unwrap();
        let decoded = decoded(&packed);
        assert!((report.relative_squared_error - relative_squared_error(&values, &packed)).abs() < 1e-12, "{spec:?}");
        let share = |keep: fn(f32) -> bool| decoded.iter().filter(|&&q| keep(q)).count() as f64 / (rows * cols) as f64;
        assert_eq!(report.share_zero, share(|q| q == 0.0));
        assert_eq!(report.share_minus, share(|q| q < 0.0));
        assert_eq!(report.share_plus, share(|q| q > 0.0));
        let dot: f64 = values.iter().zip(&decoded).map(|(&w, &q)| f64::from(w) * f64::from(q)).sum();
        let norm = |values: &[f32]| values.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
        assert!((report.cosine - dot / norm(&values) / norm(&decoded)).abs() < 1e-12);
        if let Some(histogram) = &report.code_histogram {
            let per_row = cols.div_ceil(spec.format.lanes());
            assert_eq!(histogram.iter().sum::<u64>(), (rows * per_row) as u64);
        }
        if spec.format == TernaryFormat::Sherry {
            assert_eq!(report.share_zero, 0.25);
            assert!(report.code_histogram.as_ref().unwrap().iter().all(|&count| count > 0));
            assert_eq!(report.code_bits_per_weight, 1.25);
        }
        let worst = report.worst_group.unwrap();
        let size = if let ScaleGroup::Group(size) = spec.scale { size } else { cols };
        let mut largest = 0.0f64;
        for row in 0..rows {
            for start in (0..cols).step_by(size) {
                let range = row * cols + start..row * cols + (start + size).min(cols);
                let error: f64 = range.clone().map(|i| f64::from(values[i] - decoded[i]).powi(2)).sum();
                largest = largest.max(error / norm(&values[range]).powi(2));
            }
        }
        assert!((worst.relative_squared_error - largest).abs() < 1e-6, "{spec:?}");
    }
}

#[test]
fn bits_per_weight_include_padding_and_scales() {
    let values = gaussian(3, 2 * 2048);
    let (_, report) = quantized(&values, 2048, QuantSpec::sherry(ScaleGroup::Row), None).unwrap();
    assert_eq!(report.bits_per_weight(), 1.25 + 16.0 / 2048.0);
    let (_, report) = quantized(&values, 2048, QuantSpec::sherry(GROUP_128), None).unwrap();
    assert_eq!(report.bits_per_weight(), 1.375);
    let (_, report) = quantized(&values[..8], 4, QuantSpec::sherry(ScaleGroup::Row), None).unwrap();
    assert_eq!(report.bits_per_weight(), 10.0 + 4.0); // 4 weights in a unit of 5 bytes
}

#[test]
fn stride_16_is_contiguous_after_a_permutation() {
    let values = gaussian(4, 8 * 192);
    let order = QuadOrder::Stride16;
    let permuted: Vec<f32> = values.chunks(192).flat_map(|row| in_quad_order(row, order)).collect();
    assert_eq!(permuted[..8], [0, 16, 32, 48, 1, 17, 33, 49].map(|i| values[i]));
    for scale in [ScaleGroup::Row, ScaleGroup::Group(64), GROUP_128] {
        let (strided, _) = quantized(&values, 192, QuantSpec { order, ..QuantSpec::sherry(scale) }, None).unwrap();
        let (contiguous, _) = quantized(&permuted, 192, QuantSpec::sherry(scale), None).unwrap();
        assert_eq!((strided.codes, strided.scales), (contiguous.codes, contiguous.scales));
    }
}

#[test]
fn weights_on_the_grid_are_kept_exactly() {
    let values = gaussian(5, 16 * 256);
    for spec in specs() {
        let (packed, _) = quantized(&values, 256, spec, None).unwrap();
        let on_grid = decoded(&packed);
        if spec.projection == Projection::AbsMean || spec.projection == Projection::AbsMedian {
            continue; // their scale is not the mean of the kept weights, so projecting twice differs
        }
        let (again, report) = quantized(&on_grid, 256, spec, None).unwrap();
        assert_eq!(again, packed, "{spec:?}");
        assert_eq!((report.relative_squared_error, report.sqnr_db), (0.0, None));
        assert!((report.cosine - 1.0).abs() < 1e-12);
    }
}

#[test]
fn bytes_and_report_do_not_depend_on_threads() {
    let (rows, cols) = (101, 320);
    let values = gaussian(6, rows * cols);
    let h: Vec<f32> = gaussian(7, cols).iter().map(|x| x * x).collect();
    for spec in specs() {
        let importance = (spec.projection == Projection::SparseAbsMean).then_some(&h[..]);
        let results: Vec<_> = [1, 2, 7]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| quantized(&values, cols, spec, importance).unwrap())
            })
            .collect();
        assert!(results.iter().all(|result| *result == results[0]), "{spec:?}");
    }
}

#[test]
fn importance_lowers_the_weighted_error_of_a_tensor() {
    let (rows, cols) = (64, 512);
    let values = gaussian(8, rows * cols);
    let h: Vec<f32> = gaussian(9, cols).iter().map(|x| (1.5 * x).exp()).collect();
    for order in [QuadOrder::Contiguous, QuadOrder::Stride16] {
        let spec = QuantSpec { order, ..QuantSpec::sherry(GROUP_128) };
        let weighted = |packed: &PackedRows| {
            let terms = values.iter().zip(decoded(packed)).enumerate();
            terms.map(|(i, (&w, q))| f64::from(h[i % cols]) * f64::from(w - q).powi(2)).sum::<f64>()
        };
        let (plain, _) = quantized(&values, cols, spec, None).unwrap();
        let (packed, report) = quantized(&values, cols, spec, Some(&h)).unwrap();
        assert!(weighted(&packed) < 0.95 * weighted(&plain), "{} {}", weighted(&packed), weighted(&plain));
        let norm: f64 = values.iter().enumerate().map(|(i, &w)| f64::from(h[i % cols]) * f64::from(w).powi(2)).sum();
        let reported = report.weighted_relative_squared_error.unwrap();
        assert!((reported - weighted(&packed) / norm).abs() < 1e-6);
    }
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for spec in specs() {
            let mut values = vec![0.5; 40 * 256];
            (values[33 * 256 + 7], values[39 * 256]) = (bad, bad);
            assert_eq!(
                message(&values, 256, spec, None),
                format!("{}: tensor '{}': the weight at row 33, column 7 is {bad}", FROM.0, FROM.1)
            );
        }
    }
    let message = message(&[1e6; 64], 64, QuantSpec::sherry(ScaleGroup::Row), None);
    assert_eq!(message, format!("{}: tensor '{}': the scale 1e6 of row 0 is beyond f16 (65504)", FROM.0, FROM.1));
}

#[test]
fn all_zero_tensors_are_fine() {
    for spec in specs() {
        let (packed, report) = quantized(&[0.0; 256], 256, spec, None).unwrap();
        assert!(decoded(&packed).iter().all(|&q| q == 0.0));
        assert_eq!((report.relative_squared_error, report.cosine, report.worst_group), (0.0, 1.0, None));
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let stride = QuantSpec { order: QuadOrder::Stride16, ..QuantSpec::sherry(ScaleGroup::Row) };
    let cases = [
        (6, QuantSpec::sherry(ScaleGroup::Row), "not a multiple of 4"),
        (96, stride, "not a multiple of 64"),
        (96, QuantSpec::sherry(ScaleGroup::Group(96)), "one scale per 96"),
        (96, QuantSpec::sherry(ScaleGroup::Group(0)), "one scale per 0"),
        (64, QuantSpec { scale: ScaleGroup::Group(32), ..stride }, "one scale per 32"),
        (96, dense(TernaryFormat::Ternary167, Projection::Twn, GROUP_128), "one scale per 128"),
        (96, dense(TernaryFormat::Sherry, Projection::Twn, ScaleGroup::Row), "does not go with"),
        (96, dense(TernaryFormat::Ternary2, Projection::SparseAbsMean, ScaleGroup::Row), "does not go with"),
        (
            96,
            QuantSpec { order: QuadOrder::Stride16, ..dense(TernaryFormat::Ternary2, Projection::Twn, GROUP_128) },
            "only Sherry",
        ),
    ];
    for (cols, spec, expected) in cases {
        let message = message(&vec![0.0; 2 * cols], cols, spec, None);
        assert!(message.contains(FROM.1) && message.contains(expected), "{message}");
    }
    let spec = QuantSpec::sherry(ScaleGroup::Row);
    for (values, cols) in [(&[0.0; 0][..], 4), (&[0.0; 0], 0), (&[0.0; 8], 0), (&[0.0; 6], 4)] {
        assert!(message(values, cols, spec, None).contains(FROM.1));
    }
    for bad in [&[1.0; 3][..], &[1.0, 1.0, 1.0, -1.0], &[1.0, f32::NAN, 1.0, 1.0]] {
        assert!(message(&[0.0; 8], 4, spec, Some(bad)).contains("importance"));
    }
    assert!(
        message(&[0.0; 8], 4, dense(TernaryFormat::Ternary2, Projection::Twn, ScaleGroup::Row), Some(&[1.0; 4]))
            .contains("importance")
    );
}

#[test]
fn the_report_is_plain_json() {
    let (_, report) = quantized(&gaussian(10, 256), 128, QuantSpec::sherry(GROUP_128), None).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["format"], "sherry-1.25");
    assert_eq!(json["projection"], "sparse-abs-mean");
    assert_eq!(json["code_histogram"].as_array().unwrap().len(), 32);
    assert!(json["sqnr_db"].is_f64());
}

/// What one projection made, taken as weights, is packed to the same bytes; anything else is refused by name.
#[test]
fn exact_weights_are_packed_as_they_are() {
    let (rows, cols) = (5, 256);
    let mut values = gaussian(3, rows * cols);
    values[..cols].fill(0.0);
    let sherry = |order, scale| QuantSpec { order, ..QuantSpec::sherry(scale) };
    for spec in [
        sherry(QuadOrder::Contiguous, ScaleGroup::Row),
        sherry(QuadOrder::Stride16, ScaleGroup::Group(64)),
        dense(TernaryFormat::Ternary167, Projection::Twn, ScaleGroup::Row),
        dense(TernaryFormat::Ternary2, Projection::AbsMean, GROUP_128),
    ] {
        let (packed, _) = quantized(&values, cols, spec, None).unwrap();
        let kept = decoded(&packed);
        let exact = QuantSpec { projection: Projection::Exact, ..spec };
        let (again, report) = quantized(&kept, cols, exact, None).unwrap();
        assert_eq!(decoded(&again), kept);
        assert_eq!((again.layout, again.scales), (packed.layout, packed.scales));
        assert_eq!(report.relative_error, 0.0);
        assert!(message(&values, cols, exact, None).contains("of row 1 is not -1, 0 or +1 times"));
    }
    let mut two_zeros = vec![0.5f32; 256];
    two_zeros[..2].fill(0.0);
    let exact = QuantSpec { projection: Projection::Exact, ..QuantSpec::sherry(ScaleGroup::Row) };
    assert!(message(&two_zeros, cols, exact, None).contains(FROM.1));
}
