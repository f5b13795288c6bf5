//! Measuring models: benchmarks and perplexity, equal to the reference harness.
//!
//! A model is seen only through the three calls of [`Lm`]. Tasks are versioned data ([`tasks`]); [`harness`] runs them
//! and can continue a killed run from its [`journal`]; [`results`], [`table`] and [`compare`] turn scores
//! into files and tables.

pub mod compare;
pub mod data;
mod decoder_lm;
pub mod divergence;
mod encode;
pub mod harness;
pub mod journal;
pub mod lm;
pub mod metrics;
mod model_card;
pub mod perplexity;
mod python;
pub mod results;
pub mod table;
pub mod tasks;
pub mod windows;
mod yaml;

pub use compare::Paired;
pub use decoder_lm::DecoderLm;
pub use divergence::{Distributions, Divergence, divergence};
pub use harness::TaskScores;
pub use journal::Journal;
pub use lm::{Lm, Request, Score, WindowScore};
pub use model_card::ModelCard;
pub use perplexity::{Perplexity, perplexity};
pub use results::{Evaluation, Outcome, Report, ReportRow, ResultsFile};
pub use tasks::{Item, Limit, Metric, Task, TaskRun};
pub use windows::Windows;
