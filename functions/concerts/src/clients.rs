//! The steps that other contexts do for this one, asked by invocation.

use crate::domain::{Concert, Schedule};
use crate::ports::{OpenSchedule, OpenWaitingRoom};
use contracts::steps::{self, Opened};
use kit::Fault;
use kit::invoke::Step;

impl OpenWaitingRoom for Step {
    async fn open_waiting_room(&self, concert: &Concert) -> Result<(), Fault> {
        let input = steps::OpenWaitingRoom { concert_id: concert.id.clone(), created_at: concert.created_at };
        let Opened {} = self.ask("opening a waiting room", &input).await?;
        Ok(())
    }
}

impl OpenSchedule for Step {
    async fn open_schedule(&self, schedule: &Schedule) -> Result<(), Fault> {
        let terms = &schedule.terms;
        let input = steps::OpenSchedule {
            schedule_id: schedule.id.clone(),
            concert_id: schedule.concert.clone(),
            starts_at: schedule.starts_at,
            max_per_user: terms.max_per_user(),
            hold_seconds: terms.hold_seconds(),
            sections: terms.sections().to_vec(),
            refundable_until: schedule.refundable_until,
        };
        let Opened {} = self.ask("opening a schedule", &input).await?;
        Ok(())
    }
}
