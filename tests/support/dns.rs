//! A name server on loopback, UDP and TCP, whose answers a scenario sets and changes while it runs.
//!
//! It answers like a resolver: aliases are followed within the answer. A name that has nothing is NXDOMAIN, a name
//! that has something else (or something below it) is NODATA. Every query is counted.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, MX, PTR, SOA, TLSA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};

/// Longest chain of aliases that is followed.
const ALIASES_MAX: usize = 16;
/// Largest UDP answer; more is truncated.
const UDP_BYTES_MAX: usize = 1232;

/// How a question goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// SERVFAIL, as for a zone that is broken or whose signatures do not match.
    ServFail,
    /// REFUSED.
    Refused,
    /// No answer at all.
    Timeout,
    /// NXDOMAIN, whatever the zone says.
    NxDomain,
    /// Over UDP only "truncated": the question must come again over TCP.
    Truncated,
    /// Octets that are no DNS message.
    Garbage,
}

#[derive(Default)]
struct Zone {
    records: BTreeMap<String, Vec<RData>>,
    troubles: HashMap<(String, Option<RecordType>), Trouble>,
    queries: HashMap<(String, RecordType), usize>,
    ttl: u32,
    authentic: bool,
}

/// A running name server; ends when dropped.
pub(crate) struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Dns {
    /// An empty zone on a free port of loopback, TTL 0.
    pub(crate) async fn start() -> Self {
        for _ in 0..100 {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
            let address = udp.local_addr().expect("bound");
            let Ok(tcp) = TcpListener::bind(address).await else { continue };
            let zone = Arc::new(Mutex::new(Zone::default()));
            let tasks =
                vec![tokio::spawn(serve_udp(udp, zone.clone())), tokio::spawn(serve_tcp(tcp, zone.clone()))];
            return Self { address, zone, tasks };
        }
        panic!("no port is free for both UDP and TCP");
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces a domain's mail exchangers; `.` with preference 0 is a null MX (RFC 7505).
    pub(crate) fn mx(&self, domain: &str, hosts: &[(u16, &str)]) {
        let mx = |(preference, host): &(u16, &str)| RData::MX(MX::new(*preference, name(host)));
        self.replace(domain, RecordType::MX, hosts.iter().map(mx).collect());
    }

    /// Replaces a host's addresses, both families.
    pub(crate) fn host(&self, host: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let v4 = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(address) => Some(RData::A((*address).into())),
            IpAddr::V6(_) => None,
        });
        let v6 = addresses.iter().filter_map(|address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(RData::AAAA((*address).into())),
        });
        self.replace(host, RecordType::A, v4.collect());
        self.replace(host, RecordType::AAAA, v6.collect());
    }

    /// A domain with one exchanger at one address: what most scenarios need.
    pub(crate) fn mail_domain(&self, domain: &str, address: &str) {
        let host = format!("mx.{domain}");
        self.mx(domain, &[(10, &host)]);
        self.host(&host, &[address]);
    }

    /// Replaces a name's texts.
    pub(crate) fn txt(&self, at: &str, texts: &[&str]) {
        // One string has at most 255 octets.
        let pieces = |text: &&str| match text.as_bytes() {
            [] => vec![Vec::new()],
            bytes => bytes.chunks(255).map(<[u8]>::to_vec).collect(),
        };
        let txt = |text: &&str| RData::TXT(TXT::from_bytes(pieces(text).iter().map(Vec::as_slice).collect()));
        self.replace(at, RecordType::TXT, texts.iter().map(txt).collect());
    }

    /// Replaces a name's TLSA records (`_25._tcp.mx.example`): usage, selector, matching, data.
    pub(crate) fn tlsa(&self, at: &str, records: &[(u8, u8, u8, Vec<u8>)]) {
        let tlsa = |(usage, selector, matching, data): &(u8, u8, u8, Vec<u8>)| {
            RData::TLSA(TLSA::new((*usage).into(), (*selector).into(), (*matching).into(), data.clone()))
        };
        self.replace(at, RecordType::TLSA, records.iter().map(tlsa).collect());
    }

    /// Makes a name an alias.
    pub(crate) fn cname(&self, at: &str, target: &str) {
        self.replace(at, RecordType::CNAME, vec![RData::CNAME(CNAME(name(target)))]);
    }

    /// Gives an address a name.
    pub(crate) fn ptr(&self, address: &str, target: &str) {
        let address: IpAddr = address.parse().expect("an address");
        let at = Name::from(address).to_string();
        self.replace(&at, RecordType::PTR, vec![RData::PTR(PTR(name(target)))]);
    }

    /// Replaces what a name points to (`4.3.2.1.in-addr.arpa`).
    pub(crate) fn pointers(&self, at: &str, targets: &[&str]) {
        let ptr = |target: &&str| RData::PTR(PTR(name(target)));
        self.replace(at, RecordType::PTR, targets.iter().map(ptr).collect());
    }

    /// Removes a name with everything below it, and its troubles.
    pub(crate) fn remove(&self, at: &str) {
        let at = key(at);
        let below = format!(".{at}");
        let mut zone = self.zone();
        zone.records.retain(|name, _| *name != at && !name.ends_with(&below));
        zone.troubles.retain(|(name, _), _| *name != at && !name.ends_with(&below));
    }

    /// Questions for this name and type (`None`: every type) go wrong from now on; `trouble` `None` ends that.
    pub(crate) fn trouble(&self, at: &str, kind: Option<RecordType>, trouble: Option<Trouble>) {
        let mut zone = self.zone();
        match trouble {
            Some(trouble) => zone.troubles.insert((key(at), kind), trouble),
            None => zone.troubles.remove(&(key(at), kind)),
        };
    }

    /// Seconds that answers may be kept.
    pub(crate) fn ttl(&self, seconds: u32) {
        self.zone().ttl = seconds;
    }

    /// Answers carry the AD bit, as from a validating resolver (RFC 4035 section 3.2.3).
    pub(crate) fn authentic(&self, authentic: bool) {
        self.zone().authentic = authentic;
    }

    /// How often this was asked.
    pub(crate) fn queries(&self, at: &str, kind: RecordType) -> usize {
        self.zone().queries.get(&(key(at), kind)).copied().unwrap_or_default()
    }

    /// How many questions came.
    pub(crate) fn queries_total(&self) -> usize {
        self.zone().queries.values().sum()
    }

    fn replace(&self, at: &str, kind: RecordType, data: Vec<RData>) {
        let mut zone = self.zone();
        let all = zone.records.entry(key(at)).or_default();
        all.retain(|record| record.record_type() != kind);
        all.extend(data);
    }

    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().expect("no panic inside")
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn key(at: &str) -> String {
    at.trim_end_matches('.').to_ascii_lowercase()
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a name");
    name.set_fqdn(true);
    name
}

