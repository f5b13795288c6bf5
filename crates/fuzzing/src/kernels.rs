//! Packed weights and what multiplies them.

use sherry_kernels::format::half::f16_to_f32;
use sherry_kernels::format::{PackedLayout, PackedRows, QuadOrder, ScaleGroup, TernaryFormat};
use sherry_kernels::{Engine, Isa, Matrix, Precision, Product};

/// Any bytes as a packed tensor: refused, or the same numbers from the plain decoder and from every kernel.
pub fn packed_decode(data: &[u8]) {
    let Some((&[kind, scale, rows, cols_low, cols_high], rest)) = data.split_first_chunk::<5>() else { return };
    let format = TernaryFormat::ALL[usize::from(kind % 4)];
    let layout = PackedLayout {
        format,
        rows: usize::from(rows % 70) + 1,
        cols: usize::from(u16::from_le_bytes([cols_low, cols_high]) % 1024),
        order: if kind & 128 == 0 { QuadOrder::Contiguous } else { QuadOrder::Stride16 },
        scale: match scale % 5 {
            4 => ScaleGroup::Row,
            group => ScaleGroup::Group(format.group_sizes()[usize::from(group)]),
        },
    };
    if layout.check().is_err() {
        return;
    }
    // Codes, scales and activations repeat the rest of the input, so that short inputs reach large shapes.
    if rest.is_empty() {
        return;
    }
    let mut bytes = rest.iter().copied().cycle();
    let codes: Vec<u8> = bytes.by_ref().take(layout.rows * layout.row_bytes()).collect();
    let scales: Vec<u8> = bytes.by_ref().take(2 * layout.rows * layout.row_scales()).collect();
    let packed = PackedRows {
        layout,
        codes,
        scales: scales.chunks_exact(2).map(|bits| u16::from_le_bytes([bits[0], bits[1]])).collect(),
    };
    let valid = packed.validate();
    let matrix = Matrix::from_packed(layout, &packed.codes, &scales);
    assert_eq!(valid.is_ok(), matrix.is_ok(), "{valid:?}");
    let Ok(matrix) = matrix else { return };

    let (mut expected, mut found) = (vec![0.0; layout.cols], vec![0.0; layout.cols]);
    for row in 0..layout.rows {
        packed.row_f32(row, &mut expected);
        matrix.row_f32(row, &mut found);
        assert_eq!(expected, found);
    }
    let x: Vec<f32> = (0..2 * layout.cols)
        .map(|_| f16_to_f32(u16::from_le_bytes([bytes.next().unwrap_or(0), bytes.next().unwrap_or(0)])))
        .map(|x| if x.is_finite() { x } else { 1.0 })
        .collect();
    let product = |isa| {
        let mut y = vec![0.0; 2 * layout.rows];
        let mut engine = Engine::new(isa, 1, Precision::Int8);
        engine.matmul(&x, 2, &mut [Product { w: &matrix, y: &mut y }]);
        y.iter().map(|y| y.to_bits()).collect::<Vec<_>>()
    };
    let scalar = product(Isa::Scalar);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        assert_eq!(product(isa), scalar, "{isa}");
    }
}
