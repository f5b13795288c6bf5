//! Taking texts apart.

use std::ops::Range;

use super::super::Result;
use super::super::chars::is_space;
use super::super::meter::Meter;
use super::super::text::Text;
use super::super::value::Value;

/// The pieces of `text` as a list.
fn pieces<'t>(meter: &Meter, text: &Text, ranges: impl Iterator<Item = Range<usize>>) -> Result<Value<'t>> {
    let mut items = Vec::new();
    for range in ranges {
        meter.slots(1)?;
        items.push(Value::Text(text.slice(meter, range)?));
    }
    Value::list(items)
}

/// `split`: at white space or at `separator`, which is not empty; at most `limit` times.
pub(in super::super) fn split<'t>(
    meter: &Meter,
    text: &Text,
    separator: Option<&str>,
    limit: usize,
) -> Result<Value<'t>> {
    meter.read(text.len())?;
    let whole = text.as_str();
    let mut at = 0;
    let mut left = limit;
    let mut done = false;
    pieces(
        meter,
        text,
        std::iter::from_fn(|| {
            if done {
                return None;
            }
            if separator.is_none() {
                at = whole.len() - whole[at..].trim_start_matches(is_space).len();
                if at == whole.len() {
                    return None;
                }
            }
            let found = if left == 0 {
                None
            } else {
                match separator {
                    Some(separator) => whole[at..].find(separator).map(|end| (at + end, separator.len())),
                    None => whole[at..].find(is_space).map(|end| (at + end, 0)),
                }
            };
            let start = at;
            match found {
                Some((end, width)) => {
                    left -= 1;
                    at = end + width;
                    Some(start..end)
                }
                None => {
                    done = true;
                    // Behind the last allowed split, white space at the end stays.
                    Some(start..whole.len())
                }
            }
        }),
    )
}

/// `rsplit`: as [`split`], from the end.
pub(in super::super) fn rsplit<'t>(
    meter: &Meter,
    text: &Text,
    separator: Option<&str>,
    limit: usize,
) -> Result<Value<'t>> {
    meter.read(text.len())?;
    let whole = text.as_str();
    let mut ranges = Vec::new();
    let mut end = whole.len();
    loop {
        if separator.is_none() {
            end = whole[..end].trim_end_matches(is_space).len();
            if end == 0 {
                break;
            }
        }
        meter.slots(1)?;
        let found = if ranges.len() == limit {
            None
        } else {
            match separator {
                Some(separator) => whole[..end].rfind(separator).map(|at| (at, at + separator.len())),
                None => whole[..end].rfind(is_space).map(|at| {
                    let width = whole[at..].chars().next().map_or(0, char::len_utf8);
                    (at, at + width)
                }),
            }
        };
        match found {
            Some((at, start)) => {
                ranges.push(start..end);
                end = at;
            }
            None => {
                ranges.push(0..end);
                break;
            }
        }
    }
    pieces(meter, text, ranges.into_iter().rev())
}

/// `splitlines`
pub(in super::super) fn lines<'t>(meter: &Meter, text: &Text, keep_ends: bool) -> Result<Value<'t>> {
    let ranges = line_ranges(meter, text.as_str(), keep_ends)?;
    pieces(meter, text, ranges.into_iter())
}

/// The lines of `text`, without their ends unless `keep_ends`.
pub(in super::super) fn line_ranges(meter: &Meter, text: &str, keep_ends: bool) -> Result<Vec<Range<usize>>> {
    meter.read(text.len())?;
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c' | '\x1d' | '\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < text.len() {
        meter.slots(1)?;
        let end = text[at..].find(is_end).map_or(text.len(), |end| at + end);
        let behind = &text[end..];
        let width = if behind.starts_with("\r\n") { 2 } else { behind.chars().next().map_or(0, char::len_utf8) };
        ranges.push(at..if keep_ends { end + width } else { end });
        at = end + width;
    }
    Ok(ranges)
}

/// `partition` and `rpartition`: what is before and behind the first or last `separator`.
pub(in super::super) fn partition<'t>(meter: &Meter, text: &Text, separator: &Text, last: bool) -> Result<Value<'t>> {
    meter.read(text.len())?;
    let (whole, separator) = (text.as_str(), separator.as_str());
    let found = if last { whole.rfind(separator) } else { whole.find(separator) };
    let (start, end) = match found {
        Some(at) => (at, at + separator.len()),
        None if last => (0, 0),
        None => (whole.len(), whole.len()),
    };
    meter.slots(3)?;
    let part = |range| text.slice(meter, range).map(Value::Text);
    Value::tuple(vec![part(0..start)?, part(start..end)?, part(end..whole.len())?])
}

/// The place of `text` without leading or trailing characters from `chars`, or without white space.
pub(in super::super) fn strip(text: &str, chars: Option<&str>, start: bool, end: bool) -> Range<usize> {
    let is_stripped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let first = if start { text.len() - text.trim_start_matches(is_stripped).len() } else { 0 };
    let last = if end { first + text[first..].trim_end_matches(is_stripped).len() } else { text.len() };
    first..last
}

#[cfg(test)]
mod tests {
    use super::super::super::meter::Budget;
    use super::*;

    fn strings(value: &Value<'_>) -> Vec<String> {
        let (Value::List(items) | Value::Tuple(items)) = value else { panic!("a list is expected") };
        items.items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn splits_follow_python() {
        let meter = Meter::new(Budget { steps: 10_000, bytes: 100_000 });
        let text = Text::constant(" a  b c ");
        let cases = [
            (None, usize::MAX, vec!["a", "b", "c"], vec!["a", "b", "c"]),
            (None, 1, vec!["a", "b c "], vec![" a  b", "c"]),
            (None, 0, vec!["a  b c "], vec![" a  b c"]),
            (Some(" "), usize::MAX, vec!["", "a", "", "b", "c", ""], vec!["", "a", "", "b", "c", ""]),
            (Some(" "), 2, vec!["", "a", " b c "], vec![" a  b", "c", ""]),
        ];
        for (separator, limit, forward, backward) in cases {
            assert_eq!(strings(&split(&meter, &text, separator, limit).unwrap()), forward);
            assert_eq!(strings(&rsplit(&meter, &text, separator, limit).unwrap()), backward);
        }
        let text = Text::constant("a\r\nb\rc\u{2028}\u{85}d\x1e");
        assert_eq!(strings(&lines(&meter, &text, false).unwrap()), ["a", "b", "c", "", "d"]);
        assert_eq!(strings(&lines(&meter, &text, true).unwrap()), ["a\r\n", "b\r", "c\u{2028}", "\u{85}", "d\x1e"]);
        let separator = Text::constant("c");
        assert_eq!(strings(&partition(&meter, &Text::constant("acbc"), &separator, true).unwrap()), ["acb", "c", ""]);
        assert_eq!(strings(&partition(&meter, &Text::constant("x"), &separator, true).unwrap()), ["", "", "x"]);
    }
}
