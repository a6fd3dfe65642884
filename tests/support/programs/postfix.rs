//! A Postfix of our own in a temporary directory: own queue, own configuration, nothing of the system's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{is_root, open_to_all, program, run};

/// Mail domain that a receiving one delivers into a Maildir.
pub(crate) const DOMAIN: &str = "postfix.test";

/// Running until [`Postfix::stop`].
pub(crate) struct Postfix {
    postfix: PathBuf,
    config: PathBuf,
    directory: tempfile::TempDir,
}

/// Daemons of every instance; none listens.
const SERVICES: [&str; 18] = [
    "pickup unix n - n 1 1 pickup",
    "cleanup unix n - n - 0 cleanup",
    "qmgr unix n - n 1 1 qmgr",
    "rewrite unix - - n - - trivial-rewrite",
    "bounce unix - - n - 0 bounce",
    "defer unix - - n - 0 bounce",
    "trace unix - - n - 0 bounce",
    "verify unix - - n - 1 verify",
    "smtp unix - - n - - smtp",
    "relay unix - - n - - smtp",
    "error unix - - n - - error",
    "retry unix - - n - - error",
    "discard unix - - n - - discard",
    "local unix - n n - - local",
    "showq unix n - n - - showq",
    "anvil unix - - n - 1 anvil",
    "scache unix - - n - 1 scache",
    "postlog unix-dgram n - n - 1 postlogd",
];

impl Postfix {
    /// Sends everything to one port of loopback and tries again each second. `None` when it is not installed, or we may
    /// not run it (its master needs root).
    pub(crate) async fn sending_to(port: u16) -> Option<Self> {
        let main = format!(
            "relayhost = [127.0.0.1]:{port}\nsmtp_tls_security_level = none\nminimal_backoff_time = 1s\n\
             maximal_backoff_time = 1s\nqueue_run_delay = 1s\n"
        );
        Self::start(|_| main, &[]).await
    }

    /// Receives at `address` for [`DOMAIN`], with STARTTLS when `tls` gives it a certificate and a key (PEM). Its recipient
    /// `bad` does not exist, and `later` is to be tried later.
    pub(crate) async fn receiving_at(address: SocketAddr, tls: &str) -> Option<Self> {
        let smtpd = format!("{address} inet n - n - - smtpd");
        let main = |root: &Path| {
            std::fs::write(root.join("config/tls.pem"), tls).expect("written");
            let root = root.display();
            format!(
                "virtual_mailbox_domains = {DOMAIN}\nvirtual_mailbox_base = {root}/mail\n\
                 virtual_mailbox_maps = static:box/\nvirtual_uid_maps = static:65534\n\
                 virtual_gid_maps = static:65534\nsmtpd_relay_restrictions = reject_unauth_destination\n\
                 smtpd_recipient_restrictions = check_recipient_access inline:{{ {{ bad@{DOMAIN} = 550 5.1.1 none here }}, \
                 {{ later@{DOMAIN} = 450 4.2.0 come later }} }}\nsmtpd_tls_security_level = may\nsmtpd_tls_loglevel = 1\n\
                 smtpd_tls_chain_files = {root}/config/tls.pem\nsmtpd_peername_lookup = no\n"
            )
        };
        Self::start(main, &[&smtpd, "virtual unix - n n - - virtual", "tlsmgr unix - - n 1000? 1 tlsmgr"])
            .await
    }

    /// With these lines of `main.cf` (made when its directory is known) and `master.cf`.
    pub(crate) async fn start(main: impl FnOnce(&Path) -> String, services: &[&str]) -> Option<Self> {
        let postfix = program("postfix")?;
        if !is_root("postfix").await {
            return None;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        // Its daemons run as other users and must be able to get in.
        open_to_all(directory.path());
        let config = directory.path().join("config");
        for name in ["config", "queue", "data", "mail"] {
            std::fs::create_dir(directory.path().join(name)).expect("directory");
            open_to_all(&directory.path().join(name));
        }
        run(Command::new("chown").arg("postfix").arg(directory.path().join("data")), b"").await;
        run(Command::new("chown").arg("65534:65534").arg(directory.path().join("mail")), b"").await;
        let root = directory.path().display();
        let common = format!(
            "compatibility_level = 3.6\nqueue_directory = {root}/queue\ndata_directory = {root}/data\n\
             mail_owner = postfix\nmyhostname = postfix.client.example\nmydestination =\n\
             inet_interfaces = all\ninet_protocols = ipv4\nalias_maps =\nalias_database =\n\
             local_recipient_maps =\nsmtp_host_lookup = native\nmaillog_file = {root}/log\n\
             maillog_file_prefixes = {root}\n"
        );
        std::fs::write(config.join("main.cf"), common + &main(directory.path())).expect("main.cf");
        let services = [&SERVICES[..], services].concat();
        std::fs::write(config.join("master.cf"), services.join("\n") + "\n").expect("master.cf");
        let this = Self { postfix, config, directory };
        this.control("start").await;
        Some(this)
    }

    /// `postfix VERB` for this instance.
    pub(crate) async fn control(&self, verb: &str) -> String {
        run(Command::new(&self.postfix).arg("-c").arg(&self.config).arg(verb), b"").await
    }

    /// Hands it a message as a local program would.
    pub(crate) async fn submit(&self, to: &[&str], message: &str) {
        let Some(sendmail) = program("sendmail") else { panic!("postfix without sendmail") };
        let mut command = Command::new(sendmail);
        command.arg("-C").arg(&self.config).args(["-f", "a@client.example", "-i", "--"]).args(to);
        run(&mut command, message.as_bytes()).await;
    }

    /// What it has delivered locally: whole files, with the fields that it adds.
    pub(crate) fn delivered(&self) -> Vec<Vec<u8>> {
        super::maildir_new(&self.directory.path().join("mail/box"))
    }

    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub(crate) async fn stop(self) {
        self.control("stop").await;
    }
}
