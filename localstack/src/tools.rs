//! The operator's tools: logs, dead letters, the trace of an order.

pub mod dead_letters;
pub mod logs;
pub mod trace;
