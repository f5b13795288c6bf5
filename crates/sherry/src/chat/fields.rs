//! Templates over the fields of a row of data.

use serde_json::{Map, Value};

use super::jinja::{Dialect, Given, Globals, Template};
use super::template::{budget, explain};
use crate::error::{Error, Result};

/// Longest template.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// A Jinja2 template of which a row of data makes a text, set up as lm-evaluation-harness does: nothing is trimmed, and a
/// field that is not there is an error.
///
/// ```
/// use sherry::chat::FieldTemplate;
///
/// let template = FieldTemplate::new("Q: {{question.strip()}}\n")?;
/// let row = serde_json::json!({ "question": " Why? " });
/// assert_eq!(template.render(row.as_object().unwrap())?, "Q: Why?\n");
/// assert!(template.render(&serde_json::Map::new()).is_err());
/// # Ok::<(), sherry::Error>(())
/// ```
pub struct FieldTemplate {
    template: Template,
}

impl FieldTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Template`]: too long, or not a template; with the line.
    pub fn new(source: &str) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::Template(format!("has {} bytes, more than {MAX_SOURCE_BYTES}", source.len())));
        }
        Ok(Self { template: Template::new(source, Dialect::Strict).map_err(|fault| explain(*fault))? })
    }

    /// The text that it makes of `fields`.
    ///
    /// # Errors
    /// [`Error::Template`]: what is not there, what the template did wrong, or which limit it went over.
    pub fn render(&self, fields: &Map<String, Value>) -> Result<String> {
        let variables: Vec<Given<'_>> =
            fields.iter().map(|(name, value)| Given { name, value, marked: false }).collect();
        let strftime = |_: &str| Err("strftime_now: a task has no clock".to_owned());
        let globals = Globals { variables: &variables, strftime: &strftime };
        let rendered = self.template.render(&globals, budget(&variables, 1)?);
        Ok(rendered.map_err(|fault| explain(*fault))?.text)
    }
}

impl std::fmt::Debug for FieldTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FieldTemplate").finish_non_exhaustive()
    }
}
