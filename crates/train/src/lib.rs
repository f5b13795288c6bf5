//! Quantization-aware training of 1.25-bit language models on a CPU.
//!
//! Forward and backward of the decoder are written out and run on plain matrix products; latent weights are f32, the
//! quantized weights are computed from them in every pass. See [`network`] for the model, [`methods`] for quantizers.

#![forbid(unsafe_code)]

pub mod adamw;
pub mod layout;
pub mod linear;
pub mod loss;
pub mod methods;
pub mod network;
pub mod ops;
pub mod rng;
pub mod schedule;
pub mod simd;
