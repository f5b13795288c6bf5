//! The decoder: configuration, weights, forward pass.

pub mod bitnet;
mod candidates;
mod checkpoint;
mod companions;
mod config;
pub mod config_gguf;
pub mod config_hf;
mod decoder;
mod doubts;
mod generation_config;
mod keys;
mod kv;
mod loading;
pub mod mlx;
pub mod names;
pub mod reference;
mod rope;
pub mod synthetic;
mod tensors;
mod weights;

pub use crate::io::native::PackedScheme;
pub use candidates::{Candidates, Nucleus};
pub use checkpoint::{Checkpoint, Container, MemoryEstimate};
pub use config::{Activation, ArchConfig, Family, QkNorm, Rope, RopeLayout, RopeScaling};
pub use decoder::{Decoder, HeadStatistics, Logits, Model, Step, Tap, TapPoint, Wanted};
pub use generation_config::{GenerationConfig, GenerationFault};
pub(crate) use kv::KvPage;
pub use kv::{KvCache, KvPages, KvPool, PAGE};
pub use loading::Loading;
pub use rope::{Frequencies, rope_factors};
pub use sherry_kernels::KvType;
pub use tensors::{Stored, TensorMap};
pub use weights::{Layer, Weights};

#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod tests;
