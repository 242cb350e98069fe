//! The payment saga: every step times every fault, in both modes of token expiry.

use crate::faults::{FAULTS, Fault, failed, run};
use crate::world::{FUNDS, World};
use contracts::saga::{TokenExpiry, error_name};
use payments::domain::Status;
use serde_json::Value;
use tests::cloud::block_on;
use tests::fixture::PRICE;
use tests::machine::{End, payment_saga};

const MODES: [TokenExpiry; 2] = [TokenExpiry::Event, TokenExpiry::Strict];
/// Where compensation begins: the steps that lead here are those before the point of no return.
const BACK: &str = "ReleaseReservation";

#[test]
fn a_sale_without_faults_is_sold_in_at_most_eight_transitions() {
    block_on(async {
        for mode in MODES {
            let world = World::new(mode, FUNDS).await;
            let execution = run(&payment_saga(), &world, &[]).await;
            assert_eq!(execution.end, End::Succeeded);
            assert!(execution.path.len() <= 8, "{:?}", execution.path);
            world.assert_sold("no fault").await;
        }
    });
}

#[test]
fn every_fault_of_every_step_ends_sold_or_undone_and_never_between() {
    block_on(async {
        let machine = payment_saga();
        let forward = machine.failing_to(BACK);
        for mode in MODES {
            for step in machine.steps() {
                for fault in FAULTS {
                    let case = format!("{mode:?} {step} {fault:?}");
                    let world = World::new(mode, FUNDS).await;
                    // A compensation is reached by breaking a forward step too.
                    let mut broken = vec![(step.as_str(), fault)];
                    if !forward.contains(&step) && step != "CompletePayment" {
                        broken.push(("ConfirmReservation", Fault::DiesBeforeAlways));
                    }
                    let execution = run(&machine, &world, &broken).await;
                    match execution.end {
                        End::Succeeded => world.assert_settled(&case).await,
                        End::Failed(error) => {
                            assert_eq!(error, "Parked", "{case}");
                            assert!(!forward.contains(&step), "{case}: a forward step never parks");
                            let parked = world.parked.lock().unwrap().clone();
                            assert_eq!(parked.len(), 1, "{case}: somebody is told");
                            assert_eq!(parked[0]["payment_id"], "p1", "{case}: with everything needed");
                            // Once the fault is gone, the recovery runs the saga again and brings it to an end.
                            let again = run(&machine, &world, &[]).await;
                            assert_eq!(again.end, End::Succeeded, "{case} recovered");
                            world.assert_settled(&format!("{case} recovered")).await;
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_step_that_arrives_after_the_saga_gave_up_on_it_changes_nothing() {
    block_on(async {
        let machine = payment_saga();
        for mode in MODES {
            let visited = |step: &String| mode == TokenExpiry::Strict || step != "ExpireQueueToken";
            for late in machine.failing_to(BACK).into_iter().filter(visited) {
                for broken in machine.failing_to(BACK).into_iter().filter(visited) {
                    let case = format!("{mode:?} {late} late, {broken} broken");
                    let world = World::new(mode, FUNDS).await;
                    let mut stragglers = Vec::new();
                    let execution = machine
                        .run(world.input(), &mut async |state: &str, data: &Value| {
                            if state == late {
                                // Every try hangs: its write is still in flight when the saga has gone on.
                                stragglers.push((state.to_owned(), data.clone()));
                                return failed("States.Timeout");
                            }
                            if state == broken {
                                failed(error_name::UNAVAILABLE)
                            } else {
                                world.call(state, data).await
                            }
                        })
                        .await;
                    assert_eq!(execution.end, End::Succeeded, "{case}");
                    world.assert_undone(&case).await;
                    for (state, data) in stragglers {
                        // It is refused, or finds it has nothing to do; either way the world stays as it is.
                        let outcome = world.call(&state, &data).await;
                        assert!(
                            outcome.as_ref().map_or_else(|error| error.name == error_name::REFUSED, |_| true),
                            "{case}: {outcome:?}"
                        );
                    }
                    world.assert_undone(&format!("{case}, arrived")).await;
                }
            }
        }
    });
}

#[test]
fn a_saga_run_twice_sells_once() {
    block_on(async {
        for mode in MODES {
            let world = World::new(mode, FUNDS).await;
            let machine = payment_saga();
            for _ in 0..2 {
                let execution = run(&machine, &world, &[]).await;
                assert_eq!(execution.end, End::Succeeded);
            }
            world.assert_sold("twice").await;
        }
    });
}

#[test]
fn who_cannot_pay_gets_the_hold_back_and_the_reason() {
    block_on(async {
        for mode in MODES {
            let world = World::new(mode, PRICE).await;
            let execution = run(&payment_saga(), &world, &[]).await;
            assert_eq!(execution.end, End::Succeeded);
            assert_eq!(world.payment().await, Status::Failed(contracts::saga::PaymentFailure::InsufficientPoints));
            assert_eq!(world.balance().await, PRICE);
            world.assert_undone("poor").await;
        }
    });
}

#[test]
fn undoing_after_the_hold_ran_out_frees_the_seats() {
    block_on(async {
        for mode in MODES {
            let mut world = World::new(mode, FUNDS).await;
            world.now = world.saga.hold_expires_at;
            let execution = run(&payment_saga(), &world, &[("ConfirmReservation", Fault::DiesBeforeAlways)]).await;
            assert_eq!(execution.end, End::Succeeded);
            world.assert_undone("late").await;
        }
    });
}

#[test]
fn a_confirmation_whose_answer_never_came_is_found_and_the_sale_stands() {
    block_on(async {
        for mode in MODES {
            let world = World::new(mode, FUNDS).await;
            let execution = run(&payment_saga(), &world, &[("ConfirmReservation", Fault::AnswerAlwaysLost)]).await;
            assert!(execution.path.contains(&"ReleaseReservation".to_owned()), "{:?}", execution.path);
            world.assert_sold("confirmed in silence").await;
        }
    });
}
