//! From a row of a data set to what the model is asked. The rules are lm-evaluation-harness 0.4.13's.

use std::path::Path;

use serde_json::{Map, Value};

use super::super::data::Row;
use super::super::lm::Request;
use super::super::python::{capitalize, is_space, strip};
use super::chat::{Chat, Example};
use super::{Item, Kind};
use sherry::Result;

/// A row in the shape all tasks share.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    /// What is read before the answer; one per choice when the choices are part of the question (WinoGrande).
    pub contexts: Vec<String>,
    /// What is scored, without the joining space; one per choice unless the contexts differ.
    pub answers: Vec<String>,
    /// Strings whose lengths in characters normalise the scores.
    pub choices: Vec<String>,
    pub gold: usize,
    /// What joins context and answer in a request without a chat template; with one nothing does.
    pub joint: String,
    /// What joins them in an example.
    pub delimiter: String,
    /// What stands behind an example.
    pub between: String,
    /// What stands before everything: the task's description.
    pub system: String,
}

impl Question {
    pub(super) fn new(kind: Kind, row: &Row, file: &Path) -> Result<Self> {
        let text = |field: &str| row.text(file, field);
        match kind {
            Kind::Arc => {
                let choices = row.object(file, "choices")?;
                let gold = letter(row, &choices, text("answerKey")?, file)?;
                Self::choice(
                    format!("Question: {}\nAnswer:", text("question")?),
                    choices.texts(file, "text")?,
                    gold,
                    row,
                    file,
                )
            }
            Kind::OpenBookQa => {
                let choices = row.object(file, "choices")?;
                let gold = letter(row, &choices, text("answerKey")?.trim_start_matches(is_space), file)?;
                Self::choice(text("question_stem")?.to_string(), choices.texts(file, "text")?, gold, row, file)
            }
            Kind::Piqa => {
                let choices = vec![text("sol1")?.to_string(), text("sol2")?.to_string()];
                Self::choice(
                    format!("Question: {}\nAnswer:", text("goal")?),
                    choices,
                    row.index(file, "label")?,
                    row,
                    file,
                )
            }
            Kind::HellaSwag => {
                let context = format!("{}: {} {}", text("activity_label")?, text("ctx_a")?, capitalize(text("ctx_b")?));
                let endings = row.texts(file, "endings")?.iter().map(|ending| clean(ending)).collect();
                Self::choice(clean(&context), endings, row.index(file, "label")?, row, file)
            }
            Kind::WinoGrande => {
                let sentence = text("sentence")?;
                let (before, after) =
                    sentence.split_once('_').ok_or_else(|| row.problem(file, "sentence", "has no blank '_'"))?;
                let gold = match text("answer")? {
                    "1" => 0,
                    "2" => 1,
                    other => return Err(row.problem(file, "answer", format!("expected '1' or '2', found '{other}'"))),
                };
                let contexts: Vec<String> =
                    [text("option1")?, text("option2")?].iter().map(|option| format!("{before}{option}")).collect();
                let answers = vec![strip(after).to_string()];
                Ok(Self { contexts: contexts.clone(), ..Self::usual(Vec::new(), answers, contexts, gold) })
            }
            Kind::BoolQ => {
                // SuperGLUE's copy has a numeric `label` and passages that begin with their title; the original has
                // `answer` and bare passages. Both are asked the same way.
                let gold = if row.fields.contains_key("label") {
                    row.index(file, "label")?
                } else {
                    match row.field(file, "answer")? {
                        Value::Bool(answer) => usize::from(*answer),
                        Value::String(answer) if answer.eq_ignore_ascii_case("true") => 1,
                        Value::String(answer) if answer.eq_ignore_ascii_case("false") => 0,
                        _ => return Err(row.problem(file, "answer", "expected true or false")),
                    }
                };
                let context = format!("{}\nQuestion: {}?\nAnswer:", text("passage")?, text("question")?);
                Self::choice(context, vec!["no".to_string(), "yes".to_string()], gold, row, file)
            }
            Kind::Lambada => {
                let (context, word) = text("text")?
                    .rsplit_once(' ')
                    .ok_or_else(|| row.problem(file, "text", "needs at least two words"))?;
                // The space is part of the target here, so nothing joins the two. (In few-shot examples the harness
                // joins with a space all the same and two spaces result.)
                let answers = vec![format!(" {word}")];
                Ok(Self { joint: String::new(), ..Self::usual(vec![context.to_string()], answers.clone(), answers, 0) })
            }
            Kind::Defined(definition) => definition.question(row, file),
        }
    }

