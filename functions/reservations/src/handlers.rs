//! Handlers: translate HTTP requests, messages and steps into use cases, and their outcomes into answers.

use crate::domain::{Booking, MAX_PENDING, Refusal, Reservation, SeatList, SeatRequest, Status};
use crate::ports::{
    EndReturn, EndVisit, FindReservation, FindTerms, KeepTerms, ListReservations, ListTaken, LoadSale, Origin,
    RaiseAlert, ScheduleExpiry, SendRequest, WriteEnd, WriteExtension, WriteHold, WritePayment, WritePending,
    WriteRefund,
};
use crate::usecases::cancel_reservation::{self, CancelError};
use crate::usecases::expire_hold::{self, ExpireHold, WaitingHold};
use crate::usecases::extend_hold;
use crate::usecases::free_seats::{self, EndedReservation, FreeSeats};
use crate::usecases::request_reservation::{self, Requested};
use crate::usecases::reserve_seats::{self, KeyedAnswer, ReserveError, Reserved};
use crate::usecases::{begin_payment, confirm_reservation, refund_reservation, release_reservation};
use crate::usecases::{quote_refund, quote_reservation};
use crate::usecases::{roll_back_reservation, write_reservations};
use contracts::events::EventBody;
use contracts::saga::{Done, FailedPayment, PaymentSaga, RefundSaga, Release};
use contracts::steps::{
    self, Applied, ApplyAdmission, ExtendHold, HoldExtension, ListTakenSeats, OpenSchedule, Quote, QuoteRefund,
    QuoteReservation, RefundQuote, TakenSeats,
};
use contracts::{PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, Won};
use kit::auth::{QueueTokens, UserTokens, invalid_queue_token, outlived};
use kit::http::{Cursor, ListBody, StatusCode};
use kit::idempotency::{self, IdempotencyKey, StoredAnswer};
use kit::ids::Mint;
use kit::queue::Message;
use kit::{Call, Fault, Problem, Reply, StepCall, StepError};
use serde::{Deserialize, Serialize};

/// Dependencies of the HTTP handlers.
#[derive(Debug)]
pub struct Deps<S> {
    /// The store of reservations.
    pub store: S,
    pub users: UserTokens,
}

/// Dependencies of `extend-hold`.
#[derive(Debug)]
pub struct ExtendDeps<S> {
    /// The store of reservations.
    pub store: S,
    /// By how much a hold is extended, in seconds; 0 extends none.
    pub extension_seconds: u32,
}

