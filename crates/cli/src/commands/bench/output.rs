//! Results as records and tables.

use anyhow::Result;
use serde_json::{Map, Value, json};
use sherry::model::KvType;
use sherry_measure::bench::models::{Measurement, Phase};
use sherry_measure::bench::statistics::{deviation, mean, median};
use sherry_measure::machine;

use super::Form;
use crate::output::Stdout;

/// One result as a flat object.
pub type Record = Map<String, Value>;

/// What a model is called and how large it is.
#[derive(Clone, Debug)]
pub struct Subject {
    /// "llama 1B sherry-1.25".
    pub name: String,
    /// File or folder; `None` for random weights.
    pub path: Option<String>,
    /// Bytes of all tensors as stored.
    pub bytes: u64,
    pub parameters: u64,
    /// Bits per weight of the linear layers, scales included.
    pub linear_bits: f64,
}

/// "f16": types of keys and values as on the command line.
pub fn kv_name(kv: KvType) -> String {
    format!("{kv:?}").to_ascii_lowercase()
}

/// What every record begins with.
pub fn machine_record() -> Record {
    object(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "cpu_info": machine::cpu_name(),
        "backend": "CPU",
    }))
}

pub fn object(value: Value) -> Record {
    match value {
        Value::Object(map) => map,
        _ => Record::new(),
    }
}

/// A measurement under the names that llama-bench uses, and ours for what it lacks.
pub fn record(subject: &Subject, batch: usize, m: &Measurement) -> Record {
    let (rates, ns) = (m.rates(), m.seconds.iter().map(|s| s * 1e9).collect::<Vec<_>>());
    let count = |phase| if m.test.phase == phase { m.test.tokens } else { 0 };
    let share = m.weight_rate().zip(m.read_limit()).map(|(rate, limit)| rate / limit);
    let mut record = machine_record();
    record.extend(object(json!({
        "isa": m.setup.isa.to_string(),
        "model_filename": subject.path,
        "model_type": subject.name,
        "model_size": subject.bytes,
        "model_n_params": subject.parameters,
        "linear_bits_per_weight": subject.linear_bits,
        "n_batch": batch,
        "n_threads": m.setup.threads,
        "type_kv": kv_name(m.setup.kv),
        "top_logits": m.setup.top,
        "n_sequences": m.test.sequences,
        "test": m.test.to_string(),
        "n_prompt": count(Phase::Prompt),
        "n_gen": count(Phase::Generate),
        "n_depth": m.test.depth,
        "avg_ns": mean(&ns).round() as u64,
        "stddev_ns": deviation(&ns).round() as u64,
        "median_ns": median(&ns).round() as u64,
        "avg_ts": mean(&rates),
        "stddev_ts": deviation(&rates),
        "median_ts": median(&rates),
        "weight_bytes_per_token": m.token_bytes,
        "weight_bytes_per_second": m.weight_rate(),
        "read_limit_bytes_per_second": m.read_limit(),
        "read_limit_share": share,
        "samples_ns": ns.iter().map(|ns| ns.round() as u64).collect::<Vec<_>>(),
        "samples_ts": rates,
        "read_limit_samples": m.read_limits,
        "others_cores_samples": m.others,
    })));
    record
}

/// What to say where other programs took time from the measurements.
pub fn disturbance<'m>(all: impl Iterator<Item = &'m Measurement>) -> Option<String> {
    let (mut disturbed, mut repetitions, mut most) = (0, 0, 0.0f64);
    for m in all {
        disturbed += m.disturbed();
        repetitions += m.seconds.len();
        most = m.others.iter().copied().fold(most, f64::max);
    }
    (disturbed > 0).then(|| {
        format!(
            "{disturbed} of {repetitions} repetitions were disturbed: other programs used up to {most:.1} cores meanwhile; for \
             steady figures run again when the machine is quiet"
        )
    })
}

/// "12.34 ± 0.05".
pub fn rate(m: &Measurement) -> String {
    let rates = m.rates();
    format!("{:.2} ± {:.2}", mean(&rates), deviation(&rates))
}

/// "12.3": gigabytes of weights per second; empty for prompts.
pub fn traffic(m: &Measurement) -> String {
    m.weight_rate().map_or(String::new(), |rate| format!("{:.1}", rate / 1e9))
}

/// "83 % of 29.0": share of the read limit, in GB/s; empty for prompts.
pub fn limit_share(m: &Measurement) -> String {
    match (m.weight_rate(), m.read_limit()) {
        (Some(rate), Some(limit)) => format!("{:.0} % of {:.1}", 100.0 * rate / limit, limit / 1e9),
        _ => String::new(),
    }
}

/// "655.20 MiB", as llama-bench says it.
pub fn binary_size(bytes: u64) -> String {
    match bytes as f64 / f64::from(1 << 20) {
        mib if mib >= 1024.0 => format!("{:.2} GiB", mib / 1024.0),
        mib => format!("{mib:.2} MiB"),
    }
}

/// "1.24 B", as llama-bench says it.
pub fn parameters(count: u64) -> String {
    match count as f64 {
        n if n >= 1e9 => format!("{:.2} B", n / 1e9),
        n => format!("{:.2} M", n / 1e6),
    }
}