impl Zone {
    /// `None`: nothing is said.
    fn answer(&mut self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).ok()?;
        let query = asked.queries.first()?.clone();
        let (at, kind) = (key(&query.name().to_ascii()), query.query_type());
        *self.queries.entry((at.clone(), kind)).or_default() += 1;
        let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = asked.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.authentic_data = self.authentic;
        reply.add_query(query.clone());
        if let Some(asked) = &asked.edns {
            let mut edns = asked.clone();
            edns.set_max_payload(1232);
            reply.set_edns(edns);
        }
        let trouble = self.troubles.get(&(at.clone(), Some(kind))).or(self.troubles.get(&(at.clone(), None)));
        match trouble.copied() {
            Some(Trouble::Timeout) => return None,
            Some(Trouble::Garbage) => return Some(question[..2].iter().copied().chain([0xff; 30]).collect()),
            Some(Trouble::ServFail) => reply.metadata.response_code = ResponseCode::ServFail,
            Some(Trouble::Refused) => reply.metadata.response_code = ResponseCode::Refused,
            Some(Trouble::NxDomain) => self.deny(&mut reply, &query.name, ResponseCode::NXDomain),
            Some(Trouble::Truncated) if !over_tcp => reply.metadata.truncation = true,
            Some(Trouble::Truncated) | None => self.look_up(&mut reply, query.name(), kind),
        }
        let bytes = reply.to_vec().expect("encodes");
        if !over_tcp && bytes.len() > UDP_BYTES_MAX {
            return reply.truncate().to_vec().ok();
        }
        Some(bytes)
    }

    fn look_up(&self, reply: &mut Message, asked: &Name, kind: RecordType) {
        let mut at = asked.clone();
        for _ in 0..ALIASES_MAX {
            let here = key(&at.to_ascii());
            let Some(records) = self.records.get(&here) else {
                let below = format!(".{here}");
                let exists = self.records.keys().any(|name| name.ends_with(&below));
                let code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
                return self.deny(reply, &at, code);
            };
            let found: Vec<&RData> = records.iter().filter(|data| data.record_type() == kind).collect();
            if !found.is_empty() {
                let record = |data: &RData| Record::from_rdata(at.clone(), self.ttl, data.clone());
                reply.add_answers(found.into_iter().map(record));
                return;
            }
            let Some(RData::CNAME(CNAME(target))) =
                records.iter().find(|data| data.record_type() == RecordType::CNAME)
            else {
                return self.deny(reply, &at, ResponseCode::NoError);
            };
            let alias = RData::CNAME(CNAME(target.clone()));
            reply.add_answer(Record::from_rdata(at.clone(), self.ttl, alias));
            at = target.clone();
        }
        reply.metadata.response_code = ResponseCode::ServFail;
    }

    fn deny(&self, reply: &mut Message, at: &Name, code: ResponseCode) {
        reply.metadata.response_code = code;
        let soa = SOA::new(name("ns.test."), name("hostmaster.test."), 1, 3600, 600, 86400, self.ttl);
        reply.add_authority(Record::from_rdata(at.base_name(), self.ttl, RData::SOA(soa)));
    }
}

fn answer(zone: &Mutex<Zone>, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
    zone.lock().expect("no panic inside").answer(question, over_tcp)
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut question = [0; 4096];
    loop {
        // An error here belongs to an earlier answer whose asker is gone.
        let Ok((n, from)) = socket.recv_from(&mut question).await else { continue };
        if let Some(bytes) = answer(&zone, &question[..n], false) {
            let _ = socket.send_to(&bytes, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let zone = zone.clone();
        connections.spawn(async move {
            let _ended: std::io::Result<()> = converse(stream, &zone).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(mut stream: TcpStream, zone: &Mutex<Zone>) -> std::io::Result<()> {
    loop {
        let mut question = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut question).await?;
        match answer(zone, &question, true) {
            Some(bytes) => {
                let length = u16::try_from(bytes.len()).expect("fits");
                stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
            }
            None => std::future::pending().await,
        }
    }
}
