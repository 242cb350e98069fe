//! Where entries go that an account no longer needs, and how their keys are found there.

use super::{ACCOUNT, Accounts, hot_entries};
use crate::domain::{Entry, EntryKey, Kind, Movement};
use aws_sdk_dynamodb::types::{Put, TransactWriteItem, Update};
use contracts::{Timestamp, UserId, Won};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, built, n, s};
use serde::{Deserialize, Serialize};

/// How many entries an account holds before old ones are archived. Every write costs a unit for each KB of the account.
pub const HOT_ENTRIES: u64 = 16;
/// How many entries stay in the account when it is archived: so many that the next ones do not archive again.
pub const KEPT_ENTRIES: usize = 8;
/// How old an entry is before it is archived, in milliseconds: a day. What is repeated is mostly repeated within it, and
/// then found without searching the archive.
pub const SETTLED_MILLIS: i64 = 24 * 3600 * 1000;
/// With how many entries an account is so large that also younger ones are archived.
const CROWDED_ENTRIES: u64 = 64;
/// With how many entries an account takes another one only after some were archived. Some 50 KB, where an item may have
/// 400: what was used can be given back, also when archiving fails.
pub const FULL_ENTRIES: u64 = 128;
/// How many entries one archiving moves. With their keys, the page and the account, it is a transaction of 34 writes, of
/// the 100 that one may have.
const ARCHIVE_ENTRIES: usize = 32;
/// How often an account is archived at once to make room. The release before took 1,000 entries into an account.
const ARCHIVINGS: u32 = 32;

/// How often an account was archived. Who searched the archive as of this number, and finds the account unchanged in it,
/// knows all keys.
pub(super) fn archives_of(account: &Item) -> Result<u64, Fault> {
    count(account, "archives")
}

/// Whether entries must be archived before another one is made.
pub(super) fn is_full(account: &Item) -> Result<bool, Fault> {
    Ok(count(account, "hot")? >= FULL_ENTRIES)
}

fn count(account: &Item, name: &'static str) -> Result<u64, Fault> {
    let number = account.maybe_int(name)?.unwrap_or(0);
    u64::try_from(number).map_err(|error| Fault::broken("reading an account", error))
}

pub(super) fn archive_key(sequence: u64) -> String {
    format!("LEDGER#{sequence:012}")
}

fn key_row(key: &EntryKey) -> String {
    format!("KEY#{}", key.as_str())
}

impl Accounts {
    /// Moves the oldest entries out of an account that has more than it needs.
    /// Returns whether there was something to move.
    pub(super) async fn archive(&self, user: &UserId, account: &Item, now: Timestamp) -> Result<bool, Fault> {
        let hot = count(account, "hot")?;
        if hot <= HOT_ENTRIES {
            return Ok(false);
        }
        let mut old: Vec<Entry> = hot_entries(account)?;
        old.sort_by_key(|entry| entry.sequence);
        old.truncate(old.len().saturating_sub(KEPT_ENTRIES).min(ARCHIVE_ENTRIES));
        if hot <= CROWDED_ENTRIES {
            old.retain(|entry| now.millis_since(entry.movement.at) > SETTLED_MILLIS);
        }
        let Some(last) = old.last() else { return Ok(false) };
        let page = archive_key(last.sequence);
        let removed = self.entries_removed(user, &old, archives_of(account)?)?;
        let mut writes = vec![self.page_written(user, &page, &old)?, removed];
        for entry in &old {
            writes.push(self.key_kept(user, &entry.movement.key, &page)?);
        }
        // If another writer moved them, they are moved.
        self.table.write_all("archiving entries", writes).await.map(|_| true)
    }

    fn page_written(&self, user: &UserId, page: &str, entries: &[Entry]) -> Result<TransactWriteItem, Fault> {
        let archived: Vec<ArchivedEntry> = entries.iter().map(ArchivedEntry::from).collect();
        let put = Put::builder()
            .table_name(&self.table.name)
            .item(PK, s(format!("USER#{user}")))
            .item(SK, s(page))
            .item("entries", kit::dynamo::json("archiving entries", &archived)?)
            .condition_expression("attribute_not_exists(pk)");
        Ok(TransactWriteItem::builder().put(built(put.build())?).build())
    }

    fn key_kept(&self, user: &UserId, key: &EntryKey, page: &str) -> Result<TransactWriteItem, Fault> {
        let put = Put::builder()
            .table_name(&self.table.name)
            .item(PK, s(format!("USER#{user}")))
            .item(SK, s(key_row(key)))
            .item("page", s(page));
        Ok(TransactWriteItem::builder().put(built(put.build())?).build())
    }

