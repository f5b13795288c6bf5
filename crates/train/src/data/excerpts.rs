//! A random sample of pieces of documents, in one pass and bounded memory.

use std::collections::BinaryHeap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use sherry::Progress;

use super::Sources;
use super::documents::Batches;
use super::evaluation_sets::Watch;
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Pieces of documents in a random order, as many as there is room for: those with the smallest of random keys. A sample
/// with more room begins with the same pieces.
#[derive(Debug)]
pub struct Excerpts {
    bytes: usize,
    room: usize,
    held: usize,
    /// The largest key on top.
    kept: BinaryHeap<(u64, String)>,
    rng: Rng,
}

impl Excerpts {
    /// A sample of pieces of at most about `bytes` bytes, `room` bytes in all where the documents hold so much.
    pub fn new(bytes: usize, room: usize, rng: Rng) -> Self {
        Self { bytes: bytes.max(1), room, held: 0, kept: BinaryHeap::new(), rng }
    }

    /// Cuts `document` into pieces that begin where a word does, and draws.
    fn add(&mut self, document: &str) {
        let mut start = 0;
        while start < document.len() {
            let end = document.len().min(start + self.bytes);
            let end = word_boundary(document, end);
            let key = self.rng.bits();
            if self.held < self.room || self.kept.peek().is_some_and(|(largest, _)| key < *largest) {
                self.held += end - start;
                self.kept.push((key, document[start..end].to_owned()));
            }
            while let Some((_, last)) = self.kept.peek().filter(|(_, last)| self.held - last.len() >= self.room) {
                self.held -= last.len();
                self.kept.pop();
            }
            start = end;
        }
    }

    /// The sample by its keys.
    pub fn in_order(self) -> impl Iterator<Item = String> {
        self.kept.into_sorted_vec().into_iter().map(|(_, piece)| piece)
    }
}

/// The first place at or after `at` where a word begins: a space there belongs to the word after it, as tokenizers have it.
fn word_boundary(text: &str, at: usize) -> usize {
    // Text without spaces is cut anywhere.
    const SEARCHED: usize = 256;
    let at = (at..=text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    let limit = (at + SEARCHED).min(text.len());
    text.as_bytes()[at..limit].iter().position(u8::is_ascii_whitespace).map_or(at, |offset| at + offset)
}

impl Sources {
    /// Draws from all documents of these files, and returns the first file for messages.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file, also when it contains an evaluation set, and [`sherry::Error::Interrupted`].
    pub fn each_excerpt(&self, excerpts: &mut Excerpts, progress: &dyn Progress) -> Result<PathBuf> {
        let mut watch = Watch::default();
        Batches::of(self, "read text").each(progress, |file, texts| {
            for text in texts {
                if let Some(set) = watch.look(text) {
                    let problem = format!("contains text of {set}, which models are measured on; leave it out");
                    return Err(Error::data(file, problem));
                }
                excerpts.add(text);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(self.files.first().cloned().unwrap_or_default())
    }
}
