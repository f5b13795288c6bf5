pub(crate) use crate::scalar::ternary::KERNELS;
