//! Which external system is notified of what, decided from events alone.

use contracts::events::{
    CancelReason, Event, EventBody, OrderEvent, OrderReported, PaymentCompleted, ReservationEvent,
};
use contracts::orders::{OrderFailure, OrderLine};
use contracts::saga::PaymentFailure;
use contracts::{EventId, OrderId, PaymentId, SeatId, Timestamp, UserId, Won};
use std::fmt;

/// How long a claim holds, in milliseconds. Longer than any function of this context may run, so that the run that took
/// one has ended when it expires.
pub const LEASE_MILLIS: i64 = 90_000;
/// How long an open fault may have no occurrence, in milliseconds, before its next occurrence is a new fault.
pub const QUIET_MILLIS: i64 = 24 * 3600 * 1000;
/// How often an unchanged fault is recorded as still present, in milliseconds.
const SEEN_AGAIN_MILLIS: i64 = 3600 * 1000;

// ------------------------------------------------------------------------------------------------ deliveries

/// One event on its way to one consumer: the unit of which there is one effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The consumer, by its handler's name.
    pub consumer: &'static str,
    pub event: String,
}

impl Delivery {
    /// An event's delivery to a consumer.
    pub fn new(consumer: &'static str, event: impl fmt::Display) -> Self {
        Self { consumer, event: event.to_string() }
    }
}

/// The result of requesting a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The caller may carry it out.
    Mine(Lease),
    /// It is done.
    Done,
    /// It is in progress elsewhere.
    Elsewhere,
}

/// The value by which a claim's owner releases it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease(pub String);

/// How a delivery ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was done, in snake_case, for log and table.
    pub what: &'static str,
    /// The provider's name for it.
    pub reference: Option<String>,
    /// What is published about it.
    pub report: Option<Report>,
}

impl Outcome {
    /// The provider took it.
    pub fn sent(reference: Option<String>) -> Self {
        Self::done("sent", reference)
    }

    /// It ended as `what`.
    pub const fn done(what: &'static str, reference: Option<String>) -> Self {
        Self { what, reference, report: None }
    }

    /// Nothing was sent, and why that is right.
    pub const fn skipped(why: &'static str) -> Self {
        Self::done(why, None)
    }
}

/// That the data platform has accepted an order, for the order's work state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub order: OrderReported,
    /// The id of the originating HTTP request.
    pub correlation_id: String,
}

impl Report {
    /// The report of an event that the data platform has accepted; `None` for most.
    pub fn of(event: &Event) -> Option<Self> {
        let EventBody::OrderPlaced(order) = &event.body else { return None };
        let (order_id, user_id) = (order.order_id.clone(), order.user_id.clone());
        Some(Self { order: OrderReported { order_id, user_id }, correlation_id: event.correlationid.clone() })
    }
}

// ------------------------------------------------------------------------------------------------ recipients

/// A Korean mobile number, digits only, for example `01012345678`. Never shown in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Phone(String);

impl Phone {
    /// Parses what directories hold: `010-1234-5678`, `+82 10 1234 5678`, `tel:+82-10-1234-5678`. Other numbers have no
    /// KakaoTalk account or cash receipt.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        let national = match digits.strip_prefix("82") {
            Some(rest) => format!("0{}", rest.trim_start_matches('0')),
            None => digits,
        };
        (national.starts_with("01") && (10..=11).contains(&national.len())).then_some(Self(national))
    }

    /// Its digits.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phone(..)")
    }
}

// ------------------------------------------------------------------------------------------------ pushes

/// A message for a user's phone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    pub user: UserId,
    /// The template, by our name of it: the event's type with `_` for `.`.
    pub template: String,
    pub parameters: Vec<(&'static str, String)>,
    /// From when on the message is useless.
    pub pointless_from: Option<Timestamp>,
}

