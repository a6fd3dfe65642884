//! Driver: asks what a judgement leaves open, until nothing is.
//!
//! Promises: at most [`AT_ONCE`] questions under way; all of it ends within the deadline that the caller gives, and what was
//! not answered by then counts as unanswered. Policies are fetched and mail servers connected to as deliveries do it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use futures_util::stream::{self, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::Site;
use super::answers::{Answers, Caa, Greeting, Question, Reply};
use super::judge::{Extent, Judgement, Verdict, judge};
use crate::clock;
use crate::mail::outbound::route::addresses::Looked;
use crate::mail::outbound::route::dns::{Dns, DnsSettings, DnsSetupError};
use crate::mail::outbound::route::fetch::{FetchSettings, Fetcher};

/// Most questions under way.
pub const AT_ONCE: usize = 16;
/// Most times that answers lead to further questions: the longest chain is domain, policy, included policy and so on.
const ROUNDS_MAX: usize = 20;
/// How long a mail server has to greet; a firewall that drops is silent for ever.
pub const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// How long all of it may take.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Longest greeting that is read, bytes (RFC 5321 section 4.5.3.1.5).
const GREETING_BYTES_MAX: usize = 512;
/// Most addresses of one mail server that are tried.
const ADDRESSES_TRIED_MAX: usize = 3;

/// It cannot ask.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No resolver.
    #[error(transparent)]
    Dns(#[from] DnsSetupError),
    /// No TLS.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name servers.
    pub dns: DnsSettings,
    /// How policies are fetched.
    pub fetch: FetchSettings,
    /// When to stop.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { dns: DnsSettings::default(), fetch: FetchSettings::default(), deadline: DEADLINE }
    }
}

/// Asks everything about a site. Nothing is remembered from one call to the next.
///
/// # Errors
/// [`SetupError`].
pub async fn look(site: &Site, extent: &Extent, settings: &Settings) -> Result<Vec<Verdict>, SetupError> {
    let dns = Dns::new(&settings.dns)?;
    let asker = Arc::new(Asker { dns, fetcher: Fetcher::new(&settings.fetch)? });
    let until = Instant::from_std(clock::monotonic()) + settings.deadline;
    let mut answers = Answers::default();
    let mut judged: Judgement = judge(site, extent, &answers);
    for _ in 0..ROUNDS_MAX {
        if judged.open.is_empty() || Instant::from_std(clock::monotonic()) >= until {
            break;
        }
        let open = std::mem::take(&mut judged.open);
        let asking = stream::iter(open).map(|question| {
            let asker = Arc::clone(&asker);
            async move {
                let reply = timeout_at(until, asker.ask(&question)).await.ok();
                (question, reply)
            }
        });
        let answered: BTreeMap<_, _> = asking.buffer_unordered(AT_ONCE).collect().await;
        for (question, reply) in answered {
            if let Some(reply) = reply {
                answers.add(question, reply);
            }
        }
        judged = judge(site, extent, &answers);
    }
    Ok(judged.verdicts)
}

struct Asker {
    dns: Dns,
    fetcher: Fetcher,
}

impl Asker {
    async fn ask(&self, question: &Question) -> Reply {
        let eyes = self.dns.best_eyes();
        match question {
            Question::Mx(name) => Reply::Mx(self.dns.mx(eyes, name).await),
            Question::Host(name) => Reply::Host(self.host(name).await),
            Question::Txt(name) => Reply::Txt(self.dns.txt(eyes, name).await),
            Question::Ptr(address) => Reply::Ptr(self.dns.ptr(*address).await),
            Question::Tlsa(name) => Reply::Tlsa(self.dns.tlsa(name).await),
            Question::Caa(name) => {
                let read = |(tag, value)| Caa { tag, value };
                Reply::Caa(self.dns.caa(name, read).await)
            }
            Question::Policy(domain) => {
                Reply::Policy(self.fetcher.fetch(&self.dns, domain).await.map_err(|error| chain(&error)))
            }
            Question::Greeting(target) => Reply::Greeting(self.greeting(target).await),
            Question::Validates => Reply::Validates(self.dns.validates().await),
        }
    }

    async fn host(&self, name: &str) -> Looked {
        let eyes = self.dns.best_eyes();
        let (v4, v6) = join(self.dns.v4(eyes, name), self.dns.v6(eyes, name)).await;
        Looked { host: name.to_owned(), preference: 0, v4, v6 }
    }

    async fn greeting(&self, target: &str) -> Greeting {
        let (addresses, port) = match target.parse::<SocketAddr>() {
            Ok(address) => (vec![address.ip()], address.port()),
            Err(_) => {
                let Some((host, Ok(port))) = target.rsplit_once(':').map(|(h, p)| (h, p.parse::<u16>()))
                else {
                    return Greeting::Unresolved("it is no HOST:PORT".to_owned());
                };
                let looked = self.host(host).await;
                let (addresses, why) = super::answers::addresses(&looked);
                if addresses.is_empty() {
                    return Greeting::Unresolved(why.unwrap_or_else(|| "there is none".to_owned()));
                }
                (addresses, port)
            }
        };
        // IPv4 first: it is the family that is blocked or not, while many machines have no IPv6 at all.
        let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv4);
        let mut greeting = Greeting::Silent;
        let trying = async {
            for address in v4.into_iter().chain(v6).take(ADDRESSES_TRIED_MAX) {
                greeting = greet(SocketAddr::new(address, port)).await;
                if matches!(greeting, Greeting::Said(_)) {
                    break;
                }
            }
        };
        // What was learned of the first addresses stays when the patience ends at a later one.
        let _ = timeout(GREETING_PATIENCE, trying).await;
        greeting
    }
}

/// Connects, reads one line and leaves politely.
pub async fn greet(address: SocketAddr) -> Greeting {
    let talk = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut line = Vec::new();
        let mut piece = [0; GREETING_BYTES_MAX];
        while line.len() < GREETING_BYTES_MAX && !line.contains(&b'\n') {
            match stream.read(&mut piece).await? {
                0 => break,
                n => line.extend_from_slice(&piece[..n]),
            }
        }
        let _ = stream.write_all(b"QUIT\r\n").await;
        Ok::<_, std::io::Error>(line)
    };
    match timeout(GREETING_PATIENCE, talk).await {
        Ok(Ok(line)) if line.is_empty() => Greeting::Failed("the connection was closed at once".to_owned()),
        Ok(Ok(line)) => {
            let line = line.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
            let shown = |&byte: &u8| if matches!(byte, b' '..=b'~') { char::from(byte) } else { '?' };
            Greeting::Said(line.iter().take(GREETING_BYTES_MAX).map(shown).collect())
        }
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::TimedOut => Greeting::Silent,
        Ok(Err(error)) => Greeting::Failed(error.to_string()),
        Err(_) => Greeting::Silent,
    }
}

/// An error with what is behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}
