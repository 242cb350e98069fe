//! What orders does, one module per use case.

pub mod clear_cart;
pub mod place_order;
pub mod put_cart_item;
pub mod sweep_orders;
pub mod track_order;
