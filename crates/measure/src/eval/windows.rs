//! How a long token sequence is cut into pieces a model can read.

use std::fmt;
use std::ops::Range;

use sherry::{Error, Result};

/// A convention for perplexity over a long text. Numbers made with different conventions cannot be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// llama.cpp's `llama-perplexity`: chunks of `size` tokens, each from an empty cache, its first token replaced
    /// by the beginning-of-text token if the tokenizer adds one; the second half of each chunk is scored. A last
    /// incomplete chunk is left out.
    Chunks {
        /// Tokens per chunk (llama.cpp's `-c`, 512 by default).
        size: usize,
    },
    /// Non-overlapping windows of `size` tokens, each from an empty cache; all but the first token of each are
    /// scored. A last incomplete window is left out. The convention of most quantization papers (with 2048).
    Disjoint {
        /// Tokens per window.
        size: usize,
    },
    /// The Hugging Face guide's sliding window: windows of `size` tokens begin every `stride` tokens; each scores
    /// the tokens no earlier window has scored. With `stride` below `size` that is every token but the very first;
    /// with both equal, the first token of each window is left out, as in the guide. Every token weighs the same
    /// (the guide's code counts each later window one token short).
    Strided {
        /// Tokens per window.
        size: usize,
        /// Tokens between the beginnings of two windows, at most `size`.
        stride: usize,
    },
    /// The harness's own rolling log-likelihood: as many tokens as fit, then the rest with one token of context. The
    /// first token is scored too, after the beginning-of-text (or else end-of-text) token.
    Rolling {
        /// Longest input; the model's context length.
        size: usize,
    },
}

/// One window: which tokens are read, which of them are scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Tokens put into the model, from an empty cache.
    pub tokens: Range<usize>,
    /// Tokens whose probability counts: the tail of `tokens`.
    pub scored: Range<usize>,
    /// Whether a prefix token (beginning of text) goes before `tokens`.
    pub prefixed: bool,
    /// Whether the first token is replaced by the beginning-of-text token, where the tokenizer has the habit.
    pub first_is_bos: bool,
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chunks { size } => write!(f, "chunks of {size}"),
            Self::Disjoint { size } => write!(f, "disjoint windows of {size}"),
            Self::Strided { size, stride } => write!(f, "windows of {size} every {stride}"),
            Self::Rolling { size } => write!(f, "rolling windows of {size}"),
        }
    }
}

impl Windows {
    /// The longest input a window of this kind makes.
    pub fn longest(self) -> usize {
        match self {
            Self::Chunks { size } | Self::Disjoint { size } | Self::Strided { size, .. } | Self::Rolling { size } => {
                size
            }
        }
    }

    /// The windows over `tokens` tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the sizes make no sense or the text is shorter than the convention needs.
    pub fn over(self, tokens: usize) -> Result<Vec<Window>> {
        let minimum = if matches!(self, Self::Rolling { .. }) { 1 } else { 2 };
        if self.longest() < minimum {
            return Err(Error::Invalid(format!(
                "perplexity: windows need at least {minimum} tokens, asked for {}",
                self.longest()
            )));
        }
        let plain = |tokens: Range<usize>, from: usize| Window {
            scored: from..tokens.end,
            tokens,
            prefixed: false,
            first_is_bos: false,
        };
        match self {
            // llama.cpp refuses fewer than two chunks: one chunk says nothing about the spread.
            Self::Chunks { size } => {
                if size < 4 {
                    return Err(Error::Invalid(format!("perplexity: chunks need at least 4 tokens, asked for {size}")));
                }
                too_short(tokens, 2 * size)?;
                let window = |i: usize| Window {
                    first_is_bos: true,
                    ..plain(i * size..(i + 1) * size, i * size + size / 2 + 1)
                };
                Ok((0..tokens / size).map(window).collect())
            }
            Self::Disjoint { size } => {
                too_short(tokens, size)?;
                Ok((0..tokens / size).map(|i| plain(i * size..(i + 1) * size, i * size + 1)).collect())
            }
            Self::Strided { size, stride } => {
                if stride == 0 || stride > size {
                    return Err(Error::Invalid(format!(
                        "perplexity: the stride must be between 1 and the window of {size} tokens, found {stride}"
                    )));
                }
                too_short(tokens, 2)?;
                let mut windows = Vec::new();
                let (mut begin, mut scored) = (0, 1);
                while scored < tokens {
                    let end = tokens.min(begin + size);
                    if scored.max(begin + 1) < end {
                        windows.push(plain(begin..end, scored.max(begin + 1)));
                    }
                    scored = end;
                    begin += stride;
                }
                Ok(windows)
            }
            Self::Rolling { size } => {
                too_short(tokens, 1)?;
                let first = tokens.min(size);
                let mut windows = vec![Window { prefixed: true, ..plain(0..first, 0) }];
                let mut scored = first;
                while scored < tokens {
                    // At least one token of context; the last window reaches back so that it is full. The last
                    // token of a window is only scored, never read, hence one more than `size`.
                    let end = tokens.min(scored + size);
                    windows.push(plain((scored - 1).min(end - (size + 1).min(end))..end, scored));
                    scored = end;
                }
                Ok(windows)
            }
        }
    }
}

fn too_short(tokens: usize, needed: usize) -> Result<()> {
    if tokens < needed {
        return Err(Error::Invalid(format!(
            "perplexity: the text has {tokens} tokens and at least {needed} are needed; choose a smaller window"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(windows: Windows, tokens: usize) -> Vec<(Range<usize>, Range<usize>)> {
        windows.over(tokens).unwrap().into_iter().map(|w| (w.tokens, w.scored)).collect()
    }

    #[test]
    fn chunks_score_their_second_half() {
        // llama.cpp, n_ctx 8: first = 4, tokens 5, 6, 7 of each chunk are scored (n_ctx - first - 1 terms).
        assert_eq!(scored(Windows::Chunks { size: 8 }, 20), [(0..8, 5..8), (8..16, 13..16)]);
        assert!(Windows::Chunks { size: 8 }.over(15).unwrap_err().to_string().contains("at least 16"));
    }

    #[test]
    fn disjoint_windows_score_all_but_the_first() {
        assert_eq!(scored(Windows::Disjoint { size: 4 }, 10), [(0..4, 1..4), (4..8, 5..8)]);
    }

    #[test]
    fn strided_windows_score_everything_once() {
        // The guide: begin 0, 2, 4; end min(begin + 5, 9); target length end - previous end.
        assert_eq!(scored(Windows::Strided { size: 5, stride: 2 }, 9), [(0..5, 1..5), (2..7, 5..7), (4..9, 7..9)]);
        assert_eq!(scored(Windows::Strided { size: 4, stride: 4 }, 9), [(0..4, 1..4), (4..8, 5..8)]);
        assert!(Windows::Strided { size: 4, stride: 5 }.over(9).is_err());
        assert!(Windows::Strided { size: 4, stride: 0 }.over(9).is_err());
    }

    #[test]
    fn rolling_scores_every_token_exactly_once() {
        // The drawn example of the harness: 10 tokens, 4 at a time, one of context.
        let windows = Windows::Rolling { size: 4 }.over(10).unwrap();
        assert_eq!(windows.iter().map(|w| w.scored.clone()).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
        assert!(windows[0].prefixed && !windows[1].prefixed);
        assert_eq!((&windows[1].tokens, &windows[2].tokens), (&(3..8), &(5..10)));
    }
}
