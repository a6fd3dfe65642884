//! The configuration file that `gateway bootstrap` writes: every key with its default and its reason.
//!
//! Promises: reads back as the defaults, and so does each line once uncommented (the tests of [`super`] hold it to that).

use crate::gateway::keyring::Pin;

/// A complete, commented configuration for a relay and a Maildir; all other keys stand commented with their defaults.
#[must_use]
pub fn sample(relay_url: &str, mail_domain: &str, maildir: &str) -> String {
    sample_with(relay_url, mail_domain, maildir, None, &[], &[])
}

/// [`sample`], with a private CA, further addresses and pinned keys.
#[must_use]
pub fn sample_with(
    relay_url: &str,
    mail_domain: &str,
    maildir: &str,
    extra_ca_file: Option<&str>,
    aliases: &[String],
    pins: &[Pin],
) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = aliases.iter().map(|alias| quoted(alias)).collect::<Vec<_>>().join(", ");
    let aliases = format!("{}aliases = [{list}]", if aliases.is_empty() { "#" } else { "" });
    let extra_ca_file = format!(
        "{}extra_ca_file = {}",
        if extra_ca_file.is_none() { "#" } else { "" },
        extra_ca_file.map_or_else(|| "\"\"".to_owned(), quoted)
    );
    let pins = match pins {
        [] => "#[[relay_keys]]\n#key_id = \"relay-1\"\n#public_key = \"\"\n".to_owned(),
        pins => pins.iter().map(Pin::toml).collect::<Vec<_>>().join("\n"),
    };
    let (relay_url, mail_domain, maildir) = (quoted(relay_url), quoted(mail_domain), quoted(maildir));
    format!(
        r#"# A waystation gateway. Relative paths are relative to this file.

# The relay's tunnel: wss://HOST/ws, or ws:// on loopback and inside private networks.
relay_url = {relay_url}

# Domain of the address; shown by `gateway status`. The relay decides what it accepts mail for.
mail_domain = {mail_domain}

# Further addresses to send as. The relay must know them too (`waystation mailbox alias`), or it refuses the mail.
{aliases}

# The gateway's identity (PKCS#8 PEM, Ed25519). Whoever has this file is this gateway: keep it, and keep it private.
key_file = "passport.key"

# Outbox, memory of delivered messages, lock, messages being received. One directory per key.
data_dir = "state"

# The name the relay has for itself (its `hostname`), if it is not the host in relay_url. Its challenges must carry it,
# so that another relay cannot pass them on to us.
#relay_name = ""

# Take a relay that speaks tunnel 1 only. It cannot be acked: what it has sent it has forgotten.
#allow_tunnel_1 = false

# Where `gateway status` asks; empty: gateway.sock in data_dir.
#status_socket = ""

# PEM file with certificates to trust besides the built-in ones, for a relay with a private CA.
{extra_ca_file}

# How much the relay may send before we ack.
#unacked_items_max = 64
#unacked_bytes_max = 16777216

# Larger messages stay at the relay, on hold.
#max_message_bytes = 104857600

# Delay before a new connection: doubles from base to max, with jitter.
#reconnect_base_delay_ms = 500
#reconnect_max_delay_ms = 16000

# Longest login; distance of our pings; silence after which the relay counts as gone.
#handshake_timeout_seconds = 30
#heartbeat_interval_seconds = 30
#idle_timeout_seconds = 90

# error, warn, info, debug or trace
#log_level = "info"

# Where the mail goes: exactly one of the four tables.

[maildir]
path = {maildir}

#[lmtp]
#address = "unix:/run/dovecot/lmtp"     # or "127.0.0.1:24"
#recipient = ""                         # local mailbox, if the server does not know the envelope's recipient
#timeout_seconds = 300

#[command]
## Message on stdin. Exit 0: taken; 75: later; else refused. {{mail_from}}, {{rcpt_to}}, {{item_id}}, {{size_bytes}} are
## replaced; the same in WAYSTATION_MAIL_FROM, _RCPT_TO, _ITEM_ID, _SIZE_BYTES.
#argv = ["/usr/bin/procmail", "-t"]
#timeout_seconds = 300

#[webhook]
#url = "https://example.org/in"         # POST, message/rfc822, envelope in X-Waystation-* fields
#bearer_token_file = ""
#timeout_seconds = 300

# The relay's keys. What it says of a message's sender, and its receipts, count when one of them signed; a key that one of
# them endorsed is believed too. `waystation keys attestation --show` on the relay prints them. Several tables may stand
# here; without one nothing is verified.

{pins}
# Mail out. `waystation gateway send` needs none of this.

#[submission]
#listen = ""                            # 127.0.0.1:2525 takes mail from local programs by SMTP; empty: no server
#allow_remote = false                   # whoever can connect may send as this gateway
#max_message_bytes = 26214400
#max_recipients = 100                   # each is a copy in the outbox

#[outbox]
#expire_after_seconds = 432000          # mail that the relay could not be given for that long comes back
#retain_results_seconds = 2592000       # how long `gateway status` can tell what became of a submission
#min_free_bytes = 67108864              # no mail is taken when the disk has less
"#
    )
}
