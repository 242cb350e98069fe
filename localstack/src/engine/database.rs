//! DynamoDB inside this process: dynoxide, in memory. For an engine without a database of its own, and for tests.

use crate::Result;
use crate::error::Error;
use dynoxide::{Database, server};
use rusqlite::Connection;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, stdin};
use tokio::net::TcpListener;

/// What dynoxide searches its stream records for, at every write and at every read. It has no index for it, so it scans
/// all records of the table each time, and it never deletes any: a stack slowed down with everything it did.
const INDEX: &str = "CREATE INDEX records_by_number ON _stream_records (table_name, CAST(sequence_number AS INTEGER))";

/// A database of its own, gone when its last clone is dropped.
pub fn in_memory() -> Result<Database> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // Dynoxide takes no statements. So the index is made over a second connection to an empty database in memory, which
    // SQLite shares by name, and that database is copied: a named one is slower.
    let name = format!("file:encore-{}?mode=memory&cache=shared", COUNT.fetch_add(1, Ordering::Relaxed));
    let empty = Database::new(&name).map_err(|e| cannot("made", &e))?;
    Connection::open(&name).and_then(|second| second.execute_batch(INDEX)).map_err(|e| cannot("indexed", &e))?;
    let database = Database::memory().map_err(|e| cannot("made", &e))?;
    database.restore_from(&name).map_err(|e| cannot("copied", &e))?;
    drop(empty);
    Ok(database)
}

fn cannot(what: &str, why: &dyn std::error::Error) -> Error {
    Error::Engine(format!("the database cannot be {what}: {why}"))
}

/// Serves one on a free port, which it prints, until standard input ends: so it ends with the process that started it,
/// however that ends.
pub(crate) async fn serve() -> Result<()> {
    let failed = |source| Error::Io { what: "opening a port for the database".to_owned(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let database = in_memory()?;
    crate::console::print(&format!("{port}\n"))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{self, CargoTarget};
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn request<T: DeserializeOwned>(json: Value) -> T {
        serde_json::from_value(json).unwrap()
    }

    fn create(database: &Database) {
        let table = json!({
            "TableName": "things",
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            "StreamSpecification": {"StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"},
        });
        database.create_table(request(table)).unwrap();
    }

    fn put(database: &Database, pk: &str) {
        database.put_item(request(json!({"TableName": "things", "Item": {"pk": {"S": pk}}}))).unwrap();
    }

    /// The stream, `page` records at a time: the keys and sequence numbers.
    fn stream(database: &Database, page: usize) -> Vec<(String, String)> {
        let arn = &database.list_streams(request(json!({"TableName": "things"}))).unwrap().streams[0].stream_arn;
        let described = database.describe_stream(request(json!({"StreamArn": arn}))).unwrap();
        let shard = &described.stream_description.shards[0].shard_id;
        let from = json!({"StreamArn": arn, "ShardId": shard, "ShardIteratorType": "TRIM_HORIZON"});
        let mut iterator = database.get_shard_iterator(request(from)).unwrap().shard_iterator;
        let mut found = Vec::new();
        loop {
            let got = database.get_records(request(json!({"ShardIterator": iterator, "Limit": page}))).unwrap();
            if got.records.is_empty() {
                return found;
            }
            found.extend(got.records.into_iter().map(|record| {
                let key = serde_json::to_value(&record.dynamodb.keys["pk"]).unwrap();
                (key["S"].as_str().unwrap().to_owned(), record.dynamodb.sequence_number)
            }));
            iterator = got.next_shard_iterator;
        }
    }

    #[test]
    fn a_stream_has_everything_once_and_in_its_order() {
        let database = in_memory().unwrap();
        create(&database);
        let keys: Vec<String> = (0..25).map(|number| format!("{number:02}")).collect();
        keys.iter().for_each(|key| put(&database, key));
        let records = stream(&database, 10);
        assert_eq!(records.iter().map(|(key, _)| key).collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
        assert!(records.is_sorted_by(|(_, one), (_, next)| one < next), "{records:?}");
    }

    #[test]
    fn databases_in_memory_know_nothing_of_each_other() {
        let (one, other) = (in_memory().unwrap(), in_memory().unwrap());
        create(&one);
        assert_eq!((one.table_count().unwrap(), other.table_count().unwrap()), (1, 0));
    }

    /// Adds a record, numbered far beyond all others, to the table and not to the index: a full scan finds it; a search
    /// by the index does not.
    fn hide_a_record(file: &str) {
        let schema = |statement: &str| {
            let second = Connection::open(file).unwrap();
            second.execute_batch(&format!("PRAGMA writable_schema = ON; {statement}")).unwrap();
        };
        let index: (i64, String) = Connection::open(file)
            .unwrap()
            .query_row("SELECT rootpage, sql FROM sqlite_schema WHERE name = 'records_by_number'", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        schema("DELETE FROM sqlite_schema WHERE name = 'records_by_number'");
        schema(
            "INSERT INTO _stream_records (table_name, event_name, keys_json, sequence_number, shard_id, created_at)
             SELECT table_name, 'INSERT', '{\"pk\":{\"S\":\"hidden\"}}', '9000000000000000000', shard_id, created_at
             FROM _stream_records LIMIT 1",
        );
        schema(&format!(
            "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
             VALUES ('index', 'records_by_number', '_stream_records', {}, '{}')",
            index.0, index.1
        ));
    }

    #[test]
    fn neither_a_write_nor_a_reading_looks_at_all_records_of_the_stream() {
        let dir = CargoTarget::of_this_program().dir.join(format!("test-database-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("streams.db");
        let file = file.to_str().unwrap();
        let database = in_memory().unwrap();
        create(&database);
        put(&database, "before");
        database.vacuum_into(file).unwrap();
        hide_a_record(file);

        let database = Database::new(file).unwrap();
        put(&database, "after");
        let keys = |records: Vec<(String, String)>| records.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(stream(&database, 10)), ["before", "after"], "the index was not used");

        // Without the index the record is found, and the next one gets a number beyond its.
        Connection::open(file).unwrap().execute_batch("DROP INDEX records_by_number").unwrap();
        put(&database, "later");
        assert_eq!(keys(stream(&database, 10)), ["before", "after", "hidden", "later"]);
        drop(database);
        files::remove(&dir).unwrap();
    }
}
