//! Any bytes as a Parquet file: an error or rows, never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sherry_measure::parquet::Rows;

fuzz_target!(|data: &[u8]| {
    let Ok(rows) = Rows::from_bytes(Path::new("fuzz.parquet"), data.to_vec()) else { return };
    rows.take(1000).take_while(Result::is_ok).for_each(drop);
});
