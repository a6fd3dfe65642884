//! Plays a plan: start, faults with calm between them, settling, judgement.

use std::collections::HashSet;
use std::time::Duration;

use waystation::clock::monotonic;
use waystation::gateway::outbox::PUT_OFF_MS_MAX;

use crate::faults::Fault;
use crate::faults::syscalls::{CALLS, EFFECTS, hit};
use crate::outgoing::Results;
use crate::report::Row;
use crate::support::storm::ledger::Verdict;
use crate::world::World;
use crate::{End, Plan, Sabotage};

/// Longest wait for what was promised, without any of it coming: a gateway that was refused for long waits by itself.
const PATIENCE: Duration = Duration::from_millis(PUT_OFF_MS_MAX + 45_000);
/// The same when something is kept back on purpose.
const LOSS_PATIENCE: Duration = Duration::from_secs(12);

/// Plays it; the directory stays when anything is wrong.
pub(crate) async fn run(plan: &Plan) -> Row {
    let dir = tempfile::Builder::new().prefix("ws-").tempdir_in(&plan.dir).expect("temporary directory");
    let began = monotonic();
    let mut row = Row {
        campaign: plan.name.to_owned(),
        seed: plan.seed,
        build: if cfg!(debug_assertions) { "dev" } else { "release" },
        ..Row::default()
    };
    match World::start(plan, dir.path()).await {
        Ok(mut world) => {
            if let Err(problem) = storm(plan, &mut world, &mut row).await {
                row.violations.push(problem);
            }
            finish(plan, &mut world, &mut row).await;
            if !row.violations.is_empty() {
                world.keep();
            }
        }
        Err(problem) => row.violations.push(problem),
    }
    row.seconds = began.elapsed().as_secs_f64();
    if !row.violations.is_empty() {
        println!("kept: {}", dir.keep().display());
    }
    row
}

async fn storm(plan: &Plan, world: &mut World, row: &mut Row) -> Result<(), String> {
    world.flow(plan.senders, plan.share);
    // Mail flows both ways before anything goes wrong.
    for _ in 0..100 {
        world.rest(Duration::from_millis(100)).await;
        if world.ledger.counts().answered >= 50 && world.outgoing.made() >= 10 {
            break;
        }
    }
    if let Some(most) = plan.calls {
        return all_calls(world, row, most).await;
    }
    let began = monotonic();
    let is_over = |world: &World, rounds: u64| match plan.end {
        End::Rounds(most) => rounds >= most,
        End::Minutes(minutes) => began.elapsed().as_secs_f64() >= minutes * 60.0,
        // And each kind of fault once.
        End::Messages(most) => world.ledger.counts().answered >= most && rounds >= plan.faults.len() as u64,
    };
    // Each kind once before any comes twice.
    let mut order: Vec<Fault> = Vec::new();
    while !is_over(world, row.rounds) {
        if order.is_empty() {
            order = plan.faults.clone();
        }
        let at = usize::try_from(world.dice.below(order.len() as u64)).expect("small");
        let fault = order.swap_remove(at);
        fault.strike(world).await.map_err(|problem| format!("round {}, {fault:?}: {problem}", row.rounds))?;
        world
            .recover()
            .await
            .map_err(|problem| format!("round {}, after {fault:?}: {problem}", row.rounds))?;
        row.rounds += 1;
        let calm = world.some_ms(0, plan.calm_ms);
        let until = monotonic() + calm;
        while monotonic() < until && !is_over(world, row.rounds) {
            world.rest(Duration::from_millis(100)).await;
        }
        if plan.progress {
            let counts = world.ledger.counts();
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "{seconds:>6.0} s  {:>8} answered  {:>6} under way  {:>6.0} /s  round {} {fault:?}  {} submissions",
                counts.answered,
                counts.missing,
                counts.answered as f64 / seconds,
                row.rounds,
                world.outgoing.made(),
            );
        }
    }
    Ok(())
}

