//! What senders and operators put in: mailboxes, bodies, messages, twins.

use super::*;

impl World {
    pub(super) fn register(&mut self, name: &str) -> Result<(), Broken> {
        let now = self.now;
        let Some(answer) = self.request(|spool| spool.register(name, now))? else { return Ok(()) };
        let owner = self.last().lane_of(name);
        match (answer, owner) {
            (Ok(lane), Some(owner)) => {
                ensure!(lane.0 == owner && self.last().lanes[&owner].name == name, "{name} became {lane:?}");
            }
            (Ok(lane), None) => {
                ensure!(!self.last().lanes.contains_key(&lane.0), "{lane:?} was used again");
                let state = Lane::new(name, now);
                self.stage(|model| drop(model.lanes.insert(lane.0, state)));
            }
            (Err(RequestError::NameTaken(_)), Some(owner)) => {
                ensure!(self.last().lanes[&owner].name != name, "{name} is its own name");
            }
            (Err(error), _) => return Err(format!("{name}: {error}")),
        }
        Ok(())
    }

    pub(super) fn change_mailbox(&mut self, name: &str, change: &MailboxStep) -> Result<(), Broken> {
        let change = match change {
            MailboxStep::Revoke => MailboxChange::Revoke,
            MailboxStep::Allow => MailboxChange::Allow,
            MailboxStep::AddAlias(n) => MailboxChange::AddAlias(alias(*n)),
            MailboxStep::RemoveAlias(n) => MailboxChange::RemoveAlias(alias(*n)),
            MailboxStep::Sending(most) => {
                MailboxChange::Sending { per_hour: most.map(u32::from), recipients_per_day: None }
            }
            MailboxStep::Quota(items) => MailboxChange::Quota { items: items.map(u64::from), bytes: None },
        };
        let said = change.clone();
        let Some(answer) = self.request(|spool| spool.change_mailbox(name, said))? else { return Ok(()) };
        let mut model = self.last().clone();
        let expected = model.lane_of(name).ok_or(()).and_then(|lane| model.change(lane, &change));
        ensure!(answer.is_ok() == expected.is_ok(), "{change:?} of {name}: {answer:?}");
        if answer.is_ok() {
            self.stage_model(model);
        }
        Ok(())
    }

