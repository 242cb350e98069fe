//! An operator announces a concert.

use crate::domain::Concert;
use crate::ports::{AddConcert, OpenWaitingRoom};
use contracts::Timestamp;
use kit::Fault;
use kit::idempotency::{Memo, Outcome};

/// A request to create a concert.
#[derive(Debug)]
pub struct CreateConcert {
    /// The concert, with the id it gets if it is created now.
    pub concert: Concert,
    /// What is remembered under the caller's key, if there is one.
    pub memo: Option<Memo>,
    /// When the request arrived.
    pub now: Timestamp,
}

/// Why the concert was not created.
#[derive(Debug)]
pub enum CreateConcertError {
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

/// Writes the concert, has its line opened, and only then lists it, so that users can join the line of any listed
/// concert.
///
/// If it fails in between, a retry under the same key completes it. Each part is idempotent, so the retry does not need
/// to know how far the first request came.
pub async fn create_concert(
    catalogue: &impl AddConcert,
    room: &impl OpenWaitingRoom,
    ask: CreateConcert,
) -> Result<Concert, CreateConcertError> {
    let added = catalogue.add_concert(&ask.concert, ask.memo.as_ref(), ask.now).await;
    let concert = match added.map_err(CreateConcertError::Fault)? {
        Outcome::First => ask.concert,
        Outcome::Replay(first) => first,
        Outcome::Mismatch => return Err(CreateConcertError::KeyReused),
    };
    room.open_waiting_room(&concert).await.map_err(CreateConcertError::Fault)?;
    catalogue.show_concert(&concert).await.map_err(CreateConcertError::Fault)?;
    Ok(concert)
}
