//! The points table. One item per user is balance and recent ledger in one, so that a movement is a single
//! `UpdateItem`: atomic, one round trip, and its result contains the new balance.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | account | `USER#<user>` | `ACCOUNT` | `balance`, `seq` (entries ever made), `hot` (entries in this item), `archives` (how often entries were archived), and for each recent entry `e#<key>` (map: `id`, `kind`, `amount`, `ref`, `at`), `b#<key>` (balance after it), `s#<key>` (its sequence); `v#<reference>` (when a use was voided before it arrived), `v#<key>` (when a charge was refused for good) |
//! | archive | `USER#<user>` | `LEDGER#<sequence of its last entry, 12 digits>` | `entries` (JSON) |
//! | archived key | `USER#<user>` | `KEY#<key>` | `page` (sort key of the archive that has the entry) |
//! | work | `ORDER#<order>` | `WORK` | `work_state` (`done`, `refused`, `undone`), `amount` (what was used), `ttl` |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! An entry's key is its idempotency key, and guards for good: in the account, and from its archiving on in a row of its
//! own (the release before archived without one, what was 30 days old). A movement is written on the condition that the account does not have its key, and was not archived since the
//! archive was searched for it. So most users, who have no archive, pay one write; and no clock decides whether a key is
//! known.

mod archive;
mod orders;

use crate::domain::{Entry, EntryKey, Kind, Movement, Posted, Refusal, decide};
use crate::ports::{CloseCharge, ListEntries, PostEntry, ReadBalance, ReturnUse};
use archive::{ArchivedEntry, archive_key, archives_of, is_full};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::{UpdateItemError, UpdateItemOutput};
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue, ReturnValuesOnConditionCheckFailure};
use contracts::{Timestamp, UserId, Won};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, Table, at, jitter, n, s};
use kit::fault::classify;
use kit::http::Page;
use std::collections::HashMap;

pub use archive::{FULL_ENTRIES, HOT_ENTRIES, KEPT_ENTRIES, SETTLED_MILLIS};

/// How many voids of uses and charges an account holds before old ones are removed.
pub const HOT_VOIDS: usize = 32;
/// How many voids one write removes.
const FORGOTTEN_AT_ONCE: usize = 100;
/// How long a void of a use or a charge stays at least, in milliseconds: as long as any function can run.
pub const VOID_MILLIS: i64 = 900 * 1000;
/// Attempts of a write that conflicts with another one.
const ATTEMPTS: u32 = 5;
/// How often a movement is tried again after the archive was searched for its key, or room was made for it. Two rounds
/// settle it, unless the account is archived again and again meanwhile.
const ROUNDS: u32 = 8;

const ACCOUNT: &str = "ACCOUNT";

/// Accounts in the points table.
#[derive(Debug, Clone)]
pub struct Accounts {
    table: Table,
}

impl Accounts {
    /// Accounts in a table.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    fn update(&self, user: &UserId) -> UpdateItemFluentBuilder {
        self.table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(format!("USER#{user}")))
            .key(SK, s(ACCOUNT))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// The write of a movement: entry, balance after, sequence, balance; nothing if `guard` does not hold.
    fn posting(&self, user: &UserId, movement: &Movement, guard: Option<&str>) -> UpdateItemFluentBuilder {
        let key = movement.key.as_str();
        let guard = guard.map(str::to_owned);
        let signed = if movement.kind.adds() { movement.amount.get() } else { -movement.amount.get() };
        self.update(user)
            .update_expression(
                "SET #entry = :entry, \
                 #after = if_not_exists(balance, :zero) + :signed, \
                 #sequence = if_not_exists(seq, :zero) + :one, \
                 balance = if_not_exists(balance, :zero) + :signed, \
                 seq = if_not_exists(seq, :zero) + :one, \
                 hot = if_not_exists(hot, :zero) + :one",
            )
            .set_condition_expression(guard)
            .expression_attribute_names("#entry", format!("e#{key}"))
            .expression_attribute_names("#after", format!("b#{key}"))
            .expression_attribute_names("#sequence", format!("s#{key}"))
            .expression_attribute_values(":entry", entry_map(movement))
            .expression_attribute_values(":signed", n(signed))
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":one", n(1))
            .return_values(ReturnValue::AllNew)
    }

    async fn account(&self, user: &UserId) -> Result<Item, Fault> {
        let found = self.table.read("reading an account", s(format!("USER#{user}")), s(ACCOUNT)).await?;
        Ok(found.unwrap_or_default())
    }
}

