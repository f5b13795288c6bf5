//! Tasks that are defined in YAML files, in lm-evaluation-harness's form. A subset of it: what a definition holds beyond that
//! and what would change numbers is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sherry::chat::FieldTemplate;
use sherry::{Error, Result};

use super::super::data::{DataFile, Row, Split};
use super::super::yaml;
use super::prompts::Question;
use super::{Kind, Metric, Task};

/// Files that include each other, at most.
const MAX_INCLUDES: usize = 16;

/// Fields that may be there and change no number that is reported here.
const WITHOUT_EFFECT: [&str; 6] =
    ["task_alias", "tag", "group", "should_decontaminate", "doc_to_decontamination_query", "include"];

/// A text made of a row: a field of it, or a template.
#[derive(Debug)]
struct Text {
    source: String,
    template: FieldTemplate,
}

/// Where choices come from.
#[derive(Debug)]
enum Choices {
    Fixed(Vec<String>),
    Of(Text),
}

/// Which answer is right.
#[derive(Debug)]
enum Target {
    Fixed(usize),
    Of(Text),
}

/// How few-shot examples are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draw {
    /// At random for each item.
    Random,
    /// Always the first ones.
    First,
}

/// What a definition says beyond what a [`Task`] has.
#[derive(Debug)]
pub(super) struct Definition {
    text: Text,
    choices: Option<Choices>,
    target: Target,
    description: Option<Text>,
    delimiter: String,
    between: String,
    files: BTreeMap<&'static str, Vec<PathBuf>>,
    /// Where examples come from.
    pub examples: Split,
    /// Whether an example equal to the item is left out.
    pub excludes: bool,
    pub draw: Draw,
    /// Examples before each question, where the definition says.
    pub num_fewshot: Option<usize>,
}

impl Definition {
    /// The rows of a split from the files that the definition names; `None` where it names none.
    pub fn read(&self, split: Split) -> Result<Option<DataFile>> {
        self.files.get(split.name()).map(|paths| DataFile::read_parts(paths)).transpose()
    }

    /// Whether it names files at all.
    pub fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// What `row` asks.
    pub fn question(&self, row: &Row, file: &Path) -> Result<Question> {
        let made = |text: &Text, field: &str| text.of(row, file, field);
        let context = match made(&self.text, "doc_to_text")? {
            Value::String(text) => text,
            other => return Err(row.problem(file, "doc_to_text", format!("expected text, found {other}"))),
        };
        if self.choices.is_some() && is_digits(&context) && !row.fields.contains_key(&self.text.source) {
            let problem = "gives a number: tasks whose choices are contexts are not understood here";
            return Err(row.problem(file, "doc_to_text", problem));
        }
        let target = match &self.target {
            Target::Fixed(index) => Value::from(*index),
            Target::Of(text) => made(text, "doc_to_target")?,
        };
        let wrong = |problem: String| row.problem(file, "doc_to_target", problem);
        let (answers, gold, joint) = match &self.choices {
            None => match target {
                Value::String(text) if text.starts_with('[') && text.ends_with(']') => {
                    return Err(wrong("gives a list: several targets are not understood here".to_owned()));
                }
                Value::String(text) => (vec![text], 0, String::new()),
                other => return Err(wrong(format!("expected text, found {other}"))),
            },
            Some(choices) => {
                let choices = choices.of(row, file)?;
                let gold = match &target {
                    Value::Number(number) => number.as_u64().map(|index| index as usize),
                    Value::Bool(index) => Some(usize::from(*index)),
                    // The harness takes digits for an index only where a template gave them.
                    Value::String(text) if is_digits(text) && !self.target.is_field(row) => text.parse().ok(),
                    Value::String(text) => choices.iter().position(|choice| choice == text),
                    _ => None,
                };
                let gold = gold.filter(|gold| *gold < choices.len());
                let gold = gold.ok_or_else(|| wrong(format!("{target} is none of the {} choices", choices.len())))?;
                (choices, gold, self.delimiter.clone())
            }
        };
        let system = match &self.description {
            None => String::new(),
            Some(text) => match made(text, "description")? {
                Value::String(text) => text,
                other => return Err(row.problem(file, "description", format!("expected text, found {other}"))),
            },
        };
        Ok(Question {
            contexts: vec![context],
            choices: answers.clone(),
            answers,
            gold,
            joint,
            delimiter: self.delimiter.clone(),
            between: self.between.clone(),
            system,
        })
    }
}

