//! Damaged and hostile GGUF files: each gives one clear error that names the thing, and costs next to no memory.
//!
//! A binary of its own with a single test, because it watches the memory of the whole process.

mod fixture;

use fixture::{ARRAY, BOOL, Fixture, STRING, array, text};
use sherry::io::TensorSource;
use sherry::io::gguf::GgufFile;

struct Case {
    what: &'static str,
    bytes: Vec<u8>,
    /// Parts of the message.
    says: &'static [&'static str],
}

fn case(what: &'static str, bytes: Vec<u8>, says: &'static [&'static str]) -> Case {
    Case { what, bytes, says }
}

/// A file with one F32 tensor of these dimensions and no data.
fn dims(dims: &[u64]) -> Vec<u8> {
    Fixture::default().tensor("w", dims, 0, 0).build()
}

/// A file of one entry.
fn entry(ty: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    Fixture::default().entry("k", ty, payload).build()
}

fn header_cases() -> Vec<Case> {
    let version = |version| Fixture { version, ..Fixture::default() }.build();
    let counts = |tensors, entries| {
        Fixture { tensor_count: Some(tensors), entry_count: Some(entries), ..Fixture::default() }.build()
    };
    vec![
        case("empty file", vec![], &["header", "not a GGUF file", "0 bytes"]),
        case("three bytes", b"GGU".to_vec(), &["not a GGUF file", "3 bytes"]),
        case(
            "wrong magic",
            Fixture { magic: b"PK\x03\x04".to_vec(), ..Fixture::default() }.build(),
            &["begins with \"PK\\x03\\x04\""],
        ),
        case("version 0", version(0), &["version 0"]),
        case("version 1", version(1), &["version 1", "2 and 3"]),
        case("version 99", version(99), &["version 99"]),
        case("version 2^32 - 1", version(u32::MAX), &["version 4294967295"]),
        case("big-endian", version(3u32.swap_bytes()), &["big-endian"]),
        case("2^63 tensors", counts(1 << 63, 0), &["9223372036854775808 tensors"]),
        case("2^32 tensors", counts(1 << 32, 0), &["4294967296 tensors"]),
        case("2^63 entries", counts(0, 1 << 63), &["9223372036854775808 metadata entries"]),
        case("2^32 entries", counts(0, 1 << 32), &["4294967296 metadata entries"]),
        case("more tensors than bytes", counts(1000, 0), &["1000 tensors", "only 8 bytes left"]),
        case("more entries than bytes", counts(0, 1000), &["1000 metadata entries", "only 8 bytes left"]),
    ]
}

fn metadata_cases() -> Vec<Case> {
    let raw = |bytes: &[u8]| Fixture { data: vec![0; 64], ..Fixture::default() }.raw_entry(bytes.to_vec()).build();
    let key_length = |len: u64| raw(&[&len.to_le_bytes()[..], b"abc"].concat());
    let deep: Vec<u8> = (0..10_000).flat_map(|_| array(ARRAY, 1, &[])).collect();
    let alignment = |x: u32| Fixture::default().u32("general.alignment", x).build();
    vec![
        case("key of 2^40 bytes", key_length(1 << 40), &["key of metadata entry 0", "1099511627776 bytes", "limit"]),
        case("key longer than the file", key_length(60_000), &["key of metadata entry 0", "60000 bytes"]),
        case("empty key", Fixture::default().u32("", 1).build(), &["key of metadata entry 0", "is empty"]),
        case("string of 2^40 bytes", entry(STRING, (1u64 << 40).to_le_bytes()), &["key 'k'", "limit of 16777216"]),
        case("string longer than the file", entry(STRING, 1000u64.to_le_bytes()), &["key 'k'", "needs 1000 bytes"]),
        case("array of 2^40", entry(ARRAY, array(4, 1 << 40, &[0; 64])), &["key 'k'", "1099511627776 elements"]),
        case(
            "array of 2^24 u64",
            entry(ARRAY, array(10, 1 << 24, &[0; 64])),
            &["key 'k'", "16777216 elements", "left"],
        ),
        case(
            "array of 2^24 strings",
            entry(ARRAY, array(8, 1 << 24, &[0; 64])),
            &["key 'k'", "16777216 elements", "left"],
        ),
        case(
            "array of 2^24 bools",
            entry(ARRAY, array(7, 1 << 24, &[0; 64])),
            &["key 'k'", "16777216 elements", "left"],
        ),
        case(
            "array with a long string",
            entry(ARRAY, array(8, 2, &[text("a"), u64::MAX.to_le_bytes().to_vec()].concat())),
            &["key 'k'", "element 1"],
        ),
        case("10,000 arrays in arrays", entry(ARRAY, deep), &["key 'k'", "array of arrays"]),
        case("unknown value type", entry(13, [0; 8]), &["key 'k'", "unknown value type 13"]),
        case("unknown element type", entry(ARRAY, array(77, 1, &[0; 8])), &["key 'k'", "unknown value type 77"]),
        case("bool 2", entry(BOOL, [2]), &["key 'k'", "bool", "found 2"]),
        case("bool 255 in an array", entry(ARRAY, array(BOOL, 2, &[1, 255])), &["key 'k'", "found 255"]),
        case(
            "key not UTF-8",
            Fixture::default().entry(b"\xff\xfe", 4, [0; 4]).build(),
            &["key of metadata entry 0", "UTF-8"],
        ),
        case("value not UTF-8", entry(STRING, text(b"a\xc3")), &["key 'k'", "UTF-8"]),
        case(
            "element not UTF-8",
            entry(ARRAY, array(STRING, 1, &text(b"\xed\xa0\x80"))),
            &["key 'k'", "element 0", "UTF-8"],
        ),
        case("key twice", Fixture::default().u32("a.b", 1).u32("a.b", 2).build(), &["key 'a.b'", "twice"]),
        case(
            "alignment 0 (57 bytes)",
            Fixture::default().u32("general.alignment", 0).header(),
            &["key 'general.alignment'", "power of two", "found 0"],
        ),
        case("alignment 3", alignment(3), &["key 'general.alignment'", "found 3"]),
        case("alignment 4", alignment(4), &["key 'general.alignment'", "found 4"]),
        case("alignment 2^31", alignment(1 << 31), &["key 'general.alignment'", "found 2147483648"]),
        case(
            "alignment of text",
            Fixture::default().entry("general.alignment", STRING, text("32")).build(),
            &["key 'general.alignment'", "string"],
        ),
        case(
            "terminal codes in a key",
            Fixture::default().entry("\x1b[2Jx", 99, []).u32("pad", 0).build(),
            &["key '\\u{1b}[2Jx'"],
        ),
    ]
}

fn tensor_cases() -> Vec<Case> {
    let count = |count| Fixture::default().tensor_of("w", count, &[4], 0, 0).data(64).build();
    let ty = |ty| Fixture::default().tensor("blk.0.w", &[256], ty, 0).data(128).build();
    let pair = |second: u64| Fixture::default().tensor("a", &[8], 0, 0).tensor("b", &[8], 0, second).data(64).build();
    let mut dirty = Fixture::default().tensor("a", &[4], 0, 0).data(32);
    dirty.data[20] = 1;
    vec![
        case(
            "tensor twice",
            Fixture::default().tensor("a", &[8], 0, 0).tensor("a", &[8], 0, 32).data(64).build(),
            &["tensor 'a'", "twice"],
        ),
        case(
            "empty name",
            Fixture::default().tensor("", &[8], 0, 0).u32("k", 0).data(32).build(),
            &["name of tensor 0", "empty"],
        ),
        case(
            "name with control characters",
            Fixture::default().tensor("a\nb", &[8], 0, 0).data(32).build(),
            &["name of tensor 0", "'a\\nb'"],
        ),
        case(
            "name of 257 bytes",
            Fixture::default().tensor([b'x'; 257], &[8], 0, 0).data(32).build(),
            &["name of tensor 0", "limit of 256"],
        ),
        case(
            "name not UTF-8",
            Fixture::default().tensor(b"\x80", &[8], 0, 0).data(32).build(),
            &["name of tensor 0", "UTF-8"],
        ),
        case("no dimensions", count(0), &["tensor 'w'", "0 dimensions"]),
        case("5 dimensions", count(5), &["tensor 'w'", "5 dimensions"]),
        case("2^32 - 1 dimensions", count(u32::MAX), &["tensor 'w'", "4294967295 dimensions"]),
        case("dimension 0", dims(&[4, 0]), &["tensor 'w'", "dimension of 0", "[0, 4]"]),
        case("product wraps to 0", dims(&[1 << 32, 1 << 32]), &["tensor 'w'", "[4294967296, 4294967296]", "overflows"]),
        case("product wraps to 4", dims(&[4, (1 << 62) + 1]), &["tensor 'w'", "overflows"]),
        case("product wraps to negative", dims(&[1 << 62, 2]), &["tensor 'w'", "overflows"]),
        case("size wraps", dims(&[1 << 62, 1]), &["tensor 'w'", "overflows"]),
        case("size near 2^63", dims(&[(1 << 61) - 1]), &["tensor 'w'", "ends at byte"]),
        case("four huge dimensions", dims(&[u64::MAX; 4]), &["tensor 'w'", "overflows"]),
        case(
            "exabytes of Q8_0",
            Fixture::default().tensor("w", &[1 << 58, 1], 8, 0).build(),
            &["tensor 'w'", "ends at byte"],
        ),
        case(
            "row not a multiple of 32",
            Fixture::default().tensor("w", &[33, 2], 8, 0).data(128).build(),
            &["tensor 'w'", "[2, 33]", "block of 32"],
        ),
        case(
            "row not a multiple of 256",
            Fixture::default().tensor("w", &[128, 2], 35, 0).data(64).build(),
            &["tensor 'w'", "[2, 128]", "block of 256"],
        ),
        case("unknown type", ty(44), &["tensor 'blk.0.w'", "unknown type id 44"]),
        case("type 2^32 - 1", ty(u32::MAX), &["tensor 'blk.0.w'", "4294967295"]),
        case("IQ2_XXS", ty(16), &["tensor 'blk.0.w' has type IQ2_XXS, which this program does not read"]),
        case("offset misaligned", pair(33), &["tensor 'b'", "33", "expected 32"]),
        case("overlap", pair(0), &["tensor 'b'", "offset 0", "expected 32"]),
        case("gap", pair(64), &["tensor 'b'", "64", "expected 32"]),
        case("offset beyond the file", pair(1 << 20), &["tensor 'b'", "1048576"]),
        case("offset 2^64 - 1", pair(u64::MAX), &["tensor 'b'", "18446744073709551615"]),
        case(
            "first offset not 0",
            Fixture::default().tensor("a", &[8], 0, 32).data(64).build(),
            &["tensor 'a'", "expected 0"],
        ),
        case("data missing", Fixture::default().tensor("a", &[8], 0, 0).data(31).build(), &["tensor 'a'", "only"]),
        case(
            "a block of garbage at the end",
            Fixture::default().tensor("a", &[8], 0, 0).data(64).build(),
            &["end of file", "32 bytes follow"],
        ),
        case(
            "a byte of garbage at the end",
            Fixture::default().tensor("a", &[8], 0, 0).data(33).build(),
            &["end of file", "1 bytes follow"],
        ),
        case("garbage inside the padding", dirty.build(), &["end of file", "padding", "not zero"]),
        case("garbage without tensors", Fixture::default().data(32).build(), &["end of file"]),
    ]
}

fn open(bytes: &[u8]) -> Result<GgufFile, String> {
    GgufFile::from_bytes("hostile.gguf", bytes.to_vec().into()).map_err(|error| error.to_string())
}

/// A file that uses every kind of field.
fn sound() -> Fixture {
    let strings = array(STRING, 3, &[text("<s>"), text(""), text("é")].concat());
    Fixture::default()
        .entry("general.architecture", STRING, text("llama"))
        .entry("tokens", ARRAY, strings)
        .entry("scores", ARRAY, array(fixture::F32, 2, &[0; 8]))
        .entry("add_bos", BOOL, [1])
        .u32("general.alignment", 32)
        .tensor("norm", &[8], 0, 0)
        .tensor("w", &[256, 2], 43, 32)
        .tensor("last", &[32, 3, 2], 8, 128)
        .data(128 + 204)
}

/// Peak of reserved memory so far, in bytes, where the system tells.
fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

#[test]
fn every_bad_file_is_one_clear_error_at_no_cost() {
    let whole = sound().build();
    assert_eq!(open(&whole).unwrap().tensors().len(), 3);
    let before = peak_memory();

    let cases: Vec<Case> = [header_cases(), metadata_cases(), tensor_cases()].into_iter().flatten().collect();
    for Case { what, bytes, says } in &cases {
        let message = match open(bytes) {
            Ok(_) => panic!("{what}: accepted"),
            Err(message) => message,
        };
        assert!(message.starts_with("hostile.gguf: "), "{what}: {message}");
        for part in *says {
            assert!(message.contains(part), "{what}: \"{part}\" is not in \"{message}\"");
        }
        assert!(message.len() < 400 && !message.contains(|c: char| c.is_control()), "{what}: {message:?}");
    }

    // Cut at every byte: of the header, of its padding, of the data. The last tensor needs no padding.
    for len in 0..whole.len() {
        let message = open(&whole[..len]).err().unwrap_or_else(|| panic!("accepted when cut at byte {len}"));
        assert!(message.starts_with("hostile.gguf: "), "{message}");
        let header = sound().header().len();
        let place = if len < header {
            ["header", "key", "tensor"].iter().any(|p| message.contains(p))
        } else {
            message.contains("tensor '")
        };
        assert!(place, "cut at byte {len}: {message}");
    }
    // Every byte of the header changed: never a panic, whatever comes out.
    for at in 0..sound().header().len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let _ = open(&bytes);
        }
    }

    if let (Some(before), Some(after)) = (before, peak_memory()) {
        assert!(after - before < 64 << 20, "memory grew by {} bytes", after - before);
    }
}
