//! GGUF files that are fine: written and read back, split, verified, shared with other programs.

mod fixture;

use std::fs;
use std::path::Path;
use std::slice::from_ref;

use fixture::{Fixture, STRING, info, text, write};
use sherry::io::gguf::{Array, GgufFile, GgufWriter, StqId, Value};
use sherry::io::{ReadMode, TensorInfo, TensorSource, verify_tensor};
use sherry::{Error, Result};
use sherry_kernels::format::TensorType;

/// Random numbers: a 64-bit linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: u64) -> usize {
        (self.next() % n) as usize
    }

    fn list<T>(&mut self, mut item: impl FnMut(u64) -> T) -> Vec<T> {
        (0..self.below(9)).map(|_| item(self.next())).collect()
    }

    fn text(&mut self) -> String {
        let alphabet = ['a', '.', 'é', '\n', '\0', '世', '"'];
        (0..self.below(12)).map(|_| alphabet[self.below(7)]).collect()
    }

    fn value(&mut self) -> Value {
        let x = self.next();
        match self.below(25) {
            0 => Value::U8(x as u8),
            1 => Value::I8(x as i8),
            2 => Value::U16(x as u16),
            3 => Value::I16(x as i16),
            4 => Value::U32(x as u32),
            5 => Value::I32(x as i32),
            6 => Value::U64(x << 32),
            7 => Value::I64(-(x as i64)),
            8 => Value::F32(x as f32),
            9 => Value::F64(x as f64 / 7.0),
            10 => Value::Bool(x & 1 == 1),
            11 | 12 => Value::String(self.text()),
            13 => Value::Array(Array::U8(self.list(|x| x as u8))),
            14 => Value::Array(Array::I8(self.list(|x| x as i8))),
            15 => Value::Array(Array::U16(self.list(|x| x as u16))),
            16 => Value::Array(Array::I16(self.list(|x| x as i16))),
            17 => Value::Array(Array::U32(self.list(|x| x as u32))),
            18 => Value::Array(Array::I32(self.list(|x| x as i32))),
            19 => Value::Array(Array::U64(self.list(|x| x))),
            20 => Value::Array(Array::I64(self.list(|x| -(x as i64)))),
            21 => Value::Array(Array::F32(self.list(|x| x as f32))),
            22 => Value::Array(Array::F64(self.list(|x| x as f64))),
            23 => Value::Array(Array::Bool(self.list(|x| x & 1 == 1))),
            _ => {
                let count = self.below(9);
                Value::Array(Array::String((0..count).map(|_| self.text()).collect()))
            }
        }
    }
}

