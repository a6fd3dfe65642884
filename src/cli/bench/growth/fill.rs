//! Fills a spool fast: many messages in one commit, made on all cores, through the library.
//!
//! What is written is what a relay writes for a message that came by SMTP: head, metadata, body, a place in a lane.

use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use spool::accept::{Chunk, ChunkBuilder};
use spool::error::AcceptError;
use spool::ids::{ItemId, LaneId};
use spool::types::{NewMessage, Target};

use super::super::offline;
use super::super::server::Place;
use super::super::smtp;
use crate::clock;
use crate::mail::envelope::Meta;
use crate::spooler::Spooler;

/// Messages in one request.
const TOGETHER: u64 = 64;
/// Requests that are made, or wait for their commit, at a time.
const WRITERS: u64 = 8;

/// Largest message that is filled in: one piece.
pub(super) const BYTES_MAX: u64 = 60_000;

/// Stores messages `numbers`, in turns over the lanes of `addresses`; the id of one in the middle.
pub(super) fn fill(
    place: &Place,
    addresses: &[String],
    numbers: Range<u64>,
    size: usize,
) -> anyhow::Result<ItemId> {
    let names: Vec<String> =
        addresses.iter().map(|address| address.split('@').next().unwrap_or_default().to_owned()).collect();
    offline::with(place, |spooler| async move {
        let lanes = offline::register(&spooler, &names).await?;
        let lanes: Arc<Vec<(LaneId, String)>> = Arc::new(lanes.into_iter().zip(addresses.to_vec()).collect());
        let middle = u64::midpoint(numbers.start, numbers.end);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (spooler, lanes, numbers) = (spooler.clone(), Arc::clone(&lanes), numbers.clone());
            writers.spawn(async move {
                let mut found = None;
                for part in parts(&numbers, writer) {
                    let ids = store(&spooler, &lanes, part.clone(), size).await?;
                    if part.contains(&middle) {
                        found = ids.get(usize::try_from(middle - part.start)?).copied();
                    }
                }
                anyhow::Ok(found)
            });
        }
        let mut found = None;
        while let Some(done) = writers.join_next().await {
            found = found.or(done??);
        }
        found.ok_or_else(|| anyhow::anyhow!("nothing was to be filled in"))
    })
}

/// What one writer has to store, request by request.
fn parts(numbers: &Range<u64>, writer: u64) -> impl Iterator<Item = Range<u64>> + use<> {
    let (start, end) = (numbers.start, numbers.end);
    let step = usize::try_from(TOGETHER * WRITERS).unwrap_or(usize::MAX);
    (start + writer * TOGETHER..end).step_by(step).map(move |from| from..end.min(from + TOGETHER))
}

async fn store(
    spooler: &Spooler,
    lanes: &[(LaneId, String)],
    numbers: Range<u64>,
    size: usize,
) -> anyhow::Result<Vec<ItemId>> {
    let seed = spooler.reader().seed();
    let made = numbers.map(|n| {
        let (lane, address) = &lanes[usize::try_from(n)? % lanes.len()];
        Ok(message(n, size, *lane, address, seed))
    });
    let made = made.collect::<anyhow::Result<Vec<_>>>()?;
    let ids = made.iter().map(|(_, message)| message.body).collect();
    let accept = move |spool: &mut spool::Spool| {
        made.into_iter().try_for_each(|(chunk, message)| {
            spool.stage_chunk(message.body, chunk)?;
            spool.accept(message, clock::wall()).map(|_| ())
        })
    };
    let accepted: Result<(), AcceptError> = spooler.call(accept).await?;
    accepted?;
    Ok(ids)
}

fn message(n: u64, size: usize, lane: LaneId, address: &str, seed: u32) -> (Chunk, NewMessage) {
    let now = clock::wall();
    let id = ItemId::new(now, rand::random());
    let mut body = Vec::with_capacity(size + 128);
    smtp::content(&mut body, "bench@from.test", n, size);
    let mut builder = ChunkBuilder::new(id, seed);
    let taken = builder.take(&body);
    assert_eq!(taken, body.len(), "a message is one piece");
    let meta = Meta {
        mail_from: smtp::SENDER.to_owned(),
        client_ip: "127.0.0.1".to_owned(),
        helo: "client.bench.test".to_owned(),
        protocol: "ESMTP".to_owned(),
        received_at_ms: now.0,
        transaction: id.to_string(),
        ..Meta::default()
    };
    let head = format!(
        "Return-Path: <{}>\r\nReceived: from client.bench.test ([127.0.0.1])\r\n\tby relay.bench.test with ESMTP id {id}\r\n\
         \tfor <{address}>;\r\n\tFri, 20 Nov 2026 10:00:00 +0000\r\n",
        smtp::SENDER
    );
    let message = NewMessage {
        body: id,
        body_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
        sha256: Sha256::digest(&body).into(),
        head: head.into_bytes(),
        meta: meta.encode(),
        fingerprint: None,
        targets: vec![Target { lane, id, tag: address.as_bytes().to_vec() }],
    };
    (builder.finish(), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_share_all_numbers_and_none_twice() {
        let numbers = 7..TOGETHER * WRITERS * 3 + 20;
        let mut all: Vec<u64> = (0..WRITERS).flat_map(|writer| parts(&numbers, writer)).flatten().collect();
        all.sort_unstable();
        assert_eq!(all, numbers.collect::<Vec<_>>());
    }
}
