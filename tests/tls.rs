//! TLS of our own listeners, with real sockets and real peers: rules J1 to J11, U2.

mod https;
mod peers;
mod sessions;
mod table;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::process::Command;
use waystation::observe::{Metrics, TlsListener};
use waystation::tls::Store;
use waystation::tls::handshake::Handshakes;

use crate::support::programs::{open_to_all, program, try_run};
use crate::support::relay::{MailRelay, Plan};

/// Name in every certificate here.
const HOST: &str = "mx.our.example";

/// An authority, and a certificate of it in files.
pub(crate) struct Pki {
    authority: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let key = KeyPair::generate().expect("key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("certificate");
        let this = Self { authority, dir: tempfile::tempdir().expect("temporary directory") };
        open_to_all(this.dir.path()); // other programs run as other users
        std::fs::write(this.ca(), this.authority.pem()).expect("written");
        this.renew();
        this
    }

    /// A new certificate with a new key, in place of the old one; the chain's text.
    fn renew(&self) -> String {
        let key = KeyPair::generate().expect("key");
        let names = vec![HOST.to_owned(), "localhost".to_owned()];
        let params = CertificateParams::new(names).expect("parameters");
        let chain =
            params.signed_by(&key, &self.authority).expect("certificate").pem() + &self.authority.pem();
        for (path, text) in [(self.chain(), chain.clone()), (self.key(), key.serialize_pem())] {
            let fresh = self.dir.path().join("fresh");
            std::fs::write(&fresh, text).expect("written");
            std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).expect("permissions");
            std::fs::rename(fresh, path).expect("renamed");
        }
        chain
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn chain(&self) -> PathBuf {
        self.dir.path().join("chain.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    fn install(&self, store: &Store) {
        let read = |path| std::fs::read(path).expect("read");
        store.install(&read(self.chain()), &read(self.key())).expect("installed");
    }

    /// A relay that offers STARTTLS, and what it shows.
    async fn relay(&self, change: impl FnOnce(&mut Plan)) -> (MailRelay, Arc<Store>) {
        let store = Store::new();
        self.install(&store);
        let tls = Handshakes::new(&store, TlsListener::Smtp, Arc::new(Metrics::new())).expect("TLS");
        let relay = MailRelay::start_with(|plan| {
            plan.intake.tls = Some(tls);
            change(plan);
        });
        (relay.await, store)
    }

    /// `openssl s_client` towards `to`, with `input` typed after the handshake; whether it ended well, and all it said.
    /// `None`: not installed.
    async fn s_client(&self, to: SocketAddr, args: &[&str], input: &[u8]) -> Option<(bool, String)> {
        let mut command = Command::new(program("openssl")?);
        command.args(["s_client", "-connect", &to.to_string(), "-servername", HOST, "-verify_return_error"]);
        command.arg("-CAfile").arg(self.ca()).args(args);
        Some(try_run(&mut command, input).await)
    }
}