fn entry(key: &str, value: Value) -> (String, Value) {
    (key.to_owned(), value)
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn open(path: &Path) -> Result<GgufFile> {
    GgufFile::open(path, ReadMode::Map)
}

#[test]
fn what_is_written_is_read_back() {
    use TensorType::*;
    const TYPES: [TensorType; 24] = [
        F32, F16, BF16, I32, I64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, TQ1_0, TQ2_0,
        Q1_0, PQ2_0, PTQ1_0, I2_S, Q2_0, STQ1_0,
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut random = Random(1);
    for round in 0..200 {
        let mut metadata: Vec<(String, Value)> =
            (0..random.below(12)).map(|i| (format!("key.{i}.{}", random.text()), random.value())).collect();
        let stq = if round % 2 == 0 { StqId::Id43 } else { StqId::Id42 };
        // Q2_0 has the id that STQ1_0 has in the second case.
        let types = if stq == StqId::Id43 { &TYPES[..] } else { &TYPES[..22] };
        let tensors: Vec<(TensorInfo, Vec<u8>)> = (0..random.below(7))
            .map(|i| {
                let ty = types[random.below(types.len() as u64)];
                let mut shape: Vec<usize> = (0..random.below(4)).map(|_| 1 + random.below(3)).collect();
                shape.push(ty.block_len() * (1 + random.below(3)));
                let info = info(&format!("blk.{i}.w"), ty, &shape);
                let data = (0..info.bytes).map(|_| random.next() as u8).collect();
                (info, data)
            })
            .collect();
        write(&path, &metadata, &tensors, stq).unwrap();

        let file = open(&path).unwrap();
        if tensors.iter().any(|(t, _)| t.ty.block_len() > 1) {
            metadata.push(entry("general.quantization_version", Value::U32(2)));
        }
        assert_eq!(file.metadata().entries(), metadata);
        assert_eq!(file.tensors(), tensors.iter().map(|(t, _)| t.clone()).collect::<Vec<_>>());
        assert_eq!(file.version(), 3);
        for (info, data) in &tensors {
            assert_eq!(file.find(&info.name), Some(info));
            assert_eq!(*file.data(&info.name).unwrap(), **data);
        }
        let has_stq = tensors.iter().any(|(t, _)| t.ty == STQ1_0);
        assert_eq!(file.stq_id(), has_stq.then_some(stq));
    }
    assert_eq!(files(folder.path()), ["model.gguf"]);
}

#[test]
fn version_2_and_other_alignments() {
    for alignment in [8, 32, 64, 4096] {
        let file = Fixture { version: 2, alignment, ..Fixture::default() };
        let file = file.u32("general.alignment", alignment as u32).tensor("a", &[3], 0, 0);
        let file = file.tensor("b", &[1], 0, 12usize.next_multiple_of(alignment) as u64);
        let bytes = file.data(12usize.next_multiple_of(alignment) + 4).build();
        let file = GgufFile::from_bytes("x.gguf", bytes.into()).unwrap();
        assert_eq!((file.version(), file.data("b").unwrap().len()), (2, 4));
    }
}

#[test]
fn getters_name_file_key_and_types() {
    let bytes = Fixture::default()
        .u32("llama.block_count", 30)
        .entry("eps", fixture::F32, 1e-5f32.to_le_bytes())
        .entry("wide", 10, 7u64.to_le_bytes())
        .entry("negative", 5, (-1i32).to_le_bytes())
        .entry("name", STRING, text("x"))
        .entry("ids", fixture::ARRAY, fixture::array(5, 2, &[1, 0, 0, 0, 255, 255, 255, 255]))
        .build();
    let file = GgufFile::from_bytes("m.gguf", bytes.into()).unwrap();
    let metadata = file.metadata();
    assert_eq!(metadata.get_u64("llama.block_count").unwrap(), 30);
    assert_eq!(metadata.get_u64("wide").unwrap(), 7);
    assert_eq!(metadata.find_f32("eps").unwrap(), Some(1e-5));
    assert_eq!(metadata.get_str("name").unwrap(), "x");
    assert_eq!(metadata.find_i64s("ids").unwrap().unwrap(), [1, -1]);
    assert_eq!(metadata.find_u64("absent").unwrap(), None);
    let says = |error: Error, expected: &str| assert_eq!(error.to_string(), expected);
    says(metadata.get_u64("absent").unwrap_err(), "m.gguf: key 'absent': is missing");
    says(
        metadata.find_u64("negative").unwrap_err(),
        "m.gguf: key 'negative': expected a non-negative integer, found -1 (i32)",
    );
    says(metadata.find_f32("name").unwrap_err(), "m.gguf: key 'name': expected a float, found x (string)");
    says(
        metadata.get_strings("ids").unwrap_err(),
        "m.gguf: key 'ids': expected an array of strings, found 2 x i32: 1, -1 (array of i32)",
    );
    says(file.data("w").unwrap_err(), "m.gguf: tensor 'w': is missing");
}

#[test]
fn an_unfinished_or_wrong_file_leaves_nothing() {
    use TensorType::*;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let create = |metadata: &[(String, Value)], tensors: &[TensorInfo]| {
        GgufWriter::create(&path, metadata.to_vec(), tensors.to_vec(), StqId::Id43)
    };
    let says = |error: Error, part: &str| {
        let message = error.to_string();
        assert!(message.contains("out.gguf") && message.contains(part), "{message}");
    };
    let good = info("w", Q8_0, &[2, 32]);

    drop(create(&[], from_ref(&good)).unwrap());
    says(
        create(&[], from_ref(&good)).unwrap().write("w", &[0; 69]).unwrap_err(),
        "tensor 'w' needs 68 bytes, given 69",
    );
    let mut partial = create(&[], from_ref(&good)).unwrap();
    partial.write("w", &[0; 67]).unwrap();
    says(partial.write("v", &[0]).unwrap_err(), "tensor 'v' given, but 'w' is not complete");
    says(partial.finish().unwrap_err(), "tensor 'w' has not been written");
    says(create(&[], from_ref(&good)).unwrap().finish().unwrap_err(), "tensor 'w' has not been written");
    says(create(&[], &[]).unwrap().write("w", &[]).unwrap_err(), "all tensors are written");
    says(create(&[], &[good.clone(), good.clone()]).unwrap_err(), "tensor 'w' occurs twice");
    says(create(&[], &[TensorInfo { bytes: 67, ..good.clone() }]).unwrap_err(), "takes 68 bytes, not 67");
    says(create(&[], &[TensorInfo { shape: vec![2, 33], ..good.clone() }]).unwrap_err(), "block of 32");
    says(create(&[], &[TensorInfo { shape: vec![], ..good.clone() }]).unwrap_err(), "cannot be stored");
    says(create(&[], &[TensorInfo { shape: vec![usize::MAX, 32], ..good.clone() }]).unwrap_err(), "overflows");
    says(create(&[], &[TensorInfo { name: "n".repeat(64), ..good.clone() }]).unwrap_err(), "1 to 63 bytes");
    let both = [info("a", STQ1_0, &[256]), info("b", Q2_0, &[64])];
    let both = GgufWriter::create(&path, Vec::new(), both.to_vec(), StqId::Id42).map(drop);
    says(both.unwrap_err(), "type id 42");
    says(create(&[], &[info("codes", U8, &[5])]).unwrap_err(), "GGUF has no type U8");
    let twice = [entry("k", Value::U8(1)), entry("k", Value::U8(2))];
    says(create(&twice, &[]).unwrap_err(), "key 'k' occurs twice");
    assert!(files(folder.path()).is_empty());

    // An older file survives a failed write.
    write(&path, &[], &[(good.clone(), vec![7; 68])], StqId::Id43).unwrap();
    drop(create(&[], &[good]).unwrap());
    assert_eq!(open(&path).unwrap().data("w").unwrap()[67], 7);
    assert_eq!(files(folder.path()), ["out.gguf"]);
}

#[test]
fn a_mapped_file_can_be_replaced_by_its_own_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let large = info("w", TensorType::F32, &[1024, 512]); // above the size that is read instead of mapped
    let data: Vec<u8> = (0..large.bytes).map(|i| (i / 7) as u8).collect();
    write(&path, &[], &[(large.clone(), data.clone())], StqId::Id43).unwrap();
    let old = open(&path).unwrap();
    let note = [entry("note", Value::String("new".to_owned()))];
    write(&path, &note, &[(large, old.data("w").unwrap().to_vec())], StqId::Id43).unwrap();
    old.release("w");
    assert_eq!(*old.data("w").unwrap(), *data);
    let new = open(&path).unwrap();
    assert_eq!(new.metadata().get_str("note").unwrap(), "new");
    assert_eq!(*new.data("w").unwrap(), *data);
}

#[test]
fn the_writer_replaces_keys_that_describe_the_container() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let metadata = [
        entry("general.alignment", Value::U32(64)),
        entry("split.count", Value::U16(3)),
        entry("general.quantization_version", Value::U32(1)),
        entry("kept", Value::Bool(true)),
    ];
    write(&path, &metadata, &[(info("w", TensorType::F32, &[3]), vec![0; 12])], StqId::Id43).unwrap();
    assert_eq!(open(&path).unwrap().metadata().entries(), &metadata[3..]);
}

