//! Pre-tokenizers: steps that cut text into pieces, some of which rewrite every piece first.

use std::borrow::Cow;
use std::ops::Range;

use super::rewrite::{SPACE, check_length, spaces_marked};
use super::split::{Behavior, DIGIT, DIGITS, GPT2, Pattern, Split};
use crate::Result;
use crate::progress::Watch;

/// Which pieces get a space in front, unless they begin with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    Always,
    /// The piece at the very beginning of the text.
    First,
    Never,
}

impl Prefix {
    /// The values of `prepend_scheme`.
    pub const NAMES: [(&'static str, Self); 3] =
        [("always", Self::Always), ("first", Self::First), ("never", Self::Never)];

    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, prefix)| *prefix == self).map_or("", |(name, _)| name)
    }
}

/// One pre-tokenizer of `tokenizer.json`.
#[derive(Debug, PartialEq)]
pub(super) enum PreStep {
    Split(Split),
    Digits {
        individual: bool,
        split: Split,
    },
    /// What comes after it works on bytes; `split` is GPT-2's pattern, if it cuts by that.
    ByteLevel {
        prefix_space: bool,
        split: Option<Split>,
    },
    /// Spaces become U+2581; `split` cuts before every one.
    Metaspace {
        prefix: Prefix,
        split: Option<Split>,
    },
}

impl PreStep {
    pub fn digits(individual: bool) -> Result<Self> {
        let split = Split::isolated(if individual { DIGIT } else { DIGITS })?;
        Ok(Self::Digits { individual, split })
    }

    pub fn byte_level(prefix_space: bool, cuts: bool) -> Result<Self> {
        let split = if cuts { Some(Split::isolated(GPT2)?) } else { None };
        Ok(Self::ByteLevel { prefix_space, split })
    }

    pub fn metaspace(prefix: Prefix, cuts: bool) -> Result<Self> {
        let before = || Split::new(Pattern::Literal(SPACE.into()), Behavior::MergedWithNext, false);
        Ok(Self::Metaspace { prefix, split: if cuts { Some(before()?) } else { None } })
    }

    /// The cut this step makes.
    pub fn split(&self) -> Option<&Split> {
        match self {
            Self::Split(split) | Self::Digits { split, .. } => Some(split),
            Self::ByteLevel { split, .. } | Self::Metaspace { split, .. } => split.as_ref(),
        }
    }

    /// What this step makes of a piece before cutting it; `first` says that it begins the text.
    fn rewrite(&self, piece: &str, first: bool) -> Result<Option<String>> {
        Ok(match self {
            Self::ByteLevel { prefix_space: true, .. } if !piece.starts_with(' ') => Some(format!(" {piece}")),
            Self::Metaspace { prefix, .. } => {
                let marked = spaces_marked(piece)?;
                let wanted = *prefix == Prefix::Always || *prefix == Prefix::First && first;
                Some(if wanted && !marked.starts_with(SPACE) { format!("{SPACE}{marked}") } else { marked })
            }
            _ => None,
        })
    }

    /// Whether this step changes the text of a piece, beside cutting it.
    pub const fn rewrites(&self) -> bool {
        matches!(self, Self::ByteLevel { prefix_space: true, .. } | Self::Metaspace { .. })
    }
}

/// The pieces of a text, none of them empty.
pub(super) struct Pieces<'t> {
    pub text: Cow<'t, str>,
    pub ranges: Vec<Range<usize>>,
}

/// Cuts `text`; `first` says that it begins the text that is encoded.
///
/// # Errors
/// When the text grows too long, or `watch` says that the user asked to stop.
pub(super) fn pieces<'t>(steps: &[PreStep], text: &'t str, mut first: bool, watch: &Watch<'_>) -> Result<Pieces<'t>> {
    let whole = 0..text.len();
    let mut pieces = Pieces { text: Cow::Borrowed(text), ranges: vec![whole] };
    pieces.ranges.retain(|range| !range.is_empty());
    for step in steps {
        if step.rewrites() {
            first &= pieces.ranges.first().is_some_and(|range| range.start == 0);
            let mut rewritten = String::with_capacity(pieces.text.len() + 3 * pieces.ranges.len());
            for (at, range) in pieces.ranges.iter_mut().enumerate() {
                watch.step()?;
                let start = rewritten.len();
                let piece = &pieces.text[range.clone()];
                match step.rewrite(piece, first && at == 0)? {
                    Some(other) => rewritten.push_str(&other),
                    None => rewritten.push_str(piece),
                }
                check_length(rewritten.len())?;
                *range = start..rewritten.len();
            }
            pieces.text = Cow::Owned(rewritten);
        }
        if let Some(split) = step.split() {
            let mut cut = Vec::with_capacity(pieces.ranges.len());
            for range in &pieces.ranges {
                split.apply(&pieces.text, range.clone(), &mut cut, watch)?;
            }
            cut.retain(|range| !range.is_empty());
            pieces.ranges = cut;
        }
    }
    Ok(pieces)
}
