//! The moment between "not sent" and "perhaps sent": the armed record is stable before the last octets leave (Q0).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use spool::ids::ItemId;

use super::super::connection::{Arm, ArmRefused};
use super::super::ledger::{Ledger, Written};
use super::super::submission::Ending;
use super::super::values::{Endpoint, Note};
use super::switch::Switch;
use crate::{clock, crashpoint};

/// Arms one submission for one host.
#[derive(Debug)]
pub(super) struct Handover {
    ledger: Ledger,
    switch: Arc<Switch>,
    id: ItemId,
    note: Note,
    /// Set before the record is asked for: from then on the attempt may not be dropped.
    begun: Arc<AtomicBool>,
    /// The record is stable.
    pub(super) armed: bool,
    /// Why it is not; the attempt ends unsent.
    pub(super) refused: Option<Ending>,
}

impl Handover {
    pub(super) fn new(ledger: Ledger, switch: Arc<Switch>, id: ItemId, endpoint: &Endpoint) -> Self {
        Self {
            ledger,
            switch,
            id,
            note: Note::line(format!("handed to {} [{}]", endpoint.host, endpoint.address)),
            begun: Arc::new(AtomicBool::new(false)),
            armed: false,
            refused: None,
        }
    }

    /// Reads, from outside, whether the attempt may still be dropped.
    pub(super) fn begun(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.begun)
    }

    fn refuse(&mut self, ending: Ending, why: &str) -> ArmRefused {
        self.refused = Some(ending);
        ArmRefused(why.to_owned())
    }
}

impl Arm for Handover {
    fn arm<'a>(&'a mut self, _accepted: &'a [bool]) -> BoxFuture<'a, Result<(), ArmRefused>> {
        Box::pin(async move {
            if self.switch.is_on() {
                return Err(self.refuse(Ending::NotRecorded, "deliveries are paused"));
            }
            self.begun.store(true, Ordering::Release);
            crashpoint::reach("delivery.before_arm");
            let written = self.ledger.arm(self.id, &self.note, clock::wall()).await;
            crashpoint::reach("delivery.after_arm");
            match written {
                Ok(Written::Stable) => {
                    self.armed = true;
                    Ok(())
                }
                // Held or cancelled in the meantime (Q18).
                Ok(Written::Withdrawn) => {
                    self.begun.store(false, Ordering::Release);
                    Err(self.refuse(Ending::Withdrawn, "the submission was held or cancelled"))
                }
                // Q15: nobody knows whether the record is there, so nothing may leave.
                Err(error) => Err(self.refuse(Ending::NotRecorded, &error.to_string())),
            }
        })
    }
}
