//! Micro-benchmarks of every entry point, on every instruction set of this processor, one thread.
//!
//! `cargo bench -p sherry-kernels [-- FILTER]`; `cargo test -p sherry-kernels --bench kernels` runs each once.
//! `sherry bench --kernels` shows the same kernels beside the limits of memory and processor.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use sherry_kernels::format::{PackedLayout, QuadOrder, ScaleGroup, TensorType, TernaryFormat, random};
use sherry_kernels::{
    AttentionShape, Bytes, Engine, Isa, KvHead, KvTiles, KvType, Matrix, Pool, Precision, Product, probe,
};

fn main() {
    divan::main();
}

/// The instruction sets of this processor.
fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
}

/// Every format with a kernel of its own.
#[derive(Clone, Copy)]
enum Format {
    Plain(TensorType),
    Packed(TernaryFormat, ScaleGroup),
}

const FORMATS: [Format; 11] = [
    Format::Packed(TernaryFormat::Sherry, ScaleGroup::Row),
    Format::Packed(TernaryFormat::Sherry, ScaleGroup::Group(128)),
    Format::Packed(TernaryFormat::Ternary167, ScaleGroup::Row),
    Format::Packed(TernaryFormat::Ternary2, ScaleGroup::Row),
    Format::Packed(TernaryFormat::Binary, ScaleGroup::Group(128)),
    Format::Plain(TensorType::Q4_0),
    Format::Plain(TensorType::Q4_K),
    Format::Plain(TensorType::Q6_K),
    Format::Plain(TensorType::Q8_0),
    Format::Plain(TensorType::F16),
    Format::Plain(TensorType::BF16),
];

const ROWS: usize = 512;
const COLS: usize = 2048;

impl Format {
    fn matrix(self) -> Matrix {
        let pool = Pool::new(1);
        match self {
            Self::Plain(ty) => rows(ty).repacked_on(&pool),
            Self::Packed(format, scale) => {
                let (layout, codes, scales) = packed(format, scale);
                Matrix::from_packed_on(&pool, layout, &codes, &scales).expect("a legal matrix")
            }
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(ty) => ty.fmt(f),
            Self::Packed(format, ScaleGroup::Tensor | ScaleGroup::Row) => format.fmt(f),
            Self::Packed(format, ScaleGroup::Group(size)) => write!(f, "{format}/{size}"),
        }
    }
}

fn rows(ty: TensorType) -> Matrix {
    let bytes = Bytes::from(random::blocks(ty, ROWS * COLS, 0.02, 1));
    Matrix::from_rows(ty, ROWS, COLS, bytes).expect("a legal matrix")
}

fn packed(format: TernaryFormat, scale: ScaleGroup) -> (PackedLayout, Vec<u8>, Vec<u8>) {
    let layout = PackedLayout { format, rows: ROWS, cols: COLS, order: QuadOrder::Contiguous, scale };
    (layout, random::packed_codes(&layout, 1), random::packed_scales(&layout, 0.02, 1))
}

/// Values of about unit size.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect()
}

/// An instruction set and something else.
struct Case<T>(Isa, T);

impl<T: std::fmt::Display> std::fmt::Display for Case<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0, self.1)
    }
}

/// Every instruction set with each of `others`.
fn cases<T: Clone>(others: &[T]) -> Vec<Case<T>> {
    isas().into_iter().flat_map(|isa| others.iter().map(move |other| Case(isa, other.clone()))).collect()
}

#[divan::bench(args = cases(&FORMATS))]
fn one_token(bencher: Bencher, case: &Case<Format>) {
    multiply(bencher, case, 1);
}

#[divan::bench(args = cases(&FORMATS))]
fn tokens_32(bencher: Bencher, case: &Case<Format>) {
    multiply(bencher, case, 32);
}

fn multiply(bencher: Bencher, Case(isa, format): &Case<Format>, tokens: usize) {
    let mut engine = Engine::new(*isa, 1, Precision::Int8);
    let w = format.matrix();
    let (x, mut y) = (values(tokens * COLS), vec![0.0; tokens * ROWS]);
    bencher
        .counter(ItemsCount::new(ROWS * COLS * tokens))
        .bench_local(|| engine.matmul(black_box(&x), tokens, &mut [Product { w: &w, y: &mut y }]));
}

#[divan::bench(args = FORMATS)]
fn repack(bencher: Bencher, format: Format) {
    let pool = Pool::new(1);
    match format {
        Format::Plain(ty) => {
            let rows = rows(ty);
            bencher.counter(BytesCount::new(rows.bytes())).bench_local(|| rows.clone().repacked_on(&pool));
        }
        Format::Packed(format, scale) => {
            let (layout, codes, scales) = packed(format, scale);
            bencher
                .counter(BytesCount::new(codes.len() + scales.len()))
                .bench_local(|| Matrix::from_packed_on(&pool, layout, &codes, &scales));
        }
    }
}

#[divan::bench(args = FORMATS)]
fn row_f32(bencher: Bencher, format: Format) {
    let matrix = format.matrix();
    let mut row = vec![0.0; COLS];
    bencher.bench_local(|| matrix.row_f32(black_box(3), &mut row));
}

