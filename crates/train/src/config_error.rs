//! What is wrong with a configuration, in words of the configuration.

use sherry_convert::nearest::nearest;

/// How like a known name a word must be for it to be offered instead.
const LIKENESS: f64 = 0.82;

/// What is no TOML in `text`, in one line.
pub(crate) fn misspelt(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end().replace('\n', ", ").replace('`', "'");
    let Some(at) = error.span().map(|span| span.start.min(text.len())) else { return message };
    let before = text.get(..at).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    let (line, column) = (before.matches('\n').count() + 1, before[start..].chars().count() + 1);
    let shown = text[start..].lines().next().unwrap_or_default().trim();
    let shown = if shown.is_empty() { String::new() } else { format!(" ({shown})") };
    format!("line {line}, column {column}: {message}{shown}")
}

/// What other trainers call fields.
const ELSEWHERE: [(&str, &str); 10] = [
    ("learning_rate", "optimizer.lr"),
    ("max_steps", "steps"),
    ("num_train_steps", "steps"),
    ("warmup_steps", "optimizer.warmup"),
    ("max_grad_norm", "optimizer.clip"),
    ("batch_size", "batch.size"),
    ("gradient_accumulation_steps", "batch.accumulate"),
    ("seq_len", "batch.length"),
    ("max_seq_length", "batch.length"),
    ("gradient_checkpointing", "batch.recompute"),
];

/// Explains what the deserializer said of the field `path` (dotted; empty for the whole file). `known` are all fields.
pub(crate) fn explain(path: &str, message: &str, known: &[String]) -> String {
    let quoted = |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let names = quoted(rest);
        let Some((name, there)) = names.split_first() else { return message.to_owned() };
        // Whether the path ends with the unknown field or with its section depends on the deserializer.
        let section = match path.rsplit_once('.') {
            Some((section, last)) if last == name => section,
            None if path == name => "",
            _ => path,
        };
        let full = dotted(section, name);
        let meant = meant(section, name, known).map_or(String::new(), |meant| format!("; did you mean '{meant}'?"));
        let place = if section.is_empty() { "the file has".to_owned() } else { format!("[{section}] has") };
        return format!("field '{full}': there is no such field{meant} ({place} {})", there.join(", "));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let names = quoted(rest);
        let Some((value, allowed)) = names.split_first() else { return message.to_owned() };
        let meant = nearest(value, allowed.iter().map(String::as_str), LIKENESS)
            .map(|meant| format!("; did you mean {meant}?"));
        let meant = meant.unwrap_or_default();
        return format!("field '{path}': is \"{value}\", must be one of {}{meant}", allowed.join(", "));
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        let name = quoted(rest).into_iter().next().unwrap_or_default();
        let section = path.strip_suffix(&name).map_or(path, |section| section.trim_end_matches('.'));
        let full = dotted(section, &name);
        let prefix = format!("{full}.");
        let is_section = known.iter().any(|field| field.starts_with(&prefix));
        return format!("{} '{full}': missing", if is_section { "section" } else { "field" });
    }
    let kinds = ["invalid type: ", "invalid value: "].into_iter().find_map(|kind| message.strip_prefix(kind));
    if let Some((found, expected)) = kinds.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("field '{path}': is {}, must be {}", found_in_words(found), expected_in_words(expected));
    }
    if path.is_empty() { message.to_owned() } else { format!("field '{path}': {message}") }
}

fn dotted(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// The field that a name in a section was meant to be: one spelt nearly so there, or one of that name elsewhere.
fn meant<'k>(section: &str, name: &str, known: &'k [String]) -> Option<&'k str> {
    if let Some((_, field)) = ELSEWHERE.iter().find(|(other, _)| *other == name) {
        return Some(field);
    }
    let split = |field: &'k String| field.rsplit_once('.').unwrap_or(("", field));
    let there = known.iter().filter(|field| split(field).0 == section);
    let nearest_there = nearest(name, there.clone().map(|field| split(field).1), LIKENESS);
    let elsewhere = known.iter().find(|field| split(field).1 == name);
    let meant = nearest_there.and_then(|near| there.clone().find(|field| split(field).1 == near)).or(elsewhere);
    meant
        .or_else(|| known.iter().find(|field| nearest(name, std::iter::once(split(field).1), LIKENESS).is_some()))
        .map(String::as_str)
}

/// What was found, as the deserializer calls it: `string "fast"`, "integer `-3`".
fn found_in_words(found: &str) -> String {
    let (kind, value) = found.split_once(' ').unwrap_or((found, ""));
    match kind {
        "string" => format!("the text {value}"),
        "integer" | "boolean" => value.trim_matches('`').to_owned(),
        "floating" => found.rsplit(' ').next().unwrap_or(found).trim_matches('`').to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "a section".to_owned(),
        // What is no word where one of several words is expected.
        "unit" => "no text".to_owned(),
        _ => found.to_owned(),
    }
}

fn expected_in_words(expected: &str) -> &str {
    match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not below zero",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "path string" | "a borrowed string" | "string only" => "a text in quotes",
        "a sequence" => "a list, such as [\"a.txt\"]",
        other if other.starts_with("struct ") => "a section of fields",
        other if other.contains("enum") => "one of its words in quotes",
        other => other,
    }
}
