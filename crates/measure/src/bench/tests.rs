//! The harness counts and orders what it measures; nothing here depends on how fast the machine is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sherry_kernels::format::TensorType;
use sherry_kernels::{Engine, Isa, Pool, Precision};

use super::models::{Options, Phase, Setup, Test, cache_bytes, run, token_bytes};
use super::*;
use sherry::model::{ArchConfig, Decoder, Family, KvCache, KvType, Wanted, synthetic};
use sherry::{Error, NoProgress, Progress};

fn test(phase: Phase, tokens: usize, depth: usize) -> Test {
    Test { phase, tokens, sequences: 1, depth }
}

fn options(setups: &[(Isa, usize)], tests: Vec<Test>) -> Options {
    let setups = setups.iter().map(|&(isa, threads)| Setup { isa, threads, kv: KvType::F16, top: 0 }).collect();
    Options { setups, tests, repetitions: 2, warm_up: true, batch: 5 }
}

fn model(format: WeightFormat) -> Arc<sherry::model::Model> {
    let config = synthetic::shape("tiny").unwrap();
    Arc::new(RandomModel::new(config, format, TensorType::Q6_K, 1).unwrap().load(&Pool::new(2), &NoProgress).unwrap())
}

#[test]
fn formats_have_names_that_parse() {
    for method in PAPER_FORMATS {
        assert_eq!(method.format.to_string().parse(), Ok(method.format));
    }
    assert_eq!("q6_k".parse(), Ok(WeightFormat::Plain(TensorType::Q6_K)));
    for bad in ["", "u8", "q9_0", "sherry", "sherry-1.25/", "sherry-1.25/100", "sherry-1.25/x", "bf16/32"] {
        assert!(bad.parse::<WeightFormat>().is_err(), "{bad}");
    }
    for method in PAPER_FORMATS {
        assert!(method.format.bytes(usize::MAX / 2, 2048).is_err());
        assert!(method.format.bytes(64, usize::MAX / 2).is_err());
    }
    assert!(WeightFormat::Plain(TensorType::Q6_K).bytes(1, 576).is_err());
}

#[test]
fn tests_are_named_as_everywhere() {
    assert_eq!(test(Phase::Prompt, 512, 0).to_string(), "pp512");
    assert_eq!(test(Phase::Generate, 128, 4096).to_string(), "tg128 @ d4096");
}

#[test]
fn random_models_of_every_method_give_finite_logits() {
    for method in PAPER_FORMATS {
        let config = synthetic::shape("tiny").unwrap();
        let random = RandomModel::new(config.clone(), method.format, TensorType::Q6_K, 3).unwrap();
        let (bytes, bits) = (random.bytes(), random.linear_bits());
        let weights: usize = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 512);
        let linear: f64 = bits * weights as f64 / 8.0;
        let rest = (512 * 210 + 5 * 256 * 4) as f64;
        assert_eq!(bytes as f64, linear + rest, "{}", method.name);
        let model = Arc::new(random.load(&Pool::new(2), &NoProgress).unwrap());
        let engine = Engine::new(Isa::best(), 1, Precision::Int8);
        let mut decoder = Decoder::new(model, engine);
        let mut cache = KvCache::new(&config, 8, KvType::F16).unwrap();
        let logits = decoder.forward_one(&mut cache, &[1, 2, 3, 500], Wanted::All).unwrap();
        for row in 0..4 {
            let square = logits.row(row).iter().map(|x| x * x).sum::<f32>() / 512.0;
            assert!((0.1..10.0).contains(&square), "{}: {square}", method.name);
        }
    }
}

#[test]
fn shapes_are_the_published_ones() {
    for (name, parameters) in
        [("llama-3.2-1b", 1_235_814_400), ("llama-3.2-3b", 3_212_749_824), ("llama-3-8b", 8_030_261_248)]
    {
        assert_eq!(synthetic::shape(name).unwrap().parameters(), parameters, "{name}");
    }
    assert_eq!(synthetic::shape("smollm2-135m").unwrap().parameters(), 134_515_008);
    assert_eq!(synthetic::shape("bitnet-b1.58-2b").unwrap().parameters(), 2_412_820_480);
    for name in synthetic::SHAPES {
        synthetic::shape(name).unwrap().validate(std::path::Path::new(name)).unwrap();
    }
    assert!(synthetic::shape("llama-9").is_none());
}

#[test]
fn formats_that_a_shape_cannot_have_are_refused() {
    let config = synthetic::shape("smollm2-135m").unwrap();
    let error = RandomModel::new(config, WeightFormat::Plain(TensorType::Q8_0), TensorType::Q6_K, 1).unwrap_err();
    assert!(error.to_string().contains("Q6_K") && error.to_string().contains("256"), "{error}");
}

