//! The seam between the evaluator and models: three calls.

use sherry::Result;
pub use sherry::generate::Score;

use super::windows::Windows;

/// One question to a model: how likely is `continuation` after `context`?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the model has read. Empty means: nothing but the beginning-of-text token.
    pub context: String,
    /// What is scored. Spaces between the two belong to the continuation: `"Answer:"`, `" Paris"`.
    pub continuation: String,
}

/// Log-probabilities of the tokens scored in one window of a long text.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowScore {
    /// Which window, from 0.
    pub index: usize,
    /// How many windows the text has.
    pub windows: usize,
    /// Natural-log probability of each scored token, in order.
    pub logprobs: Vec<f64>,
}

/// A language model as the evaluator sees it: three calls and one number. Packed models, the f32 reference and a
/// trainer's student all fit behind it. The contracts are those of lm-evaluation-harness 0.4.13 (`api/model.py`).
pub trait Lm {
    /// Scores groups of requests; a group is what belongs to one item and usually shares a beginning, which a model
    /// computes once. Groups may be worked on in any order and batched at will; `done(group, scores)` is called once
    /// per group, as soon as it is finished, with one score per request in order. An error from `done` (the disk is
    /// full, the user asked to stop) ends the work and is returned.
    ///
    /// Tokens: white space at the end of the context moves to the front of the continuation; context and
    /// context + continuation are encoded; the continuation's tokens are those after the context's count. A
    /// beginning-of-text token is there only if the tokenizer adds one by itself. What is longer than
    /// [`max_length`](Self::max_length) loses tokens from the left.
    ///
    /// # Errors
    /// A continuation without tokens or longer than the context window; whatever the model reports.
    fn loglikelihood(
        &mut self,
        groups: &[Vec<Request>],
        done: &mut dyn FnMut(usize, Vec<Score>) -> Result<()>,
    ) -> Result<()>;

    /// Scores a long text window by window, in order, calling `done` after each. Every token in the scored part of
    /// `windows` is scored exactly once.
    ///
    /// # Errors
    /// The text is too short for one window, or a window is longer than [`max_length`](Self::max_length).
    fn loglikelihood_rolling(
        &mut self,
        text: &str,
        windows: Windows,
        done: &mut dyn FnMut(WindowScore) -> Result<()>,
    ) -> Result<()>;

    /// The most probable text after `context`, up to the first of `until` (left out), the model's own end, or
    /// `max_tokens` tokens.
    ///
    /// # Errors
    /// Whatever the model reports.
    fn generate_until(&mut self, context: &str, until: &[String], max_tokens: usize) -> Result<String>;

    /// The longest token sequence the model can attend over.
    fn max_length(&self) -> usize;
}
