//! The filter `urlize`: links in text as HTML.

use std::ops::Range;
use std::sync::LazyLock;

use regex_automata::meta::Regex;

use super::super::call::{Args, int};
use super::super::chars::is_space;
use super::super::interpreter::Interpreter;
use super::super::text::{Builder, Text};
use super::super::value::Value;
use super::super::{Fault, Result, html};

/// `\w`, `\d` and `\S` as Python has them.
const WORD: &str = r"\p{L}\p{N}_";
const DIGIT: &str = r"\p{Nd}";
const NO_SPACE: &str = r"[^\s\x1c-\x1f]";

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|_| unreachable!("the pattern {pattern} is built in"))
}

static HTTP: LazyLock<Regex> = LazyLock::new(|| {
    regex(&format!(
        r"(?i)^((https?://|www\.)(([{WORD}%-]+\.)+)?([a-z]{{2,63}}|xn--[{WORD}%]{{2,59}})|([{WORD}%-]{{2,63}}\.)+(com|net|int|edu|gov|org|info|mil)|(https?://)(([{DIGIT}]{{1,3}}(\.[{DIGIT}]{{1,3}}){{3}})|(\[([{DIGIT}a-f]{{0,4}}:){{2}}([{DIGIT}a-f]{{0,4}}:?){{1,6}}\])))(:[{DIGIT}]{{1,5}})?([/?#]{NO_SPACE}*)?$"
    ))
});
static EMAIL: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"^{NO_SPACE}+@[{WORD}][{WORD}.-]*\.[{WORD}]+$")));
static SCHEME: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"^[{WORD}.+-]{{2,}}:/{{0,2}}$")));

/// How links are written.
struct Style {
    limit: Option<usize>,
    attributes: Text,
    schemes: Vec<Text>,
}

pub(super) fn urlize<'t>(
    interpreter: &mut Interpreter<'t>,
    value: &Value<'t>,
    arguments: Args<'t>,
) -> Result<Value<'t>> {
    let meter = interpreter.meter;
    let [limit, nofollow, target, rel, schemes] =
        arguments.bind("urlize", ["trim_url_limit", "nofollow", "target", "rel", "extra_schemes"])?;
    let given = |value: Option<Value<'t>>| value.filter(|value| !matches!(value, Value::None));
    let limit = given(limit).map(|limit| int(&limit, "urlize")).transpose()?;
    let limit = limit.map(|limit| usize::try_from(limit).map_err(|_| Fault::new("urlize: a negative limit")));
    let rel = given(rel).map_or_else(|| Ok(Text::constant("")), |rel| interpreter.text_of(&rel))?;
    let mut words: Vec<&str> = rel.as_str().split(is_space).filter(|word| !word.is_empty()).collect();
    words.extend(nofollow.is_some_and(|nofollow| nofollow.is_true()).then_some("nofollow"));
    words.push("noopener");
    words.sort_unstable();
    words.dedup();
    let mut attributes = Builder::new(meter)?;
    attributes.push_str(" rel=\"", false)?;
    attributes.push(&html::escape(meter, &Text::new(meter, &words.join(" "), rel.is_marked())?)?)?;
    attributes.push_str("\"", false)?;
    if let Some(target) = given(target).filter(Value::is_true) {
        attributes.push_str(" target=\"", false)?;
        attributes.push(&interpreter.escape_value(&target)?)?;
        attributes.push_str("\"", false)?;
    }
    let mut extra = Vec::new();
    for scheme in given(schemes).map_or_else(|| Ok(Vec::new()), |schemes| interpreter.items(&schemes))? {
        match scheme {
            Value::Text(scheme) if SCHEME.is_match(scheme.as_str()) => extra.push(scheme),
            _ => return Err(Fault::new("urlize: not a valid URI scheme prefix")),
        }
    }
    let style = Style { limit: limit.transpose()?, attributes: attributes.finish(false), schemes: extra };
    let text = interpreter.escape_value(value)?.with_markup(meter, false)?;
    // Each word is matched against patterns of some hundred states.
    meter.steps(text.len())?;
    let mut out = Builder::new(meter)?;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_str()[at..];
        let blanks = rest.find(|c| !is_space(c)).unwrap_or(rest.len());
        out.push_range(&text, at..at + blanks)?;
        let end = rest[blanks..].find(is_space).map_or(text.len(), |end| at + blanks + end);
        word(&mut out, &text, at + blanks..end, &style)?;
        at = end;
    }
    Ok(Value::Text(interpreter.markup_if(out.finish(false), interpreter.autoescape)?))
}

fn word(out: &mut Builder<'_>, text: &Text, range: Range<usize>, style: &Style) -> Result<()> {
    let whole = text.as_str();
    let mut start = range.start;
    while let Some(opening) = ["(", "<", "&lt;"].iter().find(|opening| whole[start..range.end].starts_with(**opening)) {
        start += opening.len();
    }
    let mut end = range.end;
    while let Some(closing) = [")", ">", ".", ",", "&gt;"].iter().find(|closing| whole[start..end].ends_with(**closing))
    {
        end -= closing.len();
    }
    // Closing brackets that belong to opening ones in the middle go there, with what is before them.
    for (opening, closing) in [("(", ")"), ("<", ">"), ("&lt;", "&gt;")] {
        let opened = whole[start..end].matches(opening).count();
        if opened <= whole[start..end].matches(closing).count() {
            continue;
        }
        for _ in 0..opened.min(whole[end..range.end].matches(closing).count()) {
            let Some(at) = whole[end..range.end].find(closing) else { break };
            end += at + closing.len();
        }
    }
    let middle = &whole[start..end];
    out.push_range(text, range.start..start)?;
    let link = |out: &mut Builder<'_>, before: &str, shown: Range<usize>, attributes: bool, trim: bool| {
        out.push_str("<a href=\"", false)?;
        out.push_str(before, false)?;
        out.push_range(text, start..end)?;
        out.push_str("\"", false)?;
        if attributes {
            out.push(&style.attributes)?;
        }
        out.push_str(">", false)?;
        let limit = style.limit.filter(|_| trim);
        match limit.and_then(|limit| whole[shown.clone()].char_indices().nth(limit)) {
            Some((cut, _)) => {
                out.push_range(text, shown.start..shown.start + cut)?;
                out.push_str("...", false)?;
            }
            None => out.push_range(text, shown)?,
        }
        out.push_str("</a>", false)
    };
    if HTTP.is_match(middle) {
        let full = middle.starts_with("https://") || middle.starts_with("http://");
        link(out, if full { "" } else { "https://" }, start..end, true, true)?;
    } else if middle.strip_prefix("mailto:").is_some_and(|address| EMAIL.is_match(address)) {
        link(out, "", start + "mailto:".len()..end, false, false)?;
    } else if middle.contains('@')
        && !middle.starts_with("www.")
        && !middle.starts_with('@')
        && !middle.contains(':')
        && EMAIL.is_match(middle)
    {
        link(out, "mailto:", start..end, false, false)?;
    } else if let Some(scheme) = style.schemes.iter().find(|scheme| middle.starts_with(scheme.as_str()))
        && middle != scheme.as_str()
    {
        link(out, "", start..end, true, false)?;
    } else {
        out.push_range(text, start..end)?;
    }
    out.push_range(text, end..range.end)
}
