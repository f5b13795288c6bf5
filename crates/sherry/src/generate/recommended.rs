//! From what a model's authors recommend to the parameters that a sampler takes.

use super::SamplingParams;
use crate::model::GenerationConfig;

impl SamplingParams {
    /// These parameters with everything that the model's authors set in `config`. Values out of range are left for
    /// [`check`](Self::check) to refuse.
    #[must_use]
    pub fn recommended(self, config: &GenerationConfig) -> Self {
        let temperature = match config.do_sample {
            Some(false) => 0.0,
            _ => config.temperature.unwrap_or(self.temperature),
        };
        Self {
            temperature,
            top_k: config.top_k.unwrap_or(self.top_k),
            top_p: config.top_p.unwrap_or(self.top_p),
            min_p: config.min_p.unwrap_or(self.min_p),
            repetition_penalty: config.repetition_penalty.unwrap_or(self.repetition_penalty),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_authors_leave_open_stays_as_it_is() {
        let base = SamplingParams::default();
        assert_eq!(base.recommended(&GenerationConfig::default()), base);
        let config = GenerationConfig { temperature: Some(0.7), top_p: Some(0.8), ..GenerationConfig::default() };
        let params = base.recommended(&config);
        assert_eq!(params, SamplingParams { temperature: 0.7, top_p: 0.8, ..base });
        let config = GenerationConfig { do_sample: Some(false), top_k: Some(20), ..config };
        let params = base.recommended(&config);
        assert_eq!(params, SamplingParams { temperature: 0.0, top_k: 20, top_p: 0.8, ..base });
    }
}