impl Push {
    /// The message to a user about an event; `None` for most.
    pub fn of(event: &EventBody) -> Option<Self> {
        let mut pointless_from = None;
        let (user, parameters) = match event {
            EventBody::ReservationHeld(held) => {
                // "Pay within five minutes" is useless after them.
                pointless_from = Some(held.hold_expires_at);
                let mut parameters = of_reservation(held);
                parameters.push(("hold_ends_at", kst(held.hold_expires_at)));
                (&held.user_id, parameters)
            }
            EventBody::ReservationExpired(expired) => (&expired.user_id, of_reservation(expired)),
            EventBody::ReservationCancelled(cancelled) => {
                let mut parameters = of_reservation(&cancelled.reservation);
                parameters.push(("reason", why_cancelled(cancelled.reason).to_owned()));
                (&cancelled.reservation.user_id, parameters)
            }
            EventBody::ReservationRejected(rejected) => {
                let parameters = vec![
                    ("reservation", rejected.reservation_id.to_string()),
                    ("seats", seats(&rejected.seats)),
                    ("reason", why_rejected(&rejected.reason).to_owned()),
                ];
                (&rejected.user_id, parameters)
            }
            EventBody::PaymentCompleted(paid) => {
                let parameters = of_payment(&paid.payment_id, &paid.reservation_id, &paid.seats, paid.amount);
                (&paid.user_id, parameters)
            }
            EventBody::PaymentRefunded(refunded) => {
                let (payment, reservation) = (&refunded.payment_id, &refunded.reservation_id);
                (&refunded.user_id, of_payment(payment, reservation, &refunded.seats, refunded.amount))
            }
            EventBody::PaymentFailed(failed) => {
                let parameters = vec![
                    ("payment", failed.payment_id.to_string()),
                    ("reservation", failed.reservation_id.to_string()),
                    ("reason", why_failed(failed.failure).to_owned()),
                ];
                (&failed.user_id, parameters)
            }
            EventBody::PaymentRefundFailed(failed) => {
                let parameters = vec![
                    ("payment", failed.payment_id.to_string()),
                    ("reservation", failed.reservation_id.to_string()),
                    ("reason", why_not_refunded(&failed.reason).to_owned()),
                ];
                (&failed.user_id, parameters)
            }
            EventBody::OrderCompleted(order) => (&order.user_id, of_order(order)),
            EventBody::OrderFailed(failed) => {
                let mut parameters = of_order(&failed.order);
                parameters.push(("reason", why_order_failed(failed.reason).to_owned()));
                (&failed.order.user_id, parameters)
            }
            _ => return None,
        };
        let template = event.event_type().replace('.', "_");
        Some(Self { user: user.clone(), template, parameters, pointless_from })
    }

    /// Whether it is too late to be of use.
    pub fn is_pointless(&self, now: Timestamp) -> bool {
        self.pointless_from.is_some_and(|from| from <= now)
    }
}

fn of_reservation(reservation: &ReservationEvent) -> Vec<(&'static str, String)> {
    vec![
        ("reservation", reservation.reservation_id.to_string()),
        ("seats", seats(&reservation.seats)),
        ("price", price(reservation.total_price)),
    ]
}

fn of_payment(
    payment: &PaymentId,
    reservation: &contracts::ReservationId,
    taken: &[SeatId],
    amount: Won,
) -> Vec<(&'static str, String)> {
    vec![
        ("payment", payment.to_string()),
        ("reservation", reservation.to_string()),
        ("seats", seats(taken)),
        ("price", price(amount)),
    ]
}

/// The most characters that an item's name has.
const NAME_CHARS: usize = 200;

fn of_order(order: &OrderEvent) -> Vec<(&'static str, String)> {
    vec![
        ("order", order.order_id.to_string()),
        ("items", items(&order.lines, NAME_CHARS)),
        ("price", price(order.total_price)),
    ]
}

const fn why_cancelled(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::User => "고객 요청",
        CancelReason::ExpiryNotScheduled | CancelReason::AvailabilityNotUpdated => "시스템 사정",
    }
}

fn why_rejected(reason: &str) -> &'static str {
    match reason {
        "seat_taken" => "이미 선택된 좌석",
        "ticket_limit_exceeded" => "예매 가능 매수 초과",
        "unpaid_limit_exceeded" => "미결제 선점 횟수 초과",
        "seat_cooling_down" => "방금 취소한 좌석",
        _ => "예매할 수 없는 상태",
    }
}

const fn why_failed(failure: PaymentFailure) -> &'static str {
    match failure {
        PaymentFailure::InsufficientPoints => "포인트 부족",
        PaymentFailure::HoldExpired => "선점 시간 만료",
        PaymentFailure::ReservationNotPayable => "결제할 수 없는 예매",
        PaymentFailure::TemporarilyUnavailable => "일시적인 장애",
    }
}

