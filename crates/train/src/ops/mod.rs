//! The operations of a decoder, each with its gradient written out.
//!
//! Matrices are row-major slices; `tokens` rows of the batch are `sequence * length + position`. Every function runs on
//! the current rayon pool and gives the same bits for any number of threads.

pub mod attention;
pub mod embedding;
pub mod gated;
pub mod headnorm;
pub mod rmsnorm;
pub mod rope;
#[cfg(test)]
mod tests;
