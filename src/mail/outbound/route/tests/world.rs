//! A name server on loopback, UDP and TCP, that answers from a table and fails on request.

use std::collections::HashMap;
use std::sync::Mutex;

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector, TLSA};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    ServFail,
    Refused,
    Silent,
    /// UDP says "ask by TCP".
    Truncated,
    /// Octets that are no answer.
    Garbage,
}

#[derive(Default)]
pub(super) struct Zone {
    pub(super) records: HashMap<(String, RecordType), Vec<RData>>,
    pub(super) faults: HashMap<(String, RecordType), Fault>,
    pub(super) asked: Vec<(String, RecordType)>,
    pub(super) ttl: u32,
    /// Sets the AD bit: the name server says that it checked the signatures.
    pub(super) vouches: bool,
}

pub(super) struct World {
    pub(super) address: SocketAddr,
    pub(super) zone: Arc<Mutex<Zone>>,
}

impl World {
    pub(super) async fn new() -> Self {
        let (udp, tcp, address) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = udp.local_addr().unwrap();
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp, address);
            }
        };
        let zone = Arc::new(Mutex::new(Zone::default()));
        tokio::spawn(serve_udp(udp, Arc::clone(&zone)));
        tokio::spawn(serve_tcp(tcp, Arc::clone(&zone)));
        Self { address, zone }
    }

    fn add(&self, name: &str, data: RData) -> &Self {
        let key = (name.to_owned(), data.record_type());
        self.zone.lock().unwrap().records.entry(key).or_default().push(data);
        self
    }

    pub(super) fn mx(&self, domain: &str, preference: u16, host: &str) -> &Self {
        self.add(domain, RData::MX(MX::new(preference, name(host))))
    }

    pub(super) fn host(&self, host: &str, address: &str) -> &Self {
        match address.parse().unwrap() {
            IpAddr::V4(v4) => self.add(host, RData::A(A(v4))),
            IpAddr::V6(v6) => self.add(host, RData::AAAA(AAAA(v6))),
        }
    }

    pub(super) fn alias(&self, from: &str, to: &str) -> &Self {
        self.add(from, RData::CNAME(CNAME(name(to))))
    }

    pub(super) fn tlsa(&self, owner: &str) -> &Self {
        let data = TLSA::new(CertUsage::DaneEe, Selector::Spki, Matching::Sha256, vec![7; 32]);
        self.add(owner, RData::TLSA(data))
    }

    pub(super) fn txt(&self, owner: &str, text: &str) -> &Self {
        self.add(owner, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    pub(super) fn fail(&self, name: &str, kind: RecordType, fault: Fault) -> &Self {
        self.zone.lock().unwrap().faults.insert((name.to_owned(), kind), fault);
        self
    }

    pub(super) fn forget(&self, name: &str, kind: RecordType) -> &Self {
        self.zone.lock().unwrap().records.remove(&(name.to_owned(), kind));
        self
    }

    pub(super) fn asked(&self, name: &str, kind: RecordType) -> usize {
        let zone = self.zone.lock().unwrap();
        zone.asked.iter().filter(|(asked, asked_kind)| asked == name && *asked_kind == kind).count()
    }
}

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut packet = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await.unwrap();
        if let Some(reply) = answer(&packet[..length], &zone, true) {
            socket.send_to(&reply, from).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(talk(stream, Arc::clone(&zone)));
    }
}

async fn talk(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut packet = vec![0; usize::from(length)];
        stream.read_exact(&mut packet).await?;
        if let Some(reply) = answer(&packet, &zone, false) {
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await?;
            stream.write_all(&reply).await?;
        }
    }
}

fn answer(packet: &[u8], zone: &Mutex<Zone>, udp: bool) -> Option<Vec<u8>> {
    let request = Message::from_vec(packet).unwrap();
    let query = request.queries[0].clone();
    let kind = query.query_type();
    let owner = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let mut zone = zone.lock().unwrap();
    zone.asked.push((owner.clone(), kind));
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.metadata.authentic_data = zone.vouches;
    reply.add_query(query.clone());
    match zone.faults.get(&(owner.clone(), kind)) {
        Some(Fault::Silent) => return None,
        Some(Fault::Garbage) => return Some(vec![0xc0; 40]),
        Some(Fault::ServFail) => reply.metadata.response_code = ResponseCode::ServFail,
        Some(Fault::Refused) => reply.metadata.response_code = ResponseCode::Refused,
        Some(Fault::Truncated) if udp => reply.metadata.truncation = true,
        Some(Fault::Truncated) | None => {
            let exact = zone.records.get(&(owner.clone(), kind));
            let found = exact.or_else(|| zone.records.get(&(owner.clone(), RecordType::CNAME)));
            let known = zone.records.keys().any(|(name, _)| *name == owner);
            for data in found.into_iter().flatten() {
                reply.add_answer(Record::from_rdata(query.name().clone(), zone.ttl, data.clone()));
            }
            if !known {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
        }
    }
    Some(reply.to_vec().unwrap())
}