/// The movement is made whether or not archiving succeeds.
fn warn_if_not(archived: Result<(), Fault>) {
    if let Err(fault) = archived {
        tracing::warn!(error = fault.chain(), "entries stay in the account for now");
    }
}

/// Sends a write of an account, and retries it while a transaction holds the account: an order's, or an archiving.
async fn send(write: UpdateItemFluentBuilder) -> Result<UpdateItemOutput, SdkError<UpdateItemError>> {
    for attempt in 1..ATTEMPTS {
        let sent = write.clone().send().await;
        let met = |error: &SdkError<_>| {
            error.as_service_error().is_some_and(UpdateItemError::is_transaction_conflict_exception)
        };
        if !sent.as_ref().is_err_and(met) {
            return sent;
        }
        tokio::time::sleep(jitter(attempt)).await;
    }
    write.send().await
}

impl Accounts {
    /// Writes a void for an entry, unless the entry is there, or the account was archived more often than `archives`
    /// times: then returns the account as it is.
    async fn close(
        &self,
        user: &UserId,
        entry: &str,
        void: &str,
        archives: u64,
        now: Timestamp,
    ) -> Result<Option<Item>, Fault> {
        let closing = self
            .update(user)
            .update_expression("SET #void = :at")
            .condition_expression(
                "attribute_not_exists(#made) AND (attribute_not_exists(archives) OR archives = :archives)",
            )
            .expression_attribute_names("#made", entry)
            .expression_attribute_names("#void", void)
            .expression_attribute_values(":at", at(now))
            .expression_attribute_values(":archives", n(archives))
            .return_values(ReturnValue::AllNew);
        match send(closing).await {
            Ok(written) => {
                let account = written.attributes.unwrap_or_default();
                if let Err(fault) = self.forget_voids(user, &account, now).await {
                    tracing::warn!(error = fault.chain(), "what was closed off stays in the account for now");
                }
                Ok(None)
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Some(failed.item().cloned().unwrap_or_default()))
                }
                _ => Err(classify("closing the door to an entry", error)),
            },
        }
    }

    /// Removes voids of which no call can be in flight any more. The account of a user who keeps failing to pay would
    /// otherwise grow without bound.
    async fn forget_voids(&self, user: &UserId, account: &Item, now: Timestamp) -> Result<(), Fault> {
        let voids: Vec<&String> = account.keys().filter(|name| name.starts_with("v#")).collect();
        if voids.len() <= HOT_VOIDS {
            return Ok(());
        }
        let closed_at = |name: &str| match account.get(name) {
            Some(AttributeValue::N(digits)) => digits.parse().map(Timestamp::from_millis).unwrap_or_default(),
            _ => Timestamp::default(),
        };
        let mut old: Vec<&String> =
            voids.into_iter().filter(|name| now.millis_since(closed_at(name)) > VOID_MILLIS).collect();
        // As many as an expression of 4 KB can name.
        old.truncate(FORGOTTEN_AT_ONCE);
        if old.is_empty() {
            return Ok(());
        }
        let mut forget = self.update(user);
        let mut removed = Vec::with_capacity(old.len());
        for (index, name) in old.into_iter().enumerate() {
            forget = forget.expression_attribute_names(format!("#v{index}"), name);
            removed.push(format!("#v{index}"));
        }
        forget
            .update_expression(format!("REMOVE {}", removed.join(", ")))
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("forgetting closed-off uses", error))
    }
}

