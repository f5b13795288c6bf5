//! Quantizes a matrix to 1.25 bits a weight and multiplies with it: `cargo run --release --example quantize`
#![allow(clippy::print_stdout)] // a program

use sherry_convert::quant::{QuantSpec, quantize_matrix};
use sherry_kernels::{Engine, Isa, Matrix, Precision, Product, format::ScaleGroup};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let weights: Vec<f32> = (0..256 * 512).map(|i| (i as f32 * 0.7).sin()).collect();
    let place = (std::path::Path::new("memory"), "weights");
    let (rows, report) = quantize_matrix(place, &weights, 512, &QuantSpec::sherry(ScaleGroup::Row), None)?;
    let scales: Vec<u8> = rows.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let w = Matrix::from_packed(rows.layout, &rows.codes, &scales)?;
    let (x, mut y) = (vec![1.0; 512], vec![0.0; 256]);
    Engine::new(Isa::best(), 2, Precision::Int8).matmul(&x, 1, &mut [Product { w: &w, y: &mut y }]);
    println!("{} bytes, cosine {:.3}, first product {:.3}", w.bytes(), report.cosine, y[0]);
    Ok(())
}