fn why_not_refunded(reason: &str) -> &'static str {
    match reason {
        "reservation_not_refundable" => "환불할 수 없는 예매",
        _ => "일시적인 장애",
    }
}

const fn why_order_failed(reason: OrderFailure) -> &'static str {
    match reason {
        OrderFailure::OutOfStock => "재고 부족",
        OrderFailure::ItemWithdrawn => "판매 종료",
        OrderFailure::ItemLimitExceeded => "1인당 구매 한도 초과",
        OrderFailure::InsufficientPoints => "포인트 부족",
        OrderFailure::TimedOut => "일시적인 장애",
        OrderFailure::Cancelled => "주문 취소",
    }
}

/// A moment as people in Korea read it, for example `2026-11-20 20:05`. Korea has had one offset since 1988.
pub fn kst(at: Timestamp) -> String {
    at.plus_seconds(9 * 3600).rfc3339().chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// An amount as people read it, for example `300,000원`.
pub fn price(amount: Won) -> String {
    let digits = amount.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + "원"
}

/// Seats as people read them. A message has at most 1,000 characters, so many are counted.
fn seats(seats: &[SeatId]) -> String {
    const NAMED: usize = 8;
    let named: Vec<String> = seats.iter().take(NAMED).map(ToString::to_string).collect();
    match seats.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} 외 {more}석", named.join(", ")),
    }
}

/// Ordered items as people read them. A name may have [`NAME_CHARS`] characters, so one is named, with so many of them at
/// most, and the others are counted.
fn items(lines: &[OrderLine], name_chars: usize) -> String {
    let name = |line: &OrderLine| line.name.chars().take(name_chars).collect::<String>();
    let first = lines.first().map(|line| format!("{} {}개", name(line), line.quantity)).unwrap_or_default();
    match lines.len().saturating_sub(1) {
        0 => first,
        more => format!("{first} 외 {more}건"),
    }
}

// ------------------------------------------------------------------------------------------------ cash receipts

/// How many characters of an item's name are in the name of a sale, which the provider takes up to 100 of: " 10000개 외
/// 49건" comes after it.
const ITEM_NAME_CHARS: usize = 80;

/// What a cash receipt is for; its id is the order's at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaleId {
    /// Seats, by their payment.
    Payment(PaymentId),
    /// Merchandise, by its order.
    Order(OrderId),
}

impl SaleId {
    /// The payment's or the order's id.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Payment(payment) => payment.as_str(),
            Self::Order(order) => order.as_str(),
        }
    }
}

/// What a cash receipt is issued for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    pub id: SaleId,
    /// Whose receipt it is.
    pub user: UserId,
    pub name: String,
    pub amount: Won,
}

impl Sale {
    fn of_seats(paid: &PaymentCompleted) -> Self {
        Self {
            id: SaleId::Payment(paid.payment_id.clone()),
            user: paid.user_id.clone(),
            name: format!("공연 티켓 {}매", paid.seats.len()),
            amount: paid.amount,
        }
    }

    fn of_order(order: &OrderEvent) -> Self {
        Self {
            id: SaleId::Order(order.order_id.clone()),
            user: order.user_id.clone(),
            name: items(&order.lines, ITEM_NAME_CHARS),
            amount: order.total_price,
        }
    }
}

/// What an event requires of a cash receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiptTask {
    /// The sale is made: its receipt is issued.
    Issue(Sale),
    /// The sale was taken back: its receipt is cancelled, or never issued.
    Cancel(SaleId),
}

impl ReceiptTask {
    /// The task of an event; `None` if it ends nothing that was sold.
    pub fn of(event: &EventBody) -> Option<Self> {
        match event {
            EventBody::PaymentCompleted(paid) => Some(Self::Issue(Sale::of_seats(paid))),
            EventBody::PaymentRefunded(refunded) => Some(Self::Cancel(SaleId::Payment(refunded.payment_id.clone()))),
            EventBody::OrderCompleted(order) => Some(Self::Issue(Sale::of_order(order))),
            // An order that failed for any other reason was never completed.
            EventBody::OrderFailed(failed) if failed.reason == OrderFailure::Cancelled => {
                Some(Self::Cancel(SaleId::Order(failed.order.order_id.clone())))
            }
            _ => None,
        }
    }
}

