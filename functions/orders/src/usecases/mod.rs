//! The use cases of orders, one module each.

pub mod cancel_order;
pub mod clear_cart;
pub mod get_cart;
pub mod place_order;
pub mod put_cart_item;
pub mod sweep_orders;
pub mod track_order;
