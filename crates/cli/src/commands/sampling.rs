//! Options that decide which token comes next, and where their defaults come from.

use anyhow::{Result, anyhow};
use clap::Args;
use sherry::Progress as _;
use sherry::generate::SamplingParams;
use sherry::model::GenerationConfig;

use super::number::{count, seed};
use crate::output::Console;

/// What to use where neither the user nor the model says anything: the values llama.cpp made customary.
const DEFAULTS: SamplingParams = SamplingParams {
    temperature: 0.8,
    top_k: 40,
    top_p: 0.95,
    min_p: 0.05,
    repetition_penalty: 1.0,
    ..SamplingParams::GREEDY
};

/// Sampling options; what is not given comes from the model's generation_config.json, then from customary values.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Most tokens to generate [default: until the model stops or the context is full; 100 in `sherry run` without MODEL]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub max_tokens: Option<usize>,
    /// Randomness; 0 always takes the likeliest token [default: the model's, else 0.8]
    #[arg(long = "temp", alias = "temperature", value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Only the K likeliest tokens; 0: all [default: the model's, else 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = count)]
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have probability P [default: the model's, else 0.95]
    #[arg(long, value_name = "P", value_parser = top_p, allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Only tokens at least P times as likely as the likeliest [default: the model's, else 0.05]
    #[arg(long, value_name = "P", value_parser = min_p, allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Penalty on recent tokens; 1: none [default: the model's, else 1]
    #[arg(long, value_name = "X", value_parser = repetition_penalty, allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Same seed, same text [default: from the clock]
    #[arg(short, long, value_parser = seed)]
    pub seed: Option<u64>,
    /// End the text before this string (repeatable)
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl SamplingArgs {
    /// The parameters in force, and a line that says them and where they come from. What cannot be understood of the
    /// model's recommendations matters only where no option decides.
    pub fn resolve(&self, model: &GenerationConfig) -> Result<(SamplingParams, String)> {
        let given = [
            ("temperature", self.temperature.is_some()),
            ("top_k", self.top_k.is_some()),
            ("top_p", self.top_p.is_some()),
            ("min_p", self.min_p.is_some()),
            ("repetition_penalty", self.repeat_penalty.is_some()),
        ];
        let mut decided: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect();
        if self.temperature == Some(0.0) && !model.faults.is_empty() {
            // The most likely token is taken, whatever the others would say.
            decided.extend(["top_k", "top_p", "min_p"]);
            decided.extend(model.repetition_penalty.is_none().then_some("repetition_penalty"));
        }
        let options = SamplingParams {
            temperature: self.temperature.unwrap_or(DEFAULTS.temperature),
            top_k: self.top_k.unwrap_or(DEFAULTS.top_k),
            top_p: self.top_p.unwrap_or(DEFAULTS.top_p),
            min_p: self.min_p.unwrap_or(DEFAULTS.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(DEFAULTS.repetition_penalty),
            seed: self.seed.unwrap_or_else(clock_seed),
            ..DEFAULTS
        };
        let params = options.recommended(model, &decided).map_err(|error| {
            anyhow!("{error}; mend it, or give what it should say: --temp, --top-k, --top-p, --min-p, --repeat-penalty")
        })?;
        let seed = params.seed;
        let origin = |given: bool, model: bool| match (given, model) {
            (true, _) => "",
            (false, true) => " (the model's)",
            (false, false) => " (default)",
        };
        if params.temperature == 0.0 {
            let from =
                origin(self.temperature.is_some(), model.temperature.is_some() || model.do_sample == Some(false));
            return Ok((params, format!("greedy{from}")));
        }
        let line = format!(
            "temperature {}{}, top-k {}{}, top-p {}{}, min-p {}{}, repetition penalty {}{}, seed {seed}",
            params.temperature,
            origin(self.temperature.is_some(), model.temperature.is_some()),
            params.top_k,
            origin(self.top_k.is_some(), model.top_k.is_some()),
            params.top_p,
            origin(self.top_p.is_some(), model.top_p.is_some()),
            params.min_p,
            origin(self.min_p.is_some(), model.min_p.is_some()),
            params.repetition_penalty,
            origin(self.repeat_penalty.is_some(), model.repetition_penalty.is_some()),
        );
        Ok((params, line))
    }
}

/// Says what could not be understood of a model's recommendations.
pub fn note_faults(model: &GenerationConfig, console: &Console) {
    for fault in &model.faults {
        let ends = if fault.concerns_ends() { "; answers end where the other files say" } else { "" };
        console.note(&format!("{}: not used{ends}", fault.problem));
    }
}

/// A number for one field of the parameters, in that field's range.
fn in_range(text: &str, set: impl FnOnce(&mut SamplingParams, f32)) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| "expected a number".to_owned())?;
    let mut params = SamplingParams::GREEDY;
    set(&mut params, value);
    params.check().map_err(|error| format!("expected another number: {error}"))?;
    Ok(value)
}

fn temperature(text: &str) -> Result<f32, String> {
    in_range(text, |params, value| params.temperature = value)
}

fn top_p(text: &str) -> Result<f32, String> {
    in_range(text, |params, value| params.top_p = value)
}

fn min_p(text: &str) -> Result<f32, String> {
    in_range(text, |params, value| params.min_p = value)
}

fn repetition_penalty(text: &str) -> Result<f32, String> {
    in_range(text, |params, value| params.repetition_penalty = value)
}

fn clock_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64
}