/// What is known of a sale's cash receipt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// The provider's key of it, once it is known.
    pub key: Option<String>,
    /// The event that reports the refund of the payment, or the cancellation of the order.
    pub refunded_by: Option<EventId>,
    /// Whether it is cancelled at the provider.
    pub cancelled: bool,
}

impl Receipt {
    /// The receipt to cancel, and the event that requires it. If a refund and the issuing run at the same time, the
    /// later writer sees both here, and so exactly one of them cancels.
    pub fn to_cancel(&self) -> Option<(&str, &EventId)> {
        if self.cancelled {
            return None;
        }
        Some((self.key.as_deref()?, self.refunded_by.as_ref()?))
    }
}

// ------------------------------------------------------------------------------------------------ alerts

/// A change of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultUpdate {
    /// It occurred.
    Sign(Sign),
    /// It is over.
    Over {
        /// Which fault.
        fault: String,
        /// Since when.
        at: Timestamp,
    },
}

impl FaultUpdate {
    /// Which fault it is about.
    pub fn fault(&self) -> &str {
        match self {
            Self::Sign(sign) => &sign.fault,
            Self::Over { fault, .. } => fault,
        }
    }
}

/// One occurrence of a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    /// Which fault: the same for all its occurrences.
    pub fault: String,
    /// What is wrong, in one line.
    pub summary: String,
    /// What the on-call needs to act.
    pub detail: String,
    /// How it counts.
    pub count: Count,
    /// When it occurred.
    pub at: Timestamp,
}

/// How an occurrence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// It is one more.
    OneMore,
    /// It gives the total.
    Exactly(u64),
}

/// A fault that administrators are notified of: one open page, however many occurrences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    pub fault: String,
    pub summary: String,
    /// What the on-call needs to act.
    pub detail: String,
    /// Whether the fault is present.
    pub open: bool,
    /// Since when it is present.
    pub since: Timestamp,
    /// Its latest occurrence.
    pub seen_at: Timestamp,
    /// When it was last over; occurrences before then are late.
    pub closed_at: Timestamp,
    /// The number of occurrences, or the total that they give.
    pub count: u64,
    pub page: Page,
    /// The page of the fault's previous period, which has yet to be closed.
    pub retired: Option<String>,
    /// Until when the page is claimed.
    pub claimed_until: Option<Timestamp>,
    /// Counts the writes; a write based on an old revision is refused.
    pub rev: u64,
}

/// The state of an alert's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// There is none.
    None,
    /// Creation has begun; there may be one.
    Creating,
    /// There is one, open.
    Open(String),
    /// There was one; it is closed.
    Closed,
}

/// What to do about a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageTask {
    /// Create it; if it may exist already, search for it first.
    Create {
        /// Whether to search first.
        look_before: bool,
    },
    /// Find out whether there is one.
    Find,
    /// Close it.
    Close(String),
    /// Close that of the previous period.
    Retire(String),
}

/// The result of a page task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// There is this page.
    There(String),
    /// There is none.
    Nowhere,
    /// It is closed.
    Closed,
    /// That of the previous period is closed.
    Retired,
    /// It failed.
    Nothing,
}

impl Alert {
    /// The alert after an update; `None` if nothing changes.
    pub fn after(alert: Option<&Self>, update: &FaultUpdate) -> Option<Self> {
        match update {
            FaultUpdate::Sign(sign) => Self::signed(alert, sign),
            FaultUpdate::Over { fault, at } => Self::closed(alert, fault, *at),
        }
    }