#[test]
fn every_case_is_measured_the_same_number_of_times() {
    let model = model(PAPER_FORMATS[5].format);
    let tests = vec![test(Phase::Prompt, 12, 0), test(Phase::Generate, 3, 0), test(Phase::Generate, 2, 7)];
    let options = options(&[(Isa::Scalar, 1), (Isa::best(), 2)], tests.clone());
    let config = &model.config;
    let expected = KvCache::bytes_needed(config, 12, KvType::F16) + KvCache::bytes_needed(config, 9, KvType::F16);
    assert_eq!(cache_bytes(config, &options), expected);

    #[derive(Default)]
    struct Count(AtomicUsize, AtomicUsize);
    impl Progress for Count {
        fn start(&self, _: &str, total: u64) {
            self.0.store(total as usize, Ordering::Relaxed);
        }
        fn advance(&self, done: u64) {
            self.1.fetch_add(done as usize, Ordering::Relaxed);
        }
        fn finish(&self) {}
        fn note(&self, _: &str) {}
    }
    let count = Count::default();
    let read = ReadProbe::new(1 << 20).unwrap();
    let results = run(&[Arc::clone(&model), model], &options, Some(&read), &count).unwrap();
    assert_eq!((count.0.into_inner(), count.1.into_inner()), (36, 36));
    assert_eq!(results.len(), 2);
    for measurements in &results {
        let order: Vec<_> = measurements.iter().map(|m| (m.test, m.setup)).collect();
        let expected: Vec<_> = tests.iter().flat_map(|t| options.setups.iter().map(|s| (*t, *s))).collect();
        assert_eq!(order, expected);
        for m in measurements {
            assert_eq!(m.seconds.len(), 2);
            assert!(m.rates().iter().all(|rate| *rate > 0.0 && rate.is_finite()));
            let generates = m.test.phase == Phase::Generate;
            assert_eq!(
                (m.read_limits.len(), m.weight_rate().is_some()),
                if generates { (2, true) } else { (0, false) }
            );
            assert_eq!(m.read_limit().is_some(), generates);
        }
    }
}

#[test]
fn tests_beyond_the_context_are_refused() {
    let model = model(PAPER_FORMATS[1].format);
    let too_deep = options(&[(Isa::Scalar, 1)], vec![test(Phase::Generate, 8, 4090)]);
    let error = run(&[model], &too_deep, None, &NoProgress).unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("tg8 @ d4090") && text.contains("4096")), "{error}");
}

#[test]
fn a_run_can_be_cancelled() {
    struct Cancel;
    impl Progress for Cancel {
        fn start(&self, _: &str, _: u64) {}
        fn advance(&self, _: u64) {}
        fn finish(&self) {}
        fn note(&self, _: &str) {}
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let options = options(&[(Isa::best(), 1)], vec![test(Phase::Generate, 1, 0)]);
    let error = run(&[model(PAPER_FORMATS[5].format)], &options, None, &Cancel).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
}

/// An embedding that is only looked up is not read for every token.
#[test]
fn weights_read_per_token() {
    let tied = synthetic::shape("tiny").unwrap();
    let load = |config: &ArchConfig| {
        RandomModel::new(config.clone(), PAPER_FORMATS[1].format, TensorType::Q8_0, 1)
            .unwrap()
            .load(&Pool::new(2), &NoProgress)
            .unwrap()
    };
    let untied = ArchConfig { tied: false, ..tied.clone() };
    let (a, b) = (load(&tied), load(&untied));
    assert_eq!(token_bytes(&a), a.weights.bytes());
    assert!(b.weights.bytes() > token_bytes(&b));
    assert_eq!(token_bytes(&a), token_bytes(&b));
    assert_eq!(tied.family, Family::Llama);
}

#[test]
fn kernels_are_measured_in_every_setup() {
    let options = kernels::Options {
        formats: PAPER_FORMATS.iter().map(|method| method.format).collect(),
        shapes: vec![(64, 256)],
        setups: vec![(Isa::Scalar, 1), (Isa::best(), 2)],
        tokens: vec![4],
        contexts: vec![33],
        kv: vec![KvType::F16, KvType::F32],
        repetitions: 1,
        cold_bytes: 1 << 14,
    };
    let read = ReadProbe::new(1 << 20).unwrap();
    let timings = kernels::run(&options, &read, &NoProgress).unwrap();
    assert_eq!((timings.one_token.len(), timings.batches.len(), timings.attention.len()), (14, 14, 4));
    assert_eq!(timings.others.len() % 2, 0);
    for t in &timings.one_token {
        assert!(t.hot > 0.0 && t.cold > 0.0 && t.read_limit > 0.0 && t.cold_rate() > 0.0, "{t:?}");
    }
    assert!(timings.batches.iter().all(|b| b.rate() > 0.0 && b.int8_peak > 0.0));
    let impossible = kernels::Options { shapes: vec![(64, 100)], ..options };
    assert!(matches!(kernels::run(&impossible, &read, &NoProgress), Err(Error::Invalid(_))));
}

#[test]
fn limits_are_positive() {
    let pool = Pool::new(2);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        assert!(limits::int8_peak(isa, &pool) > 0.0);
        // Less than one piece per worker, too.
        for bytes in [64, 1 << 20] {
            assert!(ReadProbe::new(bytes).unwrap().bytes_per_second(isa, &pool) > 0.0, "{isa}");
        }
    }
    assert!(matches!(ReadProbe::new(usize::MAX / 2), Err(Error::OutOfMemory { .. })));
}
