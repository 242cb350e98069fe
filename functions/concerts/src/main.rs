//! The functions of concerts and their wiring. Triggers and permissions: `../stack.yaml`.

use concerts::dynamo::{Catalogue, SeatMaps};
use concerts::handlers::{self, Deps, RebuildDeps};
use kit::outbox::Relay;
use kit::{Boot, MainResult};

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let (catalogue, maps) = (Catalogue::new(boot.table()?), SeatMaps::new(boot.table()?));
    let admin = |catalogue, step| -> Result<_, kit::boot::BadSetting> {
        Ok(Deps { catalogue, step: boot.function(step)?, users: boot.user_tokens()? })
    };
    match boot.handler() {
        // HTTP, public
        "list-concerts" => boot.http(catalogue, handlers::list_concerts).await,
        "get-concert" => boot.http(catalogue, handlers::get_concert).await,
        "list-schedules" => boot.http(catalogue, handlers::list_schedules).await,
        "get-seat-map" => boot.http(maps, handlers::get_seat_map).await,
        // HTTP, operators
        "create-concert" => boot.http(admin(catalogue, "OPEN_WAITING_ROOM_FUNCTION")?, handlers::create_concert).await,
        "create-schedule" => boot.http(admin(catalogue, "OPEN_SCHEDULE_FUNCTION")?, handlers::create_schedule).await,
        "rebuild-seat-map" => {
            let (seats, users) = (boot.slow_function("LIST_TAKEN_SEATS_FUNCTION")?, boot.user_tokens()?);
            boot.http(RebuildDeps { maps, seats, users }, handlers::rebuild_seat_map).await
        }
        // Stream of the reservations table
        "project-seat-map" => boot.stream(maps, handlers::project_seat_map).await,
        // Every minute
        "sweep-concert-outbox" => boot.schedule(boot.relay("concerts")?, Relay::sweep_all).await,
        // Stream of the concerts table
        "relay-concerts" => boot.stream(boot.relay("concerts")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}
