//! The batch engine: what a job gets depends on the job alone, and everybody gets their share in time.

mod model;
mod reference;
mod schedule;
mod storm;
