//! Measuring models: benchmarks and perplexity, equal to the reference harness.
//!
//! A model is seen only through the three calls of [`Lm`]. Tasks are versioned data ([`tasks`]); [`harness`] runs them
//! and can continue a killed run from its [`journal`]; [`results`], [`table`], [`compare`] and [`report`] turn scores
//! into files and tables.

pub mod data;
pub mod lm;
pub mod metrics;
mod python;
pub mod tasks;
pub mod windows;

pub use lm::{Lm, Request, Score, WindowScore};
pub use tasks::{Item, Limit, Metric, Task, TaskRun};
pub use windows::Windows;
