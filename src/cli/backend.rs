//! Where answers come from: the running daemon, or the directory when no daemon runs.

pub(super) mod owner;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use serde_json::{Value, json};
use spool::Spool;
use spool::disk::real::RealDisk;
use spool::error::SpoolError;
use spool::ids::ItemId;
use tokio_util::sync::CancellationToken;

use super::{Exit, Global, Stop, load, progress, screen};
use crate::admin::ask::{self, AskError, Terms};
use crate::admin::client::{Client, ClientError, escape, query};
use crate::admin::deliveries::{self, SwitchAsk};
use crate::admin::list::{self, ItemsAsk};
use crate::admin::{backup, bytes, change, keys, presence, request, verify};
use crate::config::Config;
use crate::daemon;
use crate::daemon::ledger::{self, Ledger, LedgerError};
use crate::mail::outbound::delivery::switch::Switch;
use crate::mail::signer::Signer;
use crate::observe::Metrics;
use owner::Owner;

/// Why the bytes of an item were not read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// They are not kept any more.
    Gone(String),
    /// They are not what was stored.
    Damaged(String),
    /// The reading itself failed, or whoever got the bytes.
    Failed(anyhow::Error),
}

impl From<ClientError> for Unread {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused { status: 404, message } => Self::Gone(message),
            ClientError::Refused { status: 409 | 500, message } => Self::Damaged(message),
            ClientError::Refused { .. } | ClientError::Socket { .. } | ClientError::Broken(_) => {
                Self::Failed(stop(error).into())
            }
        }
    }
}

impl From<AskError> for Unread {
    fn from(error: AskError) -> Self {
        match error {
            AskError::NotFound(message) => Self::Gone(message),
            AskError::Conflict(message) => Self::Damaged(message),
            AskError::Spool(SpoolError::Corrupt { .. }) => Self::Damaged(error.to_string()),
            AskError::Bad(_) | AskError::Busy(_) | AskError::Spool(_) => {
                Self::Failed(ask_stop(&error).into())
            }
        }
    }
}

impl From<Unread> for anyhow::Error {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Gone(message) => Stop::new(Exit::Nothing, message).into(),
            Unread::Damaged(message) => Stop::new(Exit::Failed, message).into(),
            Unread::Failed(error) => error,
        }
    }
}

/// Who answers.
pub(crate) struct Backend {
    pub(crate) config: Config,
    terms: Terms,
    runtime: tokio::runtime::Runtime,
    source: Source,
    // Last, so that all that was made in the directory is there when it is given away.
    _owner: Option<Owner>,
}

enum Source {
    /// A running daemon.
    Daemon(Client),
    /// The directory, for looking only.
    Directory(Box<Spool>),
    /// The directory, owned for the length of this command.
    Owned(Box<Ledger>),
}

impl Backend {
    /// Looks for a daemon, and opens the directory read-only when there is none. Says which.
    pub(crate) fn open(global: &Global) -> anyhow::Result<Self> {
        let (config, runtime) = (load::config(global)?, runtime()?);
        let (source, owner, note) =
            match runtime.block_on(Client::find(&config.admin_socket)).map_err(stop)? {
                Some(client) => {
                    let note = format!("from the running relay at {}", client.socket().display());
                    (Source::Daemon(client), None, note)
                }
                None => {
                    let note =
                        format!("no relay runs; reading {} directly, read-only", config.data_dir.display());
                    // Looking takes the lock, which may be new.
                    let owner = Owner::of(&config.data_dir);
                    (Source::Directory(Box::new(open_directory(&config)?)), Some(owner), note)
                }
            };
        say(global, &note);
        Ok(Self { terms: daemon::terms(&config), config, runtime, source, _owner: owner })
    }

    /// Looks for a daemon; with `offline`, and when there is none, owns the directory for this command.
    pub(crate) fn open_for_change(global: &Global, offline: bool) -> anyhow::Result<Self> {
        let (config, runtime) = (load::config(global)?, runtime()?);
        if let Some(client) = runtime.block_on(Client::find(&config.admin_socket)).map_err(stop)? {
            say(global, &format!("through the running relay at {}", client.socket().display()));
            return Ok(Self {
                terms: daemon::terms(&config),
                config,
                runtime,
                source: Source::Daemon(client),
                _owner: None,
            });
        }
        if !offline {
            let socket = config.admin_socket.display();
            let message = format!(
                "no relay listens on {socket}; start it, or say --offline to open the directory for this change"
            );
            return Err(Stop::new(Exit::Later, message).into());
        }
        say(global, &format!("no relay runs; changing {} directly", config.data_dir.display()));
        let owner = Owner::of(&config.data_dir);
        Ok(Self {
            terms: daemon::terms(&config),
            source: Source::Owned(Box::new(own(&config)?)),
            config,
            runtime,
            _owner: Some(owner),
        })
    }