impl Target {
    fn is_field(&self, row: &Row) -> bool {
        matches!(self, Self::Of(text) if row.fields.contains_key(&text.source))
    }
}

impl Text {
    fn new(source: &str) -> Result<Self> {
        Ok(Self { source: source.to_owned(), template: FieldTemplate::new(source)? })
    }

    /// The field that is called like the source, else what the template makes.
    fn of(&self, row: &Row, file: &Path, field: &str) -> Result<Value> {
        match row.fields.get(&self.source) {
            Some(value) => Ok(value.clone()),
            None => match self.template.render(&row.fields) {
                Ok(text) => Ok(Value::String(text)),
                Err(error) => Err(row.problem(file, field, error.to_string())),
            },
        }
    }
}

impl Choices {
    fn of(&self, row: &Row, file: &Path) -> Result<Vec<String>> {
        let wrong = |problem: &str| row.problem(file, "doc_to_choice", problem);
        let choices = match self {
            Self::Fixed(choices) => choices.clone(),
            Self::Of(text) => match (row.fields.contains_key(&text.source), text.of(row, file, "doc_to_choice")?) {
                (true, Value::Array(items)) => {
                    let texts: Option<Vec<String>> =
                        items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                    texts.ok_or_else(|| wrong("expected a list of texts"))?
                }
                (false, Value::String(text)) => {
                    python_texts(&text).ok_or_else(|| wrong("expected a list of texts, as Python writes one"))?
                }
                _ => return Err(wrong("expected a list of texts")),
            },
        };
        if choices.len() < 2 {
            return Err(wrong("at least two choices are needed"));
        }
        Ok(choices)
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A list of texts as Python's `repr` writes it: `['a', "b's"]`.
fn python_texts(source: &str) -> Option<Vec<String>> {
    let mut rest = source.trim().strip_prefix('[')?.strip_suffix(']')?.trim_start();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (mut text, mut chars) = (String::new(), rest[1..].char_indices());
        let end = loop {
            let (at, c) = chars.next()?;
            match c {
                c if c == quote => break at,
                '\\' => match chars.next()?.1 {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    c @ ('x' | 'u' | 'U') => {
                        let digits = match c {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let code: String = (0..digits).map(|_| chars.next().map(|(_, c)| c)).collect::<Option<_>>()?;
                        text.push(char::from_u32(u32::from_str_radix(&code, 16).ok()?)?);
                    }
                    _ => return None,
                },
                c => text.push(c),
            }
        };
        found.push(text);
        rest = rest[1 + end + 1..].trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
    Some(found)
}

/// The fields of a definition, taken out one by one, so that those nobody asked for are found.
struct Fields<'p> {
    path: &'p Path,
    fields: Map<String, Value>,
}

impl Fields<'_> {
    fn problem(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, format!("field '{field}'"), problem)
    }

    fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.shift_remove(field).filter(|value| !value.is_null())
    }

    fn text(&mut self, field: &str) -> Result<Option<String>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(self.problem(field, format!("expected text, found {other}; words such as no need quotes")))
            }
        }
    }

    fn template(&mut self, field: &str) -> Result<Option<Text>> {
        match self.text(field)? {
            None => Ok(None),
            Some(source) => Text::new(&source).map(Some).map_err(|error| self.problem(field, error.to_string())),
        }
    }

    fn split(&mut self, field: &str) -> Result<Option<Split>> {
        let Some(name) = self.text(field)? else { return Ok(None) };
        let known = [Split::Train, Split::Validation, Split::Test, Split::Dev];
        let split = known.into_iter().find(|split| split.name() == name);
        split.map(Some).ok_or_else(|| {
            self.problem(field, format!("'{name}' is none of the splits train, validation, test and dev"))
        })
    }
}

