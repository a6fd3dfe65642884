//! Every number the relay publishes, declared in one place with its help sentence.
//!
//! Families are cheap to clone and safe to touch from any task. Nothing here is labelled by key, address or
//! lane: a stranger must not be able to make a time series.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use spool::types::{SpoolStats, State};

use super::abuse::AbuseFamilies;
use super::classic::classic_from_text;
use super::conditions::ConditionFamilies;
use super::dashboard::DashboardFamilies;
use super::edge::EdgeFamilies;
use super::json::json_from_text;
use super::listeners::ListenerFamilies;
use super::operate::OperateFamilies;
use super::outbound::OutboundFamilies;
use super::process::Process;
use super::tls::TlsFamilies;
use super::{CustodyFamilies, SubmissionOutcome, VerdictFamilies};

/// Upper bounds of the latency histograms, seconds.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Upper bounds of the batch-size histogram, records.
const BATCH_BUCKETS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
/// Upper bounds of the time that mail waits, for an ack or for a result, seconds.
pub(super) const WAIT_BUCKETS: [f64; 13] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0];

/// The refusals that a relay may have to give in an ordinary week.
const REFUSALS: [(u16, RefusalStage); 15] = [
    (421, RefusalStage::Connect),
    (500, RefusalStage::Command),
    (501, RefusalStage::Command),
    (503, RefusalStage::Command),
    (550, RefusalStage::Mail),
    (450, RefusalStage::Mail),
    (451, RefusalStage::Mail),
    (452, RefusalStage::Mail),
    (450, RefusalStage::Rcpt),
    (451, RefusalStage::Rcpt),
    (452, RefusalStage::Rcpt),
    (550, RefusalStage::Rcpt),
    (451, RefusalStage::Data),
    (452, RefusalStage::Data),
    (552, RefusalStage::Data),
];

/// States that a submission may be in.
const OUTBOUND_STATES: [State; 6] =
    [State::Ready, State::Held, State::Armed, State::Sent, State::Failed, State::Indeterminate];

/// A gauge of fractions.
type FloatGauge = Gauge<f64, AtomicU64>;

/// Where in an SMTP session a refusal happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalStage {
    /// In place of, or right after, the greeting.
    Connect,
    /// A command out of order, unknown or malformed.
    Command,
    /// `MAIL FROM`.
    Mail,
    /// `RCPT TO`.
    Rcpt,
    /// `DATA` or `BDAT`, before or after the bytes.
    Data,
}

impl RefusalStage {
    #[cfg(test)]
    const ALL: [Self; 5] = [Self::Connect, Self::Command, Self::Mail, Self::Rcpt, Self::Data];

    fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Command => "command",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
        }
    }
}

/// How a login attempt on the tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthOutcome {
    /// Proof of possession was accepted.
    Accepted,
    /// It was refused.
    Rejected,
    /// Too many attempts from that address.
    RateLimited,
}

impl AuthOutcome {
    const ALL: [Self; 3] = [Self::Accepted, Self::Rejected, Self::RateLimited];

    fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::RateLimited => "rate_limited",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    code: u16,
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TunnelLabel {
    tunnel: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Histograms fed by drivers.
#[derive(Clone, Debug)]
pub struct Histogrammed {
    /// Seconds from the final dot to the reply: what a sending server waits for us.
    pub intake: Histogram,
    /// Seconds of one group commit.
    pub commit: Histogram,
    /// Records in one group commit.
    pub batch: Histogram,
    /// Seconds from acceptance to the gateway's ack.
    pub wait: Histogram,
}

/// Gauges copied from the spool's counters by [`Metrics::set_spool`].
#[derive(Clone, Debug, Default)]
pub struct LaneGauges {
    items: Family<StateLabel, Gauge>,
    bytes: Family<StateLabel, Gauge>,
    submissions: Family<StateLabel, Gauge>,
    leased: Gauge,
    lanes: Gauge,
    oldest_ready: FloatGauge,
    journal_bytes: Gauge,
    journal_segments: Gauge,
    journal_live_bytes: Gauge,
    index_bytes: Gauge,
    free_bytes: Gauge,
    min_free_bytes: Gauge,
    tail_entries: Gauge,
    quarantined: Gauge,
}

/// The relay's metrics and the registry that prints them. Put it into an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Names that are not ours: those of Prometheus' own clients.
    process: Registry,
    /// Messages answered 250 after the final dot.
    pub inbound_accepted: Counter,
    /// Bytes of those messages, as received.
    pub inbound_accepted_bytes: Counter,
    inbound_refused: Family<RefusedLabels, Counter>,
    /// Messages recognised as a sender's repeat of one that we hold, answered 250 and not stored again.
    pub inbound_twins: Counter,
    /// SMTP connections opened since the start.
    pub smtp_connections: Counter,
    /// SMTP connections open now.
    pub smtp_connections_open: Gauge,
    /// Authenticated gateways connected now.
    pub tunnel_sessions: Gauge,
    tunnel_auth: Family<OutcomeLabel, Counter>,
    /// Sessions closed because a newer login of the same key replaced them.
    pub tunnel_replaced: Counter,
    /// Sessions closed because the peer fell silent.
    pub tunnel_dead_peers: Counter,
    items_offered: Family<TunnelLabel, Counter>,
    items_acked: Family<TunnelLabel, Counter>,
    /// Items a gateway said it cannot take now.
    pub items_nacked: Counter,
    /// Items a gateway refused for good; they are held.
    pub items_rejected: Counter,
    /// Items a gateway could not take several times; they are held.
    pub items_parked: Counter,
    /// Items that nobody fetched in time.
    pub items_expired: Counter,
    /// Replays asked for, by operators and gateways.
    pub replays: Counter,
    /// Items offered again by those replays.
    pub items_replayed: Counter,
    submitted: Family<OutcomeLabel, Counter>,
    /// TLS of our listeners.
    pub tls: TlsFamilies,
    /// What the relay signs.
    pub custody: CustodyFamilies,
    /// Histograms.
    pub histograms: Histogrammed,
    pub(super) outbound: OutboundFamilies,
    /// What was kept out.
    pub abuse: AbuseFamilies,
    /// What was found out about senders.
    pub verdicts: VerdictFamilies,
    spool: LaneGauges,
    /// Proxies, admin API over HTTP, ACME.
    pub edge: EdgeFamilies,
    /// What the dashboard counts.
    pub dashboard: DashboardFamilies,
    /// What is wrong.
    pub conditions: ConditionFamilies,
    /// Who accepts connections.
    pub listeners: ListenerFamilies,
    /// Reloads and hand-overs.
    pub operate: OperateFamilies,
    recovery: FloatGauge,
    ready: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All families, registered, at zero.
    #[must_use]
    pub fn new() -> Self {
        let histograms = Histogrammed {
            intake: Histogram::new(LATENCY_BUCKETS),
            commit: Histogram::new(LATENCY_BUCKETS),
            batch: Histogram::new(BATCH_BUCKETS),
            wait: Histogram::new(WAIT_BUCKETS),
        };
        let mut metrics = Self {
            registry: Registry::with_prefix("waystation"),
            process: Registry::default(),
            inbound_accepted: Counter::default(),
            inbound_accepted_bytes: Counter::default(),
            inbound_refused: Family::default(),
            inbound_twins: Counter::default(),
            smtp_connections: Counter::default(),
            smtp_connections_open: Gauge::default(),
            tunnel_sessions: Gauge::default(),
            tunnel_auth: Family::default(),
            tunnel_replaced: Counter::default(),
            tunnel_dead_peers: Counter::default(),
            items_offered: Family::default(),
            items_acked: Family::default(),
            items_nacked: Counter::default(),
            items_rejected: Counter::default(),
            items_parked: Counter::default(),
            items_expired: Counter::default(),
            replays: Counter::default(),
            items_replayed: Counter::default(),
            submitted: Family::default(),
            tls: TlsFamilies::default(),
            custody: CustodyFamilies::default(),
            histograms,
            outbound: OutboundFamilies::default(),
            abuse: AbuseFamilies::default(),
            verdicts: VerdictFamilies::default(),
            spool: LaneGauges::default(),
            edge: EdgeFamilies::default(),
            dashboard: DashboardFamilies::default(),
            conditions: ConditionFamilies::default(),
            listeners: ListenerFamilies::default(),
            operate: OperateFamilies::default(),
            recovery: FloatGauge::default(),
            ready: Gauge::default(),
        };
        metrics.register_mail();
        metrics.verdicts.register(&mut metrics.registry);
        metrics.register_tunnel();
        metrics.outbound.register(&mut metrics.registry);
        metrics.custody.register(&mut metrics.registry);
        metrics.register_spool();
        metrics.edge.register(&mut metrics.registry);
        metrics.operate.register(&mut metrics.registry);
        metrics.dashboard.register(&mut metrics.registry);
        metrics.tls.register(&mut metrics.registry);
        metrics.abuse.register(&mut metrics.registry);
        metrics.conditions.register(&mut metrics.registry);
        metrics.listeners.register(&mut metrics.registry);
        metrics.process.register_collector(Box::new(Process::new()));
        metrics.begin_at_zero();
        metrics
    }

    /// A family with labels is silent before its first sample, and what is silent neither shows nor alarms: whatever
    /// may be counted is there from the start.
    fn begin_at_zero(&self) {
        for (code, stage) in REFUSALS {
            drop(self.inbound_refused.get_or_create(&RefusedLabels { code, stage: stage.word() }));
        }
        for outcome in AuthOutcome::ALL {
            drop(self.tunnel_auth.get_or_create(&OutcomeLabel { outcome: outcome.word() }));
        }
        for outcome in SubmissionOutcome::ALL {
            drop(self.submitted.get_or_create(&OutcomeLabel { outcome: outcome.word() }));
        }
        for tunnel in [1, 2] {
            drop(self.items_offered.get_or_create(&TunnelLabel { tunnel }));
            drop(self.items_acked.get_or_create(&TunnelLabel { tunnel }));
        }
        self.set_spool(&SpoolStats::default(), 0);
    }

    fn register_mail(&mut self) {
        let r = &mut self.registry;
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "Version of this relay", version);
        r.register("ready", "1 while /ready answers 200", self.ready.clone());
        r.register(
            "inbound_accepted",
            "Messages answered 250 after the final dot",
            self.inbound_accepted.clone(),
        );
        r.register_with_unit(
            "inbound_accepted",
            "Bytes of the messages answered 250, as received",
            Unit::Bytes,
            self.inbound_accepted_bytes.clone(),
        );
        r.register(
            "inbound_refused",
            "SMTP refusals by reply code and by the stage of the session",
            self.inbound_refused.clone(),
        );
        r.register(
            "inbound_twins",
            "Repeats of a message whose 250 the sender never saw, answered 250 and not stored again",
            self.inbound_twins.clone(),
        );
        r.register("smtp_connections", "SMTP connections opened", self.smtp_connections.clone());
        r.register("smtp_connections_open", "SMTP connections open now", self.smtp_connections_open.clone());
        r.register_with_unit(
            "inbound_reply",
            "Time from the final dot to our reply",
            Unit::Seconds,
            self.histograms.intake.clone(),
        );
    }

