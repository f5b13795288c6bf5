//! The functions that every instruction set provides, and the macros that fill a table of them.
//!
//! The rooms of [`arch`](crate::arch) hold one [`Table`] per tier, and nobody but
//! [`dispatch`](crate::arch::dispatch) can name them: it hands out a table only where the processor has the instruction
//! set. So whoever holds a table may call what is in it. Functions that ask for nothing else are methods, and safe; those
//! that follow pointers are `unsafe` fields, whose conditions stand at the algorithms of [`generic`](crate::generic).

use std::ops::Range;

use crate::coarse::Coarse;
use crate::generic::attention::TilesChunk;
use crate::generic::attention::int8::Int8Query;
use crate::generic::coarse::{CoarseInput, Estimate};
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};
use crate::ternary::activations::{ActBlock, Arrangement, TokenBlocks};
use crate::ternary::block::{RowBlock, Rows};
use crate::ternary::codebook::Codebook;
use crate::ternary::segment::{IndexedSegment, Indices, Segment};
use crate::ternary::transpose::Columns;

/// Defines a table: functions that ask for the instruction set alone (a field and a safe method each), functions that ask
/// for more, and data.
macro_rules! functions {
    (
        $(#[$doc:meta])*
        $table:ident {
            safe { $($(#[$method_doc:meta])* $method:ident($($argument:ident: $ty:ty),*) $(-> $out:ty)?;)* }
            $(unsafe { $($(#[$function_doc:meta])* $function:ident: $pointer:ty;)* })?
            $(data { $($(#[$data_doc:meta])* $data:ident: $data_ty:ty;)* })?
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $table {
            $(pub(crate) $method: unsafe fn($($ty),*) $(-> $out)?,)*
            $($($(#[$function_doc])* pub(crate) $function: $pointer,)*)?
            $($($(#[$data_doc])* pub(crate) $data: $data_ty,)*)?
            /// What the functions are compiled for.
            #[cfg(test)]
            pub(crate) features: &'static str,
        }

        impl $table {
            $(
                $(#[$method_doc])*
                #[inline(always)]
                pub(crate) fn $method(&self, $($argument: $ty),*) $(-> $out)? {
                    // SAFETY: `dispatch` gives out tables only where the processor has their instruction set, and cannot
                    // be gone round: the statics are private to `arch`. The function asks for nothing else.
                    unsafe { (self.$method)($($argument),*) }
                }
            )*
        }
    };
}

functions! {
    /// The functions of one instruction set. Those on floats, but for the exact ones, have as many lanes as a vector, so
    /// that sets differ in the last bits of sums; all others give the same bits everywhere.
    Table {
        safe {
            /// See [`activation::rms_norm`](crate::generic::activation::rms_norm).
            rms_norm(x: &[f32], w: &[f32], eps: f32, plus: f32, out: &mut [f32]);
            /// See [`activation::silu_mul`](crate::generic::activation::silu_mul).
            silu_mul(gate: &mut [f32], up: &[f32]);
            /// See [`activation::gelu_mul`](crate::generic::activation::gelu_mul).
            gelu_mul(gate: &mut [f32], up: &[f32]);
            /// See [`activation::add`](crate::generic::activation::add).
            add(x: &mut [f32], y: &[f32]);
            /// See [`activation::rope_halves`](crate::generic::activation::rope_halves).
            rope_halves(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]);
            /// See [`activation::rope_interleaved`](crate::generic::activation::rope_interleaved).
            rope_interleaved(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]);
            /// See [`rotation::rotate`](crate::rotation::rotate).
            rotate(x: &mut [f32]);
            /// See [`attention::fold`](crate::generic::attention::fold).
            fold(state: &mut [f32], partial: &[f32]);
            /// f16 as f32; see [`dense::widen`](crate::generic::dense::widen).
            widen_f16(from: &[u8], out: &mut [f32]);
            /// bf16 as f32.
            widen_bf16(from: &[u8], out: &mut [f32]);
            /// See [`panel::quantize`](crate::generic::panel::quantize).
            quantize(x: &[f32], q: &mut [i8], blocks: &mut [InputBlock]);
            /// See [`coarse::coarse_row`](crate::generic::coarse::coarse_row).
            coarse_row(row: &mut [f32], signs: &[f32], codes: &mut [u8], factors: &mut [f32; 2]);
            /// See [`coarse::estimate`](crate::generic::coarse::estimate).
            coarse_estimate(w: &Coarse, first: usize, x: &CoarseInput<'_>, out: &mut [Estimate]);
        }
        unsafe {
            /// See [`floats::chunk`](crate::generic::attention::floats::chunk).
            attend_f32: unsafe fn(&TilesChunk<'_, *const f32>);
            /// The same on f16.
            attend_f16: unsafe fn(&TilesChunk<'_, *const f32>);
            /// See [`int8::chunk`](crate::generic::attention::int8::chunk).
            attend_q8: unsafe fn(&TilesChunk<'_, Int8Query>);
            /// The same on 6-bit keys and 4-bit values.
            attend_q4: unsafe fn(&TilesChunk<'_, Int8Query>);
            /// See [`dense::dense`](crate::generic::dense::dense).
            dense_f32: unsafe fn(&DenseBlock);
            /// The same on f16.
            dense_f16: unsafe fn(&DenseBlock);
            /// The same on bf16.
            dense_bf16: unsafe fn(&DenseBlock);
            /// See [`panel::panels`](crate::generic::panel::panels).
            panels: unsafe fn(&PanelBlock);
        }
        data {
            /// Products with ternary weights.
            ternary: TernaryTable;
            /// Loops to time.
            limits: Limits;
        }
    }
}

functions! {
    /// Products with ternary weights. All compute, for one block of 64 rows and one token,
    /// ```text
    /// row scales:    y[r] = w_scale[r] * sum over segments of (d as f32) * a_scale[block]
    /// group scales:  y[r] =              sum over segments of (d as f32) * (a_scale[block] * w_scale[r, group])
    /// ```
    /// where a segment is the part of the columns that lies in one activation block and one scale group, `d` its integer
    /// dot product, and the sum goes over ascending columns. Products and sums are separate f32 operations, so every
    /// instruction set gives the bits of the scalar code.
    TernaryTable {
        safe {
            /// Quantizes one block of inputs; see [`quantize_block`](crate::ternary::activations::quantize_block).
            quantize(arrangement: Arrangement, x: &[f32], out: &mut ActBlock);
            /// Bytes of 64 rows side by side; see [`ternary::transpose`](crate::ternary::transpose).
            transpose(rows: &[u8], stride: usize, column: usize, out: &mut Columns);
            /// Writes the tables of the 32 codes of an activation block.
            build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]);
            /// One token by look-up, 5-bit formats: one or two neighbouring blocks of a matrix, activations, tables of all
            /// codes, results. Two streams of weights use memory better than one, and share the tables.
            gemv_codes(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows]);
            /// One token, 2-bit format: one or two neighbouring blocks of a matrix, activations, results.
            gemv_bits(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, out: &mut [&mut Rows]);
            /// Writes the tables ([`SIGN_TABLE_BYTES`](crate::ternary::signs::SIGN_TABLE_BYTES) each) of the 32 codes of an
            /// activation block of the binary format.
            build_sign_tables(acts: &ActBlock, out: &mut [u8]);
            /// One token by look-up, binary format; arguments as of `gemv_codes`.
            gemv_signs(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows]);
        }
        data {
            /// Bytes of look-up tables per 5-bit code.
            table_bytes: usize;
            /// Functions for many tokens, where they pay.
            decoded: Option<DecodedGemm>;
            /// Functions for several and many tokens of the 5-bit and binary formats, where they beat the others.
            look_up: Option<&'static LookUpGemm>;
        }
    }
}

functions! {
    /// Functions that decode a panel of weights once and multiply it with many tokens.
    DecodedGemm {
        safe {
            /// Decodes one chunk of a 5-bit format: 8 codes x 64 slots x 4 weights, plus 1.
            decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]);
            /// Decodes one chunk of the 2-bit format: 8 x 64 slots x 4 weights, plus 1.
            decode_bits(codes: &[u8], panel: &mut [u8]);
            /// Decodes one chunk of the binary format: 8 codes x 64 slots x 4 weights, plus 1.
            decode_signs(codes: &[u8], panel: &mut [u8]);
            /// Adds a segment to the sums of several tokens.
            segment(segment: Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]);
            /// From slots to rows, times the row scales if any: 5-bit and binary formats.
            finish_codes(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows);
            /// The same for the 2-bit format.
            finish_bits(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows);
        }
        data {
            /// Fewest tokens from which on they beat look-up tables (measured on Zen 4 with `sherry bench --kernels`);
            /// `usize::MAX` where they never do.
            min_tokens_codes: usize;
            /// The same for the 2-bit format.
            min_tokens_bits: usize;
            /// The same for the binary format.
            min_tokens_signs: usize;
        }
    }
}

functions! {
    /// Functions that bring the codes of some row blocks into the form of indices once and look them up for many tokens.
    ///
    /// What a look-up needs of the codes is made once for all tokens, so that a token costs little besides the look-ups
    /// themselves: less than dot products of decoded weights where permutations run at full speed.
    LookUpGemm {
        safe {
            /// Writes the tables of the 32 codes of an activation block.
            build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]);
            /// The same for the binary format.
            build_sign_tables(acts: &ActBlock, out: &mut [u8]);
            /// Decodes chunks of one row block of a 5-bit format, the bytes `codes` of its stream: code `c` to
            /// `panel[c * blocks]`. The streams of `blocks` blocks, which lie one after the other, are read in turn.
            decode(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize);
            /// The same for the binary format.
            decode_signs(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize);
            /// Adds a segment to the sums of several tokens, which are tokens x blocks and whose rows stand in an order of
            /// its own, which `finish` undoes. The tables of a token are those of the segment's codes; those of the next
            /// token begin the tables of an activation block later.
            segment(segment: &IndexedSegment<'_>, tables: &[u8], acts: &[ActBlock], acc: &mut [Rows]);
            /// From the order of the sums to rows, times the row scales if any.
            finish(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows);
        }
        data {
            /// Bytes of the table of one code.
            table_bytes: usize;
            /// Fewest tokens from which on they beat one token after the other (measured as in [`DecodedGemm`]).
            min_tokens: usize;
            /// The same for the binary format.
            min_tokens_signs: usize;
            /// Most tokens for which they beat decoded weights.
            max_tokens: usize;
            /// Whether this processor runs them fast.
            pays: fn() -> bool;
        }
    }
}

functions! {
    /// Known amounts of work, to find the limits of a core; see [`probe`](crate::probe).
    Limits {
        safe {
            /// The wrapping sum of `words`, by the widest loads.
            read(words: &[u64]) -> u64;
            /// Runs `rounds` rounds of int8 dot products on registers alone.
            dots(rounds: u64);
        }
        data {
            /// Multiply-accumulates per round of `dots`.
            dots_per_round: u64;
            /// What `dots` runs.
            dots_name: &'static str;
        }
    }
}

/// A [`Table`] of every algorithm for vectors `floats` and `ints`, compiled for `features`. With `over` a table only the
/// algorithms on `ints`; the others are those of that table.
macro_rules! table {
    (over $base:expr; features $features:literal; ints $ints:ty; ternary $ternary:expr; limits $limits:expr;) => {
        $crate::table::table! { @integers [$features] [$base] $ints, $ternary, $limits; }
    };
    (features $($features:literal)?; floats $floats:ty; ints $ints:ty; ternary $ternary:expr; limits $limits:expr;) => {
        $crate::table::table! { @integers [$($features)?] [] $ints, $ternary, $limits;
            rms_norm(x: &[f32], w: &[f32], eps: f32, plus: f32, out: &mut [f32])
                => activation::rms_norm::<$floats>(x, w, eps, plus, out);
            silu_mul(gate: &mut [f32], up: &[f32]) => activation::silu_mul::<$floats>(gate, up);
            gelu_mul(gate: &mut [f32], up: &[f32]) => activation::gelu_mul::<$floats>(gate, up);
            add(x: &mut [f32], y: &[f32]) => activation::add::<$floats>(x, y);
            rope_halves(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32])
                => activation::rope_halves(x, head_dim, cos, sin);
            rope_interleaved(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32])
                => activation::rope_interleaved(x, head_dim, cos, sin);
            rotate(x: &mut [f32]) => $crate::rotation::rotate(x);
            attend_f32(chunk: &attention::TilesChunk<'_, *const f32>)
                => attention::floats::chunk::<$floats, dense::F32>(chunk);
            attend_f16(chunk: &attention::TilesChunk<'_, *const f32>)
                => attention::floats::chunk::<$floats, dense::F16>(chunk);
            fold(state: &mut [f32], partial: &[f32]) => attention::fold::<$floats>(state, partial);
            dense_f32(block: &dense::DenseBlock) => dense::dense::<$floats, dense::F32>(block);
            dense_f16(block: &dense::DenseBlock) => dense::dense::<$floats, dense::F16>(block);
            dense_bf16(block: &dense::DenseBlock) => dense::dense::<$floats, dense::Bf16>(block);
            widen_f16(from: &[u8], out: &mut [f32]) => dense::widen::<$floats, dense::F16>(from, out);
            widen_bf16(from: &[u8], out: &mut [f32]) => dense::widen::<$floats, dense::Bf16>(from, out);
            quantize(x: &[f32], q: &mut [i8], blocks: &mut [panel::InputBlock]) => panel::quantize(x, q, blocks);
            coarse_row(row: &mut [f32], signs: &[f32], codes: &mut [u8], factors: &mut [f32; 2])
                => coarse::coarse_row(row, signs, codes, factors);
        }
    };
    (@integers $features:tt $base:tt $ints:ty, $ternary:expr, $limits:expr; $($floats:tt)*) => {
        $crate::table::table! { @functions $features $base $ternary, $limits;
            $($floats)*
            attend_q8(chunk: &attention::TilesChunk<'_, attention::int8::Int8Query>)
                => attention::int8::chunk::<$ints, attention::int8::Eight>(chunk);
            attend_q4(chunk: &attention::TilesChunk<'_, attention::int8::Int8Query>)
                => attention::int8::chunk::<$ints, attention::int8::SixFour>(chunk);
            panels(block: &panel::PanelBlock) => panel::panels::<$ints>(block);
            coarse_estimate(
                w: &$crate::coarse::Coarse,
                first: usize,
                x: &coarse::CoarseInput<'_>,
                out: &mut [coarse::Estimate]
            ) => coarse::estimate::<$ints>(w, first, x, out);
        }
    };
    (@functions [$($features:literal)?] [$($base:expr)?] $ternary:expr, $limits:expr;
        $($name:ident $arguments:tt => $body:expr;)*) => {{
        #[allow(unused_imports)] // tables over others use some of them
        use $crate::generic::{activation, attention, coarse, dense, panel};

        $crate::table::compiled! { [$($features)?] $($name $arguments => $body;)* }
        $crate::table::Table {
            $($name,)*
            ternary: $ternary,
            limits: $limits,
            #[cfg(test)]
            features: concat!("" $(, $features)?),
            $(..$base)?
        }
    }};
}
pub(crate) use table;

/// A [`TernaryTable`] of the given algorithms, compiled for `features`.
macro_rules! ternary_table {
    (
        features $($features:literal)?;
        transpose $transpose:expr;
        table_bytes $table_bytes:expr;
        build_tables $build_tables:expr;
        gemv_codes $gemv_codes:expr;
        gemv_bits $gemv_bits:expr;
        build_sign_tables $build_sign_tables:expr;
        gemv_signs $gemv_signs:expr;
        decoded from $codes:expr, $bits:expr, $signs:expr;
        decode_codes $decode_codes:expr;
        decode_bits $decode_bits:expr;
        decode_signs $decode_signs:expr;
        segment $segment:expr;
        finish_codes $finish_codes:expr;
        finish_bits $finish_bits:expr;
        look_up $look_up:expr;
    ) => {{
        use $crate::ternary::activations::{ActBlock, Arrangement, TokenBlocks, quantize_block};
        use $crate::ternary::codebook::Codebook;
        use $crate::ternary::block::{RowBlock, Rows};
        use $crate::ternary::segment::Segment;
        use $crate::ternary::transpose::Columns;

        $crate::table::compiled! { [$($features)?]
            quantize(arrangement: Arrangement, x: &[f32], out: &mut ActBlock) => quantize_block(arrangement, x, out);
            transpose(rows: &[u8], stride: usize, column: usize, out: &mut Columns)
                => $transpose(rows, stride, column, out);
            build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8]) => $build_tables(book, acts, out);
            gemv_codes(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows])
                => $gemv_codes(blocks, acts, tables, out);
            gemv_bits(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, out: &mut [&mut Rows])
                => $gemv_bits(blocks, acts, out);
            build_sign_tables(acts: &ActBlock, out: &mut [u8]) => $build_sign_tables(acts, out);
            gemv_signs(blocks: &[RowBlock<'_>], acts: TokenBlocks<'_>, tables: &[u8], out: &mut [&mut Rows])
                => $gemv_signs(blocks, acts, tables, out);
            decode_codes(book: &Codebook, codes: &[u8], panel: &mut [u8]) => $decode_codes(book, codes, panel);
            decode_bits(codes: &[u8], panel: &mut [u8]) => $decode_bits(codes, panel);
            decode_signs(codes: &[u8], panel: &mut [u8]) => $decode_signs(codes, panel);
            segment(segment: Segment<'_>, acts: &[ActBlock], acc: &mut [Rows]) => $segment(segment, acts, acc);
            finish_codes(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows)
                => $finish_codes(acc, row_scales, out);
            finish_bits(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows) => $finish_bits(acc, row_scales, out);
        }
        $crate::table::TernaryTable {
            quantize,
            transpose,
            table_bytes: $table_bytes,
            build_tables,
            gemv_codes,
            gemv_bits,
            build_sign_tables,
            gemv_signs,
            decoded: Some($crate::table::DecodedGemm {
                min_tokens_codes: $codes,
                min_tokens_bits: $bits,
                min_tokens_signs: $signs,
                decode_codes,
                decode_bits,
                decode_signs,
                segment,
                finish_codes,
                finish_bits,
                #[cfg(test)]
                features: concat!("" $(, $features)?),
            }),
            look_up: $look_up,
            #[cfg(test)]
            features: concat!("" $(, $features)?),
        }
    }};
}
pub(crate) use ternary_table;

/// A [`LookUpGemm`] of the algorithms of [`generic::look_up`](crate::generic::look_up) for `$vectors`, compiled for the given
/// features; for how many tokens it is used is what the tier says.
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
macro_rules! look_up_gemm_of {
    ($vectors:ty; features $($features:literal)?; from $codes:expr, $signs:expr; up_to $max:expr;) => {{
        use std::ops::Range;

        use $crate::ternary::activations::ActBlock;
        use $crate::ternary::block::Rows;
        use $crate::ternary::codebook::Codebook;
        use $crate::ternary::segment::{IndexedSegment, Indices};

        $crate::table::compiled! { [$($features)?]
            build_tables(book: &Codebook, acts: &ActBlock, out: &mut [u8])
                => $crate::generic::ternary::build_tables::<$vectors>(book, acts, out);
            build_sign_tables(acts: &ActBlock, out: &mut [u8])
                => $crate::generic::ternary::build_sign_tables::<{ <$vectors as $crate::generic::ternary::Vectors>::TABLE_BYTES }>(acts, out);
            decode(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize)
                => $crate::generic::look_up::decode::<$vectors>(stream, codes, panel, blocks);
            decode_signs(stream: &[u8], codes: Range<usize>, panel: &mut [Indices], blocks: usize)
                => $crate::generic::look_up::decode_signs::<$vectors>(stream, codes, panel, blocks);
            segment(segment: &IndexedSegment<'_>, tables: &[u8], acts: &[ActBlock], acc: &mut [Rows])
                => $crate::generic::look_up::segment::<$vectors>(segment, tables, acts, acc);
            finish(acc: &Rows, row_scales: Option<&Rows>, out: &mut Rows)
                => $crate::generic::ternary::finish_bits(acc, row_scales, out);
        }
        static GEMM: $crate::table::LookUpGemm = $crate::table::LookUpGemm {
            table_bytes: <$vectors as $crate::generic::ternary::Vectors>::TABLE_BYTES,
            min_tokens: $codes,
            min_tokens_signs: $signs,
            max_tokens: $max,
            pays: || true,
            build_tables,
            build_sign_tables,
            decode,
            decode_signs,
            segment,
            finish,
            #[cfg(test)]
            features: concat!("" $(, $features)?),
        };
        Some(&GEMM)
    }};
}
#[cfg(any(target_arch = "aarch64", all(target_arch = "wasm32", target_feature = "simd128")))]
pub(crate) use look_up_gemm_of;

/// Functions compiled for the given features, so that what is inlined into them is.
macro_rules! compiled {
    ($features:tt $($name:ident $arguments:tt => $body:expr;)*) => {
        $($crate::table::compiled! { @one $features $name $arguments => $body })*
    };
    (@one [$($features:literal)?] $name:ident ($($argument:ident: $ty:ty),* $(,)?) => $body:expr) => {
        $(#[target_feature(enable = $features)])?
        #[allow(unused_unsafe)] // some bodies are safe
        unsafe fn $name($($argument: $ty),*) {
            // SAFETY: this function is compiled for the instruction set of its algorithm, and its caller, who has to have
            // it for that reason, fulfils the other conditions, which are the algorithm's own.
            unsafe { $body }
        }
    };
}
pub(crate) use compiled;
