//! Many sequences on one decoder.
//!
//! [`BatchEngine`] takes [jobs](Job) and works on them step by step: every [step](BatchEngine::step) is one pass over the
//! weights, which generates a token for each running sequence and reads as much of waiting prompts as the [budget](Budget)
//! allows. It has no thread, no clock and no network of its own, so that a server, a program that works through a file, and
//! a test with a clock that does not exist use the same engine.
//!
//! What a job gets depends on the job alone. So the engine may cut prompts, share what others have computed, and take pages
//! away from a sequence and compute it again, as it likes.
//!
//! ```
//! use sherry::batch::{Budget, Job, Output};
//! use sherry::generate::SamplingParams;
//! # let llm = sherry::Llm::tiny()?;
//! # let mut engine = llm.into_engine();
//! let jobs = [vec![72, 105], vec![65, 66, 67]].map(|prompt| Job::new(prompt, 5, SamplingParams::GREEDY));
//! for job in jobs {
//!     engine.submit(job)?;
//! }
//! let mut tokens = 0;
//! while !engine.is_idle() {
//!     engine.step(Budget::Tokens(128), &mut |_job, output| {
//!         tokens += usize::from(matches!(output, Output::Token { .. }));
//!     })?;
//! }
//! assert_eq!(tokens, 10);
//! # Ok::<(), sherry::Error>(())
//! ```

mod admission;
mod clients;
mod draft;
mod engine;
mod job;
mod pace;
mod plan;
mod prefix;
mod rows;
mod sequence;

pub use engine::{BatchEngine, Load, Options, StepReport};
pub use job::{CacheScope, ClientId, Constraint, Finish, Job, JobId, Output, PromptScores, Scores};
pub use pace::{Budget, Work};
