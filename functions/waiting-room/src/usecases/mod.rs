//! One module per use case with logic of its own. Plain reads and writes go from handler to port.

pub mod admit_places;
pub mod check_queue_status;
pub mod expire_queue_token;
pub mod join_queue;
pub mod leave_queue;
pub mod open_waiting_room;
pub mod restore_queue_token;
pub mod set_admission;
