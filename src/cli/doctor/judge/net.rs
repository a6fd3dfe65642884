//! PURE: ports, and what answers on them; certificates.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::super::finding::Finding;

/// An end of validity that is nearer needs somebody, days: renewals are due thirty days before.
const DAYS_SOON: u64 = 14;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// A socket that listens, from `/proc/net/tcp` or `tcp6`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listening {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Whose.
    pub(crate) uid: u32,
    /// Its number among all open files.
    pub(crate) inode: u64,
}

/// All of one of the kernel's tables.
pub(crate) fn listening(table: &str) -> Vec<Listening> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[_, local, _, state, _, _, _, uid, _, inode, ..] = fields.as_slice() else { return None };
        let address = socket_address(local).filter(|_| state == "0A")?;
        Some(Listening { address, uid: uid.parse().ok()?, inode: inode.parse().ok()? })
    };
    table.lines().skip(1).filter_map(line).collect()
}

/// `0100007F:0019`: words of four octets in the machine's own order.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(host.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let mut octets = [0; 16];
            octets.iter_mut().zip(words.iter().flatten()).for_each(|(to, from)| *to = *from);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Whether a socket is in the way of an address.
pub(crate) fn is_in_the_way(listening: SocketAddr, wanted: SocketAddr) -> bool {
    let (a, b) = (listening.ip().to_canonical(), wanted.ip().to_canonical());
    let wide = |ip: IpAddr| ip.is_unspecified();
    listening.port() == wanted.port() && (a == b || wide(a) || wide(b))
}

/// A process that has a port open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Its program's name, as the kernel has it.
    pub(crate) name: String,
    /// Its number.
    pub(crate) pid: u32,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}

/// The process that a doctor looks at, as it answers on its own socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// `relay` or `gateway`.
    pub(crate) what: &'static str,
    /// Its number, in its own namespace; `None` when it did not say.
    pub(crate) pid: Option<u32>,
}

/// What became of an attempt to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It is free.
    Free,
    /// Somebody has it: names of programs with their numbers, as far as they can be seen, and the account's number.
    Taken {
        /// By whom.
        holders: Vec<Holder>,
        /// Number of the account.
        uid: Option<u32>,
    },
    /// This account may not.
    Forbidden,
    /// The system's words.
    Impossible(String),
}

/// A listener of a relay or gateway; `running`: it, if it runs.
pub(crate) fn port(what: &str, address: SocketAddr, bound: &Bound, running: Option<Running>) -> Finding {
    let check = format!("{what} port");
    // The name is for a process in a container, whose number is another one here.
    let ours = |running: Running, holders: &[Holder]| {
        let is_it =
            |holder: &Holder| Some(holder.pid) == running.pid || holder.name.starts_with("waystation");
        holders.is_empty() || holders.iter().any(is_it)
    };
    match (bound, running) {
        (Bound::Taken { holders, .. }, Some(running)) if ours(running, holders) => {
            Finding::good(check, format!("{address}, held by the running {}", running.what))
        }
        (Bound::Taken { holders, uid }, _) => {
            let who = match (holders.as_slice(), uid) {
                ([], Some(uid)) => format!("a program of account {uid} (ask as root for its name)"),
                ([], None) => "another program".to_owned(),
                (holders, _) => holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            };
            let advice =
                format!("stop it, or listen elsewhere; `ss -ltnp sport = :{}` shows it", address.port());
            Finding::bad(check, format!("{address} is taken by {who}"), advice)
        }
        (Bound::Free, Some(running)) => Finding::bad(
            check,
            format!("nobody listens on {address}"),
            format!("the {} runs with another configuration: restart it with this one", running.what),
        ),
        (Bound::Free, None) => Finding::good(check, format!("{address} is free")),
        (Bound::Forbidden, Some(_)) => {
            Finding::good(check, format!("{address}; who holds it cannot be seen from this account"))
        }
        (Bound::Forbidden, None) => Finding::warn(
            check,
            format!("this account may not listen on {address}"),
            "let systemd open it (deploy/), or give the service CAP_NET_BIND_SERVICE",
        ),
        (Bound::Impossible(why), _) => Finding::bad(
            check,
            format!("{address}: {why}"),
            "is it an address of this machine? `ip address` lists them",
        ),
    }
}

