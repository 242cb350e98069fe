//! DynamoDB for an engine that has none of its own that runs here: dynoxide, in memory.

use crate::Result;
use crate::error::Error;
use dynoxide::{Database, server};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, stdin};
use tokio::net::TcpListener;

/// Serves it on a free port, which it prints, until standard input ends: so it ends with who started it, however that
/// comes.
pub async fn serve() -> Result<()> {
    let failed = |source| Error::Io { what: "opening a port for the database".to_owned(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let database = Database::memory().map_err(|e| Error::Engine(format!("the database cannot be opened: {e}")))?;
    crate::cli::print(&format!("{port}\n"))?;
    let mut served = tokio::spawn(server::serve_with_shutdown(listener, database, std::future::pending()));
    tokio::select! {
        ended = &mut served => Err(Error::Engine(format!("the database ended: {ended:?}"))),
        () = end_of_input() => Ok(()),
    }
}

async fn end_of_input() {
    let mut input = stdin();
    let mut bytes = [0; 64];
    while input.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}
