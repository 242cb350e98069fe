//! One module per use case that decides something. Plain reads go from handler to port.

pub mod create_concert;
pub mod create_schedule;
pub mod project_seat_map;