/// The mapping at `path` with what it includes.
fn with_includes(path: &Path, depth: usize) -> Result<Map<String, Value>> {
    let own = yaml::read(path)?;
    let names: Vec<String> = match own.get("include") {
        None => Vec::new(),
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
            names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
        }
        Some(_) => return Err(Error::malformed(path, "field 'include'", "expected a file or a list of files")),
    };
    if depth > MAX_INCLUDES {
        return Err(Error::malformed(
            path,
            "field 'include'",
            format!("more than {MAX_INCLUDES} files inside each other"),
        ));
    }
    let mut all = Map::new();
    for name in names {
        all.extend(with_includes(&path.with_file_name(name), depth + 1)?);
    }
    all.extend(own);
    Ok(all)
}

impl Task {
    /// The task that the YAML file at `path` defines. It lives as long as the program, as the built-in ones do.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] naming the field that is wrong, or that is not understood here.
    pub fn defined(path: &Path) -> Result<&'static Self> {
        from_fields(path, with_includes(path, 0)?)
    }
}

/// The task that `fields` define, which were read from `path`.
pub(super) fn from_fields(path: &Path, fields: Map<String, Value>) -> Result<&'static Task> {
    let mut fields = Fields { path, fields };
    let name = fields.text("task")?.ok_or_else(|| fields.problem("task", "missing: the name of the task"))?;
    let is_plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || !name.chars().all(is_plain) || name.starts_with('.') {
        return Err(fields.problem("task", format!("'{name}' is no name: letters, digits, '-', '_' and '.' only")));
    }
    WITHOUT_EFFECT.into_iter().for_each(|field| drop(fields.take(field)));
    let chooses = match fields.text("output_type")?.as_deref() {
        Some("multiple_choice") => true,
        Some("loglikelihood") => false,
        other => {
            let found = other.unwrap_or("generate_until (the harness's default)");
            return Err(
                fields.problem("output_type", format!("expected multiple_choice or loglikelihood, found {found}"))
            );
        }
    };
    let metrics = metrics(&mut fields, chooses)?;
    let (dataset, files) = dataset(&mut fields)?;
    let config = fields.text("dataset_name")?;
    let missing = |fields: &Fields<'_>, field| fields.problem(field, "missing");
    let text = fields.template("doc_to_text")?.ok_or_else(|| missing(&fields, "doc_to_text"))?;
    let choices = match fields.take("doc_to_choice") {
        None => None,
        Some(Value::String(source)) => {
            Some(Choices::Of(Text::new(&source).map_err(|error| fields.problem("doc_to_choice", error.to_string()))?))
        }
        Some(Value::Array(items)) => Some(Choices::Fixed(texts(&fields, items)?)),
        Some(Value::Object(items)) => {
            Some(Choices::Fixed(texts(&fields, items.into_iter().map(|(_, v)| v).collect())?))
        }
        Some(other) => return Err(fields.problem("doc_to_choice", format!("expected choices, found {other}"))),
    };
    match (chooses, &choices) {
        (true, None) => return Err(missing(&fields, "doc_to_choice")),
        (false, Some(_)) => return Err(fields.problem("doc_to_choice", "has no place in a task of type loglikelihood")),
        _ => {}
    }
    let target = match fields.take("doc_to_target") {
        Some(Value::Number(number)) if chooses && number.is_u64() => {
            Target::Fixed(number.as_u64().unwrap_or_default() as usize)
        }
        Some(Value::String(source)) => {
            Target::Of(Text::new(&source).map_err(|error| fields.problem("doc_to_target", error.to_string()))?)
        }
        Some(other) => {
            return Err(fields.problem("doc_to_target", format!("expected a template or an index, found {other}")));
        }
        None => return Err(missing(&fields, "doc_to_target")),
    };
    let [training, validation, test] =
        ["training_split", "validation_split", "test_split"].map(|field| fields.split(field));
    let (training, validation, test) = (training?, validation?, test?);
    let scored =
        test.or(validation).ok_or_else(|| fields.problem("test_split", "neither it nor validation_split is there"))?;
    let mut fewshot = fields.split("fewshot_split")?;
    let mut draw = Draw::Random;
    match fields.take("fewshot_config") {
        None => {}
        Some(Value::Object(inside)) => {
            let mut inside = Fields { path, fields: inside };
            draw = match inside.text("sampler")?.as_deref() {
                None | Some("default") => Draw::Random,
                Some("first_n") => Draw::First,
                Some(other) => {
                    return Err(
                        fields.problem("fewshot_config.sampler", format!("expected default or first_n, found {other}"))
                    );
                }
            };
            fewshot = inside.split("split")?.or(fewshot);
            inside.nothing_left("fewshot_config.")?;
        }
        Some(other) => return Err(fields.problem("fewshot_config", format!("expected fields, found {other}"))),
    }
    let num_fewshot = match fields.take("num_fewshot") {
        None => None,
        Some(number) => match number.as_u64() {
            Some(count) => Some(count as usize),
            None => return Err(fields.problem("num_fewshot", format!("expected a whole number, found {number}"))),
        },
    };
    let version = match fields.take("metadata") {
        Some(Value::Object(inside)) => inside.get("version").and_then(Value::as_f64).unwrap_or(0.0),
        _ => 0.0,
    };
    if let Some(repeats) = fields.take("repeats")
        && repeats != 1
    {
        return Err(fields.problem("repeats", format!("expected 1, found {repeats}")));
    }
    let definition = Definition {
        text,
        choices,
        target,
        description: fields.template("description")?,
        delimiter: fields.text("target_delimiter")?.unwrap_or_else(|| " ".to_owned()),
        between: fields.text("fewshot_delimiter")?.unwrap_or_else(|| "\n\n".to_owned()),
        files,
        examples: fewshot.or(training).or(validation).unwrap_or(Split::Test),
        // The harness compares the two fields, which also are equal where neither is there.
        excludes: fewshot == test,
        draw,
        num_fewshot,
    };
    fields.nothing_left("")?;
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let (name, dataset) = (leak(name), leak(dataset));
    let config = config.map(leak);
    let short = dataset.rsplit('/').next().unwrap_or(dataset);
    let mut stems = vec![name];
    stems.push(config.map_or(short, |config| leak(format!("{short}/{config}"))));
    Ok(Box::leak(Box::new(Task {
        name,
        version: version as u32,
        dataset,
        dataset_config: config,
        stems: Box::leak(stems.into_boxed_slice()),
        split: scored,
        metrics: Box::leak(metrics.into_boxed_slice()),
        kind: Kind::Defined(Box::leak(Box::new(definition))),
    })))
}

