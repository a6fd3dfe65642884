//! A collector: takes OTLP over HTTP and reads names, attributes and events of spans out of the protocol buffers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Attributes by name, as text.
pub(crate) type Pairs = Vec<(String, String)>;

/// One span.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    pub(crate) attributes: Pairs,
    /// Attributes of the events inside.
    pub(crate) events: Vec<Pairs>,
}

#[derive(Debug, Default)]
struct Taken {
    resource: Pairs,
    spans: Vec<Span>,
}

/// Runs until the process ends.
#[derive(Debug)]
pub(crate) struct Collector {
    address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = listener.local_addr().expect("bound");
        let taken = Arc::new(Mutex::new(Taken::default()));
        let into = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                take(stream.expect("accepted"), &into);
            }
        });
        Self { address, taken }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.taken.lock().expect("lock").spans.clone()
    }

    pub(crate) fn resource(&self) -> Pairs {
        self.taken.lock().expect("lock").resource.clone()
    }
}

fn take(stream: TcpStream, into: &Mutex<Taken>) {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("a line");
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.iter().any(|line| line == "content-type: application/x-protobuf"), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    stream.read_exact(&mut body).expect("a body");
    read(&body, &mut into.lock().expect("lock"));
    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
    stream.get_mut().write_all(answer).expect("answered");
}

/// `ExportTraceServiceRequest` of opentelemetry-proto.
fn read(request: &[u8], into: &mut Taken) {
    for resource_spans in messages(request, 1) {
        for resource in messages(resource_spans, 1) {
            into.resource = messages(resource, 1).map(pair).collect();
        }
        for span in messages(resource_spans, 2).flat_map(|scope| messages(scope, 2)) {
            into.spans.push(Span {
                name: messages(span, 5).map(text).next().expect("a name"),
                attributes: messages(span, 9).map(pair).collect(),
                events: messages(span, 11).map(|event| messages(event, 3).map(pair).collect()).collect(),
            });
        }
    }
}

/// `KeyValue`, whose value is an `AnyValue`.
fn pair(bytes: &[u8]) -> (String, String) {
    let key = messages(bytes, 1).map(text).next().expect("a key");
    let value = messages(bytes, 2).next().expect("a value");
    let value = fields(value).into_iter().next().map(|(_, field)| match field {
        Field::Bytes(bytes) => text(bytes),
        Field::Number(n) => n.to_string(),
    });
    (key, value.unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields with this number that carry bytes.
fn messages(bytes: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(bytes).into_iter().filter_map(move |(n, field)| match field {
        Field::Bytes(bytes) if n == number => Some(bytes),
        Field::Bytes(_) | Field::Number(_) => None,
    })
}

/// All fields of a message with their numbers (protobuf.dev, "Encoding").
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(cut(&mut bytes, 8).try_into().expect("eight"))),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).expect("a length");
                Field::Bytes(cut(&mut bytes, length))
            }
            5 => Field::Number(u64::from(u32::from_le_bytes(cut(&mut bytes, 4).try_into().expect("four")))),
            wire => panic!("wire type {wire}"),
        };
        found.push((tag >> 3, field));
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = cut(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a number without an end");
}

fn cut<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}
