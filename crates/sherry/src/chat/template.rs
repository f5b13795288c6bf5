//! Chat templates as `transformers` renders them.

use serde_json::{Value, json};

use super::guard::Guard;
use super::jinja::{Budget, Fault, Globals, Template};
use super::{Message, Preset, Prompt};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result, clock};

/// Longest template.
const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Most text in all messages together.
const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Most messages.
const MAX_MESSAGES: usize = 1 << 14;
/// Steps of every rendering, and further steps per message.
const STEPS: (u64, u64) = (1 << 20, 1 << 10);
/// Bytes that every rendering may make, and further bytes per byte of the messages.
const BYTES: (u64, u64) = (16 << 20, 24);

/// A calendar day, for templates that print today's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Gregorian year.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// A chat template with the values it may use.
///
/// It renders as `transformers.apply_chat_template` does: `messages`, `add_generation_prompt`, `bos_token`,
/// `eos_token`, `raise_exception`, `strftime_now`, and whatever [`Self::with_variable`] adds.
///
/// Templates are untrusted programs and are run by an interpreter made for that: no access to anything outside,
/// bounded recursion, a bounded number of steps (2^20, and 2^10 more per message) and of bytes made (16 MiB, and 24 more
/// per byte of the messages). The source is at most 256 KiB.
///
/// ```
/// use sherry::chat::{ChatTemplate, Message};
/// let llm = sherry::Llm::tiny()?;
/// let template = ChatTemplate::for_tokenizer(llm.tokenizer())?;
/// let prompt = template.render(llm.tokenizer(), &[Message::new("user", "Hi!")], true)?;
/// assert!(prompt.text.ends_with("<|im_start|>assistant\n"));
/// # Ok::<(), sherry::Error>(())
/// ```
pub struct ChatTemplate {
    template: Template,
    variables: Vec<(String, Value)>,
    today: Option<Date>,
}

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Error::Template`]: too long, not a template, or using what is not supported; with the line.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(Error::Template(format!("has {} bytes, more than {MAX_SOURCE_BYTES}", source.len())));
        }
        let variables = vec![
            ("bos_token".to_string(), json!(bos.unwrap_or_default())),
            ("eos_token".to_string(), json!(eos.unwrap_or_default())),
        ];
        Ok(Self { template: Template::new(source).map_err(explain)?, variables, today: None })
    }

    /// The template that belongs to `tokenizer`: its own, or the preset that its control tokens speak for.
    ///
    /// # Errors
    /// As [`Self::new`]; also if there is no template and none of the presets fits.
    pub fn for_tokenizer(tokenizer: &Tokenizer) -> Result<Self> {
        let preset = || {
            Preset::detect(tokenizer).map(Preset::source).ok_or_else(|| {
                Error::Template("the model has none, and its control tokens are of no known family".into())
            })
        };
        let source = tokenizer.chat_template().map_or_else(preset, Ok)?;
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.id_to_token(id));
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos()))
    }

    /// Adds a variable that the template may look at, such as `enable_thinking`.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: Value) -> Self {
        self.variables.push((name.into(), value));
        self
    }

    /// Fixes the date that the template sees; otherwise it is today's (UTC).
    #[must_use]
    pub fn with_date(mut self, today: Date) -> Self {
        self.today = Some(today);
        self
    }

    /// The prompt for `messages`; with `add_generation_prompt` it ends where the assistant's answer begins.
    /// Control tokens of `tokenizer` in the messages stay text: see [`Prompt`].
    ///
    /// # Errors
    /// [`Error::Template`]: what the template raised, what it did wrong, or which limit it or the messages (4 MiB,
    /// 16384 of them) went over.
    pub fn render(&self, tokenizer: &Tokenizer, messages: &[Message], add_generation_prompt: bool) -> Result<Prompt> {
        self.render_guarded(tokenizer.control_texts(), messages, add_generation_prompt)
    }

    pub(super) fn render_guarded<'t>(
        &self,
        control: impl Iterator<Item = &'t str>,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<Prompt> {
        let bytes: usize = messages.iter().map(|message| message.role.len() + message.content.len()).sum();
        if bytes > MAX_MESSAGE_BYTES || messages.len() > MAX_MESSAGES {
            return Err(Error::Template(format!(
                "{} messages of {bytes} bytes; at most {MAX_MESSAGES} of {MAX_MESSAGE_BYTES} are allowed",
                messages.len()
            )));
        }
        let mut guard = Guard::new(control)?;
        let safe = messages.iter().map(|message| guard.protect(message)).collect::<Result<Vec<_>>>()?;
        let safe: Vec<Value> =
            safe.into_iter().map(|message| json!({"role": message.role, "content": message.content})).collect();
        let mut variables = self.variables.clone();
        variables.push(("messages".into(), safe.into()));
        variables.push(("add_generation_prompt".into(), add_generation_prompt.into()));
        let (bytes, count) = (bytes as u64, messages.len() as u64);
        let budget = Budget { steps: STEPS.0 + STEPS.1 * count + bytes, bytes: BYTES.0 + BYTES.1 * bytes };
        let today = self.today;
        let strftime = move |format: &str| strftime(format, today.unwrap_or_else(Date::today));
        let globals = Globals { variables: &variables, strftime: &strftime };
        Ok(guard.restore(&self.template.render(&globals, budget).map_err(explain)?))
    }
}

fn explain(fault: Fault) -> Error {
    Error::Template(match (fault.raised, fault.line) {
        (true, _) | (_, 0) => fault.message,
        (false, line) => format!("line {line}: {}", fault.message),
    })
}

impl Date {
    /// Today in UTC.
    fn today() -> Self {
        Self::from_days((clock::since_1970().as_secs() / 86_400) as i64)
    }

    /// The day that many days after 1 January 1970 (proleptic Gregorian calendar; years counted from March).
    fn from_days(days: i64) -> Self {
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let of_era = days.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { year, month: month as u8, day: day as u8 }
    }
}

/// `strftime` for the directives that concern a date; hours, minutes and seconds are 0.
fn strftime(format: &str, date: Date) -> Result<String, String> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    if format.len() > 256 {
        return Err("strftime_now: a format of more than 256 bytes".into());
    }
    let month = MONTHS[usize::from(date.month.clamp(1, 12)) - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        let plain = directive == Some('-');
        let directive = if plain { chars.next() } else { directive };
        let two = |n: u8| if plain { n.to_string() } else { format!("{n:02}") };
        match directive {
            Some('Y') => out.push_str(&date.year.to_string()),
            Some('m') => out.push_str(&two(date.month)),
            Some('d') => out.push_str(&two(date.day)),
            Some('B') => out.push_str(month),
            Some('b') => out.push_str(&month[..3]),
            Some('H' | 'M' | 'S') => out.push_str("00"),
            Some('%') => out.push('%'),
            other => {
                let shown = other.map_or(String::new(), String::from);
                return Err(format!("strftime_now: the directive %{shown} is not supported"));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_from_1970() {
        let date = |year, month, day| Date { year, month, day };
        for (days, expected) in [
            (0, date(1970, 1, 1)),
            (59, date(1970, 3, 1)),
            (11_016, date(2000, 2, 29)),
            (19_929, date(2024, 7, 25)),
            (47_540, date(2100, 2, 28)),
            (47_541, date(2100, 3, 1)),
        ] {
            assert_eq!(Date::from_days(days), expected);
        }
        assert_eq!(strftime("%d %b %Y, %-d %B, %m %%", date(2024, 7, 6)).unwrap(), "06 Jul 2024, 6 July, 07 %");
        assert!(strftime("%Q", date(2024, 7, 6)).is_err());
        assert!(strftime("%", date(2024, 7, 6)).is_err());
    }
}
