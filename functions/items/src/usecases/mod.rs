//! One module per use case that decides something. Plain reads and writes go from handler to port.

pub mod deduct_stock;
pub mod quote_items;