/// Every type of keys and values.
#[divan::bench(args = cases(&["f16", "f32", "q8", "q4"]))]
fn attention_1024(bencher: Bencher, case: &Case<&'static str>) {
    attention(bencher, case, 2, 1024, 1);
}

/// In turns with 16 layers, more than caches hold.
#[divan::bench(args = cases(&["f16", "q8", "q4"]))]
fn attention_from_memory(bencher: Bencher, case: &Case<&'static str>) {
    attention(bencher, case, 8, 4096, 16);
}

/// One token in one layer, four heads of 64 to a kv head.
fn attention(bencher: Bencher, Case(isa, kv): &Case<&'static str>, kv_heads: usize, positions: usize, layers: usize) {
    let engine = Engine::new(*isa, 1, Precision::Int8);
    let kv = match *kv {
        "f16" => KvType::F16,
        "f32" => KvType::F32,
        "q8" => KvType::Q8,
        _ => KvType::Q4,
    };
    let shape = AttentionShape { heads: 4 * kv_heads, kv_heads, head_dim: 64, kv, scale: 0.125 };
    let (q, row) = (values(4 * kv_heads * 64), values(64));
    let layout = KvTiles::new(kv, 64);
    // Chunks of all layers and heads, as a cache holds them.
    let head = layout.bytes(KvTiles::CHUNK);
    let mut one = vec![0; head];
    (0..KvTiles::CHUNK).for_each(|position| layout.write(&mut one, position, &row, &row));
    let mut tiles = KvTiles::zeroed(layers * kv_heads * layout.bytes(positions)).expect("memory");
    tiles.chunks_exact_mut(head).for_each(|chunk| chunk.copy_from_slice(&one));
    let chunks: Vec<usize> = (0..positions / KvTiles::CHUNK).map(|chunk| chunk * layers * kv_heads * head).collect();
    let mut out = vec![0.0; q.len()];
    let mut layer = 0;
    bencher.bench_local(|| {
        layer = (layer + 1) % layers;
        let see = |_: usize, kv_head: usize| {
            let offset = (layer * kv_heads + kv_head) * head;
            KvHead { slab: &tiles, chunks: &chunks, offset, first: 0, end: positions }
        };
        engine.attention(shape, black_box(&q), see, &mut out);
    });
}

#[divan::bench(args = isas())]
fn rms_norm(bencher: Bencher, isa: Isa) {
    let engine = Engine::new(isa, 1, Precision::Int8);
    let (x, w, mut out) = (values(COLS), values(COLS), vec![0.0; COLS]);
    bencher.bench_local(|| engine.rms_norm(black_box(&x), &w, 1e-5, 0.0, &mut out));
}

#[divan::bench(args = isas())]
fn silu_mul(bencher: Bencher, isa: Isa) {
    let engine = Engine::new(isa, 1, Precision::Int8);
    let up = values(COLS);
    bencher.with_inputs(|| up.clone()).bench_local_refs(|gate| engine.silu_mul(gate, black_box(&up)));
}

#[divan::bench(args = isas())]
fn gelu_mul(bencher: Bencher, isa: Isa) {
    let engine = Engine::new(isa, 1, Precision::Int8);
    let up = values(COLS);
    bencher.with_inputs(|| up.clone()).bench_local_refs(|gate| engine.gelu_mul(gate, black_box(&up)));
}

#[divan::bench(args = isas())]
fn add(bencher: Bencher, isa: Isa) {
    let engine = Engine::new(isa, 1, Precision::Int8);
    let (mut x, y) = (values(COLS), values(COLS));
    bencher.bench_local(|| engine.add(&mut x, black_box(&y)));
}

#[divan::bench(args = isas())]
fn rope_halves(bencher: Bencher, isa: Isa) {
    let engine = Engine::new(isa, 1, Precision::Int8);
    let (mut x, cos, sin) = (values(COLS), vec![0.6; 32], vec![0.8; 32]);
    bencher.bench_local(|| engine.rope_halves(&mut x, 64, black_box(&cos), &sin));
}

#[divan::bench(args = isas())]
fn rope_interleaved(bencher: Bencher, isa: Isa) {
    let engine = Engine::new(isa, 1, Precision::Int8);
    let (mut x, cos, sin) = (values(COLS), vec![0.6; 32], vec![0.8; 32]);
    bencher.bench_local(|| engine.rope_interleaved(&mut x, 64, black_box(&cos), &sin));
}

#[divan::bench(args = [1, 2, 4])]
fn fork_and_join(bencher: Bencher, threads: usize) {
    let pool = Pool::new(threads);
    bencher.bench_local(|| pool.run(&|_| {}));
}

#[divan::bench(args = isas())]
fn read_8_mib(bencher: Bencher, isa: Isa) {
    let words = vec![1u64; 1 << 20];
    bencher.counter(BytesCount::of_slice(&words[..])).bench_local(|| probe::read(isa, black_box(&words)));
}

#[divan::bench(args = isas())]
fn int8_peak(bencher: Bencher, isa: Isa) {
    bencher
        .counter(ItemsCount::new(probe::int8_dots(isa, 1) * 1000))
        .bench_local(|| probe::int8_dots(isa, black_box(1000)));
}
