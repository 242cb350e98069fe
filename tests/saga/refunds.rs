//! The refund saga: every step times every fault, alone and with another buyer waiting for the seat.

use crate::faults::{FAULTS, Fault, failed, run};
use crate::world::World;
use payments::domain::Status;
use serde_json::Value;
use tests::cloud::block_on;
use tests::machine::{End, refund_saga};

const STEPS: [&str; 3] = ["RefundReservation", "ReturnPoints", "CompleteRefund"];

#[test]
fn a_refund_without_faults_is_three_steps() {
    block_on(async {
        for is_crowded in [false, true] {
            let world = World::refunding(is_crowded).await;
            let execution = run(&refund_saga(), &world, &[]).await;
            assert_eq!((execution.end, execution.path), (End::Succeeded, STEPS.map(str::to_owned).to_vec()));
            // The waiting buyer gets the seat at the next call.
            world.call("CompleteRefund", &world.input()).await.unwrap();
            world.assert_refunded("no fault").await;
        }
    });
}

#[test]
fn every_fault_of_every_step_ends_refunded_or_sold_and_never_between() {
    block_on(async {
        let machine = refund_saga();
        for is_crowded in [false, true] {
            for step in machine.steps() {
                for fault in FAULTS {
                    let case = format!("{step} {fault:?}, crowded: {is_crowded}");
                    let world = World::refunding(is_crowded).await;
                    let mut broken = vec![(step.as_str(), fault)];
                    if step == "CancelRefund" {
                        broken.push(("RefundReservation", Fault::Refused));
                    }
                    let execution = run(&machine, &world, &broken).await;
                    match execution.end {
                        End::Succeeded => {}
                        End::Failed(error) => {
                            assert_eq!(error, "Parked", "{case}");
                            let parked = world.parked.lock().unwrap().clone();
                            assert_eq!(parked.len(), 1, "{case}: somebody is told");
                            assert_eq!(parked[0]["payment_id"], "p1", "{case}: with everything needed");
                            let failed = parked[0].as_object().unwrap().keys().filter(|key| key.ends_with("_failed"));
                            let failed: Vec<String> = failed.map(|key| key.replace('_', "")).collect();
                            assert_eq!(failed, [format!("{}failed", step.to_lowercase())], "{case}: and what is open");
                            // Once the fault is gone, the recovery runs the saga again and brings it to an end. A
                            // refusal is final.
                            let again = run(&machine, &world, &broken[1..]).await;
                            assert_eq!(again.end, End::Succeeded, "{case} recovered");
                        }
                    }
                    let end = if step == "CancelRefund" { Status::Completed } else { Status::Refunded };
                    assert_eq!(world.payment().await, end, "{case}");
                    world.assert_settled(&case).await;
                }
            }
        }
    });
}

#[test]
fn only_a_refusal_cancels_and_then_the_sale_stands() {
    block_on(async {
        assert_eq!(refund_saga().failing_to("CancelRefund"), ["RefundReservation"]);
        let world = World::refunding(true).await;
        let execution = run(&refund_saga(), &world, &[("RefundReservation", Fault::Refused)]).await;
        assert_eq!(execution.end, End::Succeeded);
        assert_eq!(world.payment().await, Status::Completed);
        world.assert_settled("refused").await;
    });
}

#[test]
fn a_step_that_arrives_after_the_saga_gave_up_on_it_does_nothing_twice() {
    block_on(async {
        let machine = refund_saga();
        for late in STEPS {
            for is_recovered_before in [false, true] {
                let case = format!("{late} late, recovered before: {is_recovered_before}");
                let world = World::refunding(true).await;
                let mut stragglers = Vec::new();
                let execution = machine
                    .run(world.input(), &mut async |state: &str, data: &Value| {
                        if state == late {
                            // Every try hangs: its write is still in flight when the saga has gone on.
                            stragglers.push(data.clone());
                            return failed("States.Timeout");
                        }
                        world.call(state, data).await
                    })
                    .await;
                assert_eq!(execution.end, End::Failed("Parked".to_owned()), "{case}");
                if is_recovered_before {
                    assert_eq!(run(&machine, &world, &[]).await.end, End::Succeeded, "{case}");
                }
                for data in stragglers {
                    world.call(late, &data).await.unwrap();
                }
                assert_eq!(run(&machine, &world, &[]).await.end, End::Succeeded, "{case}");
                world.assert_refunded(&case).await;
            }
        }
    });
}

#[test]
fn a_second_execution_at_any_moment_changes_nothing() {
    block_on(async {
        let machine = refund_saga();
        for at in STEPS {
            for is_before in [false, true] {
                let case = format!("before {at}: {is_before}");
                let world = World::refunding(true).await;
                let execution = machine
                    .run(world.input(), &mut async |state: &str, data: &Value| {
                        if state == at && is_before {
                            assert_eq!(run(&machine, &world, &[]).await.end, End::Succeeded, "{case}");
                        }
                        let answer = world.call(state, data).await;
                        if state == at && !is_before {
                            assert_eq!(run(&machine, &world, &[]).await.end, End::Succeeded, "{case}");
                        }
                        answer
                    })
                    .await;
                assert_eq!(execution.end, End::Succeeded, "{case}");
                world.assert_refunded(&case).await;
            }
        }
        let world = World::refunding(true).await;
        let (one, other, third) = futures_util::join!(
            run(&machine, &world, &[]),
            run(&machine, &world, &[("ReturnPoints", Fault::Repeated)]),
            run(&machine, &world, &[("RefundReservation", Fault::AnswerLostOnce)]),
        );
        assert_eq!([one.end, other.end, third.end], [End::Succeeded, End::Succeeded, End::Succeeded]);
        world.assert_refunded("three at once").await;
    });
}