    fn signed(alert: Option<&Self>, sign: &Sign) -> Option<Self> {
        let anew = |page, retired, closed_at, rev| Self {
            fault: sign.fault.clone(),
            summary: sign.summary.clone(),
            detail: sign.detail.clone(),
            open: true,
            since: sign.at,
            seen_at: sign.at,
            closed_at,
            count: match sign.count {
                Count::OneMore => 1,
                Count::Exactly(count) => count,
            },
            page,
            retired,
            claimed_until: alert.and_then(|alert| alert.claimed_until),
            rev,
        };
        let Some(alert) = alert else { return Some(anew(Page::None, None, Timestamp::default(), 1)) };
        if !alert.open {
            if sign.at <= alert.closed_at {
                return None;
            }
            // A page that is not closed yet is used again.
            let page = if alert.page == Page::Closed { Page::None } else { alert.page.clone() };
            return Some(anew(page, alert.retired.clone(), alert.closed_at, alert.rev + 1));
        }
        if let (Page::Open(page), None) = (&alert.page, &alert.retired)
            && sign.at.millis_since(alert.seen_at) > QUIET_MILLIS
        {
            return Some(anew(Page::None, Some(page.clone()), alert.closed_at, alert.rev + 1));
        }
        let count = match sign.count {
            Count::OneMore => alert.count.saturating_add(1),
            Count::Exactly(count) => count,
        };
        if count == alert.count && sign.at.millis_since(alert.seen_at) < SEEN_AGAIN_MILLIS {
            return None;
        }
        Some(Self { count, seen_at: alert.seen_at.max(sign.at), rev: alert.rev + 1, ..alert.clone() })
    }

    fn closed(alert: Option<&Self>, fault: &str, at: Timestamp) -> Option<Self> {
        let Some(alert) = alert else {
            // The occurrence may still be on its way.
            return Some(Self {
                fault: fault.to_owned(),
                summary: String::new(),
                detail: String::new(),
                open: false,
                since: at,
                seen_at: at,
                closed_at: at,
                count: 0,
                page: Page::None,
                retired: None,
                claimed_until: None,
                rev: 1,
            });
        };
        let is_late = at < alert.seen_at || at <= alert.closed_at;
        (!is_late).then(|| Self { open: false, closed_at: at, rev: alert.rev + 1, ..alert.clone() })
    }

    /// What to do so that its page is up to date.
    pub fn due(&self) -> Option<PageTask> {
        if let Some(page) = &self.retired {
            return Some(PageTask::Retire(page.clone()));
        }
        match (&self.page, self.open) {
            (Page::None, true) => Some(PageTask::Create { look_before: false }),
            (Page::Creating, true) => Some(PageTask::Create { look_before: true }),
            (Page::Creating, false) => Some(PageTask::Find),
            (Page::Open(page), false) => Some(PageTask::Close(page.clone())),
            (Page::None | Page::Closed, false) | (Page::Open(_) | Page::Closed, true) => None,
        }
    }

    /// The alert with its page claimed for some work; `None` while another claim holds.
    pub fn claimed(&self, work: &PageTask, now: Timestamp) -> Option<Self> {
        if self.claimed_until.is_some_and(|until| until > now) {
            return None;
        }
        let page = if matches!(work, PageTask::Create { .. }) { Page::Creating } else { self.page.clone() };
        let claimed_until = Some(now.plus_millis(LEASE_MILLIS));
        Some(Self { page, claimed_until, rev: self.rev + 1, ..self.clone() })
    }

