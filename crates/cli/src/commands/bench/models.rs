//! Models from files, or random weights of a published shape.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use sherry::Progress as _;
use sherry::io::ReadMode;
use sherry::model::{ArchConfig, Checkpoint, Family, KvType, MemoryEstimate, Model};
use sherry_measure::bench::models::{self, Measurement, Options};
use sherry_measure::bench::{RandomModel, ReadProbe, WeightFormat};

use sherry_kernels::Matrix;
use sherry_kernels::format::{ScaleGroup, TernaryFormat};

use super::earlier::Earlier;
use super::output::{self, Record, Subject};
use super::{BenchArgs, usable_memory};
use crate::commands::Context;
use crate::commands::engine::{TernaryBitsArg, resolve};
use crate::output::{Align, Table};
use sherry::threads::default_threads;

/// A model that is not loaded yet.
enum Candidate {
    File(Box<Checkpoint>, TernaryBitsArg),
    Random(Box<RandomModel>),
}

impl Candidate {
    fn config(&self) -> &ArchConfig {
        match self {
            Self::File(checkpoint, _) => checkpoint.config(),
            Self::Random(model) => model.config(),
        }
    }

    /// Bytes of all tensors as stored.
    fn bytes(&self) -> u64 {
        match self {
            Self::File(checkpoint, _) => checkpoint.estimate(0, 0, KvType::F16).weights,
            Self::Random(model) => model.bytes(),
        }
    }

    /// Memory that measuring it takes: weights, the coarse copy of the head where one is wanted, caches.
    fn memory(&self, options: &Options) -> MemoryEstimate {
        let mut weights = self.bytes();
        if options.setups.iter().any(|setup| setup.top > 0) {
            let (rows, cols) = (self.config().vocab, self.config().hidden);
            weights = weights.saturating_add(Matrix::coarse_bytes(rows, cols) as u64);
        }
        MemoryEstimate { weights, kv_cache: models::cache_bytes(self.config(), options) }
    }

    fn load(self, options: &Options, context: &Context) -> Result<Model> {
        let pool = options.pool();
        let mut model = match self {
            Self::File(checkpoint, bits) => checkpoint.load_as(bits.bits(), &pool, &context.console)?,
            Self::Random(model) => model.load(&pool, &context.console)?,
        };
        if options.setups.iter().any(|setup| setup.top > 0) && !model.weights.add_coarse_head(&pool) {
            bail!("--head two-stage: this head has no coarse copy, only block-quantized ones have");
        }
        Ok(model)
    }

    fn subject(&self) -> Subject {
        let parameters = self.config().parameters();
        let family = match self.config().family {
            Family::Llama => "llama",
            Family::Qwen3 => "qwen3",
            Family::HunyuanDense => "hunyuan",
            Family::BitNet => "bitnet",
            Family::MiniCpm => "minicpm",
            Family::Gemma3 => "gemma3",
        };
        let (format, linear_bits, path) = match self {
            Self::File(checkpoint, in_memory) => {
                let (format, bits) = linear_layers(checkpoint);
                let format = match in_memory {
                    TernaryBitsArg::Auto => format,
                    TernaryBitsArg::OneTwoThirds => format + " in 1.67 bits",
                    TernaryBitsArg::Two => format + " in 2 bits",
                };
                (format, bits, Some(checkpoint.path().display().to_string()))
            }
            Self::Random(model) => (model.linear().to_string(), model.linear_bits(), None),
        };
        let name = format!("{family} {} {format}", output::short_parameters(parameters));
        Subject { name, path, bytes: self.bytes(), parameters, linear_bits }
    }
}

/// The formats of the linear layers, and their mean bits per weight, scales included.
fn linear_layers(checkpoint: &Checkpoint) -> (String, f64) {
    let (mut bytes, mut weights) = (0, 0);
    let mut formats: Vec<String> = Vec::new();
    for (role, stored) in checkpoint.tensors().iter().filter(|(role, _)| role.is_linear()) {
        weights += role.shape(checkpoint.config()).iter().map(|&n| n as u64).product::<u64>();
        bytes += stored.bytes(checkpoint.source());
        if !formats.contains(&stored.type_name()) {
            formats.push(stored.type_name());
        }
    }
    formats.sort();
    (formats.join("+"), bytes as f64 * 8.0 / weights.max(1) as f64)
}

