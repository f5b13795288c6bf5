//! Fields of two bits that hold a ternary weight plus 1: 0, 1 or 2; 3 stands for no weight.

/// The place of the first byte with a field of 3.
pub(super) fn first_three(bytes: &[u8]) -> Option<usize> {
    // Nearly always there is none, which is found faster for all bytes together.
    if bytes.iter().fold(0, |any, byte| any | byte & byte >> 1) & 0x55 == 0 {
        return None;
    }
    bytes.iter().position(|byte| byte & byte >> 1 & 0x55 != 0)
}

/// The weights of the fields from bit `shift` on, one a byte.
#[inline]
pub(super) fn one_a_byte(bytes: &[u8], shift: usize, values: &mut [i8]) {
    for (value, byte) in values.iter_mut().zip(bytes) {
        *value = (byte >> shift & 3) as i8 - 1;
    }
}

/// The weights of all four fields, the lowest first.
#[inline]
pub(super) fn four_a_byte(bytes: &[u8], values: &mut [i8]) {
    for (values, byte) in values.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
        *values = [0, 2, 4, 6].map(|shift| (byte >> shift & 3) as i8 - 1);
    }
}
