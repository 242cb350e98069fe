//! An operator announces a concert.

use crate::domain::Concert;
use crate::ports::{AddConcert, OpenWaitingRoom};
use contracts::Timestamp;
use kit::Fault;
use kit::idempotency::{Memo, Outcome};

/// What is asked.
#[derive(Debug)]
pub struct CreateConcert {
    /// The concert, under the id it gets if it is made now.
    pub concert: Concert,
    /// What is remembered under the caller's key, if there is one.
    pub memo: Option<Memo>,
    /// When it was asked.
    pub now: Timestamp,
}

/// Why not.
#[derive(Debug)]
pub enum CreateConcertError {
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

/// Writes the concert, has its line opened, and only then shows it: whoever finds it can stand in line for it.
///
/// What fails in between is made up for by the same request under the same key. Each part is idempotent, so a
/// repeated request does not need to know how far the first one came.
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
