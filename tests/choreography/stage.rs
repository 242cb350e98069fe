//! Tables under faults: put rows into a context's table, make a call on them, see what it does and what rows it leaves.

use aws_sdk_dynamodb::types::{AttributeValue, DeleteRequest, PutRequest, WriteRequest};
use kit::dynamo::{Item, PK, Read, SK};
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::pin::pin;
use tests::dynamo::{Engine, table_name};
use tests::proxy::{Fate, Proxy, Rule, Seen};

/// BatchWriteItem takes this many writes.
const BATCH: usize = 25;

/// The rows of a table by their keys.
pub type Rows = BTreeMap<(String, String), Item>;

/// A table's rows by number, each with what is seen of them. Rows that differ by chance only have one number.
#[derive(Debug)]
pub struct Kept<P> {
    tables: Vec<(Rows, P)>,
    numbers: HashMap<String, u32>,
}

impl<P> Default for Kept<P> {
    fn default() -> Self {
        Self { tables: Vec::new(), numbers: HashMap::new() }
    }
}

impl<P> Kept<P> {
    /// The number of rows.
    pub fn of(&mut self, rows: Rows, is_by_chance: impl Fn(&str) -> bool, picture: impl FnOnce(&Rows) -> P) -> u32 {
        let next = u32::try_from(self.tables.len()).unwrap();
        *self.numbers.entry(canonical(&rows, is_by_chance)).or_insert_with(|| {
            let picture = picture(&rows);
            self.tables.push((rows, picture));
            next
        })
    }

    /// The rows with a number.
    pub fn rows(&self, number: u32) -> &Rows {
        &self.tables[number as usize].0
    }

