//! A random sample of pieces of documents, in one pass and bounded memory.

use std::path::PathBuf;

use sherry::Progress;

use super::Sources;
use super::documents::Batches;
use super::evaluation_sets::Watch;
use crate::error::{Error, Result};
use crate::rng::Rng;

/// Pieces of documents, each with the same chance to be kept (algorithm R, Vitter 1985).
#[derive(Debug)]
pub struct Excerpts {
    bytes: usize,
    room: usize,
    seen: usize,
    kept: Vec<String>,
    rng: Rng,
}

impl Excerpts {
    /// A sample of at most `room` pieces of about `bytes` bytes.
    pub fn new(bytes: usize, room: usize, rng: Rng) -> Self {
        Self { bytes: bytes.max(1), room, seen: 0, kept: Vec::new(), rng }
    }

    /// Cuts `document` into pieces that begin where a word does, and draws.
    fn add(&mut self, document: &str) {
        let mut start = 0;
        while start < document.len() {
            let end = document.len().min(start + self.bytes);
            let end = word_boundary(document, end);
            self.seen += 1;
            let place = if self.kept.len() < self.room { self.seen - 1 } else { self.rng.below(self.seen) };
            if place < self.room {
                let piece = document[start..end].to_owned();
                match self.kept.get_mut(place) {
                    Some(kept) => *kept = piece,
                    None => self.kept.push(piece),
                }
            }
            start = end;
        }
    }

    /// The sample in a random order.
    pub fn shuffled(mut self) -> impl Iterator<Item = String> {
        let order = self.rng.permutation(self.kept.len());
        let mut kept: Vec<Option<String>> = self.kept.into_iter().map(Some).collect();
        order.into_iter().filter_map(move |i| kept[i as usize].take())
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
            Ok(())
        })?;
        Ok(self.files.first().cloned().unwrap_or_default())
    }
}
