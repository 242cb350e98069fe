//! One module per use case with logic of its own. Plain reads go from handler to port.

pub mod create_concert;
pub mod create_schedule;
pub mod project_seat_map;
pub mod rebuild_seat_map;
