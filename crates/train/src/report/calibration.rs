//! Reports of post-training, read back from the JSON that `sherry calibrate` writes.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sherry::io::read_regular;

use super::bars::{Bar, Bars};
use super::chart::{Chart, Series};
use super::html::legend;
use crate::error::{Error, Result};

/// The largest report read back.
const MAX_REPORT: u64 = 64 << 20;

/// A report of post-training. Fields that it lacks are not drawn.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Calibration {
    #[serde(skip)]
    path: PathBuf,
    pub(super) command: Option<String>,
    pub(super) tokens: Option<u64>,
    pub(super) held_out: Option<u64>,
    blocks: Vec<Block>,
    pub(super) original_perplexity: Option<f64>,
    rounded: Option<Measured>,
    tuning: Vec<Tuned>,
    tuned: Option<Measured>,
    training: Vec<Tuned>,
    trained: Option<Measured>,
    pub(super) written: Option<Written>,
    pub(super) seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Block {
    block: u64,
    maps: Vec<Map>,
    calibration_error: Option<f64>,
    held_out_error: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Map {
    map: String,
    rounding_error: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Measured {
    perplexity: Option<f64>,
    divergence: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Tuned {
    step: u64,
    divergence: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Written {
    pub written_perplexity: Option<f64>,
    pub int8_perplexity: Option<f64>,
}

impl Calibration {
    /// Whether `document` is such a report: it has blocks, and text that was held out.
    pub fn is(document: &Value) -> bool {
        document["blocks"].is_array() && document["held_out"].is_u64()
    }

    /// Reads the file at `path`; `None` where it holds another document.
    ///
    /// # Errors
    /// [`sherry::Error::Io`]; [`Error::Data`] naming what is not as `sherry calibrate` writes it.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let bytes = read_regular(path, MAX_REPORT)?;
        let document = serde_json::from_slice::<Value>(&bytes)
            .map_err(|error| Error::data(path, format!("not JSON ({error})")))?;
        if !Self::is(&document) {
            return Ok(None);
        }
        let found: Self = serde_json::from_value(document).map_err(|error| Error::data(path, error.to_string()))?;
        Ok(Some(Self { path: path.to_path_buf(), ..found }))
    }

    /// What it is called: the output, after which the file is named.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy();
        name.strip_suffix(".report.json").unwrap_or(&name).to_owned()
    }

    /// Stages, in order, and what was measured after each.
    fn stages(&self) -> Vec<(&'static str, Option<f64>, Option<f64>)> {
        let stage = |name, measured: Option<Measured>| {
            let measured = measured.unwrap_or_default();
            (name, measured.perplexity, measured.divergence)
        };
        let written = self.written.unwrap_or_default();
        vec![
            ("original", self.original_perplexity, None),
            stage("rounded", self.rounded),
            stage("tuned", self.tuned),
            stage("trained", self.trained),
            ("written", written.written_perplexity, None),
            ("written, int8", written.int8_perplexity, None),
        ]
    }

    /// What was measured last, of the quantized model.
    pub(super) fn perplexity(&self) -> Option<f64> {
        let stages = self.stages();
        stages[1..].iter().rev().find_map(|(_, perplexity, _)| *perplexity)
    }

    /// The last divergence from the original.
    pub(super) fn divergence(&self) -> Option<f64> {
        self.stages().iter().rev().find_map(|(.., divergence)| *divergence)
    }
}

/// Figures about `all`, with their names and the indices of their colours.
pub(super) fn figures(all: &[Calibration], names: &[(&str, usize)]) -> String {
    let stages: Vec<_> = all.iter().map(Calibration::stages).collect();
    let mut out = legend(names.iter().copied());
    out += "<div class=\"charts wide\">\n";
    type Measure = fn(&(&'static str, Option<f64>, Option<f64>)) -> Option<f64>;
    let measures: [(&str, &str, usize, Measure); 2] = [
        ("Perplexity by stage", "on text held out; lower is better", 1, |stage| stage.1),
        ("Divergence from the original", "nats per token on text held out; lower is better", 3, |stage| stage.2),
    ];
    for (title, unit, digits, measure) in measures {
        let count = stages.first().map_or(0, Vec::len);
        let group = |at: usize| {
            let bars: Vec<Option<Bar>> =
                stages.iter().map(|stages| Some(Bar { value: measure(&stages[at])?, error: None })).collect();
            bars.iter().any(Option::is_some).then(|| (stages[0][at].0.to_owned(), bars))
        };
        let (names, groups) = (names.to_vec(), (0..count).filter_map(group).collect());
        out += &Bars { title, unit, end: None, digits, names, groups }.html();
    }
    out += "</div>\n<div class=\"charts\">\n";
    type Points = fn(&Calibration) -> Vec<(f64, f64)>;
    let charts: [(&str, &str, &str, bool, Points); 4] = [
        ("Difference of the streams", "relative, on text held out", "block", false, |one| {
            one.blocks.iter().filter_map(|block| Some((block.block as f64, block.held_out_error?))).collect()
        }),
        ("Difference on text fitted to", "relative", "block", false, |one| {
            one.blocks.iter().filter_map(|block| Some((block.block as f64, block.calibration_error?))).collect()
        }),
        ("Tuning of scales and norms", "divergence, nats per token", "step", true, |one| divergences(&one.tuning)),
        ("Training of everything", "divergence, nats per token", "step", true, |one| divergences(&one.training)),
    ];
    for (title, unit, over, noisy, points) in charts {
        let series = all.iter().zip(names).map(|(one, &(name, color))| Series { name, color, points: points(one) });
        out += &Chart { title, unit, over, noisy, series: series.collect() }.html();
    }
    out + "</div>\n"
}

fn divergences(steps: &[Tuned]) -> Vec<(f64, f64)> {
    steps.iter().filter_map(|one| Some((one.step as f64, one.divergence?))).collect()
}

/// Errors of rounding by linear layer; empty where no report has any.
pub(super) fn layers(all: &[Calibration], names: &[(&str, usize)]) -> String {
    let mut maps: Vec<&str> = Vec::new();
    for map in all.iter().flat_map(|one| &one.blocks).flat_map(|block| &block.maps) {
        if !maps.contains(&map.map.as_str()) {
            maps.push(&map.map);
        }
    }
    let chart = |(one, (title, _)): (&Calibration, &(&str, usize))| {
        let series = maps.iter().enumerate().map(|(color, name)| {
            let error = |block: &Block| block.maps.iter().find(|map| map.map == **name)?.rounding_error;
            let points = one.blocks.iter().filter_map(|block| Some((block.block as f64, error(block)?))).collect();
            Series { name, color, points }
        });
        let unit = "squared error of outputs, relative to them";
        Chart { title, unit, over: "block", noisy: false, series: series.collect() }.html()
    };
    let charts: String = all.iter().zip(names).map(chart).collect();
    if charts.is_empty() {
        return charts;
    }
    let legend = legend(maps.iter().enumerate().map(|(color, name)| (*name, color)));
    format!("<h3>Error of rounding by linear layer</h3>\n{legend}<div class=\"charts\">\n{charts}</div>\n")
}
