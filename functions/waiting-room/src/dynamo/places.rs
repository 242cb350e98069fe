//! The rows that give a user no more than one place in a line.

use super::Lines;
use crate::domain::{Issued, PlaceRow};
use crate::ports::{ClaimPlace, Claimed};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use contracts::admission::QUEUE_TOKEN_LIFE_SECONDS;
use contracts::{ConcertId, Timestamp, UserId};
use kit::Fault;
use kit::dynamo::{Item, Read, TTL, at, n, s};
use kit::fault::classify;

fn place_key(user: &UserId, concert: &ConcertId) -> (String, String) {
    (format!("USER#{user}"), format!("LINE#{concert}"))
}

fn row_of(item: &Item) -> Result<PlaceRow, Fault> {
    let place = match item.contains_key("position") {
        false => None,
        true => Some(Issued {
            position: item.uint("position")?,
            turn: item.uint("turn")?,
            issued_at: item.moment("issued_at")?,
        }),
    };
    Ok(PlaceRow {
        claim: item.text("claim")?.to_owned(),
        claimed_at: item.moment("claimed_at")?,
        place,
        given_up: u64::try_from(item.maybe_int("given_up")?.unwrap_or(0)).unwrap_or(0),
        left_at: Timestamp::from_millis(item.maybe_int("left_at")?.unwrap_or(0)),
    })
}

/// The row that a write found where its condition failed.
fn found(error: SdkError<UpdateItemError>, doing: &'static str) -> Result<PlaceRow, Fault> {
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
            row_of(failed.item().ok_or_else(|| Fault::broken(doing, "the row is gone"))?)
        }
        _ => Err(classify(doing, error)),
    }
}

impl Lines {
    fn place(&self, user: &UserId, concert: &ConcertId) -> UpdateItemFluentBuilder {
        let (pk, sk) = place_key(user, concert);
        self.update(pk, sk)
    }
}

impl ClaimPlace for Lines {
    fn has_joined(&self, user: &UserId, concert: &ConcertId) -> bool {
        self.joined.has(&(user.clone(), concert.clone()))
    }

    async fn find_place(&self, user: &UserId, concert: &ConcertId) -> Result<Option<PlaceRow>, Fault> {
        let (pk, sk) = place_key(user, concert);
        let found = self.table.read("reading a user's place", s(pk), s(sk)).await?;
        found.as_ref().map(row_of).transpose()
    }

    async fn claim_place(
        &self,
        user: &UserId,
        concert: &ConcertId,
        over: Option<&PlaceRow>,
        claim: &str,
        now: Timestamp,
    ) -> Result<Claimed, Fault> {
        const DOING: &str = "claiming a place";
        self.joined.keep((user.clone(), concert.clone()));
        let write = self
            .place(user, concert)
            .update_expression(
                "SET claim = :claim, claimed_at = :now, #ttl = :ttl ADD lost :lost REMOVE #position, turn, issued_at",
            )
            // The request that had it may have been given a place and died before it was kept.
            .expression_attribute_values(":lost", n(i64::from(over.is_some_and(PlaceRow::was_abandoned))))
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_names("#position", "position")
            .expression_attribute_values(":claim", s(claim))
            .expression_attribute_values(":now", at(now))
            .expression_attribute_values(":ttl", n(now.plus_seconds(QUEUE_TOKEN_LIFE_SECONDS).ttl_seconds()));
        let write = match over {
            None => write.condition_expression("attribute_not_exists(pk)"),
            Some(PlaceRow { claim: over, place: None, .. }) => write
                .condition_expression("claim = :over AND attribute_not_exists(#position)")
                .expression_attribute_values(":over", s(over)),
            Some(PlaceRow { claim: over, place: Some(place), .. }) => write
                .condition_expression("claim = :over AND #position = :worthless")
                .expression_attribute_values(":over", s(over))
                .expression_attribute_values(":worthless", n(place.position)),
        };
        let Err(error) = write.send().await else { return Ok(Claimed::Mine) };
        let row = found(error, DOING)?;
        // A try whose answer was lost has claimed it.
        Ok(if row.claim == claim { Claimed::Mine } else { Claimed::Taken(row) })
    }

    async fn keep_place(
        &self,
        user: &UserId,
        concert: &ConcertId,
        claim: &str,
        place: &Issued,
        until: Timestamp,
    ) -> Result<Claimed, Fault> {
        let kept = self
            .place(user, concert)
            .update_expression("SET #position = :position, turn = :turn, issued_at = :issued_at, #ttl = :ttl")
            .condition_expression("claim = :claim")
            .expression_attribute_names("#position", "position")
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":ttl", n(until.plus_seconds(QUEUE_TOKEN_LIFE_SECONDS).ttl_seconds()))
            .expression_attribute_values(":claim", s(claim))
            .expression_attribute_values(":position", n(place.position))
            .expression_attribute_values(":turn", n(place.turn))
            .expression_attribute_values(":issued_at", at(place.issued_at))
            .send()
            .await;
        match kept {
            Ok(_) => Ok(Claimed::Mine),
            Err(error) => found(error, "keeping a place").map(Claimed::Taken),
        }
    }

    async fn release_claim(&self, user: &UserId, concert: &ConcertId, claim: &str) -> Result<(), Fault> {
        let released = self
            .place(user, concert)
            .update_expression("SET claimed_at = :released")
            .condition_expression("claim = :claim AND attribute_not_exists(#position)")
            .expression_attribute_names("#position", "position")
            .expression_attribute_values(":claim", s(claim))
            .expression_attribute_values(":released", at(PlaceRow::RELEASED))
            .send()
            .await;
        match released {
            Ok(_) => Ok(()),
            Err(error) => found(error, "releasing a claim").map(drop),
        }
    }

    async fn leave_place(
        &self,
        user: &UserId,
        concert: &ConcertId,
        row: &PlaceRow,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let Some(place) = row.place else { return Ok(false) };
        let left = self
            .place(user, concert)
            // Under another claim, so that a late try of the request that had the place cannot keep it again.
            .update_expression(
                "SET claim = :left, claimed_at = :released, left_at = :now ADD given_up :one \
                 REMOVE #position, turn, issued_at",
            )
            .condition_expression("claim = :claim AND #position = :position")
            .expression_attribute_names("#position", "position")
            .expression_attribute_values(":claim", s(&row.claim))
            .expression_attribute_values(":position", n(place.position))
            .expression_attribute_values(":left", s(format!("{}-left", row.claim)))
            .expression_attribute_values(":released", at(PlaceRow::RELEASED))
            .expression_attribute_values(":now", at(now))
            .expression_attribute_values(":one", n(1))
            .send()
            .await;
        match left {
            Ok(_) => Ok(true),
            // Another request has it by now, or an earlier try has done it.
            Err(error) => found(error, "giving up a place").map(|_| false),
        }
    }
}
