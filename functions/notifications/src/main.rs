//! The functions of notifications: handler, trigger, wiring. What starts each and what it may do: `../stack.yaml`.

use kit::outbox::Relay;
use kit::outgoing::Client;
use kit::{Boot, MainResult};
use notifications::clients::{AlimTalk, CashReceipts, Directory, Notion, Queues, Webhook};
use notifications::dynamo::Notifications;
use notifications::handlers::{self, Deps, PersonalDeps, WatchDeps};
use std::error::Error;

/// The error is that something is not configured, or cannot be set up.
type Wired<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> MainResult {
    let boot = Boot::start()?;
    let store = Notifications::new(boot.table()?);
    match boot.handler() {
        // Queues of events
        "deliver-to-data-platform" => {
            let provider = webhook(&boot, "DATA_PLATFORM_URL", "DATA_PLATFORM_SECRET")?;
            boot.batch(Deps { store, provider }, handlers::deliver_to_data_platform).await
        }
        "push-alimtalk" => boot.queue(pushing(&boot, store)?, handlers::push_alimtalk).await,
        "notify-partner" => {
            let provider = webhook(&boot, "PARTNER_URL", "PARTNER_SECRET")?;
            boot.queue(Deps { store, provider }, handlers::notify_partner).await
        }
        "issue-cash-receipt" => boot.queue(issuing(&boot, store)?, handlers::issue_cash_receipt).await,
        "issue-order-receipt" => boot.queue(issuing(&boot, store)?, handlers::issue_order_receipt).await,
        "alert-administrator" => {
            let provider = notion(&boot, boot.setting("NOTION_URL")?)?;
            boot.queue(Deps { store, provider }, handlers::alert_administrator).await
        }
        // Every minute
        "watch-dead-letters" => boot.schedule(watching(&boot, store)?, handlers::watch_dead_letters).await,
        "sweep-notification-outbox" => boot.schedule(boot.relay("notifications")?, Relay::sweep_all).await,
        // Stream of the notifications table
        "relay-notifications" => boot.stream(boot.relay("notifications")?, Relay::relay_now).await,
        _ => boot.unknown_handler(),
    }
}

fn webhook(boot: &Boot, url: &str, secret: &str) -> Wired<Webhook> {
    Ok(Webhook::new(Client::new()?, boot.setting(url)?, boot.secret(secret)?))
}

fn directory(boot: &Boot) -> Wired<Directory> {
    Ok(Directory::new(Client::new()?, boot.setting("USER_DIRECTORY_URL")?, boot.secret("USER_DIRECTORY_SECRET")?))
}

fn pushing(boot: &Boot, store: Notifications) -> Wired<PersonalDeps<Notifications, AlimTalk, Directory>> {
    let provider = AlimTalk::new(Client::new()?, boot.setting("ALIMTALK_URL")?, boot.secret("ALIMTALK_SECRET")?);
    Ok(PersonalDeps { store, provider, directory: directory(boot)? })
}

fn issuing(boot: &Boot, store: Notifications) -> Wired<PersonalDeps<Notifications, CashReceipts, Directory>> {
    let secret = boot.secret("CASH_RECEIPT_SECRET")?;
    let provider = CashReceipts::new(Client::new()?, boot.setting("CASH_RECEIPT_URL")?, secret);
    Ok(PersonalDeps { store, provider, directory: directory(boot)? })
}

fn notion(boot: &Boot, url: String) -> Wired<Notion> {
    Ok(Notion::new(Client::new()?, url, boot.secret("NOTION_SECRET")?))
}

fn watching(boot: &Boot, store: Notifications) -> Wired<WatchDeps<Notifications, Notion, Queues>> {
    let url = boot.setting_or("NOTION_URL", String::new())?;
    let pages = if url.is_empty() { None } else { Some(notion(boot, url)?) };
    // The part of a queue's URL before its name.
    let prefix = boot.setting("QUEUE_URL_PREFIX")?;
    let queues = boot.setting("DEAD_LETTER_QUEUES")?.split(',').map(|name| format!("{prefix}{name}")).collect();
    Ok(WatchDeps { store, pages, look: Queues::new(boot.sqs()), queues })
}
