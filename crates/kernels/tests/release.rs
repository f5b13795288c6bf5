//! Repacking gives memory back as it goes, so that a model is not in memory twice while it loads.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use sherry_kernels::format::{BlockRows, TensorType};
use sherry_kernels::{Bytes, Matrix, Memory, Pool, TernaryBits};

/// Zeros that note what was released.
struct Noted {
    bytes: Vec<u8>,
    released: Mutex<Vec<Range<usize>>>,
}

impl AsRef<[u8]> for Noted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Memory for Noted {
    fn release(&self, range: Range<usize>) {
        self.released.lock().unwrap().push(range);
    }
}

/// A tensor of zeros, and where it notes.
fn tensor(ty: TensorType, rows: usize, cols: usize) -> (Arc<Noted>, Bytes) {
    // Something before it and after it, which must be left alone.
    let len = ty.tensor_bytes(rows, cols).unwrap();
    let noted = Arc::new(Noted { bytes: vec![0; len + 300], released: Mutex::default() });
    let bytes = Bytes::releasable(Arc::<Noted>::clone(&noted)).slice(100..100 + len).unwrap();
    (noted, bytes)
}

/// Bytes released, each once, in parts no larger than `largest`.
fn released(noted: &Noted, largest: usize) -> usize {
    let mut ranges = noted.released.lock().unwrap().clone();
    ranges.sort_by_key(|range| range.start);
    assert!(ranges.windows(2).all(|two| two[0].end <= two[1].start), "{ranges:?}");
    assert!(ranges.first().is_none_or(|range| range.start >= 100));
    assert!(ranges.last().is_none_or(|range| range.end <= noted.bytes.len() - 200));
    assert!(ranges.iter().all(|range| range.len() <= largest), "{ranges:?}");
    ranges.iter().map(Range::len).sum()
}

#[test]
fn what_was_repacked_is_released() {
    const LARGEST: usize = 3 << 20;
    for threads in [1, 3] {
        let pool = Pool::new(threads);
        let (rows, cols) = (5000, 1024);
        let (noted, bytes) = tensor(TensorType::Q8_0, rows, cols);
        let all = bytes.len();
        Matrix::from_rows(TensorType::Q8_0, rows, cols, bytes).unwrap().repacked_on(&pool);
        let found = released(&noted, LARGEST);
        assert!(found <= all && all - found < LARGEST, "{found} of {all}");

        let (rows, cols) = (20_000, 1024);
        let (noted, bytes) = tensor(TensorType::TQ2_0, rows, cols);
        let all = bytes.len();
        let blocks = BlockRows::new(TensorType::TQ2_0, rows, cols, bytes).unwrap();
        assert_eq!(std::mem::take(&mut *noted.released.lock().unwrap()), vec![100..100 + all]);
        Matrix::from_ternary_on(&pool, &blocks, TernaryBits::Auto).unwrap();
        let found = released(&noted, LARGEST);
        assert!(found <= all && all - found < LARGEST, "{found} of {all}");
    }
}
