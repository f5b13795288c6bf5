//! The decoder: configuration, weights, forward pass.

mod config;

pub use config::{Activation, ArchConfig, Family, QkNorm, Rope, RopeLayout, RopeScaling};
