//! Results of an earlier run, to compare with.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::output::Record;

/// Fields that say what was measured: results are comparable when all of them are equal.
const SAME: [&str; 7] = ["model_type", "isa", "n_threads", "type_kv", "top_logits", "n_sequences", "test"];

/// What `sherry bench --json` or `-o jsonl` wrote.
pub struct Earlier(Vec<Record>);

impl Earlier {
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("--vs {shown}"))?;
        let values: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(&text).into_iter().collect();
        let values = values.with_context(|| format!("--vs {shown}: results of sherry bench --json were expected"))?;
        let mut records = Vec::new();
        for value in values.into_iter().flat_map(|value| match value {
            Value::Array(values) => values,
            value => vec![value],
        }) {
            match value {
                Value::Object(record) if record.get("median_ts").is_some_and(Value::is_number) => records.push(record),
                _ => bail!("--vs {shown}: an entry is no result of sherry bench (it has no 'median_ts')"),
            }
        }
        if records.is_empty() {
            bail!("--vs {shown}: there is no result in it");
        }
        Ok(Self(records))
    }

    /// `record` with how many times as fast it is as the same test was: `vs_ratio`, null where there was no such test.
    pub fn beside(&self, mut record: Record) -> Record {
        let same = |other: &&Record| SAME.iter().all(|name| other.get(*name) == record.get(*name));
        let before = self.0.iter().find(same).and_then(|other| other["median_ts"].as_f64());
        let now = record.get("median_ts").and_then(Value::as_f64);
        let ratio = now.zip(before).map(|(now, before)| now / before);
        record.insert("vs_ratio".to_owned(), ratio.into());
        record
    }
}
