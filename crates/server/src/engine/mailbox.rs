//! Where the engine leaves what it wrote, and a request picks it up.
//!
//! Neither waits for the other. What has not been taken is joined to what comes next, so a slow reader costs at most
//! the text of its own answer; beyond [`FULL`] bytes its sequences pause until it reads on.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sherry::batch::Finish;
use sherry::generate::TokenScore;
use tokio::sync::Notify;

use crate::error::ApiError;

/// Bytes not taken at which sequences pause.
pub const FULL: usize = 64 << 10;

/// What became of one choice since it was last looked at.
#[derive(Debug, Default)]
pub struct News {
    /// Which choice of the request.
    pub choice: usize,
    /// New text, whole characters.
    pub text: String,
    /// New tokens with their scores, where those were asked for.
    pub tokens: Vec<TokenScore>,
    /// The end.
    pub end: Option<End>,
}

/// How a choice ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct End {
    /// Why.
    pub finish: Finish,
    /// Numbers of tokens.
    pub counts: Counts,
}

/// Numbers of one sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Of these, tokens that were there already.
    pub cached: usize,
    /// Tokens written.
    pub generated: usize,
    /// Time in the queue.
    pub queued: Duration,
    /// Time for the prompt.
    pub prompt_time: Duration,
    /// Time from the first token to the last.
    pub answer_time: Duration,
}

/// What a request sees when it looks.
#[derive(Debug)]
pub enum Look {
    /// Something was written or ended.
    News(Vec<News>),
    /// Still waiting or reading the prompt: tokens done, of how many, and requests that come first.
    Prompt {
        /// Tokens done.
        done: usize,
        /// Tokens in all.
        total: usize,
        /// Requests that come first.
        before: usize,
    },
    /// The request failed; nothing more comes.
    Failed(ApiError),
}

/// One request's place for answers: a slot per choice.
pub struct Mailbox {
    inner: Mutex<Inner>,
    wake: Notify,
}

struct Inner {
    slots: Vec<Slot>,
    failed: Option<ApiError>,
    progress: (usize, usize, usize),
    progress_changed: bool,
    /// Bytes not taken.
    waiting: usize,
    /// When something was last taken, or there was nothing to take.
    taken: Instant,
}

#[derive(Default)]
struct Slot {
    news: News,
    changed: bool,
}

impl Mailbox {
    /// Empty, for `choices` choices.
    pub fn new(choices: usize) -> Self {
        let slots = (0..choices).map(|choice| Slot { news: News { choice, ..News::default() }, changed: false });
        let inner = Inner {
            slots: slots.collect(),
            failed: None,
            progress: (0, 0, 0),
            progress_changed: false,
            waiting: 0,
            taken: Instant::now(),
        };
        Self { inner: Mutex::new(inner), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock; if it did, what is there would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More text and tokens of a choice.
    pub fn write(&self, choice: usize, text: &str, tokens: Vec<TokenScore>) {
        let mut inner = self.lock();
        if inner.waiting == 0 {
            inner.taken = Instant::now();
        }
        // A token with its most likely alternatives takes about this much when it is sent.
        inner.waiting += text.len() + tokens.len() * 256;
        let slot = &mut inner.slots[choice];
        slot.news.text.push_str(text);
        slot.news.tokens.extend(tokens);
        slot.changed = true;
        drop(inner);
        self.wake.notify_one();
    }

    /// The end of a choice.
    pub fn end(&self, choice: usize, end: End) {
        let mut inner = self.lock();
        inner.slots[choice].news.end = Some(end);
        inner.slots[choice].changed = true;
        drop(inner);
        self.wake.notify_one();
    }

    /// How far the prompt is.
    pub fn progress(&self, done: usize, total: usize, before: usize) {
        let mut inner = self.lock();
        if inner.progress != (done, total, before) {
            inner.progress = (done, total, before);
            inner.progress_changed = true;
            drop(inner);
            self.wake.notify_one();
        }
    }

    /// The end of the whole request.
    pub fn fail(&self, error: ApiError) {
        self.lock().failed.get_or_insert(error);
        self.wake.notify_one();
    }

    /// Whether the reader is so far behind that nothing more should be written.
    pub fn is_full(&self) -> bool {
        self.lock().waiting > FULL
    }

    /// Whether a reader that is far behind has taken nothing for so long.
    pub fn is_stalled(&self, limit: Duration) -> bool {
        let inner = self.lock();
        inner.waiting > FULL && inner.taken.elapsed() > limit
    }

    /// Waits until there is something to see, and takes it.
    pub async fn look(&self) -> Look {
        loop {
            if let Some(look) = self.take() {
                return look;
            }
            self.wake.notified().await;
        }
    }

    fn take(&self) -> Option<Look> {
        let mut inner = self.lock();
        let changed: Vec<News> = inner
            .slots
            .iter_mut()
            .filter(|slot| slot.changed)
            .map(|slot| {
                slot.changed = false;
                let choice = slot.news.choice;
                std::mem::replace(&mut slot.news, News { choice, ..News::default() })
            })
            .collect();
        if !changed.is_empty() {
            inner.waiting = 0;
            inner.taken = Instant::now();
            return Some(Look::News(changed));
        }
        if let Some(error) = inner.failed.clone() {
            return Some(Look::Failed(error));
        }
        if std::mem::take(&mut inner.progress_changed) {
            let (done, total, before) = inner.progress;
            return Some(Look::Prompt { done, total, before });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(look: Option<Look>) -> Vec<News> {
        match look {
            Some(Look::News(news)) => news,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_taken_is_joined() {
        let mailbox = Mailbox::new(2);
        assert!(mailbox.take().is_none());
        mailbox.write(1, "a", Vec::new());
        mailbox.write(1, "b", Vec::new());
        let end = End { finish: Finish::Stop, counts: Counts::default() };
        mailbox.end(1, end);
        let taken = news(mailbox.take());
        assert_eq!((taken.len(), taken[0].choice, taken[0].text.as_str(), taken[0].end), (1, 1, "ab", Some(end)));
        assert!(mailbox.take().is_none());
        mailbox.write(0, &"x".repeat(FULL + 1), Vec::new());
        assert!(
            mailbox.is_full() && !mailbox.is_stalled(Duration::from_secs(60)) && mailbox.is_stalled(Duration::ZERO)
        );
        // What was written before a failure is still read.
        mailbox.fail(ApiError::internal("internal_error", "x"));
        assert_eq!(news(mailbox.take())[0].text.len(), FULL + 1);
        assert!(!mailbox.is_full());
        assert!(matches!(mailbox.take(), Some(Look::Failed(_))));
    }
}
