//! After the sale some give their tickets back, each as people do: twice at once, and then once more.

use super::buyers::{BuyerLog, End, Fate, Sale, Ticket};
use super::client::Refused;
use crate::{Error, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How many give their tickets back.
const REFUNDS: usize = 10;
/// How long a refund may take before a buyer calls it broken.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// The interval between two polls of a refund.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Some buyers give their tickets back. Returns how long each took until the points were there again.
pub async fn give_back(sale: &Arc<Sale>, logs: &mut [BuyerLog]) -> Result<Vec<Duration>> {
    let mut refunds = JoinSet::new();
    let tickets = logs.iter().enumerate().filter_map(|(index, log)| Some((index, log.ticket.clone()?)));
    for (index, ticket) in tickets.take(REFUNDS) {
        let sale = Arc::clone(sale);
        refunds.spawn(async move { (index, refund(&sale, &ticket).await) });
    }
    let mut took = Vec::new();
    while let Some(refunded) = refunds.join_next().await {
        let (index, refunded) = refunded.map_err(|e| Error::Engine(format!("a refund broke down: {e}")))?;
        let log = &mut logs[index];
        match refunded {
            Ok(after) => {
                took.push(after);
                log.end = End::GaveBack;
                let sold = log.holds.iter_mut().filter(|hold| hold.fate == Fate::Sold);
                sold.for_each(|hold| hold.fate = Fate::Refunded);
            }
            Err(what) => log.end = End::Trouble(format!("{} wanted a refund: {what}", log.name)),
        }
    }
    Ok(took)
}

/// Gives a ticket back and checks that everything is as before it was bought; or returns what is not.
async fn refund(sale: &Sale, ticket: &Ticket) -> Result<Duration, String> {
    let (api, owner, id) = (&sale.api, &ticket.owner, &ticket.payment);
    let text = |refused: Refused| refused.to_string();
    let key = format!("refund-{id}");
    let begun = Instant::now();
    let (one, other) = tokio::join!(api.refund(owner, &key, id), api.refund(owner, &key, id));
    let (mut payment, other) = (one.map_err(text)?, other.map_err(text)?);
    if other.payment_id != payment.payment_id {
        return Err("the same key gave another refund".to_owned());
    }
    while payment.status == "refunding" {
        if begun.elapsed() > TIME_LIMIT {
            return Err(format!("{id} is not paid back after {TIME_LIMIT:?}"));
        }
        sleep(POLL_INTERVAL).await;
        payment = api.payment(owner, id).await.map_err(text)?;
    }
    let took = begun.elapsed();
    let reservation = api.reservation(owner, &ticket.reservation).await.map_err(text)?;
    let balance = api.balance(owner).await.map_err(text)?;
    let (is, must) = ((&*payment.status, &*reservation.status, balance), ticket.balance + ticket.price);
    if is != ("refunded", "refunded", must) {
        return Err(format!("payment, reservation and points are {is:?}, not refunded and {must}"));
    }
    match api.refund(owner, &format!("{key}-again"), id).await {
        Err(refused) if refused.code == "payment_not_refundable" => Ok(took),
        Err(refused) => Err(text(refused)),
        Ok(_) => Err(format!("{id} was refunded twice")),
    }
}
