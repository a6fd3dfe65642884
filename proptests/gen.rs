//! Operations as data: what a world may be asked to do, and how often.
//!
//! Numbers are small and taken modulo what exists, so that every list of steps makes sense and shrinks well.

use proptest::prelude::*;

/// One thing that happens to a spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A gateway proves its name for the first time, or again.
    Register(u8),
    /// The operator changes a mailbox.
    Mailbox(u8, MailboxStep),
    /// The operator makes an invitation that promises an alias.
    Invite { number: u8, alias: u8, ttl_ms: u32 },
    /// The operator takes an invitation back.
    Withdraw(u8),
    /// Somebody redeems an invitation.
    Redeem { number: u8, lane: u8 },
    /// A piece of a body arrives.
    Stream { slot: u8, bytes: u32 },
    /// A sender hangs up before the end.
    Abandon { slot: u8 },
    /// The end of a message for these lanes.
    Accept { slot: u8, lanes: Vec<u8>, head: u8 },
    /// The end of a submission.
    Submit(Submit),
    /// One thing happens to a submission.
    Out { pick: u8, what: OutStep },
    /// The sender did not hear our answer.
    Twin { number: u8, item: u8, ttl_ms: u32 },
    /// A gateway connects (again).
    Open(u8),
    /// A gateway leaves.
    Close(u8),
    /// A session fetches.
    Lease { lane: u8, items: u8, bytes: u32 },
    /// A session fetches and acks everything it got.
    Serve { lane: u8, items: u8 },
    /// A session answers for one of its leases.
    Answer { lane: u8, pick: u8, answer: Answer },
    /// A gateway wants the past again.
    Replay { lane: u8, from: u8 },
    /// The operator handles one item.
    Verb { pick: u8, verb: u8 },
    /// Time passes, or an administrator sets the clock back.
    Clock(i64),
    /// The group commit.
    Commit,
    /// One step of expiry and retention.
    Maintain,
    /// A checkpoint, from beginning to end.
    Checkpoint,
    /// One step of compaction.
    Compact { budget: u32 },
    /// Compaction until nothing is left to do, and the checkpoint that lets segments go.
    Tidy,
    /// Space for the next segment is prepared.
    Spare,
    /// Unused space is given back.
    Trim,
    /// From the n-th operation of the medium on, something goes wrong.
    Plan { after: u16, what: Trouble },
    /// The process ends and another one starts.
    Restart { how: Stop, index: IndexFate, trouble: Option<u16> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MailboxStep {
    Revoke,
    Allow,
    AddAlias(u8),
    RemoveAlias(u8),
    Sending(Option<u8>),
    Quota(Option<u8>),
}

/// A submission of gateway `lane`; `settled`: refused at once; `local`: for another lane here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submit {
    pub(crate) slot: u8,
    pub(crate) lane: u8,
    pub(crate) destination: u8,
    pub(crate) key: u8,
    pub(crate) settled: bool,
    pub(crate) local: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutStep {
    Arm,
    Defer(u16),
    Postpone(u16),
    Send,
    Fail,
    Doubt,
    Tell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Ack,
    Nack(u16),
    Reject,
    Unlease,
}

/// What the medium does at the planned operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Nothing any more.
    Freeze,
    /// One input/output error.
    Io,
    /// One report of no space.
    Full,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// In good order.
    Clean,
    /// Killed.
    Kill,
    /// The power went.
    Power(u64),
}

/// What becomes of the index between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexFate {
    /// It is as it was.
    Kept,
    /// It is gone.
    Lost,
    /// It is the copy of an earlier checkpoint.
    Older(u8),
}

fn index_fate() -> impl Strategy<Value = IndexFate> {
    prop_oneof![
        4 => Just(IndexFate::Kept),
        2 => Just(IndexFate::Lost),
        2 => any::<u8>().prop_map(IndexFate::Older),
    ]
}

fn mailbox_step() -> impl Strategy<Value = MailboxStep> {
    prop_oneof![
        1 => Just(MailboxStep::Revoke),
        4 => Just(MailboxStep::Allow),
        3 => (0..6u8).prop_map(MailboxStep::AddAlias),
        2 => (0..6u8).prop_map(MailboxStep::RemoveAlias),
        1 => proptest::option::weighted(0.3, 0..20u8).prop_map(MailboxStep::Quota),
        1 => proptest::option::weighted(0.5, 0..9u8).prop_map(MailboxStep::Sending),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        6 => Just(Answer::Ack),
        2 => (0..5000u16).prop_map(Answer::Nack),
        1 => Just(Answer::Reject),
        1 => Just(Answer::Unlease),
    ]
}

fn submit() -> impl Strategy<Value = Step> {
    let local = proptest::option::weighted(0.2, 0..4u8);
    (0..3u8, 0..4u8, 0..3u8, any::<u8>(), proptest::bool::weighted(0.1), local).prop_map(
        |(slot, lane, destination, key, settled, local)| {
            Step::Submit(Submit { slot, lane, destination, key, settled, local })
        },
    )
}