    /// Removes the index and owns the directory, which builds it again; only when no relay runs.
    pub(crate) fn open_without_index(global: &Global) -> anyhow::Result<Self> {
        let (config, runtime) = (load::config(global)?, runtime()?);
        let dir = config.data_dir.display();
        if runtime.block_on(Client::find(&config.admin_socket)).map_err(stop)?.is_some() {
            let message = format!(
                "a relay runs on {dir}; stop it first, because its index can be built anew only while nobody uses it"
            );
            return Err(Stop::new(Exit::Later, message).into());
        }
        let root = ledger::spool_dir(&config.data_dir);
        if !root.is_dir() {
            return Err(no_spool(&config).into());
        }
        say(global, &format!("no relay runs; building the index of {dir} anew"));
        let owner = Owner::of(&config.data_dir);
        let ledger = progress::while_working("reading the journal", || {
            ledger::remove_index(&config).map_err(in_use)?;
            own(&config)
        })?;
        Ok(Self {
            terms: daemon::terms(&config),
            source: Source::Owned(Box::new(ledger)),
            config,
            runtime,
            _owner: Some(owner),
        })
    }

    /// Makes a change; `target` and `body` are those of the admin socket.
    pub(crate) fn change(&self, target: &str, body: Value) -> anyhow::Result<Value> {
        match &self.source {
            Source::Daemon(client) => Ok(self.runtime.block_on(client.post(target, &body)).map_err(stop)?),
            Source::Owned(ledger) => {
                let change =
                    request::change(target, body.to_string().as_bytes()).map_err(|e| ask_stop(&e))?;
                let now = crate::clock::wall();
                let made = change::apply(&ledger.spooler, change, &self.terms, None, now);
                let mut answer = self.runtime.block_on(made).map_err(|e| ask_stop(&e))?;
                presence::tell(&mut answer, None);
                Ok(answer)
            }
            Source::Directory(_) => {
                Err(Stop::new(Exit::Failed, "the directory is open for looking only").into())
            }
        }
    }

    /// Reads everything and checks it.
    pub(crate) fn verify(&self, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<Value> {
        let tell = &mut |done, of| {
            progress(done, of);
            true
        };
        match &self.source {
            Source::Daemon(client) => {
                let nothing = json!({});
                let asked = client.post_lines("/spool/verify", &nothing, |done, of| _ = tell(done, of));
                Ok(self.runtime.block_on(asked).map_err(stop)?)
            }
            Source::Directory(spool) => Ok(verify::verify(&&**spool, tell)?),
            Source::Owned(ledger) => Ok(verify::verify(&ledger.engine.handle(), tell)?),
        }
    }

    /// Copies the data directory to `dir`, an absolute path.
    pub(crate) fn backup(&mut self, dir: &Path, mut progress: impl FnMut(u64, u64)) -> anyhow::Result<Value> {
        let tell = &mut |done, of| {
            progress(done, of);
            true
        };
        let data_dir = &self.config.data_dir;
        match &mut self.source {
            Source::Daemon(client) => {
                let body = json!({ "dir": dir });
                let asked = client.post_lines("/backup", &body, |done, of| _ = tell(done, of));
                Ok(self.runtime.block_on(asked).map_err(stop)?)
            }
            Source::Directory(spool) => {
                Ok(backup::make(&mut **spool, data_dir, dir, tell).map_err(|e| ask_stop(&e))?)
            }
            Source::Owned(ledger) => {
                let mut handle = ledger.engine.handle();
                Ok(backup::make(&mut handle, data_dir, dir, tell).map_err(|e| ask_stop(&e))?)
            }
        }
    }

    /// Closes a directory that this command owned, in good order.
    pub(crate) fn close(self) -> anyhow::Result<()> {
        match self.source {
            Source::Owned(ledger) => Ok(ledger.engine.stop()?),
            Source::Daemon(_) | Source::Directory(_) => Ok(()),
        }
    }

    /// Writes the bytes a gateway gets.
    pub(crate) fn raw(&self, id: ItemId, out: &mut impl Write) -> Result<(), Unread> {
        match &self.source {
            Source::Daemon(client) => {
                let take = |piece: &[u8]| out.write_all(piece).map_err(|e| Unread::Failed(e.into()));
                let target = format!("/spool/items/{id}/raw");
                self.runtime.block_on(client.stream(&target, take))
            }
            Source::Directory(spool) => {
                let info = ask::known(spool, id)?;
                let reader = spool.reader();
                bytes::whole(&reader, &info)?;
                let mut give = |piece: &[u8]| out.write_all(piece).map_err(|e| Unread::Failed(e.into()));
                give(&info.head)?;
                for n in 0..info.chunks.len() {
                    give(&reader.chunk(&info, n).map_err(AskError::from)?)?;
                }
                Ok(())
            }
            Source::Owned(_) => {
                let refused = Stop::new(Exit::Failed, "this command changes, it does not ask");
                Err(Unread::Failed(refused.into()))
            }
        }
    }

    /// For answers from the directory: no relay runs.
    fn context(&self) -> ask::Context<'_> {
        ask::Context { now: crate::clock::wall(), terms: &self.terms, deliveries: None }
    }

