//! Formatting as Python has it: `%`, `format`, and the specifications both use.

mod brace;
mod floats;
mod percent;
mod spec;
