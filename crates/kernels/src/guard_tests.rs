//! Every kernel of every instruction set on memory that ends where its page ends, the next page being out of bounds: a
//! read or write past the end is a crash. (Software prefetches past the end are allowed and do not fault.)

use std::ffi::{c_int, c_long, c_void};
use std::ops::{Deref, DerefMut};
use std::ptr;

use crate::arch::dispatch;
use crate::coarse::Coarse;
use crate::format::{PackedLayout, QuadOrder, ScaleGroup, TensorType, TernaryFormat};
use crate::generic::attention::int8::Int8Query;
use crate::generic::attention::{QueryRow, TilesChunk, partial_len};
use crate::generic::coarse::{CoarseInput, Estimate};
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};
use crate::kv::{KvTiles, KvType};
use crate::panel::Panels;
use crate::ternary::activations::{ActBlock, Arrangement, BLOCK_CODES, TokenBlocks};
use crate::ternary::block::{BINARY_CHUNK_BYTES, BIT_CHUNK_BYTES, BLOCK_ROWS, CODE_CHUNK_BYTES, RowBlock, SCALE_BYTES};
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::{IndexedSegment, Segment};
use crate::ternary::signs::SIGN_TABLE_BYTES;
use crate::{Engine, Isa, Matrix, Pool, Precision, Product};

unsafe extern "C" {
    fn mmap(addr: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: c_long) -> *mut c_void;
    fn mprotect(addr: *mut c_void, len: usize, prot: c_int) -> c_int;
    fn munmap(addr: *mut c_void, len: usize) -> c_int;
}

/// A multiple of the page size of every system.
const PAGE: usize = 64 << 10;

/// Values whose last byte is the last of a page, before one that must not be touched.
struct Guarded<T> {
    map: *mut c_void,
    map_len: usize,
    len: usize,
    marker: std::marker::PhantomData<T>,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T]) -> Self {
        const PROT_NONE: c_int = 0;
        const PROT_READ_WRITE: c_int = 3;
        const MAP_PRIVATE_ANON: c_int = if cfg!(target_os = "macos") { 0x1002 } else { 0x22 };
        let data_len = size_of_val(values).next_multiple_of(PAGE);
        let map_len = data_len + PAGE;
        // SAFETY: a fresh anonymous mapping; its last page is made inaccessible, and the values go before that page. Their
        // size is a multiple of their alignment, which divides the page size, so they are aligned.
        unsafe {
            let map = mmap(ptr::null_mut(), map_len, PROT_READ_WRITE, MAP_PRIVATE_ANON, -1, 0);
            assert!(map.addr() != usize::MAX, "mmap");
            assert_eq!(mprotect(map.byte_add(data_len), PAGE, PROT_NONE), 0, "mprotect");
            let start = map.byte_add(data_len - size_of_val(values)).cast::<T>();
            ptr::copy_nonoverlapping(values.as_ptr(), start, values.len());
            Self { map, map_len, len: values.len(), marker: std::marker::PhantomData }
        }
    }

    fn start(&self) -> *mut T {
        // SAFETY: `new` mapped more than a page and the values, which end where the last page begins.
        unsafe { self.map.byte_add(self.map_len - PAGE - self.len * size_of::<T>()).cast() }
    }
}