impl Fields<'_> {
    /// That every field was understood.
    fn nothing_left(&self, prefix: &str) -> Result<()> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, _)) => {
                let problem = "not understood here, and it would change numbers: remove it, or use the harness";
                Err(self.problem(&format!("{prefix}{field}"), problem))
            }
        }
    }
}

fn texts(fields: &Fields<'_>, items: Vec<Value>) -> Result<Vec<String>> {
    let text = |item| match item {
        Value::String(text) => Ok(text),
        other => {
            Err(fields.problem("doc_to_choice", format!("expected texts, found {other}; words such as no need quotes")))
        }
    };
    items.into_iter().map(text).collect()
}

fn metrics(fields: &mut Fields<'_>, chooses: bool) -> Result<Vec<Metric>> {
    let known: &[Metric] = if chooses { &[Metric::Acc, Metric::AccNorm] } else { &[Metric::Perplexity, Metric::Acc] };
    let list = match fields.take("metric_list") {
        None => return Ok(known.to_vec()),
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(other) => return Err(fields.problem("metric_list", format!("expected a list, found {other}"))),
    };
    let mut found = Vec::new();
    for entry in list {
        let Value::Object(entry) = entry else {
            return Err(fields.problem("metric_list", format!("expected entries with the field metric, found {entry}")));
        };
        let mut entry = Fields { path: fields.path, fields: entry };
        let name = entry.text("metric")?.unwrap_or_default();
        let metric = known.iter().copied().find(|metric| metric.name() == name).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|metric| metric.name()).collect();
            fields.problem("metric_list", format!("metric '{name}': expected {}", names.join(" or ")))
        })?;
        let usual = if metric == Metric::Perplexity { "perplexity" } else { "mean" };
        if let Some(aggregation) = entry.text("aggregation")?
            && aggregation != usual
        {
            return Err(
                fields.problem("metric_list", format!("aggregation '{aggregation}' of {name}: expected {usual}"))
            );
        }
        entry.take("higher_is_better");
        entry.nothing_left("metric_list.")?;
        if !found.contains(&metric) {
            found.push(metric);
        }
    }
    Ok(found)
}

