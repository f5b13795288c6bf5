//! What `/set` shows and changes.

use sherry::Generate;
use sherry::generate::SamplingParams;

use super::command::LIKENESS;
use crate::commands::number::positive;
use sherry_convert::nearest::nearest;

/// What can be changed while a conversation goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub generate: Generate,
    /// Statistics after every answer.
    pub verbose: bool,
    /// When the context is full, turns at the beginning that stay while the oldest others go; `None`: ask.
    pub keep: Option<usize>,
}

/// The name of a setting, as the option has it, and what it means.
const NAMES: [(&str, &str); 10] = [
    ("temp", "randomness; 0 always takes the likeliest token"),
    ("top-k", "only the K likeliest tokens; 0: all"),
    ("top-p", "only the likeliest tokens up to that probability"),
    ("min-p", "only tokens with that share of the best one"),
    ("repeat-penalty", "penalty on recent tokens; 1: none"),
    ("seed", "same seed, same answers"),
    ("max-tokens", "most tokens of an answer; none: no limit"),
    ("stop", "a text that ends an answer; none: no such text"),
    ("verbose", "on: statistics after every answer"),
    ("keep", "full context: first turns to keep; ask: ask first"),
];

/// All names, for completion.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.iter().map(|(name, _)| *name)
}

impl Settings {
    /// One line per setting.
    pub fn list(&self) -> Vec<String> {
        NAMES.iter().map(|(name, what)| format!("  {name:<15} {:<12} {what}", self.value(name))).collect()
    }

    /// The value of `name`, which is one of the names.
    fn value(&self, name: &str) -> String {
        let p = self.params();
        match name {
            "temp" => p.temperature.to_string(),
            "top-k" => p.top_k.to_string(),
            "top-p" => p.top_p.to_string(),
            "min-p" => p.min_p.to_string(),
            "repeat-penalty" => p.repetition_penalty.to_string(),
            "seed" => p.seed.to_string(),
            "max-tokens" => self.generate.max_tokens.map_or("none".to_owned(), |n| n.to_string()),
            "stop" if self.generate.stop.is_empty() => "none".to_owned(),
            "stop" => self.generate.stop.join(" | "),
            "verbose" => if self.verbose { "on" } else { "off" }.to_owned(),
            _ => self.keep.map_or("ask".to_owned(), |n| n.to_string()),
        }
    }

    /// How tokens are picked.
    pub fn params(&self) -> SamplingParams {
        self.generate.sampling.unwrap_or_default()
    }

    /// Does what `/set` with `arguments` asks for, and gives the lines to show.
    ///
    /// # Errors
    /// What is wrong with them; nothing is changed then.
    pub fn set(&mut self, arguments: &str) -> Result<Vec<String>, String> {
        let (word, value) = arguments.split_once(char::is_whitespace).unwrap_or((arguments, ""));
        let name = word.to_lowercase().trim_start_matches("--").replace('_', "-");
        let name = match &name[..] {
            "temperature" => "temp",
            "repetition-penalty" => "repeat-penalty",
            "n" | "num-predict" => "max-tokens",
            other => other,
        };
        let Some((name, what)) = NAMES.iter().find(|(known, _)| *known == name) else {
            if matches!(name, "ctx-size" | "num-ctx" | "threads" | "kv") {
                return Err(format!("{name} is set when the program starts: sherry run MODEL --{name} ..."));
            }
            let hint = nearest(name, names(), LIKENESS).map_or(String::new(), |near| format!("; did you mean {near}?"));
            return Err(format!("no setting '{word}'{hint} (/set lists them)"));
        };
        let value = value.trim();
        if value.is_empty() {
            return Ok(vec![format!("{name} is {} ({what})", self.value(name))]);
        }
        let mut changed = self.clone();
        changed.assign(name, value).map_err(|problem| format!("{name} {value}: {problem}"))?;
        *self = changed;
        Ok(vec![format!("{name} is {}", self.value(name))])
    }

    fn assign(&mut self, name: &str, value: &str) -> Result<(), String> {
        let mut p = self.params();
        match name {
            "temp" => p.temperature = number(value)?,
            "top-k" => p.top_k = number(value)?,
            "top-p" => p.top_p = number(value)?,
            "min-p" => p.min_p = number(value)?,
            "repeat-penalty" => p.repetition_penalty = number(value)?,
            "seed" => p.seed = number(value)?,
            "max-tokens" if value == "none" => self.generate.max_tokens = None,
            "max-tokens" => self.generate.max_tokens = Some(positive(value)?),
            "stop" if value == "none" => self.generate.stop.clear(),
            "stop" => self.generate.stop = vec![value.to_owned()],
            "verbose" => {
                self.verbose = match value {
                    "on" | "true" | "yes" | "1" => true,
                    "off" | "false" | "no" | "0" => false,
                    _ => return Err("expected on or off".to_owned()),
                }
            }
            _ if value == "ask" => self.keep = None,
            _ => self.keep = Some(number(value)?),
        }
        self.generate.sampling = Some(p.check().map_err(|error| error.to_string())?);
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_shown_and_changed() {
        let mut settings = Settings { generate: Generate::default(), verbose: false, keep: None };
        for (arguments, shown) in [
            ("temp 0.25", "temp is 0.25"),
            ("temperature 0.5", "temp is 0.5"),
            ("top_k 7", "top-k is 7"),
            ("top-p 0.5", "top-p is 0.5"),
            ("MIN-P 0.1", "min-p is 0.1"),
            ("repeat_penalty 1.25", "repeat-penalty is 1.25"),
            ("seed 42", "seed is 42"),
            ("max-tokens 9", "max-tokens is 9"),
            ("max-tokens none", "max-tokens is none"),
            ("stop two words", "stop is two words"),
            ("stop none", "stop is none"),
            ("verbose on", "verbose is on"),
            ("keep 2", "keep is 2"),
            ("keep ask", "keep is ask"),
            ("seed", "seed is 42 (same seed, same answers)"),
        ] {
            assert_eq!(settings.set(arguments).unwrap(), [shown], "{arguments}");
        }
        assert_eq!(settings.list().len(), NAMES.len());
        assert!(settings.list().iter().all(|line| line.chars().count() <= 80), "{:#?}", settings.list());
        let before = settings.clone();
        for (arguments, part) in [
            ("tmp 1", "did you mean temp?"),
            ("xyzzy 1", "no setting 'xyzzy' (/set lists them)"),
            ("temp hot", "expected a number"),
            ("temp NaN", "0 to 100"),
            ("temp -1", "0 to 100"),
            ("top-p 0", "above 0"),
            ("top-k 1.5", "expected a number"),
            ("max-tokens 0", "at least 1"),
            ("max-tokens few", "expected a whole number"),
            ("verbose maybe", "on or off"),
            ("ctx-size 9", "--ctx-size"),
        ] {
            let problem = settings.set(arguments).unwrap_err();
            assert!(problem.contains(part), "{arguments}: {problem}");
            assert_eq!(settings, before);
        }
    }
}