/// W1 and W2: every call, every effect, N = 1, 2, … until a run is not hit, or `most`.
async fn all_calls(world: &mut World, row: &mut Row, most: u64) -> Result<(), String> {
    for calls in CALLS {
        for effect in EFFECTS {
            for nth in 1..=most {
                let was_hit = hit(world, calls, effect, nth).await?;
                world.recover().await.map_err(|problem| format!("{effect} at {calls}:{nth}: {problem}"))?;
                row.rounds += 1;
                if !was_hit {
                    break;
                }
            }
        }
    }
    Ok(())
}

async fn finish(plan: &Plan, world: &mut World, row: &mut Row) {
    let patience = if plan.sabotage == Some(Sabotage::Lose) { LOSS_PATIENCE } else { PATIENCE };
    world.settle(patience).await;
    let mut verdict = world.ledger.verdict();
    let results = match world.submissions() {
        Ok(records) => world.outgoing.judge(records, plan.sabotage == Some(Sabotage::Disagree)),
        Err(problem) => {
            row.violations.push(problem);
            Results::default()
        }
    };
    let (code, said) = world.cli(&["spool", "verify"]);
    if plan.faults.contains(&Fault::Flip) {
        match forgive(world, &mut verdict, code, &said) {
            Ok(kept_back) => row.quarantined = kept_back,
            Err(problem) => row.violations.push(problem),
        }
    } else if code != 0 {
        row.violations.push(format!("spool verify: {said}"));
    }
    let counts = world.ledger.counts();
    row.violations.extend(verdict.sentences());
    row.violations.extend(results.disagreeing.iter().cloned());
    (row.answered, row.arrived, row.unanswered) = (counts.answered, counts.arrived, counts.unanswered);
    (row.lost, row.double) = (verdict.lost.len() as u64, verdict.double.len() as u64);
    row.corrupt = counts.corrupt + verdict.uninvited.len() as u64;
    (row.sent, row.failed, row.indeterminate) = (results.sent, results.failed, results.indeterminate);
    row.disagreeing = results.disagreeing.len() as u64;
    row.refused = world.refused();
    row.faults = std::mem::take(&mut world.felt);
    row.faults.insert("at exchangers".to_owned(), world.outgoing.faults_played() as u64);
    row.violations.extend(nothing_shown(row, world.outgoing.made()));
}

/// A campaign without mail or without faults has shown nothing.
fn nothing_shown(row: &Row, made: usize) -> Option<String> {
    let felt = row.faults.iter().filter(|(name, _)| *name != "at exchangers").any(|(_, times)| *times > 0);
    let idle = row.answered == 0 || !felt || made == 0 || made > 20 && row.sent == 0;
    idle.then(|| {
        let (answered, sent) = (row.answered, row.sent);
        format!("nothing was shown: {answered} answered, faults felt: {felt}, {sent} sent of {made}")
    })
}

/// What rot took must have been reported: each message that is not there is quarantined, or its record lies in a damaged
/// place that `spool verify` names. What cannot be named is at most one message for each byte that was changed. Answers how
/// many messages are missing and were reported.
fn forgive(world: &World, verdict: &mut Verdict, code: i32, said: &str) -> Result<u64, String> {
    let quarantined = world.list(&["--state", "quarantined"])?;
    let reported: HashSet<u64> = quarantined
        .iter()
        .filter_map(|item| {
            item["mail_from"].as_str()?.strip_prefix("storm-")?.split('@').next()?.parse().ok()
        })
        .collect();
    let before = verdict.lost.len();
    verdict.lost.retain(|number| !reported.contains(number));
    let damaged = said.lines().filter(|line| line.starts_with("damaged: journal")).count();
    let flipped =
        usize::try_from(world.felt.get("byte flipped").copied().unwrap_or_default()).expect("small");
    println!(
        "quarantined: {}, missing and not among them: {}, bytes changed: {flipped}, damaged places: {damaged}, \
         verify says {code}",
        reported.len(),
        verdict.lost.len()
    );
    if verdict.lost.len() <= flipped.min(damaged) {
        verdict.lost.clear();
    }
    Ok((before - verdict.lost.len()) as u64)
}