    /// The write that takes entries out of an account that was archived `archives` times.
    fn entries_removed(&self, user: &UserId, entries: &[Entry], archives: u64) -> Result<TransactWriteItem, Fault> {
        let mut update = Update::builder()
            .table_name(&self.table.name)
            .key(PK, s(format!("USER#{user}")))
            .key(SK, s(ACCOUNT))
            .expression_attribute_values(":count", n(entries.len() as i64))
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":one", n(1));
        let (mut removed, mut last) = (Vec::new(), "");
        for (index, entry) in entries.iter().enumerate() {
            last = entry.movement.key.as_str();
            for prefix in ["e", "b", "s"] {
                update = update.expression_attribute_names(format!("#{prefix}{index}"), format!("{prefix}#{last}"));
                removed.push(format!("#{prefix}{index}"));
            }
        }
        let update = update
            .update_expression(format!(
                "SET hot = hot - :count, archives = if_not_exists(archives, :zero) + :one REMOVE {}",
                removed.join(", ")
            ))
            // Another writer may have archived some of the same entries; the release before does not count that.
            .condition_expression(
                "attribute_exists(#e0) AND attribute_exists(#last) AND \
                 (attribute_not_exists(archives) OR archives = :archives)",
            )
            .expression_attribute_values(":archives", n(archives))
            .expression_attribute_names("#last", format!("e#{last}"));
        Ok(TransactWriteItem::builder().update(built(update.build())?).build())
    }

    /// Archives until an account takes entries again.
    pub(super) async fn make_room(&self, user: &UserId, account: Item, now: Timestamp) -> Result<(), Fault> {
        let mut account = account;
        for _ in 0..ARCHIVINGS {
            if !is_full(&account)? || !self.archive(user, &account, now).await? {
                break;
            }
            account = self.account(user).await?;
        }
        Ok(())
    }

    /// The entries under these keys that are in the archive. The keys are read in a transaction: a read of one of them
    /// alone could see it as it was before an archiving whose other writes are seen already.
    pub(super) async fn archived<const N: usize>(
        &self,
        user: &UserId,
        keys: [&EntryKey; N],
    ) -> Result<[Option<Entry>; N], Fault> {
        const DOING: &str = "finding archived entries";
        let rows = keys.map(|key| (s(format!("USER#{user}")), s(key_row(key))));
        let rows = self.table.read_at_once(DOING, rows).await?;
        let mut found = [const { None }; N];
        for (entry, (key, row)) in found.iter_mut().zip(keys.into_iter().zip(rows)) {
            if let Some(row) = row {
                *entry = Some(self.on_page(user, key, row.text("page")?).await?);
            }
        }
        Ok(found)
    }

    async fn on_page(&self, user: &UserId, key: &EntryKey, page: &str) -> Result<Entry, Fault> {
        const DOING: &str = "reading an archived entry";
        let page = self.table.read(DOING, s(format!("USER#{user}")), s(page)).await?;
        let entries: Vec<ArchivedEntry> = match page {
            Some(page) => page.document("entries")?,
            None => return Err(Fault::broken(DOING, "the page of a key is missing")),
        };
        let found = entries.into_iter().find(|entry| entry.key == key.as_str());
        found.ok_or_else(|| Fault::broken(DOING, "a key is not on its page"))?.into_entry()
    }
}

/// An entry in an archive.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ArchivedEntry {
    key: String,
    id: String,
    kind: String,
    amount: Won,
    reference: String,
    at: Timestamp,
    sequence: u64,
    balance_after: Won,
}

impl From<&Entry> for ArchivedEntry {
    fn from(entry: &Entry) -> Self {
        let movement = &entry.movement;
        Self {
            key: movement.key.as_str().to_owned(),
            id: movement.entry_id.clone(),
            kind: movement.kind.as_str().to_owned(),
            amount: movement.amount,
            reference: movement.reference.clone(),
            at: movement.at,
            sequence: entry.sequence,
            balance_after: entry.balance_after,
        }
    }
}

impl ArchivedEntry {
    pub(super) fn into_entry(self) -> Result<Entry, Fault> {
        let kind = Kind::parse(&self.kind).ok_or_else(|| Fault::broken("reading an archived entry", "unknown kind"))?;
        Ok(Entry {
            movement: Movement {
                key: EntryKey::stored(&self.key),
                entry_id: self.id,
                kind,
                amount: self.amount,
                reference: self.reference,
                at: self.at,
            },
            sequence: self.sequence,
            balance_after: self.balance_after,
        })
    }
}