impl Accounts {
    /// Posts a movement whose key was looked for in the archive when the account had been archived `archives` times.
    /// Otherwise returns the account that did not allow it.
    async fn try_post(&self, user: &UserId, movement: &Movement, archives: u64) -> Result<Result<Entry, Item>, Fault> {
        let guard = if movement.kind.adds() {
            "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
             (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full) AND \
             (attribute_not_exists(archives) OR archives = :archives)"
        } else if movement.amount == Won::ZERO {
            "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
             (attribute_not_exists(hot) OR hot < :full) AND (attribute_not_exists(archives) OR archives = :archives)"
        } else {
            "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit AND hot < :full AND \
             (attribute_not_exists(archives) OR archives = :archives)"
        };
        let mut write = self
            .posting(user, movement, Some(guard))
            .expression_attribute_names("#void", void_name(movement))
            .expression_attribute_values(":full", n(FULL_ENTRIES))
            .expression_attribute_values(":archives", n(archives));
        if movement.kind.adds() {
            write = write.expression_attribute_values(":limit", n(Won::MAX.get() - movement.amount.get()));
        } else if movement.amount != Won::ZERO {
            write = write.expression_attribute_values(":limit", n(movement.amount.get()));
        }
        self.posted("posting an entry", user, movement, write).await
    }

    /// Sends the write of a movement, and archives what the account no longer needs. Returns the entry, or the account
    /// that did not allow it.
    async fn posted(
        &self,
        doing: &'static str,
        user: &UserId,
        movement: &Movement,
        write: UpdateItemFluentBuilder,
    ) -> Result<Result<Entry, Item>, Fault> {
        match send(write).await {
            Ok(written) => {
                let account = written.attributes.unwrap_or_default();
                let entry = hot_entry(&account, &movement.key)?
                    .ok_or_else(|| Fault::broken(doing, "the written entry is missing"))?;
                warn_if_not(self.archive(user, &account, movement.at).await.map(drop));
                Ok(Ok(entry))
            }
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                    Ok(Err(failed.item().cloned().unwrap_or_default()))
                }
                _ => Err(classify(doing, error)),
            },
        }
    }

    /// What came of a movement before, by the archive.
    async fn settled_in_archive(&self, user: &UserId, movement: &Movement) -> Result<Option<Posted>, Fault> {
        if movement.kind != Kind::Use {
            let [made] = self.archived(user, [&movement.key]).await?;
            return Ok(made.map(Posted::Before));
        }
        let [made, returned] = self.archived(user, [&movement.key, &EntryKey::return_of(&movement.reference)]).await?;
        Ok(if returned.is_some() { Some(Posted::Undone) } else { made.map(Posted::Before) })
    }

    /// Gives back what was used under `movement.reference`, once. Where it is not known that something was used, ensures
    /// that nothing will be. Returns whether there was nothing (more) to return.
    async fn return_once(&self, user: &UserId, movement: &Movement, known_used: bool) -> Result<bool, Fault> {
        const DOING: &str = "returning points";
        let use_key = EntryKey::use_for(&movement.reference);
        let used = format!("e#{}", use_key.as_str());
        let void = void_name(movement);
        let (mut archives, mut is_used) = (0, known_used);
        for _ in 0..ROUNDS {
            let guard = if is_used {
                "attribute_not_exists(#entry) AND (attribute_not_exists(archives) OR archives = :archives)"
            } else {
                "attribute_exists(#used) AND attribute_not_exists(#entry) AND \
                 (attribute_not_exists(archives) OR archives = :archives)"
            };
            let mut write =
                self.posting(user, movement, Some(guard)).expression_attribute_values(":archives", n(archives));
            if !is_used {
                write = write.expression_attribute_names("#used", &used);
            }
            let Err(account) = self.posted(DOING, user, movement, write).await? else { return Ok(false) };
            let is_void = account.contains_key(&void) && !known_used;
            if is_void || account.contains_key(&format!("e#{}", movement.key.as_str())) {
                return Ok(true);
            }
            if archives_of(&account)? != archives {
                archives = archives_of(&account)?;
                let [returned, used] = self.archived(user, [&movement.key, &use_key]).await?;
                if returned.is_some() {
                    return Ok(true);
                }
                is_used = known_used || used.is_some();
            // Nothing was used. Void it, so that a use that is still in flight is refused. If it arrived between the
            // two writes, it is returned in the next round.
            } else if !is_used && self.close(user, &used, &void, archives, movement.at).await?.is_none() {
                return Ok(true);
            }
        }
        Err(Fault::contended(DOING))
    }
}