/// Part `number` (from 0) of a model of `count` parts and `total` tensors, with one F32 tensor `name`.
fn part(number: u16, count: u16, total: i32, name: &str) -> Fixture {
    let mut fixture = Fixture::default()
        .entry("split.no", 2, number.to_le_bytes())
        .entry("split.count", 2, count.to_le_bytes())
        .entry("split.tensors.count", 5, total.to_le_bytes())
        .tensor(name, &[8], 0, 0)
        .data(32);
    fixture.data.fill(number as u8 + 1);
    fixture
}

#[test]
fn split_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = |n: usize| folder.path().join(format!("model-{n:05}-of-00003.gguf"));
    let put = |n: usize, fixture: Fixture| fs::write(path(n), fixture.build()).unwrap();
    let fails = |from: usize, parts: &[&str]| {
        let message = open(&path(from)).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "\"{part}\" is not in \"{message}\"");
        }
    };
    let first = || part(0, 3, 3, "a").entry("general.architecture", STRING, text("llama"));
    put(1, first());
    put(2, part(1, 3, 3, "b"));
    fails(1, &["model-00001-of-00003.gguf: key 'split.count'", "3 parts", "model-00003-of-00003.gguf", "open"]);
    put(3, part(2, 3, 3, "c"));

    let file = open(&path(1)).unwrap();
    assert_eq!(file.part_count(), 3);
    assert_eq!(file.metadata().get_str("general.architecture").unwrap(), "llama");
    assert_eq!(file.tensors().iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    for (name, value) in [("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(*file.data(name).unwrap(), [value; 32]);
        file.release(name);
    }

    fails(2, &["is part 2 of 3", "open model-00001-of-00003.gguf"]);
    let bytes = fs::read(path(1)).unwrap();
    let error = GgufFile::from_bytes("m.gguf", bytes.into()).unwrap_err().to_string();
    assert!(error.contains("one part of a split model"), "{error}");
    let renamed = folder.path().join("renamed.gguf");
    fs::copy(path(1), &renamed).unwrap();
    assert!(open(&renamed).unwrap_err().to_string().contains("should end in -00001-of-00003.gguf"));

    put(3, part(1, 3, 3, "c"));
    fails(1, &["model-00003-of-00003.gguf: key 'split.no'", "expected 2, found 1"]);
    put(3, part(2, 4, 3, "c"));
    fails(1, &["model-00003-of-00003.gguf: key 'split.count'", "expected 3, found 4"]);
    put(3, part(2, 3, 9, "c"));
    fails(1, &["model-00003-of-00003.gguf: key 'split.tensors.count'", "expected 3, found 9"]);
    put(3, part(2, 3, 3, "b"));
    fails(1, &["model-00003-of-00003.gguf: tensor 'b'", "earlier part"]);
    put(3, part(2, 3, 3, "c").entry("general.architecture", STRING, text("qwen3")));
    fails(1, &["model-00003-of-00003.gguf: key 'general.architecture'", "different models"]);
    put(3, Fixture::default().tensor("c", &[8], 0, 0).data(32));
    fails(1, &["model-00003-of-00003.gguf: key 'split.no'", "is missing"]);
    put(3, part(2, 3, 3, "c").tensor("d", &[8], 0, 32).data(64));
    fails(1, &["key 'split.tensors.count'", "announces 3 tensors, but the parts have 4"]);
    put(3, part(2, 3, 3, "c").data(16));
    fails(1, &["model-00003-of-00003.gguf", "tensor 'c'"]);
}

#[test]
fn verify_names_tensor_row_and_column() {
    let stq = |block: usize| {
        let mut file = Fixture::default().tensor("w", &[512, 3], 43, 0).tensor("n", &[4], 0, 256).data(272);
        file.data[block * 42 + 41] = 0x7c; // infinity
        GgufFile::from_bytes("m.gguf", file.build().into()).unwrap()
    };
    let file = stq(3);
    assert_eq!(
        verify_tensor(&file, &file.tensors()[0]).unwrap_err().to_string(),
        "m.gguf: tensor 'w': NaN or infinite scale or value (STQ1_0) at row 1, column 256"
    );
    verify_tensor(&file, &file.tensors()[1]).unwrap();
}

/// The seeds of the fuzzer, written by a Python script: each value type and tensor type in a file of its own.
#[test]
fn seeds_of_the_fuzzer_are_sound() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/gguf"));
    let names = files(folder);
    assert!(names.len() > 30);
    for name in names {
        let bytes = fs::read(folder.join(&name)).unwrap();
        let opened = GgufFile::from_bytes(&name, bytes.into());
        match name.as_str() {
            "split.gguf" => assert!(opened.unwrap_err().to_string().contains("part of a split model")),
            _ => drop(opened.unwrap_or_else(|error| panic!("{error}"))),
        }
    }
}
