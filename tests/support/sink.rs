//! A mail exchanger that does what a scenario tells it, and remembers what it was given.
//!
//! It shares no code with the relay's own receiver: what both would get wrong in the same way must still show.
//! A message counts as a *copy* from the moment its last octet was read here, whatever became of the answer,
//! unless the sink then said with a complete 4yz or 5yz reply that it did not take it.

mod certificates;
mod script;
mod session;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

pub(crate) use certificates::{Authority, Identity};
pub(crate) use script::{Act, Moment, Script, Step};

/// A message that was received to its last octet.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// Which message, from 1.
    pub(crate) serial: usize,
    /// Which connection, from 1.
    pub(crate) connection: usize,
    /// The address of ours that was connected to.
    pub(crate) host: IpAddr,
    /// Argument of `MAIL FROM`, with angle brackets.
    pub(crate) mail_from: String,
    /// Parameters of `MAIL`.
    pub(crate) mail_parameters: Vec<String>,
    /// Arguments of the `RCPT TO`s that were answered with 2yz, with angle brackets.
    pub(crate) rcpt_to: Vec<String>,
    /// The message without dot-stuffing.
    pub(crate) bytes: Vec<u8>,
    /// Value of its `X-Test-Id`; empty without one.
    pub(crate) test_id: String,
    /// By BDAT.
    pub(crate) chunked: bool,
    /// Protection of the connection.
    pub(crate) tls: Option<TlsFacts>,
    /// What was written as answer to the last octet; empty when the connection ended with it.
    pub(crate) reply: Vec<u8>,
    /// The sink did not take it: it said so with 4yz or 5yz, after the dot or while the body came.
    pub(crate) refused: bool,
}

/// What is known about a protected connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFacts {
    /// `TLSv1_3`.
    pub(crate) version: String,
    /// Name in the ClientHello (S10).
    pub(crate) sni: Option<String>,
    /// Whether the client spoke of ALPN.
    pub(crate) alpn: bool,
}

/// One line of what was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) connection: usize,
    pub(crate) host: IpAddr,
    /// A command line without CRLF; `<connect>`, `<tls>`, `<end>` for what is no command.
    pub(crate) line: String,
    /// More octets were already here when it was answered: the client did not wait.
    pub(crate) pipelined: bool,
}

#[derive(Default)]
struct State {
    serial: usize,
    received: Vec<Received>,
    heard: Vec<Heard>,
    connections: usize,
    open: usize,
    open_max: usize,
}

type Choose = Arc<dyn Fn(usize, IpAddr) -> Script + Send + Sync>;

/// What sessions share with the sink.
struct Book {
    state: Mutex<State>,
    choose: Mutex<Choose>,
}

impl Book {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no session panics inside")
    }
}

/// A running sink; ends with all its connections when dropped.
pub(crate) struct Sink {
    addresses: Vec<SocketAddr>,
    book: Arc<Book>,
    tasks: Vec<JoinHandle<()>>,
}

impl Sink {
    /// One host, `127.0.0.1`, on a free port.
    pub(crate) async fn start() -> Self {
        Self::start_on(&["127.0.0.1"]).await
    }

    /// Several hosts (`127.0.0.2`, `::1`), all on the same free port.
    pub(crate) async fn start_on(hosts: &[&str]) -> Self {
        Self::listen(hosts, None).await
    }

    /// The same with a receive window of a few kilobytes, for [`Act::StopReading`].
    pub(crate) async fn start_narrow(hosts: &[&str]) -> Self {
        Self::listen(hosts, Some(4096)).await
    }

    async fn listen(hosts: &[&str], window: Option<u32>) -> Self {
        let hosts: Vec<IpAddr> = hosts.iter().map(|host| host.parse().expect("an address")).collect();
        let listeners = (0..100).find_map(|_| listeners(&hosts, window)).expect("a port free on all hosts");
        let choose: Choose = Arc::new(|_, _| Script::usual());
        let book = Arc::new(Book { state: Mutex::default(), choose: Mutex::new(choose) });
        let addresses = listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
        let serve = |listener| tokio::spawn(serve(listener, book.clone()));
        let tasks = listeners.into_iter().map(serve).collect();
        Self { addresses, book, tasks }
    }

    /// Where its first host listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The port of all hosts.
    pub(crate) fn port(&self) -> u16 {
        self.address().port()
    }

    /// Connections from now on follow this script.
    pub(crate) fn play(&self, script: Script) {
        self.play_with(move |_, _| script.clone());
    }