pub fn run(args: &BenchArgs, context: &Context) -> Result<ExitCode> {
    let options = args.options(&[512], &[128], &[default_threads().threads])?;
    let earlier = args.vs.as_deref().map(Earlier::read).transpose()?;
    let candidates = candidates(args, context)?;
    for candidate in &candidates {
        models::check(candidate.config(), &options.tests)?;
    }
    let available = usable_memory();
    let needed = |candidate: &Candidate| candidate.memory(&options);
    if let Some(available) = available {
        for candidate in &candidates {
            needed(candidate).check(available).with_context(|| candidate.subject().name)?;
        }
    }
    let read = ReadProbe::new(ReadProbe::BYTES)?;
    let all =
        candidates.iter().map(needed).fold(0u64, |sum, m| sum.saturating_add(m.weights).saturating_add(m.kv_cache));
    // Together their repetitions interleave; one after the other when memory asks for it.
    let together = available.is_none_or(|available| all <= available);
    let mut results: Vec<(Subject, Vec<Measurement>)> = Vec::new();
    let mut loaded: Vec<(Subject, Arc<Model>)> = Vec::new();
    for candidate in candidates {
        let subject = candidate.subject();
        loaded.push((subject, Arc::new(candidate.load(&options, context)?)));
        if !together {
            measure(&mut loaded, &options, &read, context, &mut results)?;
        }
    }
    measure(&mut loaded, &options, &read, context, &mut results)?;

    if let Some(said) = output::disturbance(results.iter().flat_map(|(_, measurements)| measurements)) {
        context.console.say(&said);
    }
    let records: Vec<Record> = results
        .iter()
        .flat_map(|(subject, measurements)| measurements.iter().map(|m| output::record(subject, options.batch, m)))
        .collect();
    let records = match &earlier {
        Some(earlier) => records.into_iter().map(|record| earlier.beside(record)).collect(),
        None => records,
    };
    output::write(args.form(context), &records, || markdown(&options, &results, &records, earlier.is_some()))?;
    Ok(ExitCode::SUCCESS)
}

fn candidates(args: &BenchArgs, context: &Context) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::new();
    if let Some(shape) = &args.synthetic {
        let sherry = WeightFormat::Packed(TernaryFormat::Sherry, ScaleGroup::Row);
        for format in super::distinct(&args.types, &[sherry]) {
            let model = RandomModel::new(args.config(shape)?, format, args.embed, 1)?;
            candidates.push(Candidate::Random(Box::new(model)));
        }
    } else if !args.types.is_empty() || args.vocab.is_some() {
        bail!("--type and --vocab are for random weights: --synthetic, --table or --kernels");
    }
    for path in &args.models {
        for bits in super::distinct(&args.ternary_bits, &[]) {
            let checkpoint = Checkpoint::open(&resolve(path)?, ReadMode::Map)?;
            context.console.note(&format!("{}: {}", path.display(), checkpoint.describe()));
            candidates.push(Candidate::File(Box::new(checkpoint), bits));
        }
    }
    if candidates.is_empty() {
        bail!("no model: give one, or --synthetic llama-3.2-1b, --table or --kernels (sherry bench --help)");
    }
    Ok(candidates)
}

fn measure(
    loaded: &mut Vec<(Subject, Arc<Model>)>,
    options: &Options,
    read: &ReadProbe,
    context: &Context,
    results: &mut Vec<(Subject, Vec<Measurement>)>,
) -> Result<()> {
    let (subjects, models): (Vec<_>, Vec<_>) = loaded.drain(..).unzip();
    if !models.is_empty() {
        results.extend(subjects.into_iter().zip(models::run(&models, options, Some(read), &context.console)?));
    }
    Ok(())
}

fn markdown(
    options: &Options,
    results: &[(Subject, Vec<Measurement>)],
    records: &[Record],
    with_earlier: bool,
) -> String {
    let several_types = options.setups.iter().any(|setup| setup.kv != KvType::default());
    let mut columns = vec![
        ("model", Align::Left),
        ("size", Align::Right),
        ("params", Align::Right),
        ("backend", Align::Left),
        ("threads", Align::Right),
    ];
    if several_types {
        columns.push(("kv", Align::Left));
    }
    let several_heads = options.setups.iter().any(|setup| setup.top > 0);
    if several_heads {
        columns.push(("head", Align::Left));
    }
    columns.extend([
        ("test", Align::Right),
        ("t/s", Align::Right),
        ("weights GB/s", Align::Right),
        ("of read limit", Align::Right),
    ]);
    if with_earlier {
        columns.push(("vs", Align::Right));
    }
    let mut table = Table::new(&columns);
    let all = results.iter().flat_map(|(subject, all)| all.iter().map(move |m| (subject, m)));
    for ((subject, m), record) in all.zip(records) {
        let mut cells = vec![
            subject.name.clone(),
            output::binary_size(subject.bytes),
            output::parameters(subject.parameters),
            format!("CPU {}", m.setup.isa),
            m.setup.threads.to_string(),
        ];
        if several_types {
            cells.push(output::kv_name(m.setup.kv));
        }
        if several_heads {
            cells.push(match m.setup.top {
                0 => "whole".to_owned(),
                1 => "two-stage".to_owned(),
                top => format!("two-stage, top {top}"),
            });
        }
        cells.extend([m.test.to_string(), output::rate(m), output::traffic(m), output::limit_share(m)]);
        if with_earlier {
            cells.push(record["vs_ratio"].as_f64().map_or(String::new(), |ratio| format!("{ratio:.2}x")));
        }
        table.row(cells);
    }
    format!("{table}\n{}\n", output::footer())
}
