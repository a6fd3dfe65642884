//! Many messages in a spool, put there by the ledger itself: a day of SMTP in a few seconds.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use spool::accept::ChunkBuilder;
use spool::disk::real::RealDisk;
use spool::ids::{ItemId, WallMs};
use spool::index::sled::SledIndex;
use spool::types::{MailboxChange, NewMessage, Target};
use spool::{Options, Spool};
use waystation::daemon::ledger::spool_dir;
use waystation::identity::key::SecretKey;
use waystation::mail::envelope::Meta;

/// Messages in one commit.
const BATCH: usize = 2000;

/// How much.
pub(super) struct Stock {
    pub(super) lanes: usize,
    pub(super) items: usize,
    /// How long before the end the first one came.
    pub(super) age_ms: u64,
}

/// Name of a lane that was made.
pub(super) fn lane(n: usize) -> String {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&(n as u64).to_be_bytes());
    SecretKey::from_seed(&seed).key_text().as_str().to_owned()
}

/// Fills the spool of a data directory that no relay runs on; answers the ids, oldest first.
pub(super) fn fill(data_dir: &Path, stock: &Stock, until: WallMs) -> Vec<String> {
    let dir = spool_dir(data_dir);
    std::fs::create_dir_all(&dir).expect("directory");
    let index = Arc::new(SledIndex::open(&dir.join("index")).expect("index"));
    let options = Options { min_free_bytes: 0, seed: 11, ..Options::default() };
    let (mut spool, _) = Spool::open(Arc::new(RealDisk::new(dir)), index, options, until).expect("spool");
    let from = WallMs(until.0 - stock.age_ms);
    let lanes: Vec<_> = (0..stock.lanes)
        .map(|n| {
            let lane_id = spool.register(&lane(n), from).expect("registered");
            let alias = MailboxChange::AddAlias(format!("box{n}@our.test"));
            spool.change_mailbox(&lane(n), alias).expect("an address");
            lane_id
        })
        .collect();
    let seed = spool.reader().seed();
    let mut ids = Vec::new();
    for n in 0..stock.items {
        let at = WallMs(from.0 + stock.age_ms * n as u64 / stock.items as u64);
        let mut rest = [0; 10];
        rest[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let id = ItemId::new(at, rest);
        let body = format!(
            "From: Sender {n} <sender{n}@far.test>\r\nTo: <box@our.test>\r\nSubject: Report {n} of the night\r\n\r\nNumber {n}.\r\n"
        );
        let mut builder = ChunkBuilder::new(id, seed);
        builder.take(body.as_bytes());
        spool.stage_chunk(id, builder.finish()).expect("staged");
        let to = n % lanes.len();
        let message = NewMessage {
            body: id,
            body_bytes: body.len() as u64,
            sha256: Sha256::digest(body.as_bytes()).into(),
            head: Vec::new(),
            meta: Meta { mail_from: format!("sender{n}@far.test"), received_at_ms: at.0, ..Meta::default() }
                .encode(),
            fingerprint: None,
            targets: vec![Target { lane: lanes[to], id, tag: format!("box{to}@our.test").into_bytes() }],
        };
        spool.accept(message, at).expect("accepted");
        ids.push(id.to_string());
        if n % BATCH == BATCH - 1 {
            spool.commit(at).expect("committed");
            if spool.checkpoint_due(at) {
                let job = spool.begin_checkpoint(at).expect("spool").expect("a checkpoint");
                let done = job.run();
                spool.end_checkpoint(&job, done).expect("a checkpoint");
            }
        }
    }
    spool.close(until).expect("closed");
    ids
}