    /// The next connection follows the first, and so on; the last is repeated.
    pub(crate) fn play_in_turn(&self, scripts: Vec<Script>) {
        let first = self.connections();
        self.play_with(move |connection, _| scripts[(connection - first - 1).min(scripts.len() - 1)].clone());
    }

    /// `choose` gets the number of the connection (from 1) and the address of ours it came to.
    pub(crate) fn play_with(&self, choose: impl Fn(usize, IpAddr) -> Script + Send + Sync + 'static) {
        *self.book.choose.lock().expect("no panic inside") = Arc::new(choose);
    }

    /// Everything that was received to its last octet, oldest first.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.book.state().received.clone()
    }

    /// The same, and forgets it, so that a long storm costs no memory; the answers to the newest may be missing.
    pub(crate) fn take_received(&self) -> Vec<Received> {
        let mut state = self.book.state();
        state.heard.clear();
        std::mem::take(&mut state.received)
    }

    /// How many messages were received to their last octet.
    pub(crate) fn received_count(&self) -> usize {
        self.book.state().received.len()
    }

    /// Copies of the message with this `X-Test-Id` that the sink holds for a recipient (`a@b.example`).
    pub(crate) fn copies(&self, test_id: &str, recipient: &str) -> usize {
        let path = format!("<{recipient}>");
        let is = |message: &&Received| {
            !message.refused && message.test_id == test_id && message.rcpt_to.contains(&path)
        };
        self.book.state().received.iter().filter(is).count()
    }

    /// What was heard, in order.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.book.state().heard.clone()
    }

    /// Command lines that were heard, in order.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.book.state().heard.iter().map(|heard| heard.line.clone()).collect()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.book.state().connections
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        self.book.state().open
    }

    /// Most connections that were open at one time.
    pub(crate) fn open_max(&self) -> usize {
        self.book.state().open_max
    }

    /// Forgets what was received and heard.
    pub(crate) fn forget(&self) {
        let mut state = self.book.state();
        state.received.clear();
        state.heard.clear();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn listeners(hosts: &[IpAddr], window: Option<u32>) -> Option<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for host in hosts {
        let port = listeners.first().map_or(0, |first| first.local_addr().expect("bound").port());
        let socket = if host.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("socket");
        socket.set_reuseaddr(true).expect("reuse");
        if let Some(bytes) = window {
            socket.set_recv_buffer_size(bytes).expect("window");
        }
        socket.bind(SocketAddr::new(*host, port)).ok()?;
        listeners.push(socket.listen(1024).ok()?);
    }
    Some(listeners)
}

async fn serve(listener: TcpListener, book: Arc<Book>) {
    // The sessions end with this task.
    let mut sessions = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while sessions.try_join_next().is_some() {}
        let host = listener.local_addr().expect("bound").ip();
        let connection = {
            let mut state = book.state();
            state.connections += 1;
            state.open += 1;
            state.open_max = state.open_max.max(state.open);
            let connection = state.connections;
            let line = "<connect>".to_owned();
            state.heard.push(Heard { connection, host, line, pipelined: false });
            connection
        };
        let choose = book.choose.lock().expect("no panic inside").clone();
        let script = choose(connection, host);
        sessions.spawn(converse(stream, script, connection, host, book.clone()));
    }
}

async fn converse(stream: TcpStream, script: Script, connection: usize, host: IpAddr, book: Arc<Book>) {
    session::Session::new(stream, script, connection, host, book.clone()).run().await;
    let mut state = book.state();
    state.open -= 1;
    state.heard.push(Heard { connection, host, line: "<end>".to_owned(), pipelined: false });
}

/// An address where connecting never ends: its queue of connections is full, and nobody takes one.
pub(crate) struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _fill: Vec<JoinHandle<()>>,
}

impl BlackHole {
    /// On this address, as `host:port`.
    pub(crate) async fn start(address: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.set_reuseaddr(true).expect("reuse");
        socket.bind(address.parse().expect("an address")).expect("bound");
        let listener = socket.listen(1).expect("listens");
        let address = listener.local_addr().expect("bound");
        let fill = || {
            tokio::spawn(async move {
                let held = TcpStream::connect(address).await;
                std::future::pending::<()>().await;
                drop(held);
            })
        };
        let fill = (0..4).map(|_| fill()).collect();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        Self { address, _listener: listener, _fill: fill }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        self._fill.iter().for_each(JoinHandle::abort);
    }
}