    fn register_tunnel(&mut self) {
        let r = &mut self.registry;
        r.register("tunnel_sessions", "Authenticated gateways connected now", self.tunnel_sessions.clone());
        r.register("tunnel_auth", "Tunnel logins by outcome", self.tunnel_auth.clone());
        r.register(
            "tunnel_replaced",
            "Sessions closed because a newer login of the same key replaced them",
            self.tunnel_replaced.clone(),
        );
        r.register(
            "tunnel_dead_peers",
            "Sessions closed because the gateway fell silent",
            self.tunnel_dead_peers.clone(),
        );
        r.register("items_offered", "Items sent to a gateway, by tunnel version", self.items_offered.clone());
        r.register("items_acked", "Items a gateway confirmed, by tunnel version", self.items_acked.clone());
        r.register("items_nacked", "Items a gateway could not take then", self.items_nacked.clone());
        r.register(
            "items_rejected",
            "Items a gateway refused for good; they are held",
            self.items_rejected.clone(),
        );
        r.register(
            "items_parked",
            "Items a gateway could not take several times; they are held",
            self.items_parked.clone(),
        );
        r.register("items_expired", "Items nobody fetched in time", self.items_expired.clone());
        r.register(
            "outbound_submitted",
            "Streams of gateways by what became of them",
            self.submitted.clone(),
        );
        r.register("replays", "Replays asked for by operators and gateways", self.replays.clone());
        r.register("items_replayed", "Items offered again by replays", self.items_replayed.clone());
        r.register_with_unit(
            "item_wait",
            "Time from acceptance to the gateway's ack",
            Unit::Seconds,
            self.histograms.wait.clone(),
        );
    }

