//! From what a model's authors recommend to the parameters that a sampler takes.

use super::SamplingParams;
use crate::model::{GenerationConfig, GenerationFault};
use crate::{Error, Result};

/// The fields of `generation_config.json` that set parameters.
const FIELDS: [&str; 5] = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"];

impl SamplingParams {
    /// These parameters with everything that the model's authors set in `config`, but for the fields `decided`, which stay
    /// as they are. What is wrong with a field that is decided does not matter.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Malformed`] naming file and field: a recommendation that cannot be understood, or is
    /// out of range.
    pub fn recommended(self, config: &GenerationConfig, decided: &[&str]) -> Result<Self> {
        let open = |field: &str| !decided.contains(&field);
        let matters = |fault: &&GenerationFault| match fault.field {
            None => FIELDS.iter().any(|field| open(field)),
            Some("do_sample") => open("temperature"),
            Some(field) => FIELDS.contains(&field) && open(field),
        };
        if let Some(fault) = config.faults.iter().find(matters) {
            return Err(Error::Invalid(fault.problem.clone()));
        }
        let temperature = if config.do_sample == Some(false) { Some(0.0) } else { config.temperature };
        let pick = |field, theirs: Option<f32>, ours| theirs.filter(|_| open(field)).unwrap_or(ours);
        let params = Self {
            temperature: pick("temperature", temperature, self.temperature),
            top_k: config.top_k.filter(|_| open("top_k")).unwrap_or(self.top_k),
            top_p: pick("top_p", config.top_p, self.top_p),
            min_p: pick("min_p", config.min_p, self.min_p),
            repetition_penalty: pick("repetition_penalty", config.repetition_penalty, self.repetition_penalty),
            ..self
        };
        params.check().map_err(|error| Error::malformed(&config.path, "recommended sampling", error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_authors_leave_open_stays_as_it_is() {
        let base = SamplingParams::default();
        assert_eq!(base.recommended(&GenerationConfig::default(), &[]).unwrap(), base);
        let config = GenerationConfig { temperature: Some(0.7), top_p: Some(0.8), ..GenerationConfig::default() };
        let params = base.recommended(&config, &[]).unwrap();
        assert_eq!(params, SamplingParams { temperature: 0.7, top_p: 0.8, ..base });
        assert_eq!(base.recommended(&config, &["top_p"]).unwrap(), SamplingParams { temperature: 0.7, ..base });
        let config = GenerationConfig { do_sample: Some(false), top_k: Some(20), ..config };
        let params = base.recommended(&config, &[]).unwrap();
        assert_eq!(params, SamplingParams { temperature: 0.0, top_k: 20, top_p: 0.8, ..base });
    }

    #[test]
    fn a_fault_matters_where_its_field_is_open() {
        let base = SamplingParams::default();
        let fault = |field| GenerationConfig {
            faults: vec![GenerationFault { field, problem: "file: field".into() }],
            ..GenerationConfig::default()
        };
        for field in FIELDS {
            let config = fault(Some(field));
            assert_eq!(base.recommended(&config, &[]).unwrap_err().to_string(), "file: field");
            assert_eq!(base.recommended(&config, &[field]).unwrap(), base);
        }
        assert!(base.recommended(&fault(Some("do_sample")), &FIELDS[1..]).is_err());
        assert!(base.recommended(&fault(Some("do_sample")), &["temperature"]).is_ok());
        assert!(
            base.recommended(&fault(None), &FIELDS[1..]).is_err() && base.recommended(&fault(None), &FIELDS).is_ok()
        );
        assert!(base.recommended(&fault(Some("eos_token_id")), &[]).is_ok());
        let path = "x/generation_config.json".into();
        let high = GenerationConfig { top_p: Some(7.0), path, ..GenerationConfig::default() };
        let message = base.recommended(&high, &[]).unwrap_err().to_string();
        assert!(message.starts_with("x/generation_config.json: ") && message.contains("top_p is 7"), "{message}");
        assert!(base.recommended(&high, &["top_p"]).is_ok());
    }
}
