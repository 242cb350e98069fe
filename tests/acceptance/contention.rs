//! Many at once.

use crate::on_cloud;
use std::collections::HashMap;
use std::time::Duration;
use tests::cloud::{Terms, after, eventually, text};

#[test]
fn of_500_buyers_of_one_seat_exactly_one_gets_it_and_all_others_a_clear_no() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { rows: 1, seats_per_row: 1, ..Terms::default() }).await;
        let joins: Vec<_> = (0..500)
            .map(|_| {
                let (fan, sale) = (cloud.user("fan"), sale.clone());
                tokio::spawn(async move { (fan.join(&sale).await, fan) })
            })
            .collect();
        let mut fans = Vec::new();
        for join in joins {
            fans.push(join.await.unwrap());
        }
        let tries: Vec<_> = fans
            .into_iter()
            .map(|(token, fan)| {
                let sale = sale.clone();
                tokio::spawn(async move { fan.reserve(&sale, &token, &["A-1-1"]).await })
            })
            .collect();
        let mut answers: HashMap<u16, usize> = HashMap::new();
        for answer in tries {
            *answers.entry(answer.await.unwrap().status.as_u16()).or_default() += 1;
        }
        assert_eq!(answers, HashMap::from([(201, 1), (409, 499)]));
    });
}

#[test]
fn crossing_requests_for_two_seats_never_share_or_split_them() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        for row in 1..=5 {
            let (left, right) = (format!("A-{row}-1"), format!("A-{row}-2"));
            let tries: Vec<_> = (0..8)
                .map(|turn| {
                    let (fan, sale) = (cloud.user("fan"), sale.clone());
                    let seats =
                        if turn % 2 == 0 { [left.clone(), right.clone()] } else { [right.clone(), left.clone()] };
                    tokio::spawn(async move {
                        let token = fan.join(&sale).await;
                        fan.reserve(&sale, &token, &[&seats[0], &seats[1]]).await
                    })
                })
                .collect();
            let mut won = 0;
            for answer in tries {
                let answer = answer.await.unwrap();
                match answer.status.as_u16() {
                    201 => won += 1,
                    409 => {}
                    other => panic!("{other}: {}", answer.text()),
                }
            }
            assert_eq!(won, 1, "row {row}");
        }
        let fan = cloud.user("fan");
        eventually("the map shows ten holds", async || (sale.available(&fan).await == 40).then_some(())).await;
    });
}

#[test]
fn one_key_pays_once_however_often_it_is_sent() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        let reservation = fan.hold(&sale, &["A-1-1"]).await;
        let tries: Vec<_> = (0..10)
            .map(|_| {
                let (fan, reservation) = (fan.clone(), reservation.clone());
                tokio::spawn(async move { fan.pay(&reservation, "once").await })
            })
            .collect();
        let mut payments = std::collections::HashSet::new();
        for answer in tries {
            let answer = answer.await.unwrap();
            assert!(matches!(answer.status.as_u16(), 200 | 202), "{}", answer.text());
            payments.insert(text(&answer.json(), "payment_id"));
        }
        assert_eq!(payments.len(), 1);
        assert_eq!(fan.balance().await, 9_000);
    });
}

#[test]
fn two_keys_on_one_reservation_pay_once() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        let reservation = fan.hold(&sale, &["A-1-1"]).await;
        let tries: Vec<_> = (0..6)
            .map(|turn| {
                let (fan, reservation) = (fan.clone(), reservation.clone());
                tokio::spawn(async move { fan.pay(&reservation, &format!("key-{turn}")).await })
            })
            .collect();
        let mut completed = 0;
        for answer in tries {
            let answer = answer.await.unwrap();
            let ended = match answer.status.as_u16() {
                200 => answer.json(),
                202 => fan.final_payment(&text(&answer.json(), "payment_id")).await,
                409 => continue,
                other => panic!("{other}: {}", answer.text()),
            };
            completed += usize::from(ended["status"] == "completed");
        }
        assert_eq!(completed, 1);
        assert_eq!(fan.balance().await, 9_000);
        assert_eq!(fan.reservation_status(&reservation).await, "paid");
    });
}

#[test]
fn paying_at_the_second_the_hold_ends_never_sells_the_seat_twice() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { hold_seconds: 1, ..Terms::default() }).await;
        let rounds: Vec<_> = (1..=8)
            .map(|number| {
                let sale = sale.clone();
                tokio::spawn(async move {
                    let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
                    alice.charge(10_000).await;
                    let token = bob.join(&sale).await;
                    let seat = format!("A-1-{number}");
                    let mine = alice.hold(&sale, &[&seat]).await;
                    let grab = async {
                        // Bob tries until the seat is his or sold for good.
                        for _ in 0..60 {
                            let answer = bob.reserve(&sale, &token, &[&seat]).await;
                            if answer.status == 201 {
                                return true;
                            }
                            if alice.reservation_status(&mine).await == "paid" {
                                return false;
                            }
                        }
                        false
                    };
                    let pay = async {
                        // Every tenth of the last moments is hit by one of the rounds.
                        after(Duration::from_millis(800 + 50 * number)).await;
                        let answer = alice.pay(&mine, "k").await;
                        match answer.status.as_u16() {
                            409 => false,
                            _ => {
                                let id = text(&answer.json(), "payment_id");
                                alice.final_payment(&id).await["status"] == "completed"
                            }
                        }
                    };
                    let (bobs, alices) = tokio::join!(grab, pay);
                    assert!(!(bobs && alices), "sold twice");
                    assert_eq!(alice.balance().await, if alices { 9_000 } else { 10_000 });
                })
            })
            .collect();
        for round in rounds {
            round.await.unwrap();
        }
    });
}
