//! One table of functions per instruction set: the algorithms of [`generic`](crate::generic) compiled for it.

use crate::Isa;
use crate::coarse::Coarse;
use crate::generic::attention::TilesChunk;
use crate::generic::attention::int8::Int8Query;
use crate::generic::coarse::{CoarseInput, Estimate};
use crate::generic::dense::DenseBlock;
use crate::generic::panel::{InputBlock, PanelBlock};

/// The functions of one instruction set.
///
/// # Safety
/// Every function: the instruction set of the table is available, and the function's own conditions (see `generic`) hold.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub rms_norm: unsafe fn(&[f32], &[f32], f32, f32, &mut [f32]),
    pub silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub gelu_mul: unsafe fn(&mut [f32], &[f32]),
    pub add: unsafe fn(&mut [f32], &[f32]),
    pub rope_halves: unsafe fn(&mut [f32], usize, &[f32], &[f32]),
    pub rope_interleaved: unsafe fn(&mut [f32], usize, &[f32], &[f32]),
    pub rotate: unsafe fn(&mut [f32]),
    pub attend_f32: unsafe fn(&TilesChunk<'_, *const f32>),
    pub attend_f16: unsafe fn(&TilesChunk<'_, *const f32>),
    pub attend_q8: unsafe fn(&TilesChunk<'_, Int8Query>),
    pub attend_q4: unsafe fn(&TilesChunk<'_, Int8Query>),
    pub fold: unsafe fn(&mut [f32], &[f32]),
    pub dense_f32: unsafe fn(&DenseBlock),
    pub dense_f16: unsafe fn(&DenseBlock),
    pub dense_bf16: unsafe fn(&DenseBlock),
    pub widen_f16: unsafe fn(*const u8, &mut [f32]),
    pub widen_bf16: unsafe fn(*const u8, &mut [f32]),
    pub quantize: unsafe fn(&[f32], &mut [i8], &mut [InputBlock]),
    pub panels: unsafe fn(&PanelBlock),
    #[allow(clippy::type_complexity)] // a signature like the others
    pub coarse_row: unsafe fn(&mut [f32], &[f32], &mut [u8], &mut [f32; 2]),
    pub coarse_estimate: unsafe fn(&Coarse, usize, &CoarseInput<'_>, &mut [Estimate]),
}

impl Kernels {
    /// The table of `isa`. Its functions may be called only where `isa` is available.
    pub(crate) fn of(isa: Isa) -> &'static Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::Avx2Gfni => &crate::x86::avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni if crate::x86::avx2::vnni::has_vex() => &crate::x86::avx2::vnni::vex::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => &crate::x86::avx2::vnni::evex::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &crate::x86::avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni | Isa::Avx512Vbmi => &crate::x86::avx512::vnni::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &crate::aarch64::neon::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => &crate::aarch64::dotprod::KERNELS,
            #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
            Isa::Simd128 => &crate::wasm32::KERNELS,
            _ => &crate::scalar::KERNELS,
        }
    }
}

/// Defines `KERNELS`: every algorithm for vectors `$floats` and `$ints`, compiled with the given attributes. With `over`
/// only those on `$ints`; the others are those of that table.
macro_rules! kernels {
    (over $base:path, $ints:ty, #[$attribute:meta]) => {
        kernels! { @integers [$attribute] [$base] $ints; }
    };
    ($floats:ty, $ints:ty $(, #[$attribute:meta])?) => {
        kernels! { @integers [$($attribute)?] [] $ints;
            rms_norm(x: &[f32], w: &[f32], eps: f32, plus: f32, out: &mut [f32])
                => activation::rms_norm::<$floats>(x, w, eps, plus, out);
            silu_mul(gate: &mut [f32], up: &[f32]) => activation::silu_mul::<$floats>(gate, up);
            gelu_mul(gate: &mut [f32], up: &[f32]) => activation::gelu_mul::<$floats>(gate, up);
            add(x: &mut [f32], y: &[f32]) => activation::add::<$floats>(x, y);
            rope_halves(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32])
                => activation::rope_halves(x, head_dim, cos, sin);
            rope_interleaved(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32])
                => activation::rope_interleaved(x, head_dim, cos, sin);
            rotate(x: &mut [f32]) => crate::rotation::rotate(x);
            attend_f32(chunk: &attention::TilesChunk<'_, *const f32>)
                => attention::floats::chunk::<$floats, dense::F32>(chunk);
            attend_f16(chunk: &attention::TilesChunk<'_, *const f32>)
                => attention::floats::chunk::<$floats, dense::F16>(chunk);
            fold(state: &mut [f32], partial: &[f32]) => attention::fold::<$floats>(state, partial);
            dense_f32(block: &dense::DenseBlock) => dense::dense::<$floats, dense::F32>(block);
            dense_f16(block: &dense::DenseBlock) => dense::dense::<$floats, dense::F16>(block);
            dense_bf16(block: &dense::DenseBlock) => dense::dense::<$floats, dense::Bf16>(block);
            widen_f16(from: *const u8, out: &mut [f32]) => dense::widen::<$floats, dense::F16>(from, out);
            widen_bf16(from: *const u8, out: &mut [f32]) => dense::widen::<$floats, dense::Bf16>(from, out);
            quantize(x: &[f32], q: &mut [i8], blocks: &mut [panel::InputBlock]) => panel::quantize(x, q, blocks);
            coarse_row(row: &mut [f32], signs: &[f32], codes: &mut [u8], factors: &mut [f32; 2])
                => coarse::coarse_row(row, signs, codes, factors);
        }
    };
    (@integers $attribute:tt $base:tt $ints:ty; $($floats:tt)*) => {
        kernels! { @functions $attribute $base
            $($floats)*
            attend_q8(chunk: &attention::TilesChunk<'_, attention::int8::Int8Query>)
                => attention::int8::chunk::<$ints, attention::int8::Eight>(chunk);
            attend_q4(chunk: &attention::TilesChunk<'_, attention::int8::Int8Query>)
                => attention::int8::chunk::<$ints, attention::int8::SixFour>(chunk);
            panels(block: &panel::PanelBlock) => panel::panels::<$ints>(block);
            coarse_estimate(
                w: &crate::coarse::Coarse,
                first: usize,
                x: &coarse::CoarseInput<'_>,
                out: &mut [coarse::Estimate]
            ) => coarse::estimate::<$ints>(w, first, x, out);
        }
    };
    (@functions $attribute:tt [$($base:path)?] $($name:ident $arguments:tt => $body:expr;)*) => {
        $(kernels! { @function $attribute $name $arguments => $body })*

        /// The functions of this instruction set.
        pub(crate) static KERNELS: crate::kernels::Kernels = crate::kernels::Kernels { $($name,)* $(..$base)? };
    };
    (@function [$($attribute:meta)?] $name:ident ($($argument:ident: $ty:ty),*) => $body:expr) => {
        $(#[$attribute])?
        #[allow(unused_unsafe)] // some bodies are safe
        unsafe fn $name($($argument: $ty),*) {
            // SAFETY: the caller has the instruction set and fulfils the conditions of the algorithm.
            unsafe { $body }
        }
    };
}
pub(crate) use kernels;
