//! Strings that remember which of their bytes came from outside.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::Result;
use super::meter::Meter;

/// An immutable string. Cloning is cheap.
///
/// Bytes that came from messages, tools and other input are *marked*. Every operation carries the marks along, so that
/// the finished prompt still says which of its bytes the template wrote and which are somebody else's words.
#[derive(Clone)]
pub(super) struct Text(Arc<Inner>);

struct Inner {
    text: Box<str>,
    /// Where marking begins and ends in turn: sorted, different byte offsets. It lasts to the end if their number is odd.
    edges: Box<[usize]>,
    /// Jinja's `Markup`: already fit for HTML.
    markup: bool,
    ascii: bool,
}

/// What a text costs besides its bytes.
const OVERHEAD: usize = 64;

impl Text {
    fn from_parts(text: String, edges: Vec<usize>, markup: bool) -> Self {
        let ascii = text.is_ascii();
        Self(Arc::new(Inner { text: text.into(), edges: edges.into(), markup, ascii }))
    }

    /// A constant of the template. It is part of the template's source, whose length is bounded: nothing to pay.
    pub fn constant(text: impl Into<String>) -> Self {
        Self::from_parts(text.into(), Vec::new(), false)
    }

    /// A text without marks.
    pub fn plain(meter: &Meter, text: impl AsRef<str>) -> Result<Self> {
        Self::new(meter, text.as_ref(), false)
    }

    /// A text that is marked as a whole or not at all.
    pub fn new(meter: &Meter, text: &str, marked: bool) -> Result<Self> {
        meter.bytes(text.len() + OVERHEAD)?;
        Ok(Self::from_parts(text.to_owned(), if marked { vec![0] } else { Vec::new() }, false))
    }

    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    pub fn len(&self) -> usize {
        self.0.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.text.is_empty()
    }

    pub fn is_markup(&self) -> bool {
        self.0.markup
    }

    /// Whether any byte is marked.
    pub fn is_marked(&self) -> bool {
        !self.0.edges.is_empty()
    }

    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Length in characters.
    pub fn chars(&self, meter: &Meter) -> Result<usize> {
        if self.0.ascii {
            return Ok(self.len());
        }
        meter.read(self.len())?;
        Ok(self.0.text.chars().count())
    }

    /// The byte at which character `index` begins, or the length.
    pub fn offset(&self, meter: &Meter, index: usize) -> Result<usize> {
        if self.0.ascii {
            return Ok(index.min(self.len()));
        }
        meter.read(self.len().min(index.saturating_mul(4)))?;
        Ok(self.0.text.char_indices().nth(index).map_or(self.len(), |(at, _)| at))
    }

    /// Whether the byte at `at` is marked.
    pub fn marked_at(&self, at: usize) -> bool {
        !self.0.edges.partition_point(|edge| *edge <= at).is_multiple_of(2)
    }

    /// The stretches of `range` that are marked or unmarked throughout.
    fn runs(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, bool)> + '_ {
        let first = self.0.edges.partition_point(|edge| *edge <= range.start);
        let mut marked = !first.is_multiple_of(2);
        let mut at = range.start;
        let inside = self.0.edges[first..].iter().copied().take_while(move |edge| *edge < range.end);
        inside.chain([range.end]).map(move |edge| {
            let run = (at..edge, marked);
            (at, marked) = (edge, !marked);
            run
        })
    }

    /// The marked bytes.
    pub fn marks(&self) -> Vec<Range<usize>> {
        self.runs(0..self.len())
            .filter(|(range, marked)| *marked && !range.is_empty())
            .map(|(range, _)| range)
            .collect()
    }

    /// The bytes in `range`.
    pub fn slice(&self, meter: &Meter, range: Range<usize>) -> Result<Self> {
        if range == (0..self.len()) {
            return Ok(self.clone());
        }
        let mut builder = Builder::new(meter)?;
        builder.push_range(self, range)?;
        Ok(builder.finish(self.0.markup))
    }

    /// The same text as `Markup` or not.
    pub fn with_markup(&self, meter: &Meter, markup: bool) -> Result<Self> {
        if self.0.markup == markup {
            return Ok(self.clone());
        }
        meter.bytes(self.len() + OVERHEAD)?;
        Ok(Self::from_parts(self.0.text.to_string(), self.0.edges.to_vec(), markup))
    }

    /// Replaces every character by what `map` writes for it. Marks stay with what came from a marked character.
    pub fn map_chars(&self, meter: &Meter, mut map: impl FnMut(char, &mut String)) -> Result<Self> {
        meter.read(self.len())?;
        let mut builder = Builder::new(meter)?;
        let mut written = String::new();
        for (range, marked) in self.runs(0..self.len()) {
            for c in self.0.text[range].chars() {
                written.clear();
                map(c, &mut written);
                builder.push_str(&written, marked)?;
            }
        }
        Ok(builder.finish(self.0.markup))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Makes a [`Text`] out of pieces, each paid for before it is added.
pub(super) struct Builder<'m> {
    meter: &'m Meter,
    text: String,
    edges: Vec<usize>,
}