fn out_step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        5 => Just(OutStep::Arm),
        2 => any::<u16>().prop_map(OutStep::Defer),
        1 => any::<u16>().prop_map(OutStep::Postpone),
        3 => Just(OutStep::Send),
        1 => Just(OutStep::Fail),
        1 => Just(OutStep::Doubt),
        3 => Just(OutStep::Tell),
    ];
    (any::<u8>(), what).prop_map(|(pick, what)| Step::Out { pick, what })
}

fn body_bytes() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..600u32, 3 => 600..8_000u32, 3 => 8_000..70_000u32]
}

/// What services and operators do while nothing goes wrong.
fn work() -> impl Strategy<Value = Step> {
    let lanes = proptest::collection::vec(0..4u8, 1..4);
    prop_oneof![
        1 => (0..5u8).prop_map(Step::Register),
        1 => (0..4u8, mailbox_step()).prop_map(|(name, step)| Step::Mailbox(name, step)),
        1 => (0..4u8, 0..8u8, 0..90_000u32)
            .prop_map(|(number, alias, ttl_ms)| Step::Invite { number, alias, ttl_ms }),
        1 => (0..12u8).prop_map(Step::Withdraw),
        1 => (0..4u8, 0..5u8).prop_map(|(number, lane)| Step::Redeem { number, lane }),
        9 => (0..3u8, body_bytes()).prop_map(|(slot, bytes)| Step::Stream { slot, bytes }),
        1 => (0..3u8).prop_map(|slot| Step::Abandon { slot }),
        14 => (0..3u8, lanes, 0..90u8).prop_map(|(slot, lanes, head)| Step::Accept { slot, lanes, head }),
        8 => submit(),
        16 => out_step(),
        2 => (0..5u8, any::<u8>(), 0..90_000u32)
            .prop_map(|(number, item, ttl_ms)| Step::Twin { number, item, ttl_ms }),
        1 => (0..4u8).prop_map(Step::Open),
        1 => (0..4u8).prop_map(Step::Close),
        8 => (0..4u8, 0..9u8).prop_map(|(lane, items)| Step::Serve { lane, items }),
        10 => (0..4u8, 0..6u8, 0..200_000u32)
            .prop_map(|(lane, items, bytes)| Step::Lease { lane, items, bytes }),
        14 => (0..4u8, any::<u8>(), answer())
            .prop_map(|(lane, pick, answer)| Step::Answer { lane, pick, answer }),
        1 => (0..4u8, 0..12u8).prop_map(|(lane, from)| Step::Replay { lane, from }),
        4 => (any::<u8>(), 0..4u8).prop_map(|(pick, verb)| Step::Verb { pick, verb }),
        4 => (-3_000..30_000i64).prop_map(Step::Clock),
        16 => Just(Step::Commit),
        5 => Just(Step::Maintain),
        5 => Just(Step::Checkpoint),
        5 => (100..70_000u32).prop_map(|budget| Step::Compact { budget }),
        3 => Just(Step::Tidy),
        1 => Just(Step::Spare),
        1 => Just(Step::Trim),
    ]
}

fn plan() -> impl Strategy<Value = Step> {
    let what = prop_oneof![4 => Just(Trouble::Freeze), 2 => Just(Trouble::Io), 1 => Just(Trouble::Full)];
    (0..40u16, what).prop_map(|(after, what)| Step::Plan { after, what })
}

fn restart(how: impl Strategy<Value = Stop>) -> impl Strategy<Value = Step> {
    (how, index_fate(), proptest::option::weighted(0.3, 0..30u16))
        .prop_map(|(how, index, trouble)| Step::Restart { how, index, trouble })
}

/// Four lanes, then whatever `step` gives.
fn story(step: impl Strategy<Value = Step>, steps: usize) -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(step, 1..steps).prop_map(|rest| {
        let begin = (0..4).map(Step::Register).chain([Step::Commit]);
        begin.chain(rest).collect()
    })
}

/// Work with stops of every kind, the medium failing now and then.
pub(crate) fn stormy(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let how =
        prop_oneof![1 => Just(Stop::Clean), 2 => Just(Stop::Kill), 3 => any::<u64>().prop_map(Stop::Power)];
    story(prop_oneof![60 => work(), 1 => plan(), 1 => restart(how)], steps)
}

/// Work with power cuts only.
pub(crate) fn power_cuts(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    story(prop_oneof![40 => work(), 1 => restart(any::<u64>().prop_map(Stop::Power))], steps)
}

/// Work, and nothing else.
pub(crate) fn calm(steps: usize) -> impl Strategy<Value = Vec<Step>> {
    story(work(), steps)
}