    /// The alert after the work for which it was claimed.
    pub fn worked(&self, done: &Done) -> Self {
        let mut worked = Self { claimed_until: None, rev: self.rev + 1, ..self.clone() };
        match done {
            Done::There(page) => worked.page = Page::Open(page.clone()),
            Done::Nowhere => worked.page = Page::None,
            // The fault may have occurred again while its page was being closed.
            Done::Closed => worked.page = if self.open { Page::None } else { Page::Closed },
            Done::Retired => worked.retired = None,
            Done::Nothing => {}
        }
        worked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contracts::events::{OrderFailed, PaymentFailed, PaymentRefundFailed, ReservationRejected};
    use contracts::orders::Quantity;
    use contracts::{ItemId, OrderId};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn held() -> ReservationEvent {
        ReservationEvent {
            reservation_id: contracts::ReservationId::parse("r1").unwrap(),
            user_id: UserId::parse("alice").unwrap(),
            schedule_id: contracts::ScheduleId::parse("date").unwrap(),
            concert_id: contracts::ConcertId::parse("concert").unwrap(),
            seats: ["A-1-1", "A-1-2"].map(|seat| SeatId::parse(seat).unwrap()).into(),
            total_price: Won::new(300_000).unwrap(),
            hold_expires_at: NOW.plus_seconds(300),
        }
    }

    #[test]
    fn a_moment_is_written_in_korean_time() {
        assert_eq!(kst(Timestamp::parse_rfc3339("2026-11-20T11:05:59.999Z").unwrap()), "2026-11-20 20:05");
        assert_eq!(kst(Timestamp::parse_rfc3339("2026-12-31T15:00:00Z").unwrap()), "2027-01-01 00:00");
    }

    #[test]
    fn an_amount_is_written_in_groups_of_three_digits() {
        let written = |amount| price(Won::new(amount).unwrap());
        assert_eq!((written(0), written(999), written(1_000)), ("0원".into(), "999원".into(), "1,000원".into()));
        assert_eq!(written(1_234_567), "1,234,567원");
    }

    #[test]
    fn a_push_about_a_hold_has_its_seats_its_price_and_its_end_until_it_ends() {
        let push = Push::of(&EventBody::ReservationHeld(held())).unwrap();
        assert_eq!(push.template, "reservation_held");
        let expected = [
            ("reservation", "r1"),
            ("seats", "A-1-1, A-1-2"),
            ("price", "300,000원"),
            ("hold_ends_at", "2027-01-15 17:05"),
        ];
        assert_eq!(push.parameters, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(!push.is_pointless(NOW.plus_seconds(299)));
        assert!(push.is_pointless(NOW.plus_seconds(300)));
    }

    #[test]
    fn a_failure_is_pushed_with_its_reason_however_late() {
        let failed = EventBody::PaymentFailed(PaymentFailed {
            payment_id: PaymentId::parse("p1").unwrap(),
            user_id: UserId::parse("alice").unwrap(),
            reservation_id: contracts::ReservationId::parse("r1").unwrap(),
            failure: PaymentFailure::InsufficientPoints,
        });
        let push = Push::of(&failed).unwrap();
        assert!(push.parameters.contains(&("reason", "포인트 부족".to_owned())));
        assert!(!push.is_pointless(NOW.plus_seconds(86_400)));
        let kept = EventBody::PaymentRefundFailed(PaymentRefundFailed {
            payment_id: PaymentId::parse("p1").unwrap(),
            user_id: UserId::parse("alice").unwrap(),
            reservation_id: contracts::ReservationId::parse("r1").unwrap(),
            reason: "reservation_not_refundable".into(),
        });
        let push = Push::of(&kept).unwrap();
        assert_eq!((push.template.as_str(), push.user.as_str()), ("payment_refund_failed", "alice"));
        assert!(push.parameters.contains(&("reason", "환불할 수 없는 예매".to_owned())));
    }

    #[test]
    fn an_order_is_described_by_its_first_item_and_how_many_more_there_are() {
        let line = |id: &str, quantity| OrderLine {
            item_id: ItemId::parse(id).unwrap(),
            name: "응원봉".into(),
            price: Won::new(15_000).unwrap(),
            quantity: Quantity::new(quantity).unwrap(),
        };
        let order = |lines| OrderEvent {
            order_id: OrderId::parse("o1").unwrap(),
            user_id: UserId::parse("alice").unwrap(),
            lines,
            total_price: Won::new(30_000).unwrap(),
        };
        let check = |push: &Push, expected: &[(&'static str, &str)]| {
            let expected: Vec<_> = expected.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            assert_eq!(push.parameters, expected);
        };
        assert_eq!(Push::of(&EventBody::OrderPlaced(order(vec![line("i1", 2)]))), None);
        let completed = Push::of(&EventBody::OrderCompleted(order(vec![line("i1", 2)]))).unwrap();
        assert_eq!((completed.template.as_str(), completed.user.as_str()), ("order_completed", "alice"));
        check(&completed, &[("order", "o1"), ("items", "응원봉 2개"), ("price", "30,000원")]);

        let lines = vec![line("i1", 2), line("i2", 1), line("i3", 1)];
        let failed = OrderFailed { order: order(lines), reason: OrderFailure::OutOfStock, actor: None };
        let failed = Push::of(&EventBody::OrderFailed(failed)).unwrap();
        assert_eq!(failed.template, "order_failed");
        let items = ("items", "응원봉 2개 외 2건");
        check(&failed, &[("order", "o1"), items, ("price", "30,000원"), ("reason", "재고 부족")]);
        assert!(!failed.is_pointless(NOW.plus_seconds(86_400)));
    }

    #[test]
    fn an_order_that_was_completed_has_a_receipt_until_it_is_cancelled() {
        let name = "응".repeat(200);
        let line = |id: usize| OrderLine {
            item_id: ItemId::parse(format!("i{id}")).unwrap(),
            name: name.clone(),
            price: Won::new(15_000).unwrap(),
            quantity: Quantity::new(10_000).unwrap(),
        };
        let order = OrderEvent {
            order_id: OrderId::parse("o1").unwrap(),
            user_id: UserId::parse("alice").unwrap(),
            lines: (0..contracts::orders::MAX_LINES).map(line).collect(),
            total_price: Won::new(7_500_000_000).unwrap(),
        };
        let completed = ReceiptTask::of(&EventBody::OrderCompleted(order.clone())).unwrap();
        let ReceiptTask::Issue(sale) = completed else { panic!("{completed:?}") };
        assert_eq!((sale.id.as_str(), sale.user.as_str(), sale.amount), ("o1", "alice", order.total_price));
        assert!(sale.name.ends_with("응 10000개 외 49건") && sale.name.chars().count() <= 100, "{}", sale.name);
        let failed = |reason| {
            ReceiptTask::of(&EventBody::OrderFailed(OrderFailed { order: order.clone(), reason, actor: None }))
        };
        assert_eq!(failed(OrderFailure::Cancelled), Some(ReceiptTask::Cancel(sale.id)));
        assert_eq!(failed(OrderFailure::TimedOut), None);
        assert_eq!(ReceiptTask::of(&EventBody::OrderPlaced(order)), None);
    }

    #[test]
    fn a_message_about_many_seats_stays_short() {
        let rejected = EventBody::ReservationRejected(ReservationRejected {
            reservation_id: contracts::ReservationId::parse("r1").unwrap(),
            user_id: UserId::parse("alice").unwrap(),
            schedule_id: contracts::ScheduleId::parse("date").unwrap(),
            concert_id: contracts::ConcertId::parse("concert").unwrap(),
            seats: (1..=90).map(|seat| SeatId::parse(&format!("A-1-{seat}")).unwrap()).collect(),
            reason: "seat_taken".into(),
        });
        let push = Push::of(&rejected).unwrap();
        assert!(push.parameters.iter().any(|(name, value)| *name == "seats" && value.ends_with("A-1-8 외 82석")));
    }

    #[test]
    fn a_sale_is_pushed_for_its_payment_alone() {
        assert_eq!(Push::of(&EventBody::ReservationPaid(held())), None);
    }

    #[test]
    fn a_number_is_read_however_the_directory_writes_it() {
        for text in ["010-1234-5678", "+82 10-1234-5678", "tel:+82-10-1234-5678", "82 (0)10 1234 5678"] {
            assert_eq!(Phone::parse(text).unwrap().digits(), "01012345678", "{text}");
        }
        for text in ["", "02-123-4567", "+1 555 0100", "010-1234", "0101234567890"] {
            assert_eq!(Phone::parse(text), None, "{text}");
        }
        assert_eq!(format!("{:?}", Phone::parse("01012345678")), "Some(Phone(..))");
    }

    #[test]
    fn a_receipt_is_cancelled_by_the_writer_that_sees_both_it_and_the_refund() {
        let refund = EventId::parse("p1.payment.refunded").unwrap();
        let mut receipt = Receipt::default();
        assert_eq!(receipt.to_cancel(), None);
        receipt.refunded_by = Some(refund.clone());
        assert_eq!(receipt.to_cancel(), None);
        receipt.key = Some("k".into());
        assert_eq!(receipt.to_cancel(), Some(("k", &refund)));
        receipt.cancelled = true;
        assert_eq!(receipt.to_cancel(), None);
    }

    fn sign(at: Timestamp) -> FaultUpdate {
        FaultUpdate::Sign(Sign {
            fault: "f".into(),
            summary: "s".into(),
            detail: "d".into(),
            count: Count::OneMore,
            at,
        })
    }

    fn over(at: Timestamp) -> FaultUpdate {
        FaultUpdate::Over { fault: "f".into(), at }
    }

    fn alerted() -> Alert {
        Alert::after(None, &sign(NOW)).unwrap().worked(&Done::There("page".into()))
    }

    #[test]
    fn a_fault_that_goes_on_only_counts() {
        let alert = Alert::after(Some(&alerted()), &sign(NOW.plus_seconds(1))).unwrap();
        assert_eq!((alert.count, alert.since, alert.due()), (2, NOW, None));
    }

    #[test]
    fn a_fault_that_ends_has_its_page_closed_and_the_next_time_is_a_new_page() {
        let closed = Alert::after(Some(&alerted()), &over(NOW.plus_seconds(1))).unwrap();
        assert_eq!(closed.due(), Some(PageTask::Close("page".into())));
        let closed = closed.worked(&Done::Closed);
        assert_eq!(closed.due(), None);
        let again = Alert::after(Some(&closed), &sign(NOW.plus_seconds(2))).unwrap();
        assert_eq!((again.count, again.due()), (1, Some(PageTask::Create { look_before: false })));
    }

    #[test]
    fn occurrences_and_ends_are_ordered_by_when_they_happened_not_by_when_they_arrived() {
        let closed = Alert::after(None, &over(NOW)).unwrap();
        assert_eq!(Alert::after(Some(&closed), &sign(NOW.plus_seconds(-1))), None);
        assert_eq!(Alert::after(Some(&alerted()), &over(NOW.plus_seconds(-1))), None);
        let later = Alert::after(Some(&alerted()), &sign(NOW.plus_seconds(10))).unwrap();
        assert_eq!(Alert::after(Some(&later), &over(NOW.plus_seconds(5))), None);
    }

    #[test]
    fn a_fault_that_is_never_closed_is_a_new_one_after_a_quiet_day() {
        let alert = Alert::after(Some(&alerted()), &sign(NOW.plus_millis(QUIET_MILLIS + 1))).unwrap();
        assert_eq!((alert.count, alert.due()), (1, Some(PageTask::Retire("page".into()))));
        let alert = alert.worked(&Done::Retired);
        assert_eq!(alert.due(), Some(PageTask::Create { look_before: false }));
        let going_on = Alert::after(Some(&alerted()), &sign(NOW.plus_millis(QUIET_MILLIS))).unwrap();
        assert_eq!(going_on.due(), None);
    }

    #[test]
    fn a_page_that_may_exist_is_searched_for() {
        let claimed = |alert: &Alert| alert.claimed(&alert.due().unwrap(), NOW).unwrap();
        let begun = claimed(&Alert::after(None, &sign(NOW)).unwrap());
        assert_eq!(begun.claimed(&begun.due().unwrap(), NOW.plus_millis(LEASE_MILLIS - 1)), None);
        assert_eq!(begun.due(), Some(PageTask::Create { look_before: true }));
        let closed = Alert::after(Some(&begun), &over(NOW.plus_seconds(1))).unwrap();
        assert_eq!(closed.due(), Some(PageTask::Find));
        assert_eq!(closed.worked(&Done::Nowhere).due(), None);
        assert_eq!(closed.worked(&Done::There("p".into())).due(), Some(PageTask::Close("p".into())));
    }

    #[test]
    fn a_fault_over_before_its_page_was_created_needs_no_page() {
        let alert = Alert::after(None, &sign(NOW)).unwrap();
        assert_eq!(Alert::after(Some(&alert), &over(NOW.plus_seconds(1))).unwrap().due(), None);
    }

    #[test]
    fn an_unchanged_count_is_written_once_an_hour() {
        let waiting = |count, at| {
            FaultUpdate::Sign(Sign {
                fault: "q".into(),
                summary: "s".into(),
                detail: "d".into(),
                count: Count::Exactly(count),
                at,
            })
        };
        let alert = Alert::after(None, &waiting(3, NOW)).unwrap();
        assert_eq!(Alert::after(Some(&alert), &waiting(3, NOW.plus_seconds(60))), None);
        assert_eq!(Alert::after(Some(&alert), &waiting(4, NOW.plus_seconds(60))).unwrap().count, 4);
        assert!(Alert::after(Some(&alert), &waiting(3, NOW.plus_seconds(3600))).is_some());
    }
}
