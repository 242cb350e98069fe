//! The stores of all contexts against a real DynamoDB endpoint: how often they call it, what two writers at once result
//! in, and that every guard is needed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod async_reservations;
mod audit;
mod bench;
mod cancellations;
mod charges;
mod concerts;
mod controls;
mod extensions;
mod item_limits;
mod items;
mod notifications;
mod orders;
mod orders_cancelled;
mod orders_refused;
mod outbox;
mod payments;
mod payments_refunds;
mod points;
mod points_orders;
mod refunds;
mod reservations;
mod returns;
mod round_trips;
mod seats;
mod unpaid;
mod waiting_room;
mod withdrawals;
