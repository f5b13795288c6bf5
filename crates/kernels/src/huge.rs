//! Large pages for weights and caches.
//!
//! A decoded token reads every weight once, so with 4 KiB pages one line in 64 waits for a page walk as well: decoding a
//! 1B model is 6 to 11 % slower. Linux gives large pages to memory that asks for them before it is first touched.

/// Smaller buffers are not worth a system call.
const LARGE: usize = 128 << 10;

/// Asks for large pages where `memory`, which nobody has touched yet, has room for them. Only a hint: without them
/// everything works the same.
#[cfg(all(target_os = "linux", not(miri)))]
pub(crate) fn advise<T>(memory: &[T]) {
    use std::ffi::{c_int, c_long, c_void};

    unsafe extern "C" {
        fn madvise(start: *mut c_void, len: usize, advice: c_int) -> c_int;
        safe fn sysconf(name: c_int) -> c_long;
    }
    const MADV_HUGEPAGE: c_int = 14;
    const SC_PAGESIZE: c_int = 30;

    let bytes = size_of_val(memory);
    if bytes < LARGE {
        return;
    }
    let Some(page) = usize::try_from(sysconf(SC_PAGESIZE)).ok().filter(|page| page.is_power_of_two()) else { return };
    let start = memory.as_ptr().cast::<u8>();
    let (before, len) = whole_pages(start.addr(), bytes, page);
    let start = start.wrapping_sub(before).cast_mut();
    // SAFETY: this advice changes how pages are backed and never what they hold, so that it can do no harm to whatever else
    // lies on the first and the last page. The system checks the range; failure is harmless.
    unsafe { madvise(start.cast(), len, MADV_HUGEPAGE) };
}

/// The pages of `page` bytes that `bytes` from `address` on lie on: how many bytes before the address they begin, and how many
/// bytes they are. They begin with the page of the allocator's header: buffers allocated one after the other then form one
/// range, in which large pages need not keep to the limits of a buffer.
#[cfg(any(all(target_os = "linux", not(miri)), test))]
fn whole_pages(address: usize, bytes: usize, page: usize) -> (usize, usize) {
    let before = address % page;
    (before, (before + bytes).next_multiple_of(page))
}

/// Asks for nothing.
#[cfg(not(all(target_os = "linux", not(miri))))]
pub(crate) fn advise<T>(_: &[T]) {
    let _ = LARGE;
}

#[cfg(test)]
mod tests {
    /// With pages of every size that AArch64, x86 and POWER have.
    #[test]
    fn advice_is_for_whole_pages() {
        for page in [4 << 10, 16 << 10, 64 << 10] {
            for address in [0, 16, page - 1, page, 5 * page + 64] {
                for bytes in [1, page - 1, page, page + 1, 10 * page + 17] {
                    let (before, len) = super::whole_pages(address, bytes, page);
                    let start = address - before;
                    assert!(start.is_multiple_of(page) && len.is_multiple_of(page), "{address} {bytes} {page}");
                    assert!(
                        before < page && (start + len).checked_sub(address + bytes).is_some_and(|after| after < page)
                    );
                }
            }
        }
    }

    #[test]
    fn advice_changes_no_contents() {
        for len in [0, 1, 1000, 1 << 20, (5 << 20) + 3] {
            let mut bytes = Vec::<u8>::with_capacity(len);
            super::advise(&bytes.spare_capacity_mut()[..len]);
            bytes.extend((0..len).map(|i| i as u8));
            assert!(bytes.iter().enumerate().all(|(i, &byte)| byte == i as u8));
        }
    }
}
