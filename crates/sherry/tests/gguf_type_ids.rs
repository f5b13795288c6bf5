//! Type ids that stand for several types: the sizes of tensors tell which.

mod fixture;

use fixture::{Fixture, STRING, text};
use sherry::io::TensorSource;
use sherry::io::gguf::{GgufFile, StqId};
use sherry_kernels::format::TensorType::{self, *};

fn open(bytes: Vec<u8>) -> Result<GgufFile, String> {
    GgufFile::from_bytes("m.gguf", bytes.into()).map_err(|error| error.to_string())
}

/// Bytes of a tensor of 4 x 2048 weights with blocks of `block` (values, bytes).
fn size(block: (u64, u64)) -> usize {
    (4 * 2048 / block.0 * block.1) as usize
}

/// A file whose tensors of 4 x 2048 weights and type `id` take `size` bytes each: alone, first of two, last of two, between
/// others, and with whatever padding the last one may have.
fn files(id: u32, size: usize) -> Vec<Fixture> {
    let dims = [2048, 4];
    let span = size.next_multiple_of(32);
    let mut files = Vec::new();
    for tail in [size, span] {
        files.push(Fixture::default().tensor("a", &dims, id, 0).data(tail));
        files.push(Fixture::default().tensor("a", &dims, id, 0).tensor("b", &dims, id, span as u64).data(span + tail));
        let after = 32 + span as u64;
        let between = Fixture::default().tensor("x", &[8], 0, 0).tensor("a", &dims, id, 32);
        files.push(between.clone().tensor("y", &[3], 0, after).data(32 + span + 12));
        files.push(between.data(32 + tail));
    }
    files
}

#[test]
fn every_meaning_of_an_id_is_found_by_sizes() {
    let cases: [(u32, TensorType, (u64, u64)); 11] = [
        (41, Q1_0, (128, 18)),
        (42, Q2_0, (64, 18)),
        (42, PQ2_0, (128, 34)),
        (42, STQ1_0, (256, 42)),
        (43, STQ1_0, (256, 42)),
        (43, Q1_0, (128, 18)),
        (48, Q2_0, (64, 18)),
        (253, STQ1_0, (256, 42)),
        (142, PQ2_0, (128, 34)),
        (143, PTQ1_0, (128, 28)),
        (36, I2_S, (4, 1)),
    ];
    for (id, ty, block) in cases {
        let size = size(block) + if ty == I2_S { 32 } else { 0 };
        for file in files(id, size) {
            let file = open(file.build()).unwrap_or_else(|error| panic!("{id} as {ty}: {error}"));
            let own: Vec<_> = file.tensors().iter().filter(|tensor| tensor.ty != F32).collect();
            assert!(
                !own.is_empty() && own.iter().all(|tensor| tensor.ty == ty && tensor.bytes == size),
                "{id} as {ty}"
            );
            let stq_id = (ty == STQ1_0).then_some(if id == 42 { StqId::Id42 } else { StqId::Id43 });
            assert_eq!(file.stq_id(), stq_id);
        }
    }
}

#[test]
fn types_that_are_not_read_are_named_with_the_way_out() {
    let cases: [(u32, (u64, u64), &str, &str); 9] = [
        (36, (32, 18), "IQ4_NL_4_4", "does not read"),
        (38, (4, 1), "TL1", "take the I2_S file"),
        (39, (32, 17), "MXFP4", "does not read"),
        (39, (5, 1), "TL2", "take the I2_S file"),
        (40, (64, 36), "NVFP4", "does not read"),
        (40, (32, 6), "Q1_0 with 32 weights in 6 bytes", "take the Q1_0 file"),
        (135, (64, 16), "IQ2_BN", "does not read"),
        (142, (256, 66), "IQ2_TN", "does not read"),
        (143, (256, 54), "IQ1_TN", "does not read"),
    ];
    for (id, block, name, advice) in cases {
        for file in files(id, size(block)) {
            let message = open(file.build()).unwrap_err();
            assert!(message.starts_with("m.gguf: ") && message.contains("tensor 'a'"), "{message}");
            assert!(message.contains(&format!("type {name},")) && message.contains(advice), "{message}");
        }
    }
}

#[test]
fn sizes_that_nothing_explains_are_listed() {
    let message = open(Fixture::default().tensor("a", &[2048, 4], 42, 0).data(1000).build()).unwrap_err();
    for part in ["tensor 'a'", "type id 42", "[4, 2048]", "spans 1000 bytes", "Q2_0 needs 2304", "PQ2_0 needs 2176"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(message.contains("STQ1_0 needs 1344"), "{message}");
    let message = open(Fixture::default().tensor("a", &[96, 4], 43, 0).data(1000).build()).unwrap_err();
    assert!(message.contains("STQ1_0 has blocks of 256 values"), "{message}");
    // One tensor explained by one meaning, the other by another.
    let mixed = Fixture::default().tensor("a", &[2048, 4], 42, 0).tensor("b", &[2048, 4], 42, 2304).data(2304 + 2176);
    assert!(open(mixed.build()).unwrap_err().contains("fits none of its meanings"));
    // A tensor that is cut off.
    for (id, size) in [(36, 2048 + 32), (42, 2304), (43, 1344), (142, 2176), (143, 1792)] {
        for len in [0, 1, size - 1] {
            let file = Fixture::default().tensor("x", &[8], 0, 0).tensor("a", &[2048, 4], id, 32).data(32 + len);
            let message = open(file.build()).unwrap_err();
            assert!(message.contains("tensor 'a'") && message.contains("Is the file complete?"), "{id}: {message}");
        }
    }
    // Offsets that go back.
    let back = Fixture::default().tensor("a", &[2048, 4], 42, 64).tensor("b", &[2048, 4], 42, 0).data(5000);
    assert!(open(back.build()).unwrap_err().contains("tensor '"));
    let huge = Fixture::default().tensor("a", &[1 << 62, 4], 36, 0).data(64);
    assert!(open(huge.build()).unwrap_err().contains("tensor 'a'"));
}

#[test]
fn of_several_meanings_that_of_the_program_that_wrote_the_file() {
    // 256 weights of Q2_0 take 72 bytes, of PQ2_0 68: with padding 96 either way.
    let small = || Fixture::default().tensor("a", &[256], 42, 0).tensor("n", &[1], 0, 96).data(100);
    let ty = |file: Fixture| open(file.build()).map(|file| file.tensors()[0].ty);
    assert_eq!(ty(small()), Ok(Q2_0));
    assert_eq!(ty(small().u32("prism.format", 1)), Ok(PQ2_0));
    assert_eq!(ty(small().entry("general.architecture", STRING, text("bitnet-b1.58"))), Ok(PQ2_0));
    assert_eq!(ty(small().entry("general.architecture", STRING, text("qwen3"))), Ok(Q2_0));
    // A larger tensor settles it for all.
    let settled = small().tensor("b", &[2048, 4], 42, 128).data(128 + 2176).u32("x", 1);
    assert_eq!(ty(settled), Ok(PQ2_0));
}

#[test]
fn i2_s_runs_across_rows() {
    for (rows, cols) in [(3, 100), (1, 1), (7, 5460), (2, 64)] {
        let size = (rows * cols as usize).div_ceil(128) * 32 + 32;
        let file = Fixture::default().tensor("a", &[cols, rows as u64], 36, 0).data(size);
        let file = open(file.build()).unwrap();
        assert_eq!((file.tensors()[0].ty, file.tensors()[0].bytes), (I2_S, size));
    }
}