/// "1B", "135M": the part of a model's name.
pub fn short_parameters(count: u64) -> String {
    match count as f64 {
        n if n >= 9.5e8 => format!("{:.0}B", n / 1e9),
        n if n >= 9.5e5 => format!("{:.0}M", n / 1e6),
        n => format!("{:.0}k", n / 1e3),
    }
}

/// The line below tables: what they were measured on.
pub fn footer() -> String {
    format!("sherry {}, {}, {}", env!("CARGO_PKG_VERSION"), machine::cpu_name(), std::env::consts::OS)
}

/// Writes `records`, or the tables that `md` gives.
pub fn write(form: Form, records: &[Record], md: impl FnOnce() -> String) -> Result<()> {
    let mut out = Stdout::lock();
    match form {
        Form::Md => write!(out, "{}", md())?,
        Form::Json => out.json(&records)?,
        Form::Jsonl => {
            for record in records {
                out.json_line(record)?;
            }
        }
        Form::Csv => write!(out, "{}", csv(records))?,
    }
    Ok(())
}

/// All columns of any record, those that hold lists left out.
fn csv(records: &[Record]) -> String {
    let mut columns: Vec<&String> = Vec::new();
    for (name, value) in records.iter().flatten() {
        if !value.is_array() && !columns.contains(&name) {
            columns.push(name);
        }
    }
    let cell = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => format!("\"{}\"", text.replace('"', "\"\"")),
        Some(value) => value.to_string(),
    };
    let mut text = columns.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(",") + "\n";
    for record in records {
        let cells: Vec<String> = columns.iter().map(|name| cell(record.get(*name))).collect();
        text += &cells.join(",");
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use sherry_kernels::Isa;
    use sherry_measure::bench::models::{Setup, Test};

    use super::*;

    fn measurement(phase: Phase) -> Measurement {
        let generates = phase == Phase::Generate;
        Measurement {
            setup: Setup { isa: Isa::Scalar, threads: 2, kv: KvType::F16, top: 0 },
            test: Test { phase, tokens: 10, sequences: 1, depth: 4 },
            seconds: vec![1.0, 2.0, 4.0],
            read_limits: if generates { vec![40e9, 20e9, 30e9] } else { Vec::new() },
            others: vec![0.0, 0.3, 0.05],
            token_bytes: 3_000_000_000,
        }
    }

    #[test]
    fn cells() {
        let m = measurement(Phase::Generate);
        // 10, 5 and 2.5 tokens per second: 15 GB/s in the middle.
        assert_eq!([rate(&m), traffic(&m), limit_share(&m)], ["5.83 ± 3.82", "15.0", "50 % of 30.0"]);
        assert_eq!(m.disturbed(), 1);
        let said = disturbance([&m, &m].into_iter()).unwrap();
        assert!(said.starts_with("2 of 6 repetitions were disturbed: other programs used up to 0.3 cores"), "{said}");
        assert_eq!(disturbance([&Measurement { others: vec![0.05], ..m.clone() }].into_iter()), None);
        let m = measurement(Phase::Prompt);
        assert_eq!([traffic(&m), limit_share(&m)], ["", ""]);
        assert_eq!([binary_size(687_026_995), binary_size(2 << 30)], ["655.20 MiB", "2.00 GiB"]);
        assert_eq!([parameters(1_235_814_400), parameters(134_515_008)], ["1.24 B", "134.52 M"]);
        assert_eq!([1_235_814_400, 134_515_008, 800].map(short_parameters), ["1B", "135M", "1k"]);
    }

    #[test]
    fn records_have_the_names_of_llama_bench() {
        let subject = Subject { name: "llama 1B".into(), path: None, bytes: 5, parameters: 7, linear_bits: 1.25 };
        let value = Value::Object(record(&subject, 512, &measurement(Phase::Generate)));
        for (name, expected) in [
            ("n_gen", json!(10)),
            ("n_prompt", json!(0)),
            ("n_depth", json!(4)),
            ("n_threads", json!(2)),
            ("isa", json!("scalar")),
            ("type_kv", json!("f16")),
            ("test", json!("tg10 @ d4")),
            ("model_size", json!(5)),
            ("model_n_params", json!(7)),
            ("median_ts", json!(5.0)),
            ("median_ns", json!(2_000_000_000u64)),
            ("samples_ts", json!([10.0, 5.0, 2.5])),
            ("samples_ns", json!([1_000_000_000u64, 2_000_000_000u64, 4_000_000_000u64])),
            ("weight_bytes_per_second", json!(15e9)),
            ("read_limit_share", json!(0.5)),
            ("others_cores_samples", json!([0.0, 0.3, 0.05])),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
        let prompt = record(&subject, 512, &measurement(Phase::Prompt));
        assert_eq!((&prompt["n_prompt"], &prompt["read_limit_share"]), (&json!(10), &Value::Null));
    }

    #[test]
    fn comma_separated_values() {
        let records =
            [object(json!({ "a": "x \"y\", z", "list": [1], "b": 1.5 })), object(json!({ "a": null, "c": true }))];
        assert_eq!(csv(&records), "a,b,c\n\"x \"\"y\"\", z\",1.5,\n,,true\n");
    }

    #[test]
    fn cache_types_have_the_names_of_the_options() {
        assert_eq!([KvType::F16, KvType::F32].map(kv_name), ["f16", "f32"]);
    }
}