/// Dependencies of `reserve-seats`.
#[derive(Debug)]
pub struct ReserveDeps<S, Q> {
    /// The store of reservations.
    pub store: S,
    /// The queue of asynchronous requests.
    pub requests: Q,
    pub users: UserTokens,
    /// Verifies queue tokens.
    pub tokens: QueueTokens,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReserveBody {
    schedule_id: ScheduleId,
    #[serde(alias = "seat_ids")]
    seats: Vec<SeatId>,
}

#[derive(Debug, Serialize)]
struct ReservationBody {
    reservation_id: ReservationId,
    status: &'static str,
    schedule_id: ScheduleId,
    concert_id: contracts::ConcertId,
    seats: Vec<SeatId>,
    total_price: Won,
    /// Present if there is or was a hold.
    #[serde(with = "contracts::time::rfc3339::option", skip_serializing_if = "Option::is_none")]
    hold_expires_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    /// The payment that has it, also once it is refunded.
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_id: Option<PaymentId>,
    #[serde(with = "contracts::time::rfc3339")]
    created_at: Timestamp,
}

impl ReservationBody {
    fn seen(reservation: &Reservation, now: Timestamp) -> Self {
        let unheld = matches!(reservation.status, Status::Pending | Status::Rejected);
        Self {
            reservation_id: reservation.id.clone(),
            status: reservation.visible_status(now).as_str(),
            schedule_id: reservation.schedule.clone(),
            concert_id: reservation.concert.clone(),
            seats: reservation.seats.clone(),
            total_price: reservation.total_price,
            hold_expires_at: (!unheld).then_some(reservation.hold_expires_at),
            failure: reservation.failure.clone().filter(|_| reservation.status == Status::Rejected),
            payment_id: reservation.payment.clone(),
            created_at: reservation.created_at,
        }
    }
}

/// `POST /reservations`
pub async fn reserve_seats<S, Q>(deps: &ReserveDeps<S, Q>, call: Call) -> Result<Reply, Problem>
where
    S: LoadSale + WriteHold + WritePending + ListReservations + WriteEnd,
    Q: SendRequest,
{
    let user = deps.users.user(&call)?.user;
    let token = deps.tokens.of(&call, &user)?;
    let key = IdempotencyKey::of(&call, "POST /reservations")?;
    let body: ReserveBody = call.json()?;
    if outlived(&token, call.now) {
        return Err(refused(Refusal::TokenNotActive));
    }
    let request = SeatRequest {
        user,
        token,
        schedule: body.schedule_id,
        seats: SeatList::new(body.seats)?,
        reservation: ReservationId::mint(call.now),
        correlation_id: call.request_id.clone(),
        asked_at: call.now,
    };
    if call.prefers_async() {
        return request_reservation(deps, &request, key.as_ref()).await;
    }
    let now = call.now;
    let answer = |reservation: &Reservation| StoredAnswer::created(&ReservationBody::seen(reservation, now));
    let keyed = key.as_ref().map(|key| KeyedAnswer { key, answer: &answer });
    match reserve_seats::reserve_seats(&deps.store, &request, Origin::New, keyed, now).await? {
        Reserved::Held(reservation) => Ok(answer(&reservation).into_reply()),
        Reserved::AsBefore(answer) => Ok(answer.into_reply()),
        Reserved::NotPending => Err(Fault::broken("holding seats", "a new reservation is not pending").into()),
    }
}

/// `POST /reservations` with `Prefer: respond-async`
async fn request_reservation<S, Q>(
    deps: &ReserveDeps<S, Q>,
    request: &SeatRequest,
    key: Option<&IdempotencyKey>,
) -> Result<Reply, Problem>
where
    S: LoadSale + WritePending,
    Q: SendRequest,
{
    let now = request.asked_at;
    let answer = |reservation: &Reservation| {
        let location = format!("/reservations/{}", reservation.id);
        StoredAnswer::accepted(&ReservationBody::seen(reservation, now), location)
    };
    let keyed = key.map(|key| KeyedAnswer { key, answer: &answer });
    let requested = request_reservation::request_reservation(&deps.store, &deps.requests, request, keyed, now).await?;
    let reply = match requested {
        Requested::Pending(reservation) => answer(&reservation).into_reply(),
        Requested::AsBefore(answer) => answer.into_reply(),
    };
    // The key may have been used by a synchronous request before.
    let accepted = reply.status == StatusCode::ACCEPTED;
    Ok(if accepted { reply.preference_applied("respond-async") } else { reply })
}

/// Step: a date goes on sale under its terms. No seat is written: a free seat has no item.
pub async fn open_schedule(store: &impl KeepTerms, call: StepCall<OpenSchedule>) -> Result<Applied, StepError> {
    store.keep_terms(&call.input).await?;
    Ok(Applied {})
}

/// Step: a concert's admission plan comes into force for reserving, unless a newer one is.
pub async fn apply_admission(store: &impl KeepTerms, call: StepCall<ApplyAdmission>) -> Result<Applied, StepError> {
    store.keep_plan(&call.input.concert_id, &call.input.plan).await?;
    Ok(Applied {})
}

/// Step: the user gave up their place in line.
pub async fn end_visit(store: &impl EndVisit, call: StepCall<steps::EndVisit>) -> Result<Applied, StepError> {
    store.end_visit(&call.input.user_id, &call.input.concert_id, call.input.at, call.now).await?;
    Ok(Applied {})
}

/// Step: what a reservation costs, before it is paid.
pub async fn quote_reservation(
    store: &impl FindReservation,
    call: StepCall<QuoteReservation>,
) -> Result<Quote, StepError> {
    Ok(quote_reservation::quote_reservation(store, &call.input.user_id, &call.input.reservation_id, call.now).await?)
}

/// Step: whether a paid reservation can be refunded now.
pub async fn quote_refund(
    store: &(impl FindReservation + FindTerms),
    call: StepCall<QuoteRefund>,
) -> Result<RefundQuote, StepError> {
    Ok(quote_refund::quote_refund(store, &call.input, call.now).await?)
}

/// Step: a hold whose user buys points for it is extended, once.
pub async fn extend_hold(
    deps: &ExtendDeps<impl FindReservation + WriteExtension>,
    call: StepCall<ExtendHold>,
) -> Result<HoldExtension, StepError> {
    Ok(extend_hold::extend_hold(&deps.store, &call.input, deps.extension_seconds, call.now).await?)
}

/// Step: the seats of a section that are not free, as they are sold.
pub async fn list_taken_seats(store: &impl ListTaken, call: StepCall<ListTakenSeats>) -> Result<TakenSeats, StepError> {
    Ok(store.taken_seats(&call.input.schedule_id, &call.input.section).await?)
}

/// Saga step: held -> paying.
pub async fn begin_payment(store: &impl WritePayment, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    begin_payment::begin_payment(store, &call.input, call.now).await
}

/// Saga step: paying -> paid.
pub async fn confirm_reservation(store: &impl WritePayment, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    confirm_reservation::confirm_reservation(store, &call.input, call.now).await
}

/// Saga compensation: paying -> held, or expired.
pub async fn release_reservation(
    store: &impl WritePayment,
    call: StepCall<FailedPayment>,
) -> Result<Release, StepError> {
    Ok(release_reservation::release_reservation(store, &call.input, call.now).await?)
}

/// Refund saga's step: paid -> refunded.
pub async fn refund_reservation(store: &impl WriteRefund, call: StepCall<RefundSaga>) -> Result<Done, StepError> {
    refund_reservation::refund_reservation(store, &call.input, call.now).await
}

/// Consumes `admission.changed`: does the same as [`apply_admission`], for a `set-admission` that died before its call.
pub async fn apply_admissions(store: &impl KeepTerms, message: Message) -> Result<(), Fault> {
    let EventBody::AdmissionChanged(changed) = message.event()?.body else {
        return Err(Fault::broken("applying a plan", "the message is no admission.changed"));
    };
    store.keep_plan(&changed.concert_id, &changed.plan).await
}

/// Consumes `reservation.held` and `reservation.extended`, delayed until the hold is over.
pub async fn expire_hold<S: WriteEnd, Q: ScheduleExpiry>(
    deps: &ExpireHold<S, Q>,
    message: Message,
) -> Result<(), Fault> {
    let event = message.event()?;
    let (EventBody::ReservationHeld(held) | EventBody::ReservationExtended(held)) = event.body else {
        return Err(Fault::broken("expiring a hold", "the message is neither reservation.held nor .extended"));
    };
    // As the event states it; the conditions of the write check whether that still holds.
    let booking = Booking {
        id: held.reservation_id,
        user: held.user_id,
        schedule: held.schedule_id,
        concert: held.concert_id,
        seats: held.seats,
        total_price: held.total_price,
        hold_expires_at: held.hold_expires_at,
        correlation_id: event.correlationid,
    };
    let hold = WaitingHold { booking, message: message.body, receives: message.receives };
    expire_hold::expire_hold(deps, hold, message.now).await
}

/// Consumes the events of ends that leave seats: `reservation.cancelled`, `.expired` and `.refunded`.
pub async fn free_seats<S: FindReservation + EndReturn, Q: ScheduleExpiry>(
    deps: &FreeSeats<S, Q>,
    message: Message,
) -> Result<(), Fault> {
    let reservation = match message.event()?.body {
        EventBody::ReservationCancelled(cancelled) => cancelled.reservation,
        EventBody::ReservationExpired(reservation) | EventBody::ReservationRefunded(reservation) => reservation,
        _ => return Err(Fault::broken("freeing seats", "the message is no end of a reservation")),
    };
    let ended = EndedReservation { user: reservation.user_id, id: reservation.reservation_id, message: message.body };
    free_seats::free_seats(deps, ended, message.now).await
}

/// Consumes `availability.update_failed`.
pub async fn roll_back_reservation(
    store: &(impl FindReservation + WriteEnd + WritePending + RaiseAlert),
    message: Message,
) -> Result<(), Fault> {
    let EventBody::AvailabilityUpdateFailed(failed) = message.event()?.body else {
        return Err(Fault::broken("rolling a reservation back", "the message is no availability.update_failed"));
    };
    roll_back_reservation::roll_back_reservation(store, failed, message.now).await
}

/// Consumes the queue of requests.
pub async fn write_reservations<S>(store: &S, message: Message) -> Result<(), Fault>
where
    S: LoadSale + WriteHold + ListReservations + WriteEnd + WritePending,
{
    write_reservations::write_reservations(store, &message.detail("reading a request")?, message.now).await
}

impl From<ReserveError> for Problem {
    fn from(error: ReserveError) -> Self {
        match error {
            ReserveError::Refused(refusal) => refused(refusal),
            ReserveError::KeyReused => idempotency::reused(),
            ReserveError::TooManyPending => Problem::conflict("too_many_pending", "Too many requests are undecided")
                .detail(format!("at most {MAX_PENDING} undecided requests per user and date")),
            ReserveError::Fault(fault) => fault.into(),
        }
    }
}

fn refused(refusal: Refusal) -> Problem {
    let code = refusal.code();
    let names = |seats: Vec<SeatId>| -> Vec<String> { seats.iter().map(SeatId::to_string).collect() };
    match refusal {
        Refusal::ScheduleNotFound => Problem::not_found("no such schedule"),
        Refusal::SeatsNotFound(seats) => {
            Problem::new(StatusCode::NOT_FOUND, code, "No such seat").member("seats", names(seats))
        }
        Refusal::WrongConcert => invalid_queue_token(),
        Refusal::TokenNotActive => Problem::new(StatusCode::FORBIDDEN, code, "It is not this queue token's turn")
            .detail("the queue token is still waiting, expired or used; GET /queue-status tells"),
        Refusal::SaleClosed => Problem::conflict(code, "The date has begun"),
        Refusal::TicketLimit { max_per_user } => Problem::conflict(code, "Too many tickets for one user")
            .detail(format!("at most {max_per_user} tickets held, being paid and paid per user and date"))
            .member("max_per_user", max_per_user),
        Refusal::UnpaidLimit { most } => Problem::conflict(code, "Too many holds were not paid")
            .detail(format!("at most {most} holds of a user for a date may be cancelled or run out"))
            .member("max_unpaid", most),
        Refusal::SeatsCoolingDown { seats, cool_down_seconds } => {
            Problem::conflict(code, "This user let a seat go a moment ago")
                .detail(format!("for {cool_down_seconds} seconds the same user cannot hold the same seats again"))
                .member("seats", names(seats))
        }
        Refusal::SeatsTaken(seats) => Problem::conflict(code, "A seat is not free").member("seats", names(seats)),
    }
}

/// `GET /reservations/{reservation_id}`
pub async fn get_reservation(deps: &Deps<impl FindReservation>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let id: ReservationId = call.path_id("reservation_id")?;
    let found = deps.store.find(&user, &id).await?.ok_or_else(|| Problem::not_found("no such reservation"))?;
    Reply::ok(ReservationBody::seen(&found, call.now))
}

/// `GET /reservations`
pub async fn list_reservations(deps: &Deps<impl ListReservations>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let page = call.page_behind(|key| key.starts_with("RES#"))?;
    let (reservations, next) = deps.store.list(&user, &page).await?;
    Reply::ok(ListBody {
        items: reservations.iter().map(|reservation| ReservationBody::seen(reservation, call.now)).collect(),
        next_cursor: next.map(|key| Cursor::seal(&key)),
    })
}

/// `DELETE /reservations/{reservation_id}`
pub async fn cancel_reservation(
    deps: &Deps<impl FindReservation + WriteEnd + WritePending>,
    call: Call,
) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let id: ReservationId = call.path_id("reservation_id")?;
    cancel_reservation::cancel_reservation(&deps.store, &user, &id, call.now).await?;
    Ok(Reply::no_content())
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::NotFound => Problem::not_found("no such reservation"),
            CancelError::NotCancellable => Problem::conflict(
                "reservation_not_cancellable",
                "Only a hold, or what is to become one, can be cancelled",
            ),
            CancelError::Fault(fault) => fault.into(),
        }
    }
}
