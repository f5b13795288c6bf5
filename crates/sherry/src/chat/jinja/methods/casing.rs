//! Upper and lower case, as Python has them. Marks stay with what came from a marked character.

use super::super::Result;
use super::super::chars::{casefold as fold, is_cased, is_space, titlecase};
use super::super::meter::Meter;
use super::super::text::{Builder, Text};

pub(in super::super) fn upper(meter: &Meter, text: &Text) -> Result<Text> {
    text.map_chars(meter, |c, out| out.extend(c.to_uppercase()))
}

pub(in super::super) fn casefold(meter: &Meter, text: &Text) -> Result<Text> {
    text.map_chars(meter, |c, out| out.push_str(&fold(c)))
}

pub(in super::super) fn lower(meter: &Meter, text: &Text) -> Result<Text> {
    each(meter, text, |_, lower, out| out.push_str(lower))
}

pub(in super::super) fn capitalize(meter: &Meter, text: &Text) -> Result<Text> {
    let mut first = true;
    each(meter, text, |c, lower, out| {
        if std::mem::take(&mut first) {
            out.push_str(&titlecase(c));
        } else {
            out.push_str(lower);
        }
    })
}

/// Python's `str.title`: words begin behind characters that have no case.
pub(in super::super) fn title(meter: &Meter, text: &Text) -> Result<Text> {
    let mut in_word = false;
    each(meter, text, |c, lower, out| {
        if std::mem::replace(&mut in_word, is_cased(c)) {
            out.push_str(lower);
        } else {
            out.push_str(&titlecase(c));
        }
    })
}

pub(in super::super) fn swapcase(meter: &Meter, text: &Text) -> Result<Text> {
    each(meter, text, |c, lower, out| {
        if c.is_uppercase() {
            out.push_str(lower);
        } else if c.is_lowercase() {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    })
}

/// Jinja's filter `title`: words begin behind hyphens, opening brackets and white space.
pub(in super::super) fn title_words(meter: &Meter, text: &Text) -> Result<Text> {
    let is_separator = |c: char| matches!(c, '-' | '(' | '{' | '[' | '<') || is_space(c);
    let mut builder = Builder::new(meter)?;
    let mut start = 0;
    while let Some(first) = text.as_str()[start..].chars().next() {
        let separators = is_separator(first);
        let rest = &text.as_str()[start..];
        let end = start + rest.find(|c| is_separator(c) != separators).unwrap_or(rest.len());
        let behind = start + first.len_utf8();
        builder.push(&upper(meter, &text.slice(meter, start..behind)?)?)?;
        builder.push(&lower(meter, &text.slice(meter, behind..end)?)?)?;
        start = end;
    }
    Ok(builder.finish(false))
}

/// Replaces every character by what `map` writes for it and its lower case. A capital sigma has two of those,
/// depending on whether it ends a word.
fn each(meter: &Meter, text: &Text, mut map: impl FnMut(char, &str, &mut String)) -> Result<Text> {
    meter.bytes(3 * text.len())?;
    let lower = text.as_str().to_lowercase();
    let mut rest = lower.as_str();
    text.map_chars(meter, |c, out| {
        let width: usize = c.to_lowercase().map(char::len_utf8).sum();
        let (own, others) = rest.split_at(width.min(rest.len()));
        rest = others;
        map(c, own, out);
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::meter::Budget;
    use super::*;

    #[test]
    fn case_follows_python() {
        let meter = Meter::new(Budget { steps: 10_000, bytes: 100_000 });
        let text = |text: &str| Text::constant(text);
        let cases: [(&str, &str, &str, &str); 6] = [
            ("ΑΣ ΣΑ", "ας σα", "Ας σα", "Ας Σα"),
            ("ßTRAßE", "ßtraße", "Sstraße", "Sstraße"),
            ("ǆUNGLA ﬁX", "ǆungla ﬁx", "ǅungla ﬁx", "ǅungla Fix"),
            ("İi", "i\u{307}i", "İi", "İi"),
            ("it's A-b", "it's a-b", "It's a-b", "It'S A-B"),
            ("ⅷ 1a", "ⅷ 1a", "Ⅷ 1a", "Ⅷ 1A"),
        ];
        for (source, lowered, capitalized, titled) in cases {
            assert_eq!(lower(&meter, &text(source)).unwrap().as_str(), lowered);
            assert_eq!(capitalize(&meter, &text(source)).unwrap().as_str(), capitalized);
            assert_eq!(title(&meter, &text(source)).unwrap().as_str(), titled);
        }
        assert_eq!(
            title_words(&meter, &text("it's a DOG-house\u{2003}(x")).unwrap().as_str(),
            "It's A Dog-House\u{2003}(X"
        );
    }
}