/// What our own SMTP listener says first.
pub(crate) fn greeting(line: Result<&str, &str>, hostname: &str) -> Finding {
    match line {
        Ok(line) if line.starts_with("220") && line.to_ascii_lowercase().contains(hostname) => {
            Finding::good("SMTP answers", line)
        }
        Ok(line) if line.starts_with("220") => {
            let advice = format!(
                "it does not greet as {hostname}: something else answers, or the relay runs with another configuration"
            );
            Finding::bad("SMTP answers", line, advice)
        }
        Ok(line) => Finding::warn("SMTP answers", line, "it takes no mail now; the words say why"),
        Err(why) => Finding::bad(
            "SMTP answers",
            why,
            "the port is open and nothing speaks SMTP there: look at the relay's log",
        ),
    }
}

/// What our own HTTP listener says at `/health`, and what it says to half an upgrade at `/ws`.
pub(crate) fn http(health: Result<u16, &str>, upgrade: Result<u16, &str>) -> Finding {
    let check = "HTTP answers";
    match (health, upgrade) {
        (Ok(200), Ok(400)) => Finding::good(check, "/health 200, and /ws knows WebSocket"),
        // Beside HTTPS the plain listener sends gateways there.
        (Ok(200), Ok(403)) => Finding::good(check, "/health 200, and /ws wants TLS"),
        (Ok(200), Ok(status)) => {
            let found = format!("/ws answers {status}");
            Finding::bad(check, found, "gateways cannot connect: is it the relay that answers there?")
        }
        (Ok(200), Err(why)) => Finding::bad(check, format!("/ws: {why}"), "gateways cannot connect"),
        (Ok(status), _) => {
            Finding::bad(check, format!("/health answers {status}"), "is it the relay that answers there?")
        }
        (Err(why), _) => Finding::bad(
            check,
            why,
            "the port is open and nothing speaks HTTP there: look at the relay's log",
        ),
    }
}

/// What is known of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// Names in it.
    pub(crate) names: Vec<String>,
    /// Names that it must have and has not.
    pub(crate) lacking: Vec<String>,
    /// Names that it should have and has not.
    pub(crate) wishes: Vec<String>,
    /// Begin of validity, milliseconds.
    pub(crate) not_before_ms: u64,
    /// End of validity, milliseconds.
    pub(crate) not_after_ms: u64,
}

/// The certificate that the relay serves beside the one that lies ready for it, by the ends of their validity. Nothing
/// when they are the same: that one was judged.
pub(crate) fn served(served: Option<&str>, ready: Option<&str>) -> Option<Finding> {
    let (served, ready) = (served?, ready?);
    (served != ready).then(|| {
        let found = format!("until {served}, and the one that lies ready is valid until {ready}");
        let advice = "the relay has not taken the other one: relay.tls.reload_failed in its log says why, mostly a key that \
                      its account may not read; `waystation reload` has it try again";
        Finding::bad("certificate served", found, advice)
    })
}

/// The certificate that is, or will be, served.
pub(crate) fn certificate(found: &Certificate, now_ms: u64, renews_itself: bool) -> Finding {
    let check = "certificate";
    let names = found.names.join(", ");
    let renew = if renews_itself {
        "the relay renews it by itself and has not: look for relay.acme in its log"
    } else {
        "renew it; new files are read by themselves, credentials of systemd when the service is restarted"
    };
    if let Some(name) = found.lacking.first() {
        let advice = format!(
            "it is not for {name}: gateways and senders that verify do not connect; get one with that name in it"
        );
        return Finding::bad(check, format!("for {names}"), advice);
    }
    if now_ms < found.not_before_ms {
        let days = (found.not_before_ms - now_ms) / DAY_MS;
        return Finding::bad(check, format!("valid only in {days} days"), "is the clock right?");
    }
    let Some(left_ms) = found.not_after_ms.checked_sub(now_ms).filter(|left| *left > 0) else {
        let days = (now_ms - found.not_after_ms) / DAY_MS;
        return Finding::bad(check, format!("ran out {days} days ago"), renew);
    };
    let days = left_ms / DAY_MS;
    if days < DAYS_SOON {
        return Finding::warn(check, format!("{days} days left, for {names}"), renew);
    }
    if let Some(name) = found.wishes.first() {
        let advice = format!(
            "add {name} to it, or senders cannot fetch the MTA-STS policy; smtp.mta_sts = \"off\" does without"
        );
        return Finding::warn(check, format!("{days} days left, for {names}"), advice);
    }
    Finding::good(check, format!("{days} days left, for {names}"))
}