    /// What is seen of them.
    pub fn picture(&self, number: u32) -> &P {
        &self.tables[number as usize].1
    }
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trouble<C> {
    None,
    /// Its events stay in the outbox: the relay is dead.
    Unpublished,
    /// The process dies right before its nth request.
    Dies(usize),
    /// The nth request is carried out, and its answer is lost.
    Unanswered(usize),
    /// Another call is carried out from beginning to end right before its nth request.
    Crossed(usize, C),
    /// If the nth request is a transaction that is cancelled, the row with this in its key met another one: whether its
    /// condition holds was not checked, while the others' reasons are what they are.
    Masked(usize, &'static str),
}

/// The result of a call.
#[derive(Debug)]
pub struct Made<R> {
    /// Its answer; `None` if it died.
    pub done: Option<R>,
    /// The answer of the call that crossed it.
    pub other: Option<R>,
    /// Its requests.
    pub requests: Vec<Seen>,
}

impl<R> Made<R> {
    fn which(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<usize> {
        (0..self.requests.len()).filter(|index| is_wanted(&self.requests[*index].action)).collect()
    }

    /// Which of its requests write.
    pub fn writes(&self) -> Vec<usize> {
        self.which(|action| !["GetItem", "BatchGetItem", "Query"].contains(&action))
    }

    /// Which of its requests are transactions.
    pub fn transactions(&self) -> Vec<usize> {
        self.which(|action| action == "TransactWriteItems")
    }
}

/// The tables, and the proxy through which functions reach them.
pub struct Stage {
    pub engine: Engine,
    pub proxy: Proxy,
    /// A condition that always holds, to see what it prevents.
    pub loosened: Option<&'static str>,
    /// What the tables hold at the moment.
    held: RefCell<BTreeMap<String, Rows>>,
}

impl Stage {
    pub async fn new() -> Self {
        let engine = Engine::start().await;
        let proxy = Proxy::before(&engine).await;
        Self { engine, proxy, loosened: None, held: RefCell::default() }
    }

    /// A table's rows as they are.
    pub async fn rows(&self, context: &str) -> Rows {
        let key = |item: &Item| (item.text(PK).unwrap().to_owned(), item.text(SK).unwrap().to_owned());
        let rows: Rows = self.engine.items(context).await.into_iter().map(|item| (key(&item), item)).collect();
        self.held.borrow_mut().insert(context.to_owned(), rows.clone());
        rows
    }

    /// Makes a table's rows these.
    async fn put(&self, context: &str, rows: &Rows) {
        let held = self.held.borrow_mut().insert(context.to_owned(), rows.clone()).unwrap_or_default();
        let changed = rows.iter().filter(|(key, row)| held.get(key) != Some(row));
        let put = |row: &Item| PutRequest::builder().set_item(Some(row.clone())).build().unwrap();
        let puts = changed.map(|(_, row)| WriteRequest::builder().put_request(put(row)).build());
        let gone = held.keys().filter(|key| !rows.contains_key(key));
        let deletes = gone.map(|(pk, sk)| {
            let delete = DeleteRequest::builder().key(PK, AttributeValue::S(pk.clone()));
            let delete = delete.key(SK, AttributeValue::S(sk.clone())).build().unwrap();
            WriteRequest::builder().delete_request(delete).build()
        });
        let writes: Vec<WriteRequest> = puts.chain(deletes).collect();
        for batch in writes.chunks(BATCH) {
            let client = self.engine.table(context).client;
            client.batch_write_item().request_items(table_name(context), batch.to_vec()).send().await.unwrap();
        }
    }

    /// Makes a call on a table with these rows. It must touch no other table, and of this one only rows that are its
    /// own: then its result depends on nothing else.
    pub async fn play<C: Debug, R: Debug>(
        &self,
        context: &str,
        before: &Rows,
        (job, trouble): (&C, &Trouble<C>),
        call: impl AsyncFn(&C) -> R,
        owns: impl Fn(&str, &str) -> bool,
    ) -> Made<R> {
        self.put(context, before).await;
        self.proxy.forget();
        if let Some(condition) = self.loosened {
            self.proxy.loosen(condition);
        }
        let mut other = None;
        let done = match trouble {
            Trouble::None | Trouble::Unpublished => Some(call(job).await),
            Trouble::Unanswered(nth) => {
                self.proxy.inject(Rule::all().after(*nth).once(), Fate::AnswerLost);
                Some(call(job).await)
            }
            Trouble::Masked(nth, row) => {
                self.proxy.inject(Rule::all().after(*nth).once(), Fate::Masked(row));
                Some(call(job).await)
            }
            Trouble::Dies(nth) => {
                let gate = self.proxy.hold(Rule::all().after(*nth));
                tokio::select! {
                    end = call(job) => panic!("{job:?} ended before its request {nth}: {end:?}"),
                    () = gate.reached() => None,
                }
            }
            Trouble::Crossed(nth, crossing) => {
                let gate = self.proxy.hold(Rule::all().after(*nth).once());
                let mut first = pin!(call(job));
                tokio::select! {
                    end = &mut first => panic!("{job:?} ended before its request {nth}: {end:?}"),
                    () = gate.reached() => {}
                }
                other = Some(call(crossing).await);
                gate.open();
                Some(first.await)
            }
        };
        self.proxy.heal();
        let requests = self.proxy.seen();
        for request in &requests {
            assert!(request.body.to_string().contains(&table_name(context)), "another's table: {job:?}");
            assert_own(&request.body, &|pk, sk| assert!(owns(pk, sk), "another's row: {pk} {sk} by {job:?}"));
        }
        Made { done, other, requests }
    }
}

/// Looks at every row that a request names.
fn assert_own(request: &Value, look: &impl Fn(&str, &str)) {
    match request {
        Value::Object(map) => {
            if let (Some(pk), Some(sk)) = (map.get(PK), map.get(SK)) {
                look(pk["S"].as_str().unwrap(), sk["S"].as_str().unwrap());
            }
            map.values().for_each(|value| assert_own(value, look));
        }
        Value::Array(list) => list.iter().for_each(|value| assert_own(value, look)),
        _ => {}
    }
}

/// Rows as a text that is the same for rows which differ by chance only, or in what no function acts on.
fn canonical(rows: &Rows, is_by_chance: impl Fn(&str) -> bool) -> String {
    let row = |item: &Item| {
        let value = |name: &String, value: &AttributeValue| match value {
            _ if is_by_chance(name) => json!("by chance"),
            // The public name of a ledger's entry is minted when it is made.
            AttributeValue::M(entry) if name.starts_with("e#") => {
                let rest = entry.clone().into_iter().filter(|(name, _)| name != "id" && !is_by_chance(name));
                plain(&AttributeValue::M(rest.collect()))
            }
            value => plain(value),
        };
        item.iter().map(|(name, attribute)| (name.clone(), value(name, attribute))).collect::<Map<_, _>>()
    };
    rows.values().map(row).map(Value::from).collect::<Value>().to_string()
}

fn plain(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::S(text) => json!(text),
        AttributeValue::N(digits) => json!([digits]),
        AttributeValue::Bool(yes) => json!(yes),
        AttributeValue::M(map) => {
            map.iter().map(|(name, value)| (name.clone(), plain(value))).collect::<Map<_, _>>().into()
        }
        AttributeValue::L(list) => list.iter().map(plain).collect(),
        AttributeValue::Ss(texts) => json!(texts.iter().collect::<BTreeSet<_>>()),
        other => json!(format!("{other:?}")),
    }
}
