use std::fs;

use serde_json::json;
use sherry_kernels::format::TensorType;
use tempfile::TempDir;

use super::*;

const FILE: &str = "m.safetensors";

/// A file of this header and data.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn open_bytes(bytes: Vec<u8>) -> Result<Safetensors> {
    Safetensors::from_bytes(Path::new(FILE), bytes)
}

/// The one error of a file of this header and data; must name the file.
fn refusal(header: &str, data: &[u8]) -> String {
    let message = open_bytes(file(header, data)).unwrap_err().to_string();
    assert!(message.starts_with("m.safetensors: ") && message.len() < 700, "{message}");
    message
}

#[track_caller]
fn assert_refused(header: &str, data: &[u8], expected: &[&str]) {
    let message = refusal(header, data);
    assert!(expected.iter().all(|part| message.contains(part)), "{message}");
}

fn info(name: &str, ty: TensorType, shape: &[usize]) -> TensorInfo {
    let bytes = shape.iter().product::<usize>() * ty.block_bytes();
    TensorInfo { name: name.to_owned(), ty, shape: shape.to_vec(), bytes }
}

const TWO: &str = r#"{"__metadata__":{"format":"pt"},
    "b":{"dtype":"F16","shape":[2,2],"data_offsets":[4,12]},
    "a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   "#;

#[test]
fn a_file_is_listed_in_order_of_its_data() {
    let data: Vec<u8> = (0..12).collect();
    let model = open_bytes(file(TWO, &data)).unwrap();
    assert_eq!(model.tensors(), [info("a", TensorType::F32, &[1]), info("b", TensorType::F16, &[2, 2])]);
    assert_eq!(&*model.data("a").unwrap(), &data[..4]);
    assert_eq!(&*model.data("b").unwrap(), &data[4..]);
    assert_eq!(model.find("b"), Some(&model.tensors()[1]));
    assert_eq!(model.metadata()["format"], "pt");
    assert_eq!(model.file_of("b"), Some(Path::new(FILE)));
    assert!(model.data("c").unwrap_err().to_string().contains("tensor 'c': there is no such tensor"));
    model.release("a");
}

#[test]
fn empty_models_and_tensors_are_legal() {
    assert!(open_bytes(file("{}", b"")).unwrap().tensors().is_empty());
    let header = r#"{"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]},
        "e1":{"dtype":"I64","shape":[0,7],"data_offsets":[1,1]},"e2":{"dtype":"F32","shape":[0],"data_offsets":[1,1]}}"#;
    let model = open_bytes(file(header, b"x")).unwrap();
    assert_eq!(model.tensors().iter().map(|info| info.bytes).collect::<Vec<_>>(), [1, 0, 0]);
    assert!(model.data("e2").unwrap().is_empty());
}

#[test]
fn c4_31_header_lengths_that_lie() {
    for bytes in [&b""[..], b"\x01", b"1234567"] {
        let message = open_bytes(bytes.to_vec()).unwrap_err().to_string();
        assert!(message.contains("header: the file has") && message.contains("too few"), "{message}");
    }
    for length in [3u64, 1000, MAX_HEADER_BYTES as u64, MAX_HEADER_BYTES as u64 + 1, 1 << 63, u64::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        let message = open_bytes(bytes).unwrap_err().to_string();
        assert!(message.contains(&format!("header: length {length}")), "{message}");
    }
    assert!(open_bytes(file("", b"")).is_err());
}

#[test]
fn every_cut_of_a_file_is_refused() {
    let whole = file(TWO, &[0; 12]);
    for len in 0..whole.len() {
        assert!(open_bytes(whole[..len].to_vec()).is_err(), "cut at {len}");
    }
    let mut longer = whole;
    longer.push(0);
    let message = open_bytes(longer).unwrap_err().to_string();
    assert!(message.contains("header: the tensors cover 12 of 13 bytes of data"), "{message}");
}

#[test]
fn c4_32_headers_that_are_no_header() {
    for text in ["[]", "7", "{", "{}}", "nul", "{\"a\":1}", "{\"a\":[]}", "{\"a\":null}", "{'a':{}}"] {
        refusal(text, b"");
    }
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert_refused(&deep, b"", &["tensor 'a'"]);
    let ignored = format!("{{\"a\":{{\"x\":{}", "[".repeat(100_000));
    assert_refused(&ignored, b"", &["tensor 'a'"]);
    assert_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1e400],\"data_offsets\":[0,1]}}", b"x", &["tensor 'a'"]);
    let mut not_utf8 = file("{\"abc\":1}", b"");
    not_utf8[10] = 0xff;
    assert!(open_bytes(not_utf8).is_err());
}

