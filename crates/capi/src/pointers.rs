//! From pointers to references: all that these functions take for granted about their callers is written here once.
//!
//! Of every pointer a caller promises what `sherry.h` says: that it is null, or points to as many values of its type as the
//! number beside it says, which nobody else writes during the call; of every handle, that it came from this library and was
//! not freed. Null, lengths of 0 and sizes are checked.

use std::ffi::c_char;

use crate::failure::{Failure, Outcome, Status};

/// A structure of `sherry.h`: nothing but numbers and pointers, the first of them `uint32_t size`.
///
/// # Safety
/// Every pattern of bits is a value, and the first field is a `u32`.
pub unsafe trait Structure: Copy {
    /// Its name in C.
    const NAME: &'static str;
}

/// A structure that the caller gives, if it does.
pub unsafe fn structure<T: Structure>(given: *const T) -> Outcome<Option<T>> {
    if given.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not null, so the caller has a structure there, which begins with its size.
    let size = unsafe { given.cast::<u32>().read_unaligned() } as usize;
    check_size::<T>(size)?;
    // SAFETY: the caller says that so many bytes are there, at least as many as a `T` has, and all bits are a `T`.
    Ok(Some(unsafe { given.read_unaligned() }))
}

/// A structure that the caller wants filled: it says its size, and the rest is overwritten but for that.
pub unsafe fn fill<T: Structure>(wanted: *mut T, value: T) -> Outcome<()> {
    if wanted.is_null() {
        return Err(Failure::invalid(format!("{}: the pointer is null", T::NAME)));
    }
    // SAFETY: as in `structure`.
    let size = unsafe { wanted.cast::<u32>().read_unaligned() };
    check_size::<T>(size as usize)?;
    // SAFETY: the caller's memory holds a `T` at least; the size is put back, since it is the caller's, and first in a `T`.
    unsafe {
        wanted.write_unaligned(value);
        wanted.cast::<u32>().write_unaligned(size);
    }
    Ok(())
}

/// Callers compiled with a later header have longer structures, of which we know the beginning.
fn check_size<T: Structure>(size: usize) -> Outcome<()> {
    let least = size_of::<T>();
    if size >= least {
        return Ok(());
    }
    Err(Failure::invalid(format!("{}.size is {size}; expected at least {least}: set it to sizeof({0})", T::NAME)))
}

/// `len` values that the caller gives.
pub unsafe fn values<'a, T>(start: *const T, len: usize, what: &str) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    if start.is_null() {
        return Err(Failure::invalid(format!("{what}: {len} values at a null pointer")));
    }
    if len > isize::MAX as usize / size_of::<T>() || !start.is_aligned() {
        return Err(Failure::invalid(format!("{what}: {len} values cannot be there")));
    }
    // SAFETY: the pointer is aligned and not null, and the caller has `len` values there that nobody writes during the call; they
    // fit the address space.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// `len` bytes of UTF-8 that the caller gives.
pub unsafe fn text<'a>(start: *const c_char, len: usize, what: &str) -> Outcome<&'a str> {
    // SAFETY: the same promise.
    let bytes = unsafe { values(start.cast::<u8>(), len, what) }?;
    std::str::from_utf8(bytes).map_err(|error| Failure::invalid(format!("{what}: not UTF-8: {error}")))
}

/// Writes `found` where the caller has room for `capacity` values, all of it or nothing, and its length to `count`.
pub unsafe fn write<T: Copy>(found: &[T], out: *mut T, capacity: usize, count: *mut usize) -> Outcome<()> {
    // SAFETY: the caller gives a pointer to a number, or null.
    if let Some(count) = unsafe { count.as_mut() } {
        *count = found.len();
    }
    if found.len() > capacity {
        let message = format!("there is room for {capacity} values, and {} to give", found.len());
        return Err(Failure { status: Status::Space, message });
    }
    if found.is_empty() {
        return Ok(());
    }
    if out.is_null() || !out.is_aligned() {
        return Err(Failure::invalid(format!("no room for {} values: the pointer is null or odd", found.len())));
    }
    // SAFETY: the caller has room for `capacity` values there, no fewer than these, and gave us the place to write to, so that it
    // is not where they come from.
    unsafe { found.as_ptr().copy_to_nonoverlapping(out, found.len()) };
    Ok(())
}

/// What a handle stands for.
pub unsafe fn handle<'a, T>(handle: *const T, what: &str) -> Outcome<&'a T> {
    // SAFETY: a handle is null, or what `give` made of a box that was not freed since.
    unsafe { handle.as_ref() }.ok_or_else(|| Failure::invalid(format!("{what}: the handle is null")))
}

/// Gives `value` to the caller as a handle. The place for it must be there before the value is made: see [`place`].
pub unsafe fn give<T>(out: *mut *mut T, value: T) {
    // SAFETY: `place` has found it not null, and the caller has a pointer there.
    unsafe { out.write_unaligned(Box::into_raw(Box::new(value))) };
}

/// Checks the place for a handle, and puts null there, so that a failure leaves nothing that looks like one.
pub unsafe fn place<T>(out: *mut *mut T) -> Outcome<()> {
    if out.is_null() {
        return Err(Failure::invalid("the place for the handle is null"));
    }
    // SAFETY: it is not null, so the caller has a pointer there.
    unsafe { out.write_unaligned(std::ptr::null_mut()) };
    Ok(())
}

/// Takes a handle back; `None` for null.
pub unsafe fn take<T>(handle: *mut T) -> Option<Box<T>> {
    // SAFETY: a handle that is not null is what `give` made of a box, and the caller gives it up.
    (!handle.is_null()).then(|| unsafe { Box::from_raw(handle) })
}