    fn register_spool(&mut self) {
        let r = &mut self.registry;
        r.register_with_unit(
            "spool_commit",
            "Time of one group commit",
            Unit::Seconds,
            self.histograms.commit.clone(),
        );
        r.register(
            "spool_commit_batch_records",
            "Records made stable by one group commit",
            self.histograms.batch.clone(),
        );
        let g = &self.spool;
        r.register("spool_items", "Items in the spool by state, submissions among them", g.items.clone());
        r.register_with_unit(
            "spool_item",
            "Bytes of items in the spool by state, submissions among them",
            Unit::Bytes,
            g.bytes.clone(),
        );
        r.register("outbound_queue", "Submissions in the spool by state", g.submissions.clone());
        r.register("spool_items_leased", "Items lent to sessions now", g.leased.clone());
        r.register("spool_lanes", "Lanes registered", g.lanes.clone());
        r.register_with_unit(
            "spool_oldest_ready",
            "Age of the oldest item that waits for a gateway or lies in the lane operator; 0 when none does",
            Unit::Seconds,
            g.oldest_ready.clone(),
        );
        r.register_with_unit(
            "spool_journal",
            "Bytes of records in the journal",
            Unit::Bytes,
            g.journal_bytes.clone(),
        );
        r.register_with_unit(
            "spool_journal_live",
            "Bytes of the journal that live messages still need",
            Unit::Bytes,
            g.journal_live_bytes.clone(),
        );
        r.register("spool_journal_segments", "Segment files of the journal", g.journal_segments.clone());
        r.register_with_unit("spool_index", "Bytes of the index on disk", Unit::Bytes, g.index_bytes.clone());
        r.register_with_unit(
            "spool_free",
            "Bytes free on the spool's file system",
            Unit::Bytes,
            g.free_bytes.clone(),
        );
        r.register_with_unit(
            "spool_min_free",
            "Bytes below which nothing is accepted (spool.min_free_bytes)",
            Unit::Bytes,
            g.min_free_bytes.clone(),
        );
        r.register(
            "spool_tail_entries",
            "Changes held in memory until the next checkpoint",
            g.tail_entries.clone(),
        );
        r.register("spool_quarantined_records", "Damaged stretches found so far", g.quarantined.clone());
        r.register_with_unit(
            "spool_recovery",
            "Time the last opening of the spool took",
            Unit::Seconds,
            self.recovery.clone(),
        );
    }

    /// Counts one SMTP refusal.
    ///
    /// * `code` – the three digits sent.
    pub fn refused(&self, code: u16, stage: RefusalStage) {
        self.inbound_refused.get_or_create(&RefusedLabels { code, stage: stage.word() }).inc();
    }