impl<T: Copy> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` wrote `len` values there, aligned; the mapping is alive as long as self.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl<T: Copy> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the values that `deref` gives; the borrow of self is unique.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe { munmap(self.map, self.map_len) };
    }
}

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn floats(n: usize) -> Guarded<f32> {
    Guarded::new(&(0..n).map(|i| ((i * 37 + n) % 101) as f32 / 25.0 - 2.0).collect::<Vec<_>>())
}

/// Bytes that no format minds: f16 values made of them are finite, 2-bit fields below 3.
fn bytes(n: usize) -> Guarded<u8> {
    Guarded::new(&(0..n).map(|i| ((i * i * 31 + 7 * i) as u8 & 0x2a) | (i % 2) as u8).collect::<Vec<_>>())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The page after a guarded value is indeed out of bounds: without this, the other tests would pass on anything.
#[test]
fn the_guard_is_up() {
    let guarded = Guarded::new(&[1u8, 2, 3]);
    assert_eq!(guarded.start().addr() + 3, guarded.map.addr() + guarded.map_len - PAGE);
    unsafe extern "C" {
        fn pipe(ends: *mut c_int) -> c_int;
        fn write(fd: c_int, from: *const c_void, len: usize) -> isize;
        fn close(fd: c_int) -> c_int;
    }
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors; they are closed below. The system checks what write() is given.
    unsafe {
        assert_eq!(pipe(ends.as_mut_ptr()), 0);
        assert_eq!(write(ends[1], guarded.start().add(2).cast(), 1), 1);
        assert_eq!(write(ends[1], guarded.start().add(3).cast(), 1), -1);
        close(ends[0]);
        close(ends[1]);
    }
}

#[test]
fn ternary_look_up_and_dot_products() {
    for chunks in [1, 2, 3, 4, 5, 9] {
        for group_chunks in [0, 1, 2, 4, 8] {
            for code_bytes in [CODE_CHUNK_BYTES, BIT_CHUNK_BYTES, BINARY_CHUNK_BYTES] {
                ternary_gemv(chunks, group_chunks, code_bytes);
            }
        }
    }
}

fn ternary_gemv(chunks: usize, group_chunks: usize, chunk_bytes: usize) {
    let shape = RowBlock { stream: &[], row_scales: None, chunks, group_chunks };
    let stream_bytes = shape.stream_bytes(chunk_bytes);
    // Two neighbouring blocks: the second ends with the page.
    let both = bytes(2 * stream_bytes);
    let scales = Guarded::new(&[[0.5f32; BLOCK_ROWS]]);
    let row_scales = (group_chunks == 0).then(|| &scales[0]);
    let block = |n: usize| RowBlock { stream: &both[n * stream_bytes..][..stream_bytes], row_scales, ..shape };
    let x = floats(128 * chunks.div_ceil(4));
    let mut expected = Vec::new();
    for isa in available() {
        let table = &dispatch::expect(isa).ternary;
        let mut acts = Guarded::new(&vec![ActBlock::ZERO; chunks.div_ceil(4)]);
        let signs = chunk_bytes == BINARY_CHUNK_BYTES;
        let table_bytes = 32 * if signs { SIGN_TABLE_BYTES } else { table.table_bytes };
        let mut tables = Guarded::new(&vec![0u8; acts.len() * table_bytes]);
        let mut out = Guarded::new(&[[f32::NAN; BLOCK_ROWS]; 3]);
        for ((x, act), tables) in x.chunks(128).zip(acts.iter_mut()).zip(tables.chunks_mut(table_bytes)) {
            table.quantize(Arrangement::Quads, x, act);
            if signs {
                table.build_sign_tables(act, tables);
            } else {
                table.build_tables(Codebook::SHERRY, act, tables);
            }
        }
        let blocks = TokenBlocks { blocks: &acts, stride: 1 };
        let (one, two) = out.split_at_mut(1);
        let (first, second) = two.split_at_mut(1);
        let (mut one, mut two) = ([&mut one[0]], [&mut first[0], &mut second[0]]);
        match chunk_bytes {
            CODE_CHUNK_BYTES => {
                table.gemv_codes(&[block(1)], blocks, &tables, &mut one);
                table.gemv_codes(&[block(0), block(1)], blocks, &tables, &mut two);
            }
            BINARY_CHUNK_BYTES => {
                table.gemv_signs(&[block(1)], blocks, &tables, &mut one);
                table.gemv_signs(&[block(0), block(1)], blocks, &tables, &mut two);
            }
            _ => {
                table.gemv_bits(&[block(1)], blocks, &mut one);
                table.gemv_bits(&[block(0), block(1)], blocks, &mut two);
            }
        }
        let found = bits(out.as_flattened());
        if isa == Isa::Scalar {
            expected = found;
        } else {
            assert_eq!(found, expected, "{isa} {chunks} {group_chunks} {chunk_bytes}");
        }
    }
}

#[test]
fn ternary_tiles() {
    for isa in available() {
        let table = &dispatch::expect(isa).ternary;
        let Some(gemm) = &table.decoded else { continue };
        for chunks in [1, 2, 4] {
            for chunk_bytes in [CODE_CHUNK_BYTES, BIT_CHUNK_BYTES, BINARY_CHUNK_BYTES] {
                let codes = bytes(chunk_bytes);
                let mut panel = Guarded::new(&vec![0u8; chunks * 8 * BLOCK_ROWS * 4]);
                for panel in panel.chunks_mut(8 * BLOCK_ROWS * 4) {
                    match chunk_bytes {
                        CODE_CHUNK_BYTES => gemm.decode_codes(Codebook::SHERRY, &codes, panel),
                        BINARY_CHUNK_BYTES => gemm.decode_signs(&codes, panel),
                        _ => gemm.decode_bits(&codes, panel),
                    }
                }
                let scales: Guarded<[u8; SCALE_BYTES]> = Guarded::new(bytes(SCALE_BYTES).as_chunks().0);
                for tokens in [1, 2, 5, 6, 7, 11, 12, 13] {
                    let mut acts = Guarded::new(&vec![ActBlock::ZERO; tokens]);
                    let x = floats(128);
                    for act in acts.iter_mut() {
                        table.quantize(Arrangement::Quads, &x, act);
                    }
                    for scales in [None, Some(&scales[0])] {
                        let mut acc = Guarded::new(&vec![[0.0f32; BLOCK_ROWS]; tokens]);
                        let segment = Segment { panel: &panel, first_chunk: 4 - chunks, chunks, scales };
                        let mut out = Guarded::new(&[[0.0f32; BLOCK_ROWS]]);
                        let row_scales = Guarded::new(&[[0.5f32; BLOCK_ROWS]]);
                        gemm.segment(segment, &acts, &mut acc);
                        gemm.finish_codes(&acc[tokens - 1], Some(&row_scales[0]), &mut out[0]);
                        gemm.finish_bits(&acc[tokens - 1], None, &mut out[0]);
                        // All tokens are alike, so their sums are, whatever tile they were in.
                        assert!(acc.iter().all(|sums| bits(sums) == bits(&acc[0])), "{isa}");
                    }
                }
            }
        }
    }
}

#[test]
fn ternary_look_up_for_many_tokens() {
    for isa in available() {
        let table = &dispatch::expect(isa).ternary;
        let Some(look_up) = table.look_up else { continue };
        for (chunks, blocks) in [(1, 1), (1, 2), (2, 2), (4, 1), (4, 2)] {
            let mut panel = Guarded::new(&vec![[0u8; 2 * BLOCK_ROWS]; chunks * 8 * blocks]);
            let (codes, signs) = (bytes(chunks * CODE_CHUNK_BYTES), bytes(chunks * BINARY_CHUNK_BYTES));
            let scales: Guarded<[u8; SCALE_BYTES]> = Guarded::new(bytes(SCALE_BYTES).as_chunks().0);
            let block_tables = BLOCK_CODES * look_up.table_bytes;
            for (tokens, of_signs) in [1, 2, 3, 4, 7].into_iter().flat_map(|tokens| [(tokens, false), (tokens, true)]) {
                for block in 0..blocks {
                    match of_signs {
                        true => look_up.decode_signs(&signs, 0..signs.len(), &mut panel[block..], blocks),
                        false => look_up.decode(&codes, 0..codes.len(), &mut panel[block..], blocks),
                    }
                }
                let mut acts = Guarded::new(&vec![ActBlock::ZERO; tokens]);
                // The tables of the last token end with the last code of the segment.
                let mut all = vec![0u8; tokens * block_tables];
                for (act, tables) in acts.iter_mut().zip(all.chunks_mut(block_tables)) {
                    table.quantize(Arrangement::Quads, &floats(128), act);
                    match of_signs {
                        true => look_up.build_sign_tables(act, tables),
                        false => look_up.build_tables(Codebook::SHERRY, act, tables),
                    }
                }
                let tables = Guarded::new(&all[..(tokens - 1) * block_tables + chunks * 8 * look_up.table_bytes]);
                for scales in [None, Some(&scales[0])] {
                    let mut acc = Guarded::new(&vec![[0.0f32; BLOCK_ROWS]; tokens * blocks]);
                    let mut out = Guarded::new(&[[0.0f32; BLOCK_ROWS]]);
                    let segment = IndexedSegment { panel: &panel, signs: of_signs, scales: &vec![scales; blocks] };
                    look_up.segment(&segment, &tables, &acts, &mut acc);
                    look_up.finish(&acc[tokens * blocks - 1], None, &mut out[0]);
                    // All tokens and blocks are alike.
                    assert!(acc.iter().all(|sums| bits(sums) == bits(&acc[0])), "{isa}");
                }
            }
        }
    }
}

#[test]
fn transposition_of_codes() {
    for (isa, stride) in available().flat_map(|isa| [16, 32, 48].map(|stride| (isa, stride))) {
        let rows = bytes(64 * stride);
        let mut lines = Guarded::new(&[[[0u8; BLOCK_ROWS]; 16]]);
        dispatch::expect(isa).ternary.transpose(&rows, stride, stride - 16, &mut lines[0]);
        assert_eq!(lines[0][15][63], rows[64 * stride - 1]);
    }
}

#[test]
fn ternary_products_from_end_to_end() {
    for format in TernaryFormat::ALL {
        for scale in [ScaleGroup::Row, ScaleGroup::Group(if format.lanes() == 3 { 96 } else { 128 })] {
            for (rows, cols) in [(1, 1), (63, 127), (64, 128), (65, 129), (129, 300)] {
                let layout = PackedLayout { format, rows, cols, order: QuadOrder::Contiguous, scale };
                if layout.check().is_err() {
                    continue;
                }
                let mut codes = vec![0u8; rows * layout.row_bytes()];
                let row: Vec<i8> = (0..cols).map(|i| i8::from(i % 4 != 3)).collect();
                for codes in codes.chunks_mut(layout.row_bytes()) {
                    // Columns that are no whole quad cannot be encoded; zero bytes are legal then.
                    if layout.encode_row(&row, codes).is_err() {
                        codes.fill(0);
                    }
                }
                let (codes, scales) = (Guarded::new(&codes), bytes(2 * rows * layout.row_scales()));
                let w = Matrix::from_packed(layout, &codes, &scales).unwrap();
                every_isa(&w, &[1, 2, 5, 25]);
            }
        }
    }
}

/// Products of a matrix by the engine, whose inputs and outputs end with their pages.
fn every_isa(w: &Matrix, tokens: &[usize]) {
    for isa in available() {
        let mut engine = Engine::new(isa, 1, Precision::Int8);
        for &tokens in tokens {
            let x = floats(tokens * w.cols());
            let mut y = Guarded::new(&vec![f32::NAN; tokens * w.rows()]);
            engine.matmul(&x, tokens, &mut [Product { w, y: &mut y }]);
            assert!(y.iter().all(|y| y.is_finite()), "{isa}");
        }
    }
}

#[test]
fn dense_and_block_quantized_products() {
    for isa in available() {
        let table = dispatch::expect(isa);
        for (rows, cols) in [(1, 1), (3, 15), (4, 16), (5, 17), (7, 33), (4, 100)] {
            for tokens in [1, 2, 5, 6, 7] {
                for (kernel, size) in [(table.dense_f32, 4), (table.dense_f16, 2), (table.dense_bf16, 2)] {
                    let (weights, x) = (bytes(rows * cols * size), floats(tokens * cols));
                    let mut y = Guarded::new(&vec![f32::NAN; tokens * rows]);
                    let y_stride = rows;
                    let (x, y_start) = (x.as_ptr(), y.as_mut_ptr());
                    let block = DenseBlock { weights: weights.as_ptr(), rows, cols, x, tokens, y: y_start, y_stride };
                    // SAFETY: `weights`, `x` and `y` were just made of the sizes that the block tells, and are not used meanwhile.
                    unsafe { kernel(&block) };
                    assert!(y.iter().all(|y| !y.is_nan()), "{isa}");
                }
            }
        }
        use TensorType::{PQ2_0, Q2_0, Q2_K, Q3_K, Q4_0, Q4_K, Q5_1, Q6_K, Q8_0, SQ3_0};
        for ty in [Q2_0, PQ2_0, SQ3_0, Q4_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q6_K] {
            for (rows, tokens) in [(1, 1), (15, 2), (16, 3), (17, 8), (33, 9), (16, 16), (17, 35)] {
                let cols = 256;
                let stored = bytes(rows * ty.row_bytes(cols).unwrap());
                let panels = Panels::new(ty, rows, cols, &stored.to_vec().into(), &Pool::new(1)).unwrap();
                let packed = Guarded::new(panels.bytes());
                let x = floats(tokens * cols);
                let mut q = Guarded::new(&vec![0i8; tokens * cols]);
                let mut blocks = Guarded::new(&vec![InputBlock::default(); tokens * cols / 32]);
                let mut y = Guarded::new(&vec![f32::NAN; tokens * rows]);
                table.quantize(&x, &mut q, &mut blocks);
                // SAFETY: the panels are all of the matrix; inputs, their blocks and outputs were just made of the sizes that the
                // block tells, and are not used meanwhile.
                unsafe {
                    (table.panels)(&PanelBlock {
                        shape: panels.shape,
                        panels: packed.as_ptr(),
                        count: rows.div_ceil(16),
                        rows,
                        q: q.as_ptr(),
                        blocks: blocks.as_ptr(),
                        stride: cols,
                        tokens,
                        y: y.as_mut_ptr(),
                        y_stride: rows,
                    });
                }
                assert!(y.iter().all(|y| !y.is_nan()), "{isa} {ty}");
            }
        }
    }
}

/// What a kernel that follows pointers takes for granted is asserted where it begins.
#[test]
fn a_group_that_is_not_a_power_of_two_of_chunks_is_refused() {
    let shape = RowBlock { stream: &[], row_scales: None, chunks: 8, group_chunks: 12 };
    for isa in available() {
        let table = &dispatch::expect(isa).ternary;
        let acts = Guarded::new(&[ActBlock::ZERO; 2]);
        let acts = TokenBlocks { blocks: &acts, stride: 1 };
        let tables = bytes(64 * table.table_bytes.max(SIGN_TABLE_BYTES));
        for chunk_bytes in [CODE_CHUNK_BYTES, BIT_CHUNK_BYTES, BINARY_CHUNK_BYTES] {
            let stream = bytes(shape.stream_bytes(chunk_bytes));
            let block = RowBlock { stream: &stream, ..shape };
            let refused = std::panic::catch_unwind(|| {
                let mut out = [0.0; BLOCK_ROWS];
                match chunk_bytes {
                    CODE_CHUNK_BYTES => table.gemv_codes(&[block], acts, &tables, &mut [&mut out]),
                    BINARY_CHUNK_BYTES => table.gemv_signs(&[block], acts, &tables, &mut [&mut out]),
                    _ => table.gemv_bits(&[block], acts, &mut [&mut out]),
                }
            });
            assert!(refused.is_err(), "{isa} {chunk_bytes}");
        }
    }
}

#[test]
fn coarse_copies() {
    for isa in available() {
        let table = dispatch::expect(isa);
        for (rows, cols) in [(1, 32), (15, 96), (17, 256)] {
            let (weights, signs) = (floats(rows * cols).to_vec(), floats(cols));
            let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&weights[row * cols..][..cols]);
            let w = Coarse::of_rows(rows, cols, &Pool::new(1), row).unwrap();
            let mut x = floats(cols);
            let mut codes = bytes(cols);
            let mut factors = Guarded::new(&[[0.0f32; 2]]);
            let q = Guarded::new(&vec![3i8; cols]);
            let input = CoarseInput { q: &q, sum: 3 * cols as i32, scale: 1.0, reach: 1.0 };
            let mut out = Guarded::new(&vec![Estimate::default(); w.panels()]);
            table.rotate(&mut x);
            table.coarse_row(&mut x, &signs, &mut codes, &mut factors[0]);
            table.coarse_estimate(&w, 0, &input, &mut out);
            assert!(out.iter().all(|e| e.best.is_finite() && e.most > e.best), "{isa}");
        }
    }
}

#[test]
fn elementwise_functions() {
    for isa in available() {
        let table = dispatch::expect(isa);
        for n in [1, 7, 8, 9, 15, 16, 17, 33] {
            let (x, w) = (floats(n), floats(n));
            let mut out = floats(n);
            let stored = bytes(2 * n);
            table.rms_norm(&x, &w, 1e-5, 0.0, &mut out);
            table.silu_mul(&mut out, &x);
            table.gelu_mul(&mut out, &x);
            table.add(&mut out, &x);
            table.widen_f16(&stored, &mut out);
            table.widen_bf16(&stored, &mut out);
            let head_dim = 2 * n;
            let (cos, sin) = (floats(n), floats(n));
            let mut heads = floats(3 * head_dim);
            table.rope_halves(&mut heads, head_dim, &cos, &sin);
            table.rope_interleaved(&mut heads, head_dim, &cos, &sin);
        }
    }
}

#[test]
fn attention() {
    for isa in available() {
        let table = dispatch::expect(isa);
        for (kv, head_dim) in KvType::ALL.iter().flat_map(|kv| [1, 8, 33, 64].map(|d| (*kv, d))) {
            let layout = KvTiles::new(kv, head_dim);
            for (count, end) in [(1, 1), (2, 31), (3, 32), (4, 33), (5, 65), (9, 256)] {
                let mut tiles = bytes(layout.bytes(end));
                (0..end).for_each(|p| layout.write(&mut tiles, p, &floats(head_dim), &floats(head_dim)));
                let mut partials = floats(count * partial_len(layout));
                let q = floats(count * head_dim);
                let mut rounded = Guarded::new(&vec![0i8; count * layout.width]);
                let mut blocks = Guarded::new(&vec![InputBlock::default(); count * layout.width / 32]);
                if kv.has_codes() {
                    table.quantize(&floats(count * layout.width), &mut rounded, &mut blocks);
                }
                let row = |i: usize| {
                    let q = &rounded[i * layout.width..][..layout.width];
                    Int8Query { q: q.as_ptr(), blocks: blocks[i * layout.width / 32..].as_ptr() }
                };
                let (scale, first, start, ahead, tiles, to) = (0.1, 0, 0, 0, tiles.as_ptr(), partials.as_mut_ptr());
                let rows: Vec<_> = q.chunks(head_dim).map(|q| QueryRow { q: q.as_ptr(), first, end }).collect();
                let of_floats = TilesChunk { layout, rows: &rows, scale, tiles, start, ahead, partials: to };
                // SAFETY: the tiles were made for `end` positions, which is what every row sees; each row points to `head_dim`
                // floats or to `width` integers with their blocks; `partials` has `partial_len` values for each row.
                unsafe {
                    match kv {
                        KvType::F32 => (table.attend_f32)(&of_floats),
                        KvType::F16 => (table.attend_f16)(&of_floats),
                        KvType::Q8 | KvType::Q4 => {
                            let attend = if kv == KvType::Q8 { table.attend_q8 } else { table.attend_q4 };
                            let rows: Vec<_> = (0..count).map(|i| QueryRow { q: row(i), first, end }).collect();
                            let partials = to;
                            attend(&TilesChunk { layout, rows: &rows, scale, tiles, start, ahead, partials });
                        }
                    }
                }
                let mut state = Guarded::new(&partials[..partial_len(layout)]);
                table.fold(&mut state, &partials[..partial_len(layout)]);
                assert!(state.iter().all(|x| !x.is_nan()), "{isa} {kv:?}");
            }
        }
    }
}
