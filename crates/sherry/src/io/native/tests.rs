use std::collections::BTreeMap;

use sherry_kernels::format::read_code;

use super::*;
use crate::io::{ReadMode, Safetensors, TensorSource as _};
use sherry_convert::quant::{Projection, QuantSpec, quantize_matrix};

const MODULE: &str = "model.layers.0.self_attn.q_proj";
const CONFIG: &str = "config.json";

fn parsed(config: &Value) -> Result<Option<PackedScheme>> {
    PackedScheme::from_config(Path::new(CONFIG), &json!({"hidden_size": 64, "quantization_config": config}))
}

fn schemes() -> Vec<PackedScheme> {
    let mut schemes = Vec::new();
    // Those that a projection makes.
    for format in [TernaryFormat::Sherry, TernaryFormat::Ternary167, TernaryFormat::Ternary2] {
        let [_, small, ..] = format.group_sizes();
        for scale in [ScaleGroup::Row, ScaleGroup::Group(small)] {
            schemes.push(PackedScheme { format, order: QuadOrder::Contiguous, scale });
        }
    }
    schemes.push(PackedScheme {
        format: TernaryFormat::Sherry,
        order: QuadOrder::Stride16,
        scale: ScaleGroup::Group(256),
    });
    schemes
}

/// A packed tensor of some weights.
fn some(scheme: &PackedScheme, rows: usize, cols: usize) -> PackedRows {
    let PackedScheme { format, order, scale } = *scheme;
    let projection = if format == TernaryFormat::Sherry { Projection::SparseAbsMean } else { Projection::Twn };
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919 % 1000) as f32 - 499.5) / 500.0).collect();
    let spec = QuantSpec { format, order, scale, projection };
    quantize_matrix((Path::new("x"), "x"), &values, cols, &spec, None).unwrap().0
}

/// The two tensors of `rows`, written to a file, read from it and checked.
fn read_back(rows: &PackedRows) -> Result<PackedRows, PackedError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut writer = Writer::create(&path, &plan(MODULE, codes_name(MODULE), &rows.layout), &BTreeMap::new()).unwrap();
    write(&mut writer, MODULE, &codes_name(MODULE), rows).unwrap();
    writer.finish().unwrap();
    let source = Safetensors::open(&path, ReadMode::Map).unwrap();
    let [codes, scales] = [codes_name, scales_name].map(|name| source.data(&name(MODULE)).unwrap().to_vec());
    let scales = scales.as_chunks().0.iter().map(|bits| u16::from_le_bytes(*bits)).collect();
    let read = PackedRows { layout: rows.layout, codes, scales };
    read.validate().map(|()| read)
}

#[track_caller]
fn assert_refused(rows: &PackedRows, expected: &str) {
    let message = read_back(rows).unwrap_err().to_string();
    assert!(message.contains(expected), "{message}");
}

#[test]
fn schemes_round_trip_through_config_json() {
    for scheme in schemes() {
        assert_eq!(parsed(&scheme.to_json()).unwrap(), Some(scheme));
        let config = json!({"hidden_size": 64, "quantization_config": scheme.to_json()});
        assert_eq!(config["hidden_size"], 64);
        assert_eq!(PackedScheme::from_config(Path::new(CONFIG), &config).unwrap(), Some(scheme));
    }
    for config in [json!({"hidden_size": 64}), json!({"quantization_config": null})] {
        assert_eq!(PackedScheme::from_config(Path::new(CONFIG), &config).unwrap(), None);
    }
}

#[test]
fn the_documented_config_is_read() {
    let text = r#"{"quant_method":"sherry","format":"sherry-1.25","bits":1.25,"quad":"stride16","scale":"group","group_size":128,"version":1}"#;
    let scheme = parsed(&serde_json::from_str(text).unwrap()).unwrap().unwrap();
    let expected =
        PackedScheme { format: TernaryFormat::Sherry, order: QuadOrder::Stride16, scale: ScaleGroup::Group(128) };
    assert_eq!(scheme, expected);
}

#[test]
fn checkpoints_of_blocks_have_no_scheme_and_name_their_type() {
    assert_eq!(parsed(&blocks_config()).unwrap(), None);
    let name = blocks_name(MODULE, TensorType::Q6_K);
    assert_eq!(name, "model.layers.0.self_attn.q_proj.q6_k");
    assert_eq!(parse_blocks_name(&name), Some((MODULE, TensorType::Q6_K)));
    for other in ["model.norm.weight", "a.Q6_K", "a.f16", "q6_k", "a.codes", "a."] {
        assert_eq!(parse_blocks_name(other), None, "{other}");
    }
}