    /// What became of one stream of a gateway.
    pub fn submitted(&self, outcome: SubmissionOutcome) {
        self.submitted.get_or_create(&OutcomeLabel { outcome: outcome.word() }).inc();
    }

    /// Counts one login.
    pub fn auth(&self, outcome: AuthOutcome) {
        self.tunnel_auth.get_or_create(&OutcomeLabel { outcome: outcome.word() }).inc();
    }

    /// Counts one item sent to a gateway of `tunnel` version 1 or 2.
    pub fn offered(&self, tunnel: u8) {
        self.items_offered.get_or_create(&TunnelLabel { tunnel }).inc();
    }

    /// Counts one ack; `wait_ms` since the item was accepted.
    pub fn acked(&self, tunnel: u8, wait_ms: u64) {
        self.items_acked.get_or_create(&TunnelLabel { tunnel }).inc();
        self.histograms.wait.observe(seconds(wait_ms));
    }

    /// Counts one replay that offered `items` again.
    pub fn replayed(&self, items: u64) {
        self.replays.inc();
        self.items_replayed.inc_by(items);
    }

    /// Remembers how long the spool took to open, milliseconds.
    pub fn set_recovery_ms(&self, ms: u64) {
        self.recovery.set(seconds(ms));
    }

    /// Remembers the floor of free space, bytes.
    pub fn set_min_free(&self, bytes: u64) {
        self.spool.min_free_bytes.set(whole(bytes));
    }

    /// Remembers what `/ready` last answered.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Copies the spool's counters.
    ///
    /// * `oldest_ready_ms` – age of the oldest waiting item, milliseconds; 0 when none waits.
    pub fn set_spool(&self, stats: &SpoolStats, oldest_ready_ms: u64) {
        let g = &self.spool;
        for (n, state) in State::ALL.into_iter().enumerate() {
            let label = StateLabel { state: state.word() };
            g.items.get_or_create(&label).set(whole(stats.items[n]));
            g.bytes.get_or_create(&label).set(whole(stats.bytes[n]));
            if OUTBOUND_STATES.contains(&state) {
                g.submissions.get_or_create(&label).set(whole(stats.submissions[n]));
            }
        }
        g.leased.set(whole(stats.leased));
        g.lanes.set(whole(stats.lanes));
        g.oldest_ready.set(seconds(oldest_ready_ms));
        g.journal_bytes.set(whole(stats.segments.iter().map(|s| s.used_bytes).sum()));
        g.journal_live_bytes.set(whole(stats.segments.iter().map(|s| s.live_bytes).sum()));
        g.journal_segments.set(whole(stats.segments.len() as u64));
        g.index_bytes.set(whole(stats.index_bytes));
        g.free_bytes.set(whole(stats.free_bytes));
        g.tail_entries.set(whole(stats.tail_entries));
        g.quarantined.set(whole(stats.quarantined_records));
    }

    /// The exposition in OpenMetrics text, as Prometheus scrapes it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; a half-written exposition would end without `# EOF`.
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &self.process))
            .and_then(|()| encode_eof(&mut text));
        if written.is_err() {
            text.clear();
        }
        text
    }

    /// The same in the classic text format, version 0.0.4.
    #[must_use]
    pub fn classic_text(&self) -> String {
        classic_from_text(&self.text())
    }

    /// The numbers that a [`History`](super::history::History) is made of.
    #[must_use]
    pub fn reading(&self) -> super::history::Reading {
        super::history::Reading::of(&self.text())
    }

    /// The same numbers as one JSON object, keyed by family name.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        json_from_text(&self.text())
    }
}

