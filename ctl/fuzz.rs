//! Part of a fuzz target: what berthctl makes of an agent's answers, without what asks for them.

pub mod error;
pub mod fields;
pub mod output;
pub mod progress;
pub mod status;
pub mod template;
pub mod term;
pub mod units;
pub mod view;
pub mod yaml;