impl PostEntry for Accounts {
    async fn post(&self, user: &UserId, movement: &Movement) -> Result<Result<Posted, Refusal>, Fault> {
        let mut archives = 0;
        for _ in 0..ROUNDS {
            let account = match self.try_post(user, movement, archives).await? {
                Ok(entry) => return Ok(Ok(Posted::Now(entry))),
                Err(account) => account,
            };
            if let Some(posted) = settled(&account, movement)? {
                return Ok(Ok(posted));
            }
            if archives_of(&account)? != archives {
                archives = archives_of(&account)?;
                if let Some(posted) = self.settled_in_archive(user, movement).await? {
                    return Ok(Ok(posted));
                }
            } else if is_full(&account)? {
                self.make_room(user, account, movement.at).await?;
            } else {
                return match decide(balance_of(&account)?, movement) {
                    Err(refusal) => Ok(Err(refusal)),
                    Ok(_) => Err(Fault::broken("posting an entry", "the condition refused what the decision allows")),
                };
            }
        }
        Err(Fault::contended("posting an entry"))
    }
}

/// What came of a movement before, by the account itself.
fn settled(account: &Item, movement: &Movement) -> Result<Option<Posted>, Fault> {
    let returned = format!("e#{}", EntryKey::return_of(&movement.reference).as_str());
    if account.contains_key(&void_name(movement)) || movement.kind == Kind::Use && account.contains_key(&returned) {
        return Ok(Some(Posted::Undone));
    }
    Ok(hot_entry(account, &movement.key)?.map(Posted::Before))
}

impl ReturnUse for Accounts {
    async fn return_use(&self, user: &UserId, movement: &Movement) -> Result<bool, Fault> {
        self.return_once(user, movement, false).await
    }

    async fn return_completed(&self, user: &UserId, movement: &Movement) -> Result<bool, Fault> {
        self.return_once(user, movement, true).await
    }
}

impl CloseCharge for Accounts {
    async fn close_charge(&self, user: &UserId, movement: &Movement) -> Result<Option<Entry>, Fault> {
        let entry = format!("e#{}", movement.key.as_str());
        let mut archives = 0;
        for _ in 0..ROUNDS {
            let void = void_name(movement);
            let Some(account) = self.close(user, &entry, &void, archives, movement.at).await? else { return Ok(None) };
            if let Some(made) = hot_entry(&account, &movement.key)? {
                return Ok(Some(made));
            }
            archives = archives_of(&account)?;
            if let [Some(made)] = self.archived(user, [&movement.key]).await? {
                return Ok(Some(made));
            }
        }
        Err(Fault::contended("refusing a charge for good"))
    }
}

impl ReadBalance for Accounts {
    async fn balance(&self, user: &UserId) -> Result<Won, Fault> {
        balance_of(&self.account(user).await?)
    }
}