    pub(super) fn stream(&mut self, slot: u8, bytes: u32) -> Result<(), Broken> {
        if !self.bodies.contains_key(&slot) {
            let id = self.random_id();
            let Some(spool) = &self.spool else { return Ok(()) };
            let builder = ChunkBuilder::new(id, spool.reader().seed());
            self.bodies.insert(slot, Body { id, builder, bytes: Vec::new(), broken: false });
        }
        let salt = self.random.next();
        let piece: Vec<u8> = (0..u64::from(bytes)).map(|n| (salt >> (n % 57)) as u8).collect();
        for part in piece.chunks(PIECE_BYTES) {
            let Some(body) = self.bodies.get_mut(&slot).filter(|body| !body.broken) else { return Ok(()) };
            body.builder.take(part);
            body.bytes.extend_from_slice(part);
            let (id, chunk) = (body.id, body.builder.finish());
            let Some(spool) = &mut self.spool else { return Ok(()) };
            match spool.stage_chunk(id, chunk) {
                Ok(()) => {}
                Err(AcceptError::Spool(error)) => return self.died::<()>(&error).map(|_| ()),
                Err(AcceptError::NoSpace) if self.armed => {
                    self.bodies.entry(slot).and_modify(|body| body.broken = true);
                }
                Err(error) => return Err(format!("chunk: {error}")),
            }
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, slot: u8, lanes: &[u8], head: u8) -> Result<(), Broken> {
        if !self.bodies.contains_key(&slot) {
            self.stream(slot, 300)?;
        }
        let Some(body) = self.bodies.remove(&slot) else { return Ok(()) };
        let targets: Vec<Target> = lanes
            .iter()
            .enumerate()
            .map(|(n, lane)| Target {
                lane: LaneId(self.last().lane_of(&lane_name(*lane)).unwrap_or(999)),
                id: if n == 0 { body.id } else { self.random_id() },
                tag: format!("tag-{n}-{lane}").into_bytes(),
            })
            .collect();
        let message = NewMessage {
            body: body.id,
            body_bytes: body.bytes.len() as u64,
            sha256: Sha256::digest(&body.bytes).into(),
            head: vec![head; usize::from(head)],
            meta: vec![1, head],
            fingerprint: None,
            targets,
        };
        let now = self.now;
        let Some(spool) = &mut self.spool else { return Ok(()) };
        let answer = spool.accept(message.clone(), now);
        let expected = self.verdict(&message);
        match answer {
            Err(AcceptError::Spool(error)) => return self.died::<()>(&error).map(|_| ()),
            Err(AcceptError::NoSpace) => ensure!(self.armed, "no space on an empty medium"),
            Err(AcceptError::NoBody) => ensure!(body.broken, "the body is there"),
            Err(error) => ensure!(Some(&error) == expected.as_ref(), "{error}, expected {expected:?}"),
            Ok(seqs) => {
                ensure!(expected.is_none() && !body.broken, "accepted, expected {expected:?}");
                self.accepted(&message, body.bytes, &seqs)?;
            }
        }
        Ok(())
    }

    /// Why the message must be refused.
    pub(super) fn verdict(&self, message: &NewMessage) -> Option<AcceptError> {
        for target in &message.targets {
            let Some(lane) = self.last().lanes.get(&target.lane.0) else {
                return Some(AcceptError::UnknownLane);
            };
            if lane.revoked {
                return Some(AcceptError::Revoked);
            }
            let (items, bytes) = self.last().waiting(target.lane.0);
            if items >= lane.quota_items.unwrap_or(LANE_ITEMS_MAX) || bytes >= self.options.lane_bytes_max {
                return Some(AcceptError::OverQuota);
            }
        }
        None
    }

    pub(super) fn accepted(
        &mut self,
        message: &NewMessage,
        body: Vec<u8>,
        seqs: &[Seq],
    ) -> Result<(), Broken> {
        let (body, mut model) = (Arc::new(body), self.last().clone());
        let head_sha256: [u8; 32] = Sha256::digest(&message.head).into();
        ensure!(seqs.len() == message.targets.len(), "one seq for each target");
        for (target, seq) in message.targets.iter().zip(seqs) {
            let Some(lane) = model.lanes.get_mut(&target.lane.0) else {
                return Err("lane is gone".to_owned());
            };
            ensure!(seq.0 == lane.next_seq, "seq {seq} after {}", lane.next_seq - 1);
            lane.next_seq += 1;
            lane.chain = chain_step(&lane.chain, *seq, target.id, &head_sha256, &message.sha256);
            let item = Item {
                lane: target.lane.0,
                seq: *seq,
                state: State::Ready,
                accepted_at: self.now,
                changed_at: self.now,
                sha256: message.sha256,
                chain: lane.chain,
                head: message.head.clone(),
                meta: message.meta.clone(),
                tag: target.tag.clone(),
                body: Arc::clone(&body),
                out: None,
            };
            model.items.insert(target.id, item);
        }
        self.stage_model(model);
        Ok(())
    }

    pub(super) fn twin(&mut self, number: u8, item: u8, ttl_ms: u32) -> Result<(), Broken> {
        let Some((id, _)) = self.pick_item(item) else { return Ok(()) };
        let until = self.now.plus(u64::from(ttl_ms));
        // Nobody can see how long a memory lasts, so each must differ by its id; and it only gets longer: with one time to live for all, as services have it.
        if self.last().twins.get(&number).is_some_and(|(same, known)| *same == id || *known > until) {
            return Ok(());
        }
        if let Called::Fine(()) = self.call(|spool| spool.remember_twin([number; 32], id, until))? {
            self.stage(|model| {
                model.twins.insert(number, (id, until));
            });
        }
        Ok(())
    }
}
