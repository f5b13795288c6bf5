//! Quantization-aware training of 1.25-bit language models on a CPU.
//!
//! Forward and backward of the decoder are written out and run on plain matrix products; latent weights are f32, the
//! quantized weights are computed from them in every pass. [`trainer::Trainer`] is the way in; see [`network`] for the
//! model, [`block`] for one block of it by itself, [`methods`] for quantizers, [`schedule`] for learning rate and Arenas.
//!
//! Every sum has a fixed order: the same configuration, data and number of threads give the same bytes, and a run that
//! was stopped or killed and resumed gives the bytes of the uninterrupted one.
//!
//! ```no_run
//! use sherry::NoProgress;
//! use sherry_train::{Config, Resume, Trainer};
//!
//! let text = ["data.train=[\"my.txt\"]", "data.valid=[\"held-out.txt\"]"].map(str::to_owned);
//! let config = Config::load("configs/byte-level.toml".as_ref(), &text)?;
//! let mut trainer = Trainer::open(config, "runs/first".as_ref(), &Resume::Auto, &NoProgress)?;
//! let outcome = trainer.run(&NoProgress)?;
//! println!("{} steps, validation loss {:?}", outcome.step, outcome.valid_loss);
//! # Ok::<(), sherry_train::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod adamw;
pub mod block;
pub mod calibrate;
pub mod checkpoint;
pub mod config;
mod config_error;
pub mod data;
pub mod error;
pub mod export;
pub mod layout;
pub mod linear;
pub mod loss;
pub mod memory;
pub mod methods;
pub mod metrics;
pub mod network;
pub mod norm;
pub mod ops;
pub mod pretrained;
pub mod report;
pub mod rng;
pub mod run_folder;
pub mod schedule;
pub mod scratch;
pub mod simd;
mod tensorboard;
pub mod trainer;

pub use config::Config;
pub use error::{Error, Result};
pub use sherry_sgemm::MatmulPrecision;
pub use trainer::{Event, Outcome, Resume, Trainer};
