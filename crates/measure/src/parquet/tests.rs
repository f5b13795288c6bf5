use std::fs;
use std::io::Write as _;

use super::column::unpack;
use super::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet").join(name)
}

/// Files with every encoding, compression and page version, written by pyarrow (tests/python/parquet_golden.py).
const FILES: [&str; 5] =
    ["snappy.parquet", "gzip_v2.parquet", "zstd_checksums.parquet", "pages.parquet", "delta_v2.parquet"];

fn expected() -> Vec<Map<String, Value>> {
    serde_json::from_slice(&fs::read(golden("rows.json")).unwrap()).unwrap()
}

#[test]
fn files_of_another_writer_are_read() {
    let expected = expected();
    for name in FILES {
        let rows = Rows::open(&golden(name), None).unwrap();
        assert_eq!(rows.count_rows(), expected.len() as u64);
        for (i, row) in rows.enumerate() {
            let row = row.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(row, expected[i], "{name}, row {i}");
        }
    }
}

#[test]
fn fields_can_be_chosen() {
    let mut rows = Rows::open(&golden(FILES[0]), Some(&["word", "nested"])).unwrap();
    let row = rows.next().unwrap().unwrap();
    assert_eq!(row.keys().collect::<Vec<_>>(), ["word", "nested"]);
    assert_eq!(rows.row_size(), 2 * VALUE_SIZE + "word".len() + "red".len() + "nested".len());
    assert_eq!(rows.count(), expected().len() - 1);
    let error = Rows::open(&golden(FILES[0]), Some(&["txt"])).unwrap_err().to_string();
    assert!(error.contains("field 'txt': missing; found question, word"), "{error}");
}

/// Reads all of `bytes` as a file; the number of rows, or the error.
fn read(bytes: &[u8]) -> Result<usize> {
    let mut rows = 0;
    for row in Rows::from_bytes(Path::new("x.parquet"), bytes.to_vec())? {
        row?;
        rows += 1;
    }
    Ok(rows)
}

#[test]
fn truncated_files_are_refused() {
    let whole = fs::read(golden("pages.parquet")).unwrap();
    for end in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let error = read(&whole[..end]).unwrap_err().to_string();
        assert!(error.contains("x.parquet: Parquet:"), "{error}");
    }
    // The beginning is gone, the footer is there.
    assert!(read(&[b"PAR1", &whole[whole.len() / 2..]].concat()).is_err());
}

#[test]
fn damaged_files_are_errors_and_nothing_worse() {
    let (mut refused, mut read_all) = (0, 0);
    for name in FILES {
        let whole = fs::read(golden(name)).unwrap();
        // The footer is where sizes can lie; of the pages a part is enough.
        let footer = whole.len() - 8 - u32::from_le_bytes(*whole[..whole.len() - 4].last_chunk().unwrap()) as usize;
        for (i, at) in (0..footer).step_by(23).chain((footer..whole.len()).step_by(5)).enumerate() {
            let mut bytes = whole.clone();
            bytes[at] ^= [0xff, 0x01, 0x80][i % 3];
            match read(&bytes) {
                Ok(rows) => read_all += usize::from(rows == 48),
                Err(error) => {
                    assert!(error.to_string().contains("x.parquet: "), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 500 && read_all > 0, "{refused} {read_all}");
}

#[test]
fn a_wrong_checksum_is_noticed() {
    let mut bytes = fs::read(golden("zstd_checksums.parquet")).unwrap();
    // Inside the first page, whose header is shorter than 60 bytes.
    bytes[100] ^= 1;
    let error = read(&bytes).unwrap_err().to_string();
    assert!(error.contains("column 'question'") && error.contains("checksum"), "{error}");
}

#[test]
fn what_is_not_supported_is_named() {
    let rows = Rows::open(&golden("lz4.parquet"), None).unwrap();
    let error = rows.last().unwrap().unwrap_err().to_string();
    assert!(error.contains("column 'word'") && error.contains("LZ4 compression is not supported"), "{error}");
}

#[test]
fn bombs_do_not_go_off() {
    let zeros = vec![0u8; 40 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&zeros).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&zeros[..], 1).unwrap();
    let snappy = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
    for (codec, packed) in [(1, snappy), (2, gzip), (6, zstd)] {
        let error = unpack(codec, &packed, 1000).unwrap_err();
        assert!(error.contains("1000 bytes unpacks to another size"), "{error}");
    }
    assert!(unpack(0, &[0; 10], 11).is_err());
}

#[test]
fn a_run_may_claim_more_than_there_is() {
    use super::encoding::Hybrid;
    // 2^k groups of eight numbers of 3 bits; there are three numbers, in the bits of two bytes.
    for claimed in [1u64, 1 << 20, 1 << 31, 1 << 40, 1 << 62] {
        let mut data = Vec::new();
        let mut head = claimed << 1 | 1;
        while head >= 128 {
            data.push(head as u8 | 128);
            head >>= 7;
        }
        data.extend([head as u8, 0b10_001_010, 0b1]);
        let mut numbers = Hybrid::new(0, 3).unwrap();
        let mut read = || numbers.next(&data);
        assert_eq!((read(), read(), read()), (Ok(2), Ok(1), Ok(6)), "{claimed}");
        assert!((0..3).map(|_| read()).any(|read| read.is_err()), "{claimed}");
    }
}