    fn answer(
        &self,
        target: &str,
        directly: impl FnOnce(&Spool, &ask::Context<'_>) -> Result<Value, AskError> + Send + 'static,
    ) -> anyhow::Result<Value> {
        match &self.source {
            Source::Daemon(client) => Ok(self.runtime.block_on(client.get(target)).map_err(stop)?),
            Source::Directory(spool) => Ok(directly(spool, &self.context()).map_err(|e| ask_stop(&e))?),
            Source::Owned(ledger) => {
                let (terms, now) = (self.terms.clone(), crate::clock::wall());
                let asked = ledger.spooler.query(move |spool| {
                    directly(spool, &ask::Context { now, terms: &terms, deliveries: None })
                });
                let answer = self.runtime.block_on(asked).map_err(AskError::from).and_then(|inner| inner);
                Ok(answer.map_err(|e| ask_stop(&e))?)
            }
        }
    }

    pub(crate) fn items(&self, ask: &ItemsAsk) -> anyhow::Result<Value> {
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let target = query(&[
            ("lane", ask.lane.clone()),
            ("direction", ask.direction.clone()),
            ("state", ask.state.clone()),
            ("result", ask.result.clone()),
            ("since_ms", number(ask.since_ms)),
            ("until_ms", number(ask.until_ms)),
            ("from", ask.from.clone()),
            ("to", ask.to.clone()),
            ("address", ask.address.clone()),
            ("order", ask.order.clone()),
            ("attempts", ask.attempts.then(|| "true".to_owned())),
            ("after", ask.after.clone()),
            ("limit", ask.limit.map(|n| n.to_string())),
        ]);
        let ask = ask.clone();
        self.answer(&format!("/spool/items{target}"), move |spool, context| list::items(spool, &ask, context))
    }

    pub(crate) fn item(&self, id: ItemId) -> anyhow::Result<Value> {
        self.answer(&format!("/spool/items/{id}"), move |spool, context| ask::item(spool, id, context))
    }

    /// The relay's receipt for an item or submission.
    pub(crate) fn receipt(&self, id: ItemId) -> anyhow::Result<Value> {
        let signer = match &self.source {
            Source::Daemon(_) => None,
            Source::Directory(_) | Source::Owned(_) => signer(&self.config)?,
        };
        self.answer(&format!("/spool/items/{id}/receipt"), move |spool, context| {
            let signer = signer.as_deref().ok_or_else(keys::off)?;
            keys::receipt(signer, &ask::known(spool, id)?, context.now)
        })
    }

    pub(crate) fn explain(&self, id: ItemId) -> anyhow::Result<Value> {
        self.answer(&format!("/spool/items/{id}/explain"), move |spool, context| {
            ask::explanation(spool, id, None, context)
        })
    }

    /// What deliveries do; only the pause is known when no relay runs.
    pub(crate) fn delivery(&self) -> anyhow::Result<Value> {
        match &self.source {
            Source::Daemon(client) => Ok(self.runtime.block_on(client.get("/delivery")).map_err(stop)?),
            Source::Directory(_) | Source::Owned(_) => {
                let switch = Switch::open(&self.config.data_dir);
                Ok(deliveries::Now::look(&switch, None, crate::clock::wall()).object(false))
            }
        }
    }

    /// Throws the switch of deliveries.
    pub(crate) fn throw(&self, ask: &SwitchAsk) -> anyhow::Result<Value> {
        match &self.source {
            Source::Daemon(client) => {
                let (target, body) = match ask {
                    SwitchAsk::Pause { reason } => ("/delivery/pause", json!({ "reason": reason })),
                    SwitchAsk::Resume => ("/delivery/resume", json!({})),
                };
                Ok(self.runtime.block_on(client.post(target, &body)).map_err(stop)?)
            }
            Source::Owned(_) => {
                let switch = Switch::open(&self.config.data_dir);
                deliveries::throw(&switch, ask, crate::clock::wall()).map_err(|e| ask_stop(&e))?;
                self.delivery()
            }
            Source::Directory(_) => {
                Err(Stop::new(Exit::Failed, "the directory is open for looking only").into())
            }
        }
    }

    pub(crate) fn stats(&self) -> anyhow::Result<Value> {
        self.answer("/spool/stats", ask::stats)
    }

    pub(crate) fn mailboxes(&self, after: Option<u32>) -> anyhow::Result<Value> {
        let target = query(&[("after", after.map(|n| n.to_string()))]);
        self.answer(&format!("/mailboxes{target}"), move |spool, context| {
            let mut answer = ask::mailboxes(spool, after, None, context)?;
            presence::tell(&mut answer, None);
            Ok(answer)
        })
    }

    /// Where gateways connect, as far as the configuration tells: a proxy in front has port 443.
    pub(crate) fn tunnel_url(&self) -> String {
        let (http, host) = (&self.config.http, &self.config.hostname);
        match http.tls_listen.map(|address| address.port()) {
            Some(port) if port != 443 => format!("wss://{host}:{port}/ws"),
            None if host == "localhost" => format!("ws://{}/ws", http.listen),
            Some(_) | None => format!("wss://{host}/ws"),
        }
    }

    pub(crate) fn invitations(&self) -> anyhow::Result<Value> {
        self.answer("/invitations", change::people::list)
    }

    pub(crate) fn mailbox(&self, name: &str) -> anyhow::Result<Value> {
        let named = name.to_owned();
        self.answer(&format!("/mailboxes/{}", escape(name)), move |spool, context| {
            let mut answer = ask::mailbox(spool, &named, context)?;
            presence::tell(&mut answer, None);
            Ok(answer)
        })
    }
}

/// The signing keys of a relay that does not run; `None`: nothing is signed.
pub(crate) fn signer(config: &Config) -> anyhow::Result<Option<Arc<Signer>>> {
    if !config.attestation.enabled {
        return Ok(None);
    }
    Ok(Some(Signer::open(daemon::custody::settings(config), false, Arc::new(Metrics::new()))?))
}

/// Says who answers, on standard error, so that it never mixes with results.
fn say(global: &Global, note: &str) {
    if !global.json {
        eprintln!("{}", screen::Paint::new(global.color.on_stderr()).dim(&format!("({note})")));
    }
}

/// Opens the spool of a stopped relay without changing it.
fn open_directory(config: &Config) -> anyhow::Result<Spool> {
    let dir = ledger::spool_dir(&config.data_dir);
    if !dir.is_dir() {
        return Err(no_spool(config).into());
    }
    let disk = Arc::new(RealDisk::new(dir));
    let (spool, _) = Spool::open_read_only(disk, ledger::options(config), crate::clock::wall())
        .map_err(|e| ask_stop(&AskError::Spool(e)))?;
    Ok(spool)
}

fn no_spool(config: &Config) -> Stop {
    let message = format!(
        "there is no spool in {}; name the relay's directory with --data-dir or --config",
        config.data_dir.display()
    );
    Stop::new(Exit::Failed, message)
}

/// Owns the directory for the length of this command.
fn own(config: &Config) -> anyhow::Result<Ledger> {
    ledger::open(config, Arc::new(Metrics::new()), CancellationToken::new()).map_err(in_use)
}

/// A directory that somebody else owns may be free later.
fn in_use(error: LedgerError) -> anyhow::Error {
    match error {
        LedgerError::InUse { .. } => Stop::new(Exit::Later, error.to_string()).into(),
        LedgerError::Directory { .. } | LedgerError::Spool { .. } | LedgerError::LongSocket { .. } => {
            error.into()
        }
    }
}

/// One thread is plenty for one command.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// A refusal of the daemon with the exit code that fits it.
pub(crate) fn stop(error: ClientError) -> Stop {
    let exit = match &error {
        ClientError::Refused { status: 404, .. } => Exit::Nothing,
        ClientError::Refused { status: 400, .. } => Exit::Usage,
        ClientError::Refused { status: 503, .. } => Exit::Later,
        ClientError::Refused { .. } | ClientError::Socket { .. } | ClientError::Broken(_) => Exit::Failed,
    };
    Stop::new(exit, error.to_string())
}

/// The same for answers from the directory.
pub(crate) fn ask_stop(error: &AskError) -> Stop {
    let exit = match error {
        AskError::NotFound(_) => Exit::Nothing,
        AskError::Bad(_) => Exit::Usage,
        AskError::Conflict(_) => Exit::Failed,
        AskError::Busy(_) | AskError::Spool(SpoolError::Locked) => Exit::Later,
        AskError::Spool(_) => Exit::Failed,
    };
    Stop::new(exit, error.to_string())
}
