//! Debian's OpenSMTPD, which cannot be installed beside Postfix: unpacked under `target/peers` and run in a mount
//! namespace of its own, where the users and directories that it insists on exist.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{is_root, maildir_new, open_to_all};

/// Mail domain that it delivers into a Maildir.
pub(crate) const DOMAIN: &str = "opensmtpd.test";

/// What it needs of a system, made where nobody else sees it. Arguments: the unpacked package, our directory.
const SCRIPT: &str = r#"
set -e
mount --make-rprivate /
cp /etc/passwd "$2/passwd"; cp /etc/group "$2/group"
printf 'opensmtpd:x:64990:64990::/var/lib/opensmtpd/empty:/usr/sbin/nologin\n' >> "$2/passwd"
printf 'opensmtpq:x:64991:64991::/var/lib/opensmtpd/empty:/usr/sbin/nologin\n' >> "$2/passwd"
printf 'keeper:x:64992:64992::%s/home:/bin/sh\n' "$2" >> "$2/passwd"
printf 'opensmtpd:x:64990:\nopensmtpq:x:64991:\nkeeper:x:64992:\n' >> "$2/group"
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/group" /etc/group
mkdir "$2/home"
chown 64992:64992 "$2/home"
for place in /var/lib /var/spool /run /usr/libexec; do mount -t tmpfs none "$place"; done
mkdir -m 755 -p /var/lib/opensmtpd/empty
mkdir -m 711 /var/spool/smtpd
cp -r "$1/usr/libexec/opensmtpd" /usr/libexec/
exec "$1/usr/sbin/smtpd" -d -f "$2/smtpd.conf"
"#;

/// Running until dropped.
pub(crate) struct OpenSmtpd {
    child: Child,
    directory: tempfile::TempDir,
}

/// Where `tests/run` unpacks it.
fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/opensmtpd")
}

impl OpenSmtpd {
    /// Receives at `address` for [`DOMAIN`].
    pub(crate) async fn receiving_at(address: SocketAddr) -> Option<Self> {
        let unpacked = unpacked();
        if !unpacked.join("usr/sbin/smtpd").is_file() {
            eprintln!("SKIPPED: opensmtpd is not unpacked in {}", unpacked.display());
            return None;
        }
        if !is_root("opensmtpd").await {
            return None;
        }
        if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: opensmtpd needs a mount namespace, and none is to be had");
            return None;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        open_to_all(directory.path());
        let config = format!(
            "listen on {} port {} hostname mx.{DOMAIN}\n\
             action \"keep\" maildir \"{}/home/Maildir\" virtual {{ \"@{DOMAIN}\" = \"keeper\" }}\n\
             match from any for domain \"{DOMAIN}\" action \"keep\"\n",
            address.ip(),
            address.port(),
            directory.path().display()
        );
        std::fs::write(directory.path().join("smtpd.conf"), config).expect("written");
        let log = std::fs::File::create(directory.path().join("log")).expect("log");
        let child = Command::new("unshare")
            .args(["-m", "sh", "-c", SCRIPT, "opensmtpd"])
            .arg(unpacked)
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("unshare starts");
        let this = Self { child, directory };
        super::super::until("opensmtpd listens", || std::net::TcpStream::connect(address).is_ok()).await;
        Some(this)
    }

    /// What it has delivered: whole files, with the fields that it adds.
    pub(crate) fn delivered(&self) -> Vec<Vec<u8>> {
        maildir_new(&self.directory.path().join("home/Maildir"))
    }
}

impl Drop for OpenSmtpd {
    fn drop(&mut self) {
        // Its other processes end when the pipe to this one breaks.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
