//! What a page needs beside the functions of C: room for what it writes, and the date that it tells.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;

use sherry::chat::LocalTime;

/// Enough for every type of `sherry.h`.
const ALIGN: usize = 16;

/// `len` bytes, or null. They are given back with `sherry_dealloc` and the same length.
#[unsafe(no_mangle)]
pub extern "C" fn sherry_alloc(len: usize) -> *mut u8 {
    match Layout::from_size_align(len.max(1), ALIGN) {
        // SAFETY: the size is not 0.
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => std::ptr::null_mut(),
    }
}

/// Gives the bytes back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sherry_dealloc(start: *mut u8, len: usize) {
    if let (false, Ok(layout)) = (start.is_null(), Layout::from_size_align(len.max(1), ALIGN)) {
        // SAFETY: the caller says that `sherry_alloc` gave it for this length, so the layout is the same.
        unsafe { dealloc(start, layout) };
    }
}

/// Lives as one of the threads that sessions have asked for, until its session is freed: for the workers of a page, each with an
/// instance of the module on the same memory. 0 when none is wanted.
#[cfg(target_feature = "atomics")]
#[unsafe(no_mangle)]
pub extern "C" fn sherry_worker() -> i32 {
    i32::from(sherry_kernels::hosted::work())
}

thread_local! {
    static NOW: Cell<Option<LocalTime>> = const { Cell::new(None) };
}

/// The date that chat templates print: the page's, there is no other clock. Whether there is such a date.
#[unsafe(no_mangle)]
pub extern "C" fn sherry_set_date(year: i32, month: i32, day: i32, hour: i32, minute: i32, second: i32) -> i32 {
    let small = |value: i32| i8::try_from(value).unwrap_or(-1);
    let date = i16::try_from(year).ok().map(|year| (year, small(month), small(day)));
    let now = date.and_then(|date| LocalTime::new(date, (small(hour), small(minute), small(second))));
    NOW.set(now);
    i32::from(now.is_some())
}

/// The date that was told.
pub fn now() -> Option<LocalTime> {
    NOW.get()
}
