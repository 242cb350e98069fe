//! Steps of other contexts, called by invocation.

use crate::domain::{Concert, Schedule, SectionKey};
use crate::ports::{AskTakenSeats, OpenSchedule, OpenWaitingRoom};
use contracts::steps::{self, Applied, ListTakenSeats, TakenSeats};
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

impl AskTakenSeats for Function {
    async fn ask_taken_seats(&self, key: &SectionKey) -> Result<TakenSeats, Fault> {
        let input = ListTakenSeats { schedule_id: key.schedule.clone(), section: key.section.clone() };
        self.call_function("asking for the taken seats", &input).await
    }
}
