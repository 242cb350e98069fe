//! The operator's tools: logs, dead letters, the trace of an order, the rebuilding of seat maps.

pub mod dead_letters;
pub mod logs;
pub mod seat_map;
pub mod trace;
