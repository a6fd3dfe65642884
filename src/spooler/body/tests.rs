//! A body that nobody ends.

use std::sync::Arc;

use spool::disk::sim::SimDisk;
use spool::engine::{Engine, Unobserved};
use spool::index::memory::MemoryIndex;
use spool::{Options, Spool};

use super::*;

const NOW: WallMs = WallMs(1_000_000);

#[tokio::test]
async fn a_body_that_was_sealed_and_then_dropped_is_abandoned() {
    let options = Options { segment_bytes: 1 << 20, min_free_bytes: 0, ..Options::default() };
    let (spool, _) =
        Spool::open(Arc::new(SimDisk::new()), Arc::new(MemoryIndex::new()), options, NOW).unwrap();
    let reader = spool.reader();
    let engine = Engine::start(spool, Arc::new(|| NOW), Unobserved).unwrap();
    let spooler = Spooler::new(engine.handle(), reader, || NOW);
    let lane = spooler.call(|spool| spool.register("home", NOW)).await.unwrap().unwrap();
    for dropped in [false, true] {
        let mut body = spooler.body();
        body.write(&[7; CHUNK_BYTES_MAX]).await.unwrap();
        let (id, sha256, sealed) = (body.id(), body.sha256(), body.seal());
        let kept = (!dropped).then_some(sealed);
        let ended = spooler.call(move |spool| {
            let message = NewMessage {
                body: id,
                body_bytes: CHUNK_BYTES_MAX as u64,
                sha256,
                head: Vec::new(),
                meta: Vec::new(),
                fingerprint: None,
                targets: vec![Target { lane, id, tag: Vec::new() }],
            };
            spool.accept(message, NOW).map(|_| ())
        });
        let expected = if dropped { Err(AcceptError::NoBody) } else { Ok(()) };
        assert_eq!(ended.await.unwrap(), expected, "dropped: {dropped}");
        drop(kept);
    }
}
