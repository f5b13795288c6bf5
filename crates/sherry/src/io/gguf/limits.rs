//! What a file may ask for. Each limit is far above real models and far below what would hurt.

/// Bytes before the tensor data: vocabularies take a few megabytes.
pub(super) const HEADER: usize = 256 << 20;
/// Metadata entries.
pub(super) const ENTRIES: u64 = 1 << 16;
/// Tensors of one file.
pub(super) const TENSORS: u64 = 1 << 20;
/// Bytes of a key.
pub(super) const KEY: u64 = 64 << 10;
/// Bytes of a string: chat templates and tokens.
pub(super) const STRING: u64 = 16 << 20;
/// Elements of an array: vocabularies have a few hundred thousand.
pub(super) const ARRAY: u64 = 1 << 24;
/// Bytes of a tensor's name.
pub(super) const NAME: u64 = 256;
/// Bytes of a tensor's name that ggml reads (`GGML_MAX_NAME` - 1); the writer keeps to it.
pub(super) const NAME_WRITTEN: usize = 63;
/// Dimensions of a tensor.
pub(super) const DIMS: u32 = 4;
/// Alignments of tensor data, powers of two.
pub(super) const ALIGNMENT: std::ops::RangeInclusive<u64> = 8..=4096;
/// Alignment where no key says otherwise.
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
