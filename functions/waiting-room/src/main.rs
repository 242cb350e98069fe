//! The functions of the waiting room and their wiring. Triggers and permissions: `../stack.yaml`.

use kit::boot::BadSetting;
use kit::outbox::Relay;
use kit::{Boot, MainResult};
use std::sync::Mutex;
use waiting_room::clients::Enforcer;
use waiting_room::domain::{CheckBudget, DefaultAdmission, EnforcedBy, ShardCount};
use waiting_room::dynamo::{Lines, PLAN_LEAD_MILLIS};
use waiting_room::handlers::{self, AdmissionDeps, GateDeps, JoinDeps, LeaveDeps, StatusDeps};
use waiting_room::usecases::admit_places::{Pace, RUN_MILLIS};
use waiting_room::usecases::open_waiting_room::Opening;

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let line = Lines::new(boot.table()?, boot.setting_or("QUEUE_SHARDS", ShardCount::ONE)?);
    match boot.handler() {
        // HTTP
        "join-queue" => boot.http(joining(&boot, line)?, handlers::join_queue).await,
        "leave-queue" => boot.http(leaving(&boot, line)?, handlers::leave_queue).await,
        "check-queue-status" => boot.http(checking(&boot, line)?, handlers::check_queue_status).await,
        "set-admission" => boot.http(admission(&boot, line)?, handlers::set_admission).await,
        // Called by create-concert
        "open-waiting-room" => boot.step(opening(&boot, line)?, handlers::open_waiting_room).await,
        // Steps of the payment saga, in strict mode
        "expire-queue-token" => boot.step(line, handlers::expire_queue_token).await,
        "restore-queue-token" => boot.step(line, handlers::restore_queue_token).await,
        // Queue of payment.completed
        "expire-queue-tokens" => boot.queue(line, handlers::expire_queue_tokens).await,
        // The logs of joining and checking
        "report-queue-activity" => boot.logs(boot.bus()?, handlers::report_queue_activity).await,
        // Every minute
        "admit-places" => boot.schedule(gates(&boot, line)?, handlers::admit_places).await,
        "sweep-waiting-room-outbox" => boot.schedule(boot.relay("waiting-room")?, Relay::sweep_all).await,
        // The table's stream
        "relay-waiting-room" => boot.stream(boot.relay("waiting-room")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}

fn joining(boot: &Boot, line: Lines) -> Result<JoinDeps<Lines>, BadSetting> {
    let (users, queue_tokens) = (boot.user_tokens()?, boot.queue_tokens()?);
    let join_before_open = boot.setting_or("JOIN_BEFORE_OPEN", true)?;
    Ok(JoinDeps {
        line,
        users,
        queue_tokens,
        join_before_open,
        budget: boot.setting_or("STATUS_CHECKS_PER_SECOND", CheckBudget::default())?,
    })
}

fn checking(boot: &Boot, line: Lines) -> Result<StatusDeps<Lines>, BadSetting> {
    let (users, queue_tokens) = (boot.user_tokens()?, boot.queue_tokens()?);
    let budget = boot.setting_or("STATUS_CHECKS_PER_SECOND", CheckBudget::default())?;
    Ok(StatusDeps { line, users, queue_tokens, budget, limit: Mutex::default() })
}

fn admission(boot: &Boot, line: Lines) -> Result<AdmissionDeps<Lines, Enforcer>, BadSetting> {
    let reservations = enforcer(boot, "APPLY_ADMISSION_FUNCTION")?;
    Ok(AdmissionDeps { line, reservations, users: boot.user_tokens()?, lead_millis: PLAN_LEAD_MILLIS })
}

fn gates(boot: &Boot, line: Lines) -> Result<GateDeps<Lines, Enforcer>, BadSetting> {
    let reservations = enforcer(boot, "APPLY_ADMISSION_FUNCTION")?;
    Ok(GateDeps { line, reservations, pace: Pace { lead_millis: PLAN_LEAD_MILLIS, run_millis: RUN_MILLIS } })
}

fn leaving(boot: &Boot, line: Lines) -> Result<LeaveDeps<Lines, Enforcer>, BadSetting> {
    Ok(LeaveDeps { line, reservations: enforcer(boot, "END_VISIT_FUNCTION")?, users: boot.user_tokens()? })
}

fn opening(boot: &Boot, line: Lines) -> Result<Opening<Lines, Enforcer>, BadSetting> {
    let admission = boot.setting_or("ADMISSION_DEFAULT", DefaultAdmission::default())?;
    Ok(Opening { line, reservations: enforcer(boot, "APPLY_ADMISSION_FUNCTION")?, admission })
}

fn enforcer(boot: &Boot, step: &str) -> Result<Enforcer, BadSetting> {
    Ok(match boot.setting_or("ADMISSION_ENFORCED_BY", EnforcedBy::default())? {
        EnforcedBy::Reservations => Enforcer::Reservations(boot.function(step)?),
        EnforcedBy::Nobody => Enforcer::Nobody,
    })
}