#[test]
fn entries_must_be_complete() {
    for (entry, expected) in [
        (r#"{"shape":[1],"data_offsets":[0,1]}"#, "dtype"),
        (r#"{"dtype":"U8","data_offsets":[0,1]}"#, "shape"),
        (r#"{"dtype":"U8","shape":[1]}"#, "data_offsets"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0]}"#, "invalid length"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}"#, "line 1"),
        (r#"{"dtype":"U8","shape":[1],"data_offsets":[-1,1]}"#, "-1"),
        (r#"{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}"#, "1.0"),
        (r#"{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}"#, "invalid type"),
        (r#"{"dtype":3,"shape":[1],"data_offsets":[0,1]}"#, "invalid type"),
        (r#"{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}"#, "dtype appears twice"),
        (r#"{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}"#, "more than 8"),
    ] {
        assert_refused(&format!("{{\"w\":{entry}}}"), b"x", &["tensor 'w'", expected]);
    }
}

#[test]
fn c4_33_offsets_must_cover_the_data_once() {
    let two = |a: [u64; 2], b: [u64; 2]| {
        let entry = |[start, end]: [u64; 2]| json!({"dtype": "U8", "shape": [4], "data_offsets": [start, end]});
        json!({"a": entry(a), "b": entry(b)}).to_string()
    };
    assert!(open_bytes(file(&two([4, 8], [0, 4]), &[0; 8])).is_ok());
    assert_refused(&two([0, 4], [2, 6]), &[0; 8], &["tensor 'b'", "overlaps"]);
    assert_refused(&two([0, 4], [0, 4]), &[0; 8], &["tensor 'b'", "overlaps"]);
    assert_refused(&two([0, 4], [5, 9]), &[0; 9], &["tensor 'b'", "gap"]);
    assert_refused(&two([1, 5], [5, 9]), &[0; 9], &["tensor 'a'", "gap"]);
    assert_refused(&two([4, 0], [4, 8]), &[0; 8], &["tensor 'a'", "before it starts"]);
    assert_refused(&two([0, 4], [4, 8]), &[0; 7], &["tensor 'b'", "the file has 7 bytes"]);
    assert_refused(&two([0, 4], [4, 8]), &[0; 9], &["cover 8 of 9"]);
    assert_refused(&two([0, u64::MAX], [4, 8]), &[0; 8], &["tensor 'a'", "the file has 8 bytes"]);
    assert_refused(&two([0, 4], [u64::MAX, 3]), &[0; 8], &["tensor 'b'", "before it starts"]);
}

#[test]
fn c4_34_shapes_must_fit_their_bytes() {
    let one = |dtype: &str, shape: &[u64], end: u64| {
        json!({"w": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}).to_string()
    };
    assert_refused(&one("F32", &[2, 2], 8), &[0; 8], &["tensor 'w'", "[2, 2]", "needs 16 bytes", "has 8"]);
    assert_refused(&one("F16", &[], 4), &[0; 4], &["needs 2 bytes"]);
    assert_refused(&one("U8", &[0, 5], 4), &[0; 4], &["needs 0 bytes"]);
    // Products that wrap to 0, to 4 and to a small size only after the element size.
    for shape in [&[1 << 32, 1 << 32][..], &[4, (1 << 62) + 1], &[1 << 62], &[1 << 61, 0x10], &[u64::MAX, u64::MAX]] {
        assert_refused(&one("F32", shape, 4), &[0; 4], &["tensor 'w'", "2^64"]);
    }
    assert_refused(&one("F4", &[3], 2), &[0; 2], &["no whole number of bytes"]);
}

#[test]
fn c4_35_unknown_types_are_refused_and_unread_ones_listed() {
    for dtype in ["Q4_K", "f32", "", "F128", "\u{1b}[31m"] {
        let header = json!({"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, 4]}}).to_string();
        assert_refused(&header, &[0; 4], &["tensor 'w'", "unknown type"]);
    }
    let header = r#"{"w":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"m":{"dtype":"F4","shape":[4],"data_offsets":[16,18]},
        "x":{"dtype":"U8","shape":[1],"data_offsets":[18,19]}}"#;
    let model = open_bytes(file(header, &[0; 19])).unwrap();
    assert_eq!(model.tensors(), [info("x", TensorType::U8, &[1])]);
    let listed: Vec<_> = model.other_tensors().iter().map(|o| (o.name.as_str(), o.dtype.as_str(), o.bytes)).collect();
    assert_eq!(listed, [("w", "F64", 16), ("m", "F4", 2)]);
    let message = model.data("w").unwrap_err().to_string();
    assert_eq!(message, "m.safetensors: tensor 'w' has type F64, which this program does not read");
    let wrong = r#"{"w":{"dtype":"F64","shape":[3],"data_offsets":[0,16]}}"#;
    assert_refused(wrong, &[0; 16], &["needs 24 bytes"]);
}

#[test]
fn c4_36_duplicate_names_are_refused() {
    let header =
        r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
    assert_refused(header, &[0; 2], &["tensor 'w'", "the name appears twice"]);
    let header = header.replacen("\"w\"", "\"\\u0077\"", 1);
    assert_refused(&header, &[0; 2], &["tensor 'w'", "the name appears twice"]);
    for name in [String::new(), "x".repeat(257), "a\\nb".to_owned(), "\\u0000".to_owned()] {
        let header = format!("{{\"{name}\":{{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}}}");
        assert_refused(&header, &[0; 1], &["printable"]);
    }
}

#[test]
fn c4_37_metadata_must_be_a_map_of_strings() {
    for metadata in ["7", "null", "[]", "\"x\"", "{\"a\":1}", "{\"a\":null}", "{\"a\":{}}"] {
        assert_refused(&format!("{{\"__metadata__\":{metadata}}}"), b"", &["header field '__metadata__'"]);
    }
    assert_refused(r#"{"__metadata__":{"a":"1","a":"2"}}"#, b"", &["'a' appears twice"]);
    assert_refused(r#"{"__metadata__":{},"__metadata__":{}}"#, b"", &["the name appears twice"]);
}

/// A folder of two shards, `a` and `b` in the first and `c` in the second, and an index saying `index`.
fn sharded(index: &serde_json::Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    let mut first = Writer::create(
        &folder.path().join("1.safetensors"),
        &[info("a", TensorType::U8, &[3]), info("b", TensorType::F16, &[1])],
        &none,
    )
    .unwrap();
    first.write("a", b"aaa").unwrap();
    first.write("b", b"bb").unwrap();
    first.finish().unwrap();
    let mut second =
        Writer::create(&folder.path().join("2.safetensors"), &[info("c", TensorType::U8, &[1])], &none).unwrap();
    second.write("c", b"c").unwrap();
    second.finish().unwrap();
    fs::write(folder.path().join(INDEX_FILE), index.to_string()).unwrap();
    folder
}

fn good_index() -> serde_json::Value {
    json!({"metadata": {"total_size": 6}, "weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}})
}

fn open_refused(folder: &TempDir) -> String {
    Safetensors::open(folder.path(), ReadMode::Map).unwrap_err().to_string()
}

#[test]
fn shards_look_like_one_file() {
    let folder = sharded(&good_index());
    for path in [folder.path().to_path_buf(), folder.path().join(INDEX_FILE)] {
        let model = Safetensors::open(&path, ReadMode::Map).unwrap();
        let names: Vec<_> = model.tensors().iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!(&*model.data("c").unwrap(), b"c");
        assert_eq!(&*model.data("b").unwrap(), b"bb");
        assert_eq!(model.file_of("c"), Some(folder.path().join("2.safetensors").as_path()));
    }
}

#[test]
fn c4_38_an_index_cannot_leave_its_folder_or_name_nothing() {
    for file in [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "sub/1.safetensors",
        "./1.safetensors",
        "1.safetensors/",
        "..\\x",
        "C:x",
        "a\0b",
    ] {
        let mut index = good_index();
        index["weight_map"]["b"] = json!(file);
        let message = open_refused(&sharded(&index));
        assert!(
            message.contains(INDEX_FILE) && message.contains("tensor 'b'") && message.contains("plain name"),
            "{message}"
        );
    }
    let mut index = good_index();
    index["weight_map"]["b"] = json!("3.safetensors");
    let error = Safetensors::open(sharded(&index).path(), ReadMode::Map).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("3.safetensors")), "{error}");
    for (index, expected) in [
        (json!({}), "field 'weight_map'"),
        (json!({"weight_map": []}), "field 'weight_map'"),
        (json!({"weight_map": {}}), "names no files"),
        (json!({"weight_map": {"a": 1}}), "tensor 'a': its file is not a string"),
        (json!([]), "expected an object"),
    ] {
        let message = open_refused(&sharded(&index));
        assert!(message.contains(INDEX_FILE) && message.contains(expected), "{message}");
    }
}

#[test]
fn c4_39_shards_must_hold_what_the_index_says() {
    let mut index = good_index();
    index["weight_map"]["d"] = json!("2.safetensors");
    let message = open_refused(&sharded(&index));
    assert!(message.contains("2.safetensors: tensor 'd': missing"), "{message}");
    index["weight_map"].as_object_mut().unwrap().remove("d");
    index["weight_map"]["a"] = json!("2.safetensors");
    let message = open_refused(&sharded(&index));
    assert!(message.contains("2.safetensors: tensor 'a': missing"), "{message}");

    let folder = sharded(&good_index());
    fs::copy(folder.path().join("1.safetensors"), folder.path().join("2.safetensors")).unwrap();
    let message = open_refused(&folder);
    assert!(
        message.contains("2.safetensors: tensor 'a': is also in") && message.contains("1.safetensors"),
        "{message}"
    );
}

#[test]
fn folders_without_a_model_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let message = open_refused(&folder);
    assert!(message.contains(SINGLE_FILE) && message.contains(INDEX_FILE), "{message}");
    let message = Safetensors::open(&folder.path().join("none.safetensors"), ReadMode::Map).unwrap_err();
    assert!(matches!(message, Error::Io { .. }));
}

#[test]
fn c4_40_a_small_file_may_shrink_after_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(SINGLE_FILE);
    fs::write(&path, file(TWO, &[7; 12])).unwrap();
    let model = Safetensors::open(folder.path(), ReadMode::Map).unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(3).unwrap();
    assert_eq!(&*model.data("b").unwrap(), &[7; 8]);
}

#[test]
fn files_above_the_mapping_limit_are_read_and_released() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.safetensors");
    let plan = [info("w", TensorType::F32, &[700, 1000]), info("v", TensorType::U8, &[5])];
    let mut writer = Writer::create(&path, &plan, &BTreeMap::new()).unwrap();
    let data: Vec<u8> = (0..2_800_000u32).map(|i| (i.wrapping_mul(2_654_435_769) >> 24) as u8).collect();
    data.chunks(999_983).for_each(|chunk| writer.write("w", chunk).unwrap());
    writer.write("v", b"12345").unwrap();
    writer.finish().unwrap();
    for mode in [ReadMode::Map, ReadMode::Read] {
        let model = Safetensors::open(&path, mode).unwrap();
        assert!(*model.data("w").unwrap() == *data);
        model.release("w");
        assert!(*model.data("w").unwrap() == *data);
    }
}

#[test]
fn written_files_read_back_with_aligned_data() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let metadata = BTreeMap::from([("format".to_owned(), "pt\" \u{e9}".to_owned())]);
    let plan = [
        info("x", TensorType::I64, &[2]),
        info("e", TensorType::F32, &[0]),
        info("y.\"q\"", TensorType::BF16, &[3, 1]),
    ];
    let mut writer = Writer::create(&path, &plan, &metadata).unwrap();
    writer.write("x", &[1; 10]).unwrap();
    writer.write("x", &[2; 6]).unwrap();
    writer.write("y.\"q\"", &[3; 6]).unwrap();
    writer.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!((bytes.len() - 22) % 64, 0);
    let model = Safetensors::open(&path, ReadMode::Map).unwrap();
    assert_eq!(model.tensors(), plan);
    assert_eq!(model.metadata(), &metadata);
    assert_eq!(&*model.data("x").unwrap(), [[1; 10].as_slice(), &[2; 6]].concat());
    assert_eq!(&*model.data("y.\"q\"").unwrap(), [3; 6]);
}

#[test]
fn writers_refuse_what_would_be_no_file_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let none = BTreeMap::new();
    let x = info("x", TensorType::U8, &[4]);
    for (plan, expected) in [
        (vec![x.clone(), x.clone()], "planned twice"),
        (vec![info("__metadata__", TensorType::U8, &[1])], "cannot have this name"),
        (vec![info("k", TensorType::Q4_K, &[1])], "type Q4_K"),
        (vec![TensorInfo { bytes: 5, ..x.clone() }], "does not take 5 bytes"),
        (vec![TensorInfo { shape: vec![usize::MAX, 2], bytes: 0, ..x.clone() }], "does not take 0 bytes"),
    ] {
        let message = Writer::create(&path, &plan, &none).unwrap_err().to_string();
        assert!(message.contains(&plan[0].name) && message.contains(expected), "{message}");
    }
    let plan = [x, info("y", TensorType::U8, &[2])];
    let mut writer = Writer::create(&path, &plan, &none).unwrap();
    assert!(writer.write("y", b"12").unwrap_err().to_string().contains("tensor 'y': written before 'x'"));
    writer.write("x", b"123").unwrap();
    assert!(writer.write("x", b"45").unwrap_err().to_string().contains("4 bytes are planned, 5 given"));
    writer.write("x", b"4").unwrap();
    writer.write("y", b"1").unwrap();
    assert!(writer.write("x", b"1").is_err());
    assert!(writer.write("z", b"1").is_err());
    assert!(writer.finish().unwrap_err().to_string().contains("tensor 'y': not completely written"));
    let mut writer = Writer::create(&path, &plan, &none).unwrap();
    writer.write("x", b"1234").unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("tensor 'y'"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
