//! Parts of row blocks brought into the form in which many tokens take them.

use super::block::BLOCK_ROWS;

/// Most row blocks that [`LookUpGemm::segment`](crate::table::LookUpGemm::segment) takes together.
pub(crate) const LOOK_UP_BLOCKS: usize = 2;

/// What one code of each of 64 rows looks up, in the form that the instruction set wants.
pub(crate) type Indices = [u8; 2 * BLOCK_ROWS];

/// Indices that share an activation block and, row block by row block, a scale group.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // no kernels for it where there are no vectors
pub(crate) struct IndexedSegment<'a> {
    /// codes x blocks.
    pub(crate) panel: &'a [Indices],
    /// Whether the codes are those of the binary format, four signs each.
    pub(crate) signs: bool,
    /// 64 f16 group scales in slot order for each of 1 or 2 blocks.
    pub(crate) scales: &'a [Option<&'a [u8; 2 * BLOCK_ROWS]>],
}

/// Decoded weights that share an activation block and a scale group.
#[derive(Clone, Copy)]
pub(crate) struct Segment<'a> {
    /// chunks x 8 codes x 64 slots x 4 weights, plus 1.
    pub(crate) panel: &'a [u8],
    /// First chunk inside the activation block.
    pub(crate) first_chunk: usize,
    /// Chunks.
    pub(crate) chunks: usize,
    /// 64 f16 group scales in slot order.
    pub(crate) scales: Option<&'a [u8; 2 * BLOCK_ROWS]>,
}
