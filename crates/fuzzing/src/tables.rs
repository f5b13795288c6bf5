//! Data sets and results.

use std::path::Path;

use sherry_measure::eval::ResultsFile;
use sherry_measure::eval::data::DataFile;
use sherry_measure::parquet::Rows;

use crate::with_file;

/// Any bytes as a Parquet file: an error or rows.
pub fn parquet_rows(data: &[u8]) {
    let Ok(rows) = Rows::from_bytes(Path::new("fuzz.parquet"), data.to_vec()) else { return };
    rows.take(1000).take_while(Result::is_ok).for_each(drop);
}

/// Any bytes as lines of JSON: an error, or as many rows as there are lines with something on them.
pub fn data_rows(data: &[u8]) {
    with_file("fuzz.jsonl", data, |path| {
        let Ok(file) = DataFile::read(path) else { return };
        let lines = data.split(|&byte| byte == b'\n');
        let filled = lines.filter(|line| !line.iter().all(u8::is_ascii_whitespace)).count();
        assert_eq!(file.rows.len(), filled);
    });
}

/// Any bytes as results of an evaluation: an error, or something that can be shown.
pub fn results_file(data: &[u8]) {
    with_file("fuzz.json", data, |path| {
        if let Ok(file) = ResultsFile::read(path) {
            let _ = file.label();
        }
    });
}