pub(super) fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit 53 bits")]
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_our_prefix_and_help() {
        let metrics = Metrics::new();
        metrics.refused(550, RefusalStage::Rcpt);
        metrics.acked(2, 1500);
        metrics.set_spool(&SpoolStats::default(), 0);
        let text = metrics.text();
        assert!(text.ends_with("# EOF\n"));
        let helps = text.lines().filter(|l| l.starts_with("# HELP waystation_")).count();
        let types = text.lines().filter(|l| l.starts_with("# TYPE waystation_")).count();
        assert_eq!(helps, types);
        assert!(helps > 30, "{helps}");
        let ours = |line: &str| line.starts_with("waystation_") || line.starts_with("process_");
        assert!(text.lines().all(|l| l.starts_with('#') || ours(l)), "{text}");
    }

    /// What is silent neither shows nor alarms.
    #[test]
    fn every_family_has_samples_from_the_start() {
        let metrics = Metrics::new();
        // Only listeners that there are count as up or down, and a zone is the operator's.
        let _watch = metrics.listeners.watch("smtp");
        let json = metrics.json();
        let families = json.as_object().expect("families");
        let spoken = families.keys().filter(|name| name.starts_with("waystation_")).count();
        // A family without samples is not in the exposition at all: only the registry knows it.
        let registry = format!("{:?}", metrics.registry);
        let names = registry.split("Descriptor { name: \"").skip(1);
        let registered: Vec<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
        let speaks = |name: &str| {
            let units = ["", "_seconds", "_bytes"];
            units.iter().any(|unit| families.contains_key(&format!("waystation_{name}{unit}")))
        };
        let silent: Vec<&str> = registered.iter().copied().filter(|name| !speaks(name)).collect();
        assert_eq!((silent, spoken + 1), (vec!["abuse_dnsbl_hits"], registered.len()));
        let text = metrics.text();
        for stage in RefusalStage::ALL.map(RefusalStage::word) {
            assert!(text.contains(&format!("stage=\"{stage}\"}} 0\n")), "no {stage} in {text}");
        }
    }

    #[test]
    fn names_follow_the_contract() {
        let metrics = Metrics::new();
        metrics.inbound_accepted.inc();
        metrics.refused(452, RefusalStage::Rcpt);
        metrics.offered(1);
        metrics.set_recovery_ms(250);
        metrics.outbound_attempted("deferred", crate::observe::DeliveryClass::Direct);
        metrics.outbound_settled("sent", 10);
        metrics.set_outbound(1, 2, 0, true);
        let text = metrics.text();
        for line in [
            "waystation_inbound_accepted_total 1",
            "waystation_inbound_accepted_bytes_total 0",
            "waystation_inbound_refused_total{code=\"452\",stage=\"rcpt\"} 1",
            "waystation_items_offered_total{tunnel=\"1\"} 1",
            "waystation_spool_recovery_seconds 0.25",
            "waystation_items_acked_total{tunnel=\"2\"} 0",
            "waystation_tunnel_auth_total{outcome=\"rejected\"} 0",
            "waystation_outbound_submitted_total{outcome=\"id_conflict\"} 0",
            "waystation_outbound_tls_total{level=\"dane\"} 0",
            "waystation_outbound_attempts_total{class=\"direct\",outcome=\"deferred\"} 1",
            "waystation_outbound_results_total{result=\"sent\"} 1",
            "waystation_outbound_delivery_seconds_count 1",
            "waystation_outbound_paused 1",
            "waystation_spool_commit_seconds_count 0",
        ] {
            assert!(text.lines().any(|l| l == line), "missing {line} in\n{text}");
        }
    }

    #[test]
    fn states_are_in_counter_order() {
        let metrics = Metrics::new();
        let stats = SpoolStats { items: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], ..SpoolStats::default() };
        metrics.set_spool(&stats, 90_000);
        let text = metrics.text();
        assert!(text.contains("waystation_spool_items{state=\"ready\"} 1"), "{text}");
        assert!(text.contains("waystation_spool_items{state=\"purged\"} 6"), "{text}");
        assert!(text.contains("waystation_spool_oldest_ready_seconds 90.0"), "{text}");
    }
}