impl<'m> Builder<'m> {
    pub fn new(meter: &'m Meter) -> Result<Self> {
        meter.bytes(OVERHEAD)?;
        Ok(Self { meter, text: String::new(), edges: Vec::new() })
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    fn mark(&mut self, marked: bool) -> Result<()> {
        if marked == self.edges.len().is_multiple_of(2) {
            self.meter.bytes(size_of::<usize>())?;
            self.edges.push(self.text.len());
        }
        Ok(())
    }

    pub fn push_str(&mut self, text: &str, marked: bool) -> Result<()> {
        if !text.is_empty() {
            self.meter.bytes(text.len())?;
            self.mark(marked)?;
            self.text.push_str(text);
        }
        Ok(())
    }

    pub fn push_char(&mut self, c: char, marked: bool) -> Result<()> {
        self.push_str(c.encode_utf8(&mut [0; 4]), marked)
    }

    pub fn push(&mut self, text: &Text) -> Result<()> {
        self.push_range(text, 0..text.len())
    }

    pub fn push_range(&mut self, text: &Text, range: Range<usize>) -> Result<()> {
        for (run, marked) in text.runs(range) {
            self.push_str(&text.0.text[run], marked)?;
        }
        Ok(())
    }

    /// `count` times the same character.
    pub fn fill(&mut self, c: char, count: usize, marked: bool) -> Result<()> {
        self.meter.bytes(count.saturating_mul(c.len_utf8()))?;
        if count > 0 {
            self.mark(marked)?;
            self.text.extend(std::iter::repeat_n(c, count));
        }
        Ok(())
    }

    pub fn finish(self, markup: bool) -> Text {
        Text::from_parts(self.text, self.edges, markup)
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are meant")]
mod tests {
    use super::super::meter::Budget;
    use super::*;

    #[test]
    fn marks_go_where_the_text_goes() {
        let meter = Meter::new(Budget { steps: 1000, bytes: 10_000 });
        let mut builder = Builder::new(&meter).unwrap();
        builder.push_str("ab", false).unwrap();
        builder.push_str("cß", true).unwrap();
        builder.push_str("", false).unwrap();
        builder.push_str("d", true).unwrap();
        builder.push_str("e", false).unwrap();
        let text = builder.finish(false);
        assert_eq!(text.marks(), [2..6]);
        assert_eq!(text.slice(&meter, 3..7).unwrap().marks(), [0..3]);
        assert!(text.slice(&meter, 6..7).unwrap().marks().is_empty());
        assert!(!text.marked_at(1) && text.marked_at(2) && text.marked_at(5) && !text.marked_at(6));
        let upper = text.map_chars(&meter, |c, upper| upper.extend(c.to_uppercase())).unwrap();
        assert_eq!((upper.as_str(), upper.marks()), ("ABCSSDE", vec![2..6]));
        let mut twice = Builder::new(&meter).unwrap();
        twice.push_range(&text, 0..5).unwrap();
        twice.push(&text).unwrap();
        assert_eq!(twice.finish(false).marks(), [2..5, 7..11]);
    }

    #[test]
    fn nothing_is_made_that_is_not_paid() {
        let meter = Meter::new(Budget { steps: 10, bytes: 100 });
        let mut builder = Builder::new(&meter).unwrap();
        assert!(builder.fill('x', usize::MAX, false).is_err());
        assert!(Text::plain(&meter, "x".repeat(101)).is_err());
        assert!(meter.steps(11).is_err());
    }
}
