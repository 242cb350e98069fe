//! Steps of other contexts, called by invocation.

use crate::domain::{Concert, Schedule};
use crate::ports::{OpenSchedule, OpenWaitingRoom};
use contracts::steps::{self, Applied};
use kit::Fault;
use kit::invoke::Function;

impl OpenWaitingRoom for Function {
    async fn open_waiting_room(&self, concert: &Concert) -> Result<(), Fault> {
        let input = steps::OpenWaitingRoom { concert_id: concert.id.clone(), created_at: concert.created_at };
        let Applied {} = self.call_function("opening a waiting room", &input).await?;
        Ok(())
    }
}

impl OpenSchedule for Function {
    async fn open_schedule(&self, schedule: &Schedule) -> Result<(), Fault> {
        let Applied {} = self.call_function("opening a schedule", &schedule.on_sale()).await?;
        Ok(())
    }
}
