//! `cargo local trace order`: the events of an order, and what their consumers logged, in time order. No component of a
//! choreography sees the whole; its tables and logs together do.

use crate::console::print;
use crate::driver::arguments::Common;
use crate::tools::logs::{LogLine, Logs};
use crate::{Error, Result, StackInfo};
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use contracts::events::{Event, EventBody};
use contracts::orders::Pieces;
use contracts::{OrderId, Timestamp, Won};
use kit::dynamo::{Item, PK, Read, SK, s};
use kit::outbox;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

/// The contexts that publish events about orders.
const CONTEXTS: [&str; 4] = ["orders", "items", "points", "notifications"];
/// The prefixes of the types of events about an order.
const ABOUT_ORDERS: [&str; 4] = ["order.", "stock.", "points.", "cart."];
/// How often keys that were left out of an answer are read again.
const READS: u32 = 8;
/// How long before an order was placed its request may have begun, in milliseconds.
const REQUEST_MILLIS: i64 = 30_000;

/// Options of the trace of an order.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    pub order_id: String,
    /// The options of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// The rows of an order.
#[derive(Debug, Default)]
struct Found {
    /// Outbox rows, each with its context.
    events: Vec<(&'static str, Item)>,
    /// What participants recorded of their work, each with its context.
    works: Vec<(&'static str, Item)>,
    /// The order itself.
    order: Option<Item>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    at_ms: i64,
    service: String,
    what: String,
    detail: String,
}

/// Prints the trace of an order of a running stack.
pub async fn order(args: Args) -> Result<ExitCode> {
    let id = OrderId::parse(&args.order_id).map_err(|error| Error::Usage(error.to_string()))?;
    let info = StackInfo::of_running(&args.common.dir()?)?;
    let found = found(&info, &id).await?;
    let Some(placed) =
        found.events.iter().filter_map(|(_, row)| row.document::<Event>("event").ok()).min_by_key(|e| e.time)
    else {
        let kept = "events are kept for a week";
        return Err(Error::Usage(format!("nothing is known of an order {id} ({kept})")));
    };
    let from = placed.time.plus_millis(-REQUEST_MILLIS).millis();
    let lines = Logs::new(&info, None)?.since(from).await?;
    let mut steps: Vec<Step> =
        found.events.iter().map(|(context, row)| published(context, row)).collect::<Result<_>>()?;
    steps.extend(lines.iter().filter_map(|line| logged(line, &id, &placed.correlationid)));
    print(&format!("{}\n{}", standing(&id, &found), table(steps)))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the rows whose keys follow from the order, and the order by its user.
async fn found(info: &StackInfo, id: &OrderId) -> Result<Found> {
    let client = aws_sdk_dynamodb::Client::new(&info.sdk_config());
    let types = EventBody::TYPES.iter().filter(|name| ABOUT_ORDERS.iter().any(|about| name.starts_with(about)));
    let mut keys: Vec<_> = types.map(|name| outbox::key(&format!("{id}.{name}"))).collect();
    keys.push((s(format!("ORDER#{id}")), s("WORK")));
    let mut found = Found::default();
    for context in CONTEXTS {
        let table = table_of(info, context)?;
        for row in rows(&client, table, &keys).await? {
            let is_work = row.text(SK).is_ok_and(|sk| sk == "WORK");
            if is_work { found.works.push((context, row)) } else { found.events.push((context, row)) }
        }
    }
    let data = |row: &Item| row.document::<Value>("event").ok().map(|event| event["data"]["user_id"].clone());
    if let Some(Value::String(user)) = found.events.iter().find_map(|(_, row)| data(row)) {
        let key = (s(format!("USER#{user}")), s(format!("ORDER#{id}")));
        found.order = rows(&client, table_of(info, "orders")?, &[key]).await?.pop();
    }
    Ok(found)
}

fn table_of<'a>(info: &'a StackInfo, context: &str) -> Result<&'a str> {
    let table = info.tables.get(context).map(String::as_str);
    table.ok_or_else(|| Error::Usage(format!("the stack {} has no table {context}", info.stack)))
}

async fn rows(
    client: &aws_sdk_dynamodb::Client,
    table: &str,
    keys: &[(AttributeValue, AttributeValue)],
) -> Result<Vec<Item>> {
    let failed = |why: &dyn std::fmt::Display| Error::Engine(format!("reading the table {table}: {why}"));
    let key = |(pk, sk): &(AttributeValue, AttributeValue)| {
        HashMap::from([(PK.to_owned(), pk.clone()), (SK.to_owned(), sk.clone())])
    };
    let mut wanted: Vec<Item> = keys.iter().map(key).collect();
    let mut found = Vec::new();
    for read in 0..READS {
        sleep(Duration::from_millis(100) * read).await;
        let asked = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build();
        let asked = client.batch_get_item().request_items(table, asked.map_err(|e| failed(&e))?).send().await;
        let got = asked.map_err(|e| failed(&DisplayErrorContext(e)))?;
        found.extend(got.responses.unwrap_or_default().into_values().flatten());
        wanted = got.unprocessed_keys.and_then(|mut left| left.remove(table)).map(|left| left.keys).unwrap_or_default();
        if wanted.is_empty() {
            return Ok(found);
        }
    }
    Err(failed(&"it answers in part only"))
}

/// An event in an outbox, and whether it was published.
fn published(context: &str, row: &Item) -> Result<Step> {
    let damaged = |fault: kit::Fault| Error::Damaged(format!("an event of {context}: {}", fault.chain()));
    let event: Event = row.document("event").map_err(damaged)?;
    let attempts = row.maybe_int("attempts").map_err(damaged)?.unwrap_or(0);
    let waits_since = row.moment("created_at").map_err(damaged)?;
    let tries = if attempts == 1 { "1 attempt".to_owned() } else { format!("{attempts} attempts") };
    let mut detail = content(&event.body);
    let mut add = |text: &str| {
        let between = if detail.is_empty() { "" } else { "; " };
        detail.push_str(&format!("{between}{text}"));
    };
    match row.maybe_int("published_at").map_err(damaged)?.map(Timestamp::from_millis) {
        Some(at) if waits_since == event.time => {
            add(&format!("published {} later, {tries}", brief(at.millis_since(event.time))));
        }
        Some(at) => add(&format!("published again at {}, {tries}", clock(at.millis()))),
        None if attempts > 0 && waits_since > event.time => {
            add(&format!("to be published again since {}, {tries}", clock(waits_since.millis())));
        }
        None => add(&format!("NOT PUBLISHED, {tries}")),
    }
    if let Ok(error) = row.text("last_error") {
        add(&format!("last error: {error}"));
    }
    Ok(Step {
        at_ms: event.time.millis(),
        service: context.to_owned(),
        what: format!("says {}", event.body.event_type()),
        detail,
    })
}

/// The content of an event in short.
fn content(body: &EventBody) -> String {
    match body {
        EventBody::OrderPlaced(order) | EventBody::OrderCompleted(order) => {
            format!("{}, {}", count(order.lines.len(), "line"), won(order.total_price))
        }
        EventBody::OrderFailed(failed) => failed.reason.as_str().to_owned(),
        EventBody::StockDeducted(stock) | EventBody::StockRestored(stock) => pieces(&stock.pieces),
        EventBody::StockRefused(refused) => {
            let items: Vec<&str> = refused.items.iter().map(contracts::ItemId::as_str).collect();
            format!("{}: {}", refused.reason.as_str(), items.join(", "))
        }
        EventBody::PointsUsed(points) | EventBody::PointsReturned(points) => won(points.amount),
        EventBody::PointsRefused(refused) => format!("{}: {}", refused.reason.as_str(), won(refused.amount)),
        EventBody::CartCleared(cart) | EventBody::CartRestored(cart) => pieces(&cart.pieces),
        _ => String::new(),
    }
}

fn won(amount: Won) -> String {
    format!("{amount} won")
}

fn pieces(pieces: &[Pieces]) -> String {
    if pieces.is_empty() {
        return "nothing".to_owned();
    }
    let each: Vec<String> = pieces.iter().map(|piece| format!("{} x {}", piece.quantity, piece.item_id)).collect();
    each.join(", ")
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// What a log line has on an order, if anything: a consumer's result for one of its events, the request that placed it,
/// or anything that names it.
fn logged(line: &LogLine, order: &OrderId, correlation: &str) -> Option<Step> {
    // A line that is no JSON is the last output of a function.
    let read: Value = serde_json::from_str(&line.message).unwrap_or_else(|_| json!({"message": line.message}));
    let text = |name: &str| read[name].as_str().filter(|text| !text.is_empty());
    let is_request = |name: &str| !correlation.is_empty() && text(name) == Some(correlation);
    if !line.message.contains(order.as_str()) && !is_request("request") && !is_request("correlation") {
        return None;
    }
    let event = text("event").map(|event| event.strip_prefix(&format!("{order}.")).unwrap_or(event));
    let what = match (event, text("http"), text("step")) {
        (Some(event), ..) => format!("hears {event}"),
        (None, Some(_), _) => "answers".to_owned(),
        (None, None, Some(_)) => "is asked".to_owned(),
        _ => "notes".to_owned(),
    };
    let mut detail: Vec<String> = Vec::new();
    detail.extend(read["status"].as_u64().map(|status| status.to_string()));
    detail.extend(["outcome", "code", "reason"].iter().filter_map(|name| text(name)).map(str::to_owned));
    if event.is_none() && text("outcome").is_none() {
        detail.extend(text("message").map(str::to_owned));
    }
    // The root cause; the log has the whole chain.
    detail.extend(text("error").and_then(|error| error.rsplit(": ").next()).map(str::to_owned));
    detail.extend(read["receives"].as_u64().map(|receives| format!("received {receives} times")));
    detail.extend(read["wait_seconds"].as_u64().map(|wait| format!("again in {wait} s")));
    detail.extend(read["millis"].as_i64().map(|millis| format!("took {}", brief(millis))));
    // A line is written at the end of what it is about, after the events that that led to.
    let begun_ms = line.at_ms - read["millis"].as_i64().unwrap_or(0);
    let begun_ms = read["received_at"].as_i64().unwrap_or(begun_ms);
    Some(Step { at_ms: begun_ms, service: line.handler.clone(), what, detail: detail.join("; ") })
}

/// The state of the order: its own, each participant's work as it consumed it, and as each recorded it.
fn standing(id: &OrderId, found: &Found) -> String {
    let mut text = format!("order {id}");
    if let Some(order) = &found.order {
        let one = |name: &'static str| order.text(name).unwrap_or_default();
        let more = [order.text("status").unwrap_or("?"), one("failure"), one("user_id")];
        for part in more.iter().filter(|part| !part.is_empty()) {
            text.push_str(&format!("  {part}"));
        }
        if let Ok(Some(due)) = order.maybe_int("due_at") {
            text.push_str(&format!("  the sweep looks at it at {}", clock(due)));
        }
    }
    let state = |value: &AttributeValue| value.as_s().cloned().unwrap_or_else(|_| "?".to_owned());
    let mut states: Vec<String> = Vec::new();
    let placed = found.events.iter().find_map(|(_, row)| row.get("work_state")?.as_m().ok());
    if let Some(placed) = placed {
        states.extend(placed.iter().map(|(name, value)| format!("{name} {}", state(value))));
        states.sort();
    }
    let own = |(context, row): &(&str, Item)| {
        let name = match *context {
            "orders" => "cart",
            "items" => "stock",
            other => other,
        };
        format!("{name} {}", row.get("work_state").map_or("?".to_owned(), state))
    };
    let own: Vec<String> = found.works.iter().map(own).collect();
    let or_none = |list: Vec<String>| if list.is_empty() { "nothing".to_owned() } else { list.join(", ") };
    format!("{text}\n  as the order heard it   {}\n  as each wrote it down   {}\n", or_none(states), or_none(own))
}

/// The steps chronologically, a line each.
fn table(mut steps: Vec<Step>) -> String {
    // At the same time, consumed events come before the ones published on them.
    steps.sort_by(|one, other| (one.at_ms, &one.what, &one.service).cmp(&(other.at_ms, &other.what, &other.service)));
    let width = |of: fn(&Step) -> &str, least: usize| {
        steps.iter().map(|step| of(step).chars().count()).max().unwrap_or(0).max(least)
    };
    let (service, what) = (width(|step| &step.service, 7), width(|step| &step.what, 4));
    let mut text = String::new();
    let mut line = |at: &str, by: &str, did: &str, detail: &str| {
        let line = format!("{at:<12}  {by:<service$}  {did:<what$}  {detail}");
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line("time (UTC)", "service", "what", "detail");
    for step in &steps {
        line(&clock(step.at_ms), &step.service, &step.what, &step.detail);
    }
    text
}

/// The time of day of a moment in milliseconds since 1970.
fn clock(at_ms: i64) -> String {
    let text = Timestamp::from_millis(at_ms).rfc3339();
    text.get(11..23).map_or_else(|| text.clone(), str::to_owned)
}

fn brief(millis: i64) -> String {
    if millis < 1_000 { format!("{millis} ms") } else { format!("{:.1} s", millis as f64 / 1_000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::events::schema_of;
    use kit::dynamo::n;

    /// 11:00 in the catalogue's examples.
    const ELEVEN: i64 = 1_795_172_400_000;

    fn id() -> OrderId {
        OrderId::parse("01K9Z3ORDER0000000000000A0").unwrap()
    }

    /// The row of the example of a type, published 40 ms after it happened.
    fn row(event_type: &str) -> Item {
        let schema: Value = serde_json::from_str(schema_of(event_type).unwrap()).unwrap();
        let example = schema["examples"][0].clone();
        let at = Timestamp::parse_rfc3339(example["time"].as_str().unwrap()).unwrap().millis();
        Item::from([
            ("event".to_owned(), s(example.to_string())),
            ("attempts".to_owned(), n(1)),
            ("created_at".to_owned(), n(at)),
            ("published_at".to_owned(), n(at + 40)),
        ])
    }

    fn with(mut row: Item, name: &str, value: AttributeValue) -> Item {
        row.insert(name.to_owned(), value);
        row
    }

    fn line(handler: &str, message: Value) -> LogLine {
        LogLine { at_ms: ELEVEN + 90, handler: handler.into(), message: message.to_string(), id: String::new() }
    }

    #[test]
    fn an_event_is_shown_with_its_content_and_how_it_was_published() {
        let failed = published("orders", &row("order.failed")).unwrap();
        assert_eq!((failed.service.as_str(), failed.what.as_str()), ("orders", "says order.failed"));
        assert_eq!(failed.detail, "out_of_stock; published 40 ms later, 1 attempt");
        let waits = || {
            let mut row = row("order.failed");
            row.remove("published_at");
            with(row, "attempts", n(0))
        };
        assert_eq!(published("orders", &waits()).unwrap().detail, "out_of_stock; NOT PUBLISHED, 0 attempts");
        let refused = with(with(waits(), "attempts", n(3)), "last_error", s("Throttled"));
        let expected = "out_of_stock; NOT PUBLISHED, 3 attempts; last error: Throttled";
        assert_eq!(published("orders", &refused).unwrap().detail, expected);
        let at = failed.at_ms;
        let again = with(with(waits(), "attempts", n(1)), "created_at", n(at + 60_000));
        let expected = format!("out_of_stock; to be published again since {}, 1 attempt", clock(at + 60_000));
        assert_eq!(published("orders", &again).unwrap().detail, expected);
        let twice = with(with(again, "published_at", n(at + 120_000)), "attempts", n(2));
        let expected = format!("out_of_stock; published again at {}, 2 attempts", clock(at + 120_000));
        assert_eq!(published("orders", &twice).unwrap().detail, expected);
        assert!(published("orders", &Item::new()).is_err(), "damaged rows are not left out");
    }

    #[test]
    fn every_event_of_an_order_has_content_of_its_own() {
        let types = EventBody::TYPES.iter().filter(|name| ABOUT_ORDERS.iter().any(|about| name.starts_with(about)));
        for name in types.filter(|name| **name != "order.reported") {
            let event: Event = row(name).document("event").unwrap();
            assert!(!content(&event.body).is_empty(), "{name}");
        }
        assert_eq!(pieces(&[]), "nothing");
    }

    #[test]
    fn what_became_of_an_event_where_it_was_consumed_is_found_in_the_logs() {
        let event = format!("{}.order.placed", id());
        let done = json!({"level": "INFO", "consumer": "deduct-stock", "outcome": "done", "message": "m", "event": event,
            "correlation": "q", "millis": 12});
        let step = logged(&line("deduct-stock", done), &id(), "q").unwrap();
        assert_eq!((step.service.as_str(), step.what.as_str()), ("deduct-stock", "hears order.placed"));
        assert_eq!(step.detail, "done; took 12 ms");
        let later = json!({"outcome": "unavailable", "error": "Unavailable while trying: down", "event": event, "receives": 2, "wait_seconds": 3,
            "millis": 2_500});
        let step = logged(&line("deliver-to-data-platform", later), &id(), "").unwrap();
        assert_eq!(step.detail, "unavailable; down; received 2 times; again in 3 s; took 2.5 s");
        let request = json!({"http": "place-order", "status": 202, "request": "q", "millis": 30});
        let step = logged(&line("place-order", request.clone()), &id(), "q").unwrap();
        assert_eq!((step.what.as_str(), step.detail.as_str()), ("answers", "202; took 30 ms"));
        let noted = json!({"message": "an order was not answered in time", "order": id().as_str()});
        let step = logged(&line("sweep-orders", noted), &id(), "q").unwrap();
        assert_eq!((step.what.as_str(), step.detail.as_str()), ("notes", "an order was not answered in time"));
        assert_eq!(logged(&line("place-order", request.clone()), &id(), "other"), None);
        assert_eq!(logged(&line("place-order", json!({"request": ""})), &id(), ""), None, "nothing is no correlation");
        let mut plain = line("place-order", request);
        plain.message = format!("panicked at {}", id());
        assert_eq!(logged(&plain, &id(), "q").map(|step| step.detail), Some(plain.message));
    }

    #[test]
    fn the_steps_stand_in_time_order_in_columns() {
        let step = |at_ms, service: &str, what: &str, detail: &str| Step {
            at_ms: ELEVEN + at_ms,
            service: service.into(),
            what: what.into(),
            detail: detail.into(),
        };
        let text = table(vec![
            step(1_090, "deduct-stock", "hears order.placed", "done"),
            step(5, "orders", "says order.placed", "1 line"),
            step(1_095, "items", "says stock.deducted", ""),
        ]);
        let expected = "\
time (UTC)    service       what                 detail
11:00:00.005  orders        says order.placed    1 line
11:00:01.090  deduct-stock  hears order.placed   done
11:00:01.095  items         says stock.deducted
";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_standing_sets_what_was_consumed_beside_what_was_done() {
        let state =
            |work: &str| AttributeValue::M(Item::from([("stock".to_owned(), s(work)), ("cart".to_owned(), s("done"))]));
        let order = Item::from([
            ("status".to_owned(), s("failed")),
            ("failure".to_owned(), s("timed_out")),
            ("user_id".to_owned(), s("alice")),
            ("due_at".to_owned(), n(ELEVEN)),
        ]);
        let work = |work: &str| Item::from([("work_state".to_owned(), s(work))]);
        let found = Found {
            events: vec![
                ("orders", row("order.failed")),
                ("orders", with(row("order.placed"), "work_state", state("pending"))),
            ],
            works: vec![("orders", work("done")), ("items", work("undone"))],
            order: Some(order),
        };
        let expected = "\
order 01K9Z3ORDER0000000000000A0  failed  timed_out  alice  the sweep looks at it at 11:00:00.000
  as the order heard it   cart done, stock pending
  as each wrote it down   cart done, stock undone
";
        assert_eq!(standing(&id(), &found), expected);
        let nothing = standing(&id(), &Found::default());
        assert!(nothing.contains("as each wrote it down   nothing"), "{nothing}");
    }
}