impl ListEntries for Accounts {
    async fn entries(&self, user: &UserId, page: &Page) -> Result<(Vec<Entry>, Option<String>), Fault> {
        // The cursor is the sequence of the last entry seen.
        let before = match &page.after {
            None => u64::MAX,
            Some(sequence) => sequence.parse().map_err(|error| Fault::broken("reading a cursor", error))?,
        };
        let limit = page.limit as usize;
        let account = self.account(user).await?;
        let archived = account.maybe_int("seq")? > account.maybe_int("hot")?;
        let mut entries = hot_entries(&account)?;
        entries.retain(|entry| entry.sequence < before);
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
        let mut archives = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :ledger)")
            .expression_attribute_values(":pk", s(format!("USER#{user}")))
            .expression_attribute_values(":ledger", s("LEDGER#"))
            .scan_index_forward(false)
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        // Entries are archived by the clocks of many functions, so archived and hot ones may interleave: archives are
        // read until none can hold an entry of this page. Most users have none at all.
        while let Some(archive) = if archived { archives.next().await } else { None } {
            let archive: Item = archive.map_err(|error| classify("reading archived entries", error))?;
            let highest = archive.text(SK)?.to_owned();
            if entries.get(limit).is_some_and(|entry| archive_key(entry.sequence).as_str() > highest.as_str()) {
                break;
            }
            let page: Vec<ArchivedEntry> = archive.document("entries")?;
            for archived in page {
                let entry = archived.into_entry()?;
                if entry.sequence < before {
                    entries.push(entry);
                }
            }
            // An entry that was archived between the two reads is in both.
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
            entries.dedup_by_key(|entry| entry.sequence);
        }
        let more = entries.len() > limit;
        entries.truncate(limit);
        let next = entries.last().filter(|_| more).map(|entry| entry.sequence.to_string());
        Ok((entries, next))
    }
}

fn balance_of(account: &Item) -> Result<Won, Fault> {
    Won::new(account.maybe_int("balance")?.unwrap_or(0)).map_err(|error| Fault::broken("reading a balance", error))
}

/// The attribute that voids a movement: a charge by its key; a use, and with it its return, by its reference.
fn void_name(movement: &Movement) -> String {
    match movement.kind {
        Kind::Charge => format!("v#{}", movement.key.as_str()),
        Kind::Use | Kind::Refund => format!("v#{}", movement.reference),
    }
}

fn entry_map(movement: &Movement) -> AttributeValue {
    AttributeValue::M(HashMap::from([
        ("id".to_owned(), s(&movement.entry_id)),
        ("kind".to_owned(), s(movement.kind.as_str())),
        ("amount".to_owned(), n(movement.amount.get())),
        ("ref".to_owned(), s(&movement.reference)),
        ("at".to_owned(), at(movement.at)),
    ]))
}

/// The entry under `key` in an account.
fn hot_entry(account: &Item, key: &EntryKey) -> Result<Option<Entry>, Fault> {
    let Some(AttributeValue::M(map)) = account.get(&format!("e#{}", key.as_str())) else { return Ok(None) };
    let map: &Item = map;
    let wrong = || Fault::broken("reading an entry", "an entry is incomplete");
    let number = |name: String| match account.get(&name) {
        Some(AttributeValue::N(digits)) => digits.parse::<i64>().map_err(|_| wrong()),
        _ => Err(wrong()),
    };
    Ok(Some(Entry {
        movement: Movement {
            key: key.clone(),
            entry_id: map.text("id")?.to_owned(),
            kind: Kind::parse(map.text("kind")?).ok_or_else(wrong)?,
            amount: Won::new(map.int("amount")?).map_err(|_| wrong())?,
            reference: map.text("ref")?.to_owned(),
            at: map.moment("at")?,
        },
        sequence: u64::try_from(number(format!("s#{}", key.as_str()))?).map_err(|_| wrong())?,
        balance_after: Won::new(number(format!("b#{}", key.as_str()))?).map_err(|_| wrong())?,
    }))
}

fn hot_entries(account: &Item) -> Result<Vec<Entry>, Fault> {
    let mut entries = Vec::new();
    for key in account.keys().filter_map(|name| name.strip_prefix("e#")) {
        entries.extend(hot_entry(account, &EntryKey::stored(key))?);
    }
    Ok(entries)
}