    fn choice(context: String, answers: Vec<String>, gold: usize, row: &Row, file: &Path) -> Result<Self> {
        if gold >= answers.len() {
            let problem = format!("the answer is number {gold} of {} choices", answers.len());
            return Err(row.problem(file, "label", problem));
        }
        Ok(Self::usual(vec![context], answers.clone(), answers, gold))
    }

    /// As the built-in tasks put things together.
    fn usual(contexts: Vec<String>, answers: Vec<String>, choices: Vec<String>, gold: usize) -> Self {
        let (joint, delimiter, between) = (" ".to_owned(), " ".to_owned(), "\n\n".to_owned());
        Self { contexts, answers, choices, gold, joint, delimiter, between, system: String::new() }
    }

    /// The question with its right answer, as an example before another one.
    pub(super) fn example(self) -> Example {
        let (question, answer) = (of(&self.contexts, self.gold).to_owned(), of(&self.answers, self.gold).to_owned());
        Example { question, answer, delimiter: self.delimiter, between: self.between }
    }

    /// The requests, with few-shot examples `before` each, as text or as a conversation.
    pub(super) fn into_item(
        self,
        index: usize,
        row: Map<String, Value>,
        before: &[Example],
        chat: Option<&Chat>,
    ) -> Result<Item> {
        let whole = |context: &String| match chat {
            Some(chat) => chat.context(&self.system, before, context),
            None => Ok(format!("{}{}{context}", self.system, before.iter().map(Example::text).collect::<String>())),
        };
        let contexts: Vec<String> = self.contexts.iter().map(whole).collect::<Result<_>>()?;
        let joint = if chat.is_some() { "" } else { &self.joint };
        let count = contexts.len().max(self.answers.len());
        let requests = (0..count)
            .map(|i| Request {
                context: of(&contexts, i).to_owned(),
                continuation: format!("{joint}{}", of(&self.answers, i)),
            })
            .collect();
        let lengths = self.choices.iter().map(|choice| choice.chars().count()).collect();
        let target = of(&self.answers, self.gold).to_string();
        Ok(Item { index, row, requests, lengths, gold: self.gold, target })
    }
}

/// Element `i`, or the only one.
fn of(texts: &[String], i: usize) -> &str {
    match texts {
        [only] => only,
        many => &many[i],
    }
}

/// Place of the answer's letter among the labels.
fn letter(row: &Row, choices: &Row, key: &str, file: &Path) -> Result<usize> {
    let labels = choices.texts(file, "label")?;
    if labels.len() != choices.texts(file, "text")?.len() {
        return Err(row.problem(file, "choices", "as many labels as texts are needed"));
    }
    labels
        .iter()
        .position(|label| label == key)
        .ok_or_else(|| row.problem(file, "answerKey", format!("'{key}' is none of the labels {}", labels.join(" "))))
}

/// HellaSwag's clean-up of WikiHow marks: strip, `" [title]"` becomes `". "`, shortest `[...]` on one line are
/// deleted, two spaces become one in one pass. A deletion at the start leaves a leading space: the harness keeps it.
fn clean(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(open) = rest.find('[') {
        let inside = &rest[open + 1..];
        match inside.find([']', '\n']) {
            Some(end) if inside.as_bytes()[end] == b']' => {
                out.push_str(&rest[..open]);
                rest = &inside[end + 1..];
            }
            Some(_) => {
                out.push_str(&rest[..=open]);
                rest = inside;
            }
            None => break,
        }
    }
    out.push_str(rest);
    out.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wikihow_marks_are_cleaned_as_the_harness_does() {
        assert_eq!(clean(" a [title] b  c "), "a. b c");
        assert_eq!(clean("[header] How to [step] go"), " How to go");
        assert_eq!(clean("[substeps]  two"), " two");
        assert_eq!(clean("a   b"), "a  b"); // three spaces: one pass only
        assert_eq!(clean("[a\nb] [c] d [e"), "[a\nb] d [e");
        assert_eq!(clean("[[x] y]"), " y]");
        assert_eq!(clean("\n [title] x"), " x");
    }
}