/// The data set's name, and files by split where it is made of files on this machine.
fn dataset(fields: &mut Fields<'_>) -> Result<(String, BTreeMap<&'static str, Vec<PathBuf>>)> {
    let dataset = fields.text("dataset_path")?.ok_or_else(|| fields.problem("dataset_path", "missing"))?;
    let mut files = BTreeMap::new();
    let is_files = matches!(dataset.as_str(), "json" | "parquet");
    match fields.take("dataset_kwargs") {
        None => {}
        Some(Value::Object(inside)) => {
            let mut inside = Fields { path: fields.path, fields: inside };
            inside.take("trust_remote_code");
            if is_files {
                let by_split = match inside.take("data_files") {
                    Some(Value::Object(by_split)) => by_split,
                    // The library calls files without a split its training split.
                    Some(of_training) => Map::from_iter([("train".to_owned(), of_training)]),
                    None => Map::new(),
                };
                for (split, paths) in by_split {
                    let known = [Split::Train, Split::Validation, Split::Test, Split::Dev];
                    let known = known.into_iter().find(|known| known.name() == split).ok_or_else(|| {
                        fields.problem(
                            "dataset_kwargs.data_files",
                            format!("'{split}' is none of the splits train, validation, test and dev"),
                        )
                    })?;
                    let paths = match paths {
                        Value::String(path) => vec![path],
                        Value::Array(paths) => {
                            paths.iter().filter_map(|path| path.as_str().map(str::to_owned)).collect()
                        }
                        other => {
                            return Err(
                                fields.problem("dataset_kwargs.data_files", format!("expected files, found {other}"))
                            );
                        }
                    };
                    // As the harness finds them, or beside the definition.
                    let place = |path: String| {
                        let path = PathBuf::from(path);
                        if path.exists() { path } else { fields.path.with_file_name(path) }
                    };
                    files.insert(known.name(), paths.into_iter().map(place).collect::<Vec<_>>());
                }
            }
            inside.nothing_left("dataset_kwargs.")?;
        }
        Some(other) => return Err(fields.problem("dataset_kwargs", format!("expected fields, found {other}"))),
    }
    if is_files && files.is_empty() {
        return Err(fields.problem("dataset_kwargs.data_files", "missing: the files of each split"));
    }
    Ok((dataset, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_python_writes_them() {
        let read = |text: &str| python_texts(text);
        let of = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(read("['a', \"b's\", 'c\\n\\'\\u00e9']"), of(&["a", "b's", "c\n'\u{e9}"]));
        assert_eq!(read("[]"), of(&[]));
        assert_eq!(read("['a',]"), of(&["a"]));
        for bad in ["", "a", "[1]", "['a' 'b']", "['a", "[a]"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
