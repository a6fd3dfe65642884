//! PURE: which of the sockets that were opened for us serves what.
//!
//! | name | what it is |
//! |---|---|
//! | `smtp`, `http`, `https`, `admin` | all of that kind: it takes the place of the addresses in the configuration |
//! | `own-smtp`, `own-http`, `own-https`, `own-admin` | ours from before a hand-over: used while the configuration names its address, else closed |
//! | any other | what the configuration says about its address |
//!
//! A name stays what it is in a hand-over, so that what was placed by its address is placed by its address again.
//!
//! Failure policy: a socket that nothing would serve is refused with a sentence, because clients would wait on it for ever.

use core::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::systemd::SOCKETS_MAX;

/// What a socket serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Smtp,
    Http,
    Https,
    Admin,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Smtp, Self::Http, Self::Https, Self::Admin];

    /// The name that says so.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Smtp => "smtp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Admin => "admin",
        }
    }

    /// The name of one that we opened ourselves.
    pub(super) fn own_word(self) -> &'static str {
        match self {
            Self::Smtp => "own-smtp",
            Self::Http => "own-http",
            Self::Https => "own-https",
            Self::Admin => "own-admin",
        }
    }
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What the configuration wants.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Empty when no mail is taken.
    pub(super) smtp: Vec<SocketAddr>,
    pub(super) http: SocketAddr,
    pub(super) https: Option<SocketAddr>,
    /// There is a certificate, or will be.
    pub(super) tls: bool,
    pub(super) admin: PathBuf,
}

/// A socket cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplaced {
    /// Nothing in the configuration is about it.
    #[error(
        "a socket `{name}` at {place} was handed to us, and the configuration has no such address; name it with \
         FileDescriptorName=smtp, http or https in its socket unit"
    )]
    Unknown {
        /// Its name.
        name: String,
        /// Where it listens.
        place: String,
    },
    /// A part that is switched off.
    #[error("a socket `{name}` at {place} was handed to us, but {why}")]
    Useless {
        /// Its name.
        name: String,
        /// Where it listens.
        place: String,
        /// Why nothing serves it.
        why: &'static str,
    },
    /// More than the next process takes.
    #[error(
        "there are {count} listening sockets, and a hand-over passes on {SOCKETS_MAX} at most; listen on fewer addresses"
    )]
    Many {
        /// How many there are.
        count: usize,
    },
}

/// What becomes of the sockets, and what is still to be opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// For each socket: what it serves and whether it is our own; `None`: it is closed.
    pub(super) sockets: Vec<Option<(Kind, bool)>>,
    /// Addresses that no socket serves.
    pub(super) to_open: Vec<(Kind, SocketAddr)>,
    /// The admin socket is there.
    pub(super) has_admin: bool,
}

/// Places `sockets`, given by name and address.
pub(super) fn plan(sockets: &[(String, Place)], wanted: &Wanted) -> Result<Plan, Unplaced> {
    let mut plan = Plan::default();
    let mut left: Vec<(Kind, SocketAddr)> =
        wanted.smtp.iter().map(|address| (Kind::Smtp, *address)).collect();
    left.push((Kind::Http, wanted.http));
    left.extend(wanted.https.map(|address| (Kind::Https, address)));
    let mut whole = Vec::new();
    for (name, place) in sockets {
        let named = Kind::ALL.into_iter().find(|kind| kind.word() == name);
        let own = Kind::ALL.into_iter().find(|kind| kind.own_word() == name);
        let placed = match (named, own, place) {
            (Some(kind), ..) => {
                useful(kind, name, place, wanted)?;
                whole.push(kind);
                Some((kind, false))
            }
            (None, Some(Kind::Admin), Place::Unix(path)) => {
                is_admin(path, wanted).then_some((Kind::Admin, true))
            }
            (None, Some(kind), Place::Tcp(at)) => take(&mut left, Some(kind), *at).map(|kind| (kind, true)),
            (None, Some(_), Place::Unix(_)) => None,
            (None, None, Place::Tcp(at)) => {
                Some((take(&mut left, None, *at).ok_or_else(|| unknown(name, place))?, false))
            }
            (None, None, Place::Unix(path)) if is_admin(path, wanted) => Some((Kind::Admin, false)),
            (None, None, Place::Unix(_)) => return Err(unknown(name, place)),
        };
        plan.has_admin |= matches!(placed, Some((Kind::Admin, _)));
        plan.sockets.push(placed);
    }
    left.retain(|(kind, _)| !whole.contains(kind));
    plan.to_open = left;
    Ok(plan)
}

fn unknown(name: &str, place: &Place) -> Unplaced {
    Unplaced::Unknown { name: name.to_owned(), place: place.to_string() }
}

