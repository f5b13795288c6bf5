//! The requests and answers of OpenAI's interface, as types.

pub mod answer;
pub mod fields;
pub mod json;
pub mod request;