#[test]
fn bad_configs_name_the_field() {
    let good = PackedScheme { scale: ScaleGroup::Group(128), ..schemes()[0] }.to_json();
    for (field, value, expected) in [
        ("quant_method", json!("gptq"), "quant_method is 'gptq'"),
        ("quant_method", json!(null), "quant_method': missing"),
        ("quant_method", json!(1), "quant_method': expected a string"),
        ("version", json!(2), "version is 2"),
        ("version", json!(null), "version': missing"),
        ("version", json!(1.0), "version': expected a non-negative integer"),
        (
            "format",
            json!("sherry-1.5"),
            "format': expected sherry-1.25, ternary-1.67, ternary-2, binary-1, mixed or blocks",
        ),
        ("format", json!(null), "format': missing"),
        ("bits", json!(2), "bits': 2, but sherry-1.25 has 1.25"),
        ("bits", json!("1.25"), "bits': expected a number"),
        ("quad", json!("diagonal"), "quad': expected contiguous or stride16"),
        ("scale", json!("tensor"), "scale': expected row or group"),
        ("scale", json!(null), "scale': missing"),
        ("scale", json!("row"), "group_size': given although"),
        ("group_size", json!(null), "group_size': missing"),
        ("group_size", json!(0), "group_size': one scale per 0"),
        ("group_size", json!(48), "group_size': one scale per 48"),
        ("group_size", json!(-128), "group_size': expected a non-negative integer"),
        ("group_size", json!(u64::MAX), "group_size': one scale per"),
    ] {
        let mut config = good.clone();
        config[field] = value;
        let message = parsed(&config).unwrap_err().to_string();
        assert!(message.starts_with("config.json: ") && message.contains("quantization_config."), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let message = parsed(&json!("sherry")).unwrap_err().to_string();
    assert!(message.contains("field 'quantization_config': expected an object"), "{message}");
    let stride_32 = json!({"quant_method":"sherry","format":"sherry-1.25","quad":"stride16","scale":"group","group_size":32,"version":1});
    assert!(parsed(&stride_32).unwrap_err().to_string().contains("group_size'"));
    let dense_quads = json!({"quant_method":"sherry","format":"ternary-2","quad":"stride16","scale":"row","version":1});
    assert!(parsed(&dense_quads).unwrap_err().to_string().contains("quad'"));
}

#[test]
fn packed_tensors_round_trip() {
    for scheme in schemes() {
        for (rows, cols) in [(3, 192), (5, 448), (1, 64)] {
            let rows = some(&scheme, rows, cols);
            assert_eq!(read_back(&rows).unwrap(), rows);
        }
    }
}

#[test]
fn scales_must_be_finite() {
    for scheme in schemes() {
        for bad in [0x7c00, 0xfc00, 0x7e00, 0x7c01] {
            let mut rows = some(&scheme, 3, 448);
            let per_row = rows.layout.row_scales();
            *rows.scales.last_mut().unwrap() = bad;
            assert_refused(&rows, &format!("row 2, group {} is not finite", per_row - 1));
        }
    }
}

#[test]
fn codes_must_be_legal_and_padding_zero() {
    for scheme in schemes() {
        let cols = 4 * 17; // pads all formats but the 2-bit one
        if scheme.order == QuadOrder::Stride16 {
            continue; // whole chunks of 64 need no padding
        }
        let rows = some(&scheme, 3, cols);
        let row_bytes = rows.layout.row_bytes();
        let flipped = |byte: usize, bit: u8| {
            let mut rows = rows.clone();
            rows.codes[row_bytes + byte] ^= 1 << bit;
            rows
        };
        if scheme.format == TernaryFormat::Ternary2 {
            let mut illegal = rows.clone();
            illegal.codes[2 * row_bytes + 3] |= 0b1100;
            assert_refused(&illegal, "illegal code in row 2 at byte 3");
            continue;
        }
        let last = rows.layout.row_codes();
        assert_eq!(read_code(&rows.codes[row_bytes..2 * row_bytes], last), 0);
        let unit = row_bytes - 5;
        // The last code of the unit: its nibble and its sign.
        for (byte, bit) in [(unit + 3, 4), (unit + 3, 6), (unit + 4, 7)] {
            assert_refused(&flipped(byte, bit), "row 1");
        }
        if scheme.format == TernaryFormat::Ternary167 {
            for (nibble, sign) in [(14, 0), (15, 1), (0, 1)] {
                let mut illegal = rows.clone();
                illegal.codes[5] = illegal.codes[5] & 0xf0 | nibble;
                illegal.codes[9] = illegal.codes[9] & 0xfe | sign;
                assert_refused(&illegal, "illegal code in row 0 at byte 5");
            }
        }
    }
}

#[test]
fn names_say_how_codes_are_packed_where_layers_differ() {
    for format in TernaryFormat::ALL {
        assert_eq!(parse_format_name(&format_name(MODULE, format)), Some((MODULE, format)));
    }
    for name in ["model.layers.0.self_attn.q_proj.codes", "model.layers.0.self_attn.q_proj.sherry-1.5", "sherry-1.25"] {
        assert_eq!(parse_format_name(name), None, "{name}");
    }
    assert_eq!(parsed(&mixed_config()).unwrap(), None);
}