fn is_admin(path: &Path, wanted: &Wanted) -> bool {
    path == wanted.admin
}

/// Whether anything would serve a socket of that name.
fn useful(kind: Kind, name: &str, place: &Place, wanted: &Wanted) -> Result<(), Unplaced> {
    let why = match (kind, place) {
        (Kind::Smtp, Place::Tcp(_)) if wanted.smtp.is_empty() => "smtp.enabled is false",
        (Kind::Https, Place::Tcp(_)) if !wanted.tls => "there is no certificate: set [tls]",
        (Kind::Smtp | Kind::Http | Kind::Https, Place::Tcp(_)) | (Kind::Admin, Place::Unix(_)) => {
            return Ok(());
        }
        (Kind::Smtp | Kind::Http | Kind::Https, Place::Unix(_)) => "this is served over TCP only",
        (Kind::Admin, Place::Tcp(_)) => "the admin socket lies in the file system",
    };
    Err(Unplaced::Useless { name: name.to_owned(), place: place.to_string(), why })
}

/// Takes the wanted address that a socket at `at` serves.
fn take(left: &mut Vec<(Kind, SocketAddr)>, kind: Option<Kind>, at: SocketAddr) -> Option<Kind> {
    // Ours was opened at port 0, which was any, and became one.
    let became = |wanted: SocketAddr| kind.is_some() && wanted.port() == 0 && wanted.ip() == at.ip();
    let exact = left.iter().position(|(of, wanted)| kind.is_none_or(|kind| kind == *of) && *wanted == at);
    let found = exact.or_else(|| {
        left.iter().position(|(of, wanted)| kind.is_none_or(|kind| kind == *of) && became(*wanted))
    })?;
    Some(left.remove(found).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn wanted() -> Wanted {
        Wanted {
            smtp: vec![at("127.0.0.1:25"), at("[::1]:25")],
            http: at("127.0.0.1:80"),
            https: None,
            tls: false,
            admin: "/run/admin.sock".into(),
        }
    }

    fn tcp(name: &str, address: &str) -> (String, Place) {
        (name.to_owned(), Place::Tcp(at(address)))
    }

    #[test]
    fn without_sockets_everything_is_opened() {
        let plan = plan(&[], &wanted()).unwrap();
        assert_eq!(plan.to_open.len(), 3);
        assert!(!plan.has_admin);
    }

    #[test]
    fn a_name_takes_the_place_of_all_addresses_of_its_kind() {
        let plan = plan(&[tcp("smtp", "0.0.0.0:25"), tcp("smtp", "[::]:25")], &wanted()).unwrap();
        assert_eq!(plan.sockets, [Some((Kind::Smtp, false)); 2]);
        assert_eq!(plan.to_open, [(Kind::Http, at("127.0.0.1:80"))]);
    }

    #[test]
    fn a_nameless_socket_serves_what_the_configuration_says_about_its_address() {
        let plan = plan(&[tcp("waystation.socket", "127.0.0.1:80")], &wanted()).unwrap();
        assert_eq!(plan.sockets, [Some((Kind::Http, false))]);
        assert_eq!(plan.to_open.len(), 2);
    }

    #[test]
    fn what_nothing_would_serve_is_refused_with_a_sentence() {
        let refused = |socket| plan(&[socket], &wanted()).expect_err("refused").to_string();
        assert!(refused(tcp("", "127.0.0.1:9")).contains("FileDescriptorName=smtp"));
        assert!(refused(tcp("https", "127.0.0.1:443")).contains("[tls]"));
        assert!(refused(("http".to_owned(), Place::Unix("/x".into()))).contains("TCP only"));
        assert!(refused((String::new(), Place::Unix("/x".into()))).contains("/x"));
        let off = Wanted { smtp: Vec::new(), ..wanted() };
        assert!(plan(&[tcp("smtp", "127.0.0.1:25")], &off).unwrap_err().to_string().contains("smtp.enabled"));
    }

    #[test]
    fn our_own_sockets_go_on_while_the_configuration_names_them() {
        let any = Wanted { smtp: vec![at("127.0.0.1:0"), at("127.0.0.1:0")], ..wanted() };
        let ours = [
            tcp("own-smtp", "127.0.0.1:4001"),
            tcp("own-http", "127.0.0.1:8080"),
            ("own-admin".to_owned(), Place::Unix("/run/admin.sock".into())),
        ];
        let plan = plan(&ours, &any).unwrap();
        assert_eq!(plan.sockets, [Some((Kind::Smtp, true)), None, Some((Kind::Admin, true))]);
        assert_eq!(plan.to_open, [(Kind::Smtp, at("127.0.0.1:0")), (Kind::Http, at("127.0.0.1:80"))]);
        assert!(plan.has_admin);
    }
}
