//! PURE: every key of the configuration, once: its path, its kind, its default and its reason.
//!
//! The commented example `config/waystation.toml` is written from this table, unknown keys are found by it,
//! and environment variables are typed by it, so none of them can drift from what the daemon uses.

/// What a key holds, and how far it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number between the two, inclusive.
    Whole(u64, u64),
    /// Any text.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of texts.
    List,
    /// A list of whole numbers between the two, inclusive.
    Wholes(u64, u64),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    /// Dotted path, `smtp.listen`.
    pub(super) path: &'static str,
    /// What it holds.
    pub(super) kind: Kind,
    /// The default, spelled as in the file.
    pub(super) default: &'static str,
    /// Why it exists, for the person editing the file.
    pub(super) help: &'static str,
}

const fn key(path: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Key {
    Key { path, kind, default, help }
}

/// One day, seconds.
const DAY: u64 = 86_400;
/// Longest retention that may be asked for: ten years, seconds.
const TEN_YEARS: u64 = 3650 * DAY;
/// Largest message that may be configured: 2 GiB less one byte, what SIZE of every known sender can express.
const MESSAGE_BYTES_MAX: u64 = (1 << 31) - 1;
/// Largest quota that may be configured: the positive half of 64 bits.
const BYTES_MAX: u64 = i64::MAX as u64;

/// Every key, in the order of the example file.
pub(super) const KEYS: &[Key] = &[
    key(
        "data_dir",
        Kind::Text,
        "\"./waystation-data\"",
        "Spool, index and admin socket live here, mode 0700. The packaged unit uses /var/lib/waystation.",
    ),
    key(
        "hostname",
        Kind::Text,
        "\"localhost\"",
        "The name of this relay in its greeting, in EHLO answers and in Received fields.",
    ),
    key("domains", Kind::List, "[\"mail.localhost\"]", "Domains this relay accepts mail for."),
    key(
        "postmaster",
        Kind::Text,
        "\"\"",
        "Address or key text that gets mail for postmaster. Empty: kept in the lane `operator`.",
    ),
    key(
        "http.listen",
        Kind::Text,
        "\"127.0.0.1:8080\"",
        "Address of /ws, /health, /ready and /metrics. Plain HTTP: put a TLS proxy in front of it.",
    ),
    key(
        "http.trusted_proxies",
        Kind::List,
        "[\"127.0.0.1/32\", \"::1/128\"]",
        "Networks whose X-Forwarded-For is believed, so that rate limits see the real client.",
    ),
    key("smtp.enabled", Kind::Bool, "true", "Accept mail by SMTP."),
    key(
        "smtp.listen",
        Kind::List,
        "[\"127.0.0.1:2526\"]",
        "Addresses of the SMTP listener; a public relay uses port 25.",
    ),
    key(
        "smtp.max_message_bytes",
        Kind::Whole(1024, MESSAGE_BYTES_MAX),
        "26214400",
        "Largest message; larger ones get 552. Announced with SIZE.",
    ),
    key(
        "smtp.max_recipients",
        Kind::Whole(1, 1000),
        "100",
        "Most recipients of one message; the next ones get 452. Announced with LIMITS.",
    ),
    key(
        "smtp.max_connections",
        Kind::Whole(1, 100_000),
        "1000",
        "Most SMTP connections at a time; further ones get 421.",
    ),
    key(
        "smtp.command_timeout_seconds",
        Kind::Whole(10, 3600),
        "300",
        "How long a silent client is kept (RFC 5321 section 4.5.3.2.7 asks for 300).",
    ),
    key(
        "smtp.on_stray_line_ending",
        Kind::Word(&["reject", "normalize"]),
        "\"reject\"",
        "What happens to messages with a bare CR or LF: reject refuses them; normalize repairs those from smtp.normalize_networks and refuses the others.",
    ),
    key(
        "smtp.normalize_networks",
        Kind::List,
        "[]",
        "Networks of old machines of yours whose stray line ends are repaired when the key above says normalize.",
    ),
    key(
        "tunnel.challenge_ttl_seconds",
        Kind::Whole(5, 600),
        "60",
        "How long a login challenge may be answered.",
    ),
    key(
        "tunnel.heartbeat_interval_seconds",
        Kind::Whole(1, 3600),
        "30",
        "A ping goes to a gateway that said nothing for so long.",
    ),
    key(
        "tunnel.idle_timeout_seconds",
        Kind::Whole(2, 7200),
        "120",
        "A gateway that says nothing for so long, not even pong, is taken for dead.",
    ),
    key(
        "tunnel.unacked_items_max",
        Kind::Whole(1, 4096),
        "64",
        "Most items on their way to one gateway without an ack.",
    ),
    key(
        "tunnel.unacked_bytes_max",
        Kind::Whole(65_536, 1 << 32),
        "16777216",
        "Most bytes on their way to one gateway without an ack; one larger item goes alone.",
    ),
    key(
        "tunnel.legacy_unacked_items_max",
        Kind::Whole(1, 64),
        "4",
        "The same for gateways of tunnel 1, which may see these twice when the line drops.",
    ),
    key(
        "admission.mode",
        Kind::Word(&["open", "allowlist"]),
        "\"open\"",
        "open: a first proof of key possession registers the key. allowlist: only keys added with `waystation mailbox add`.",
    ),
    key(
        "admission.mailbox_items_max",
        Kind::Whole(1, BYTES_MAX),
        "100000",
        "Most undelivered items of one mailbox; then senders get 452.",
    ),
    key(
        "admission.mailbox_bytes_max",
        Kind::Whole(1024, BYTES_MAX),
        "10737418240",
        "Most undelivered bytes of one mailbox; then senders get 452.",
    ),
    key(
        "delivery.dns_servers",
        Kind::List,
        "[]",
        "Resolvers for every look-up, like \"127.0.0.1:53\". Empty: those of the system. DANE needs one that validates.",
    ),
    key(
        "delivery.port",
        Kind::Whole(1, 65_535),
        "25",
        "Port of other mail servers. Anything but 25 is for tests.",
    ),
    key(
        "delivery.source_addresses",
        Kind::List,
        "[]",
        "Addresses of this machine that mail leaves from, at most one of each family. Empty: the system chooses.",
    ),
    key(
        "delivery.smarthost",
        Kind::Text,
        "\"\"",
        "Send everything to this \"host:port\" instead of asking DNS for the recipient's servers.",
    ),
    key(
        "delivery.retry_schedule_seconds",
        Kind::Wholes(1, 30 * DAY),
        "[60, 300, 900, 1800, 3600, 7200, 14400]",
        "Waits after attempts that did not help; the last repeats. Each grows by up to a tenth, by chance.",
    ),
    key(
        "delivery.greylist_wait_seconds",
        Kind::Whole(0, DAY),
        "60",
        "Least wait after a server asked us to come back later for a recipient.",
    ),
    key(
        "delivery.expire_after_seconds",
        Kind::Whole(1, 30 * DAY),
        "432000",
        "What nobody took in this time has failed. RFC 5321 section 4.5.4.1 asks for four to five days.",
    ),
    key(
        "delivery.final_dot_timeout_seconds",
        Kind::Whole(1, 7200),
        "600",
        "How long a server may take to answer a whole message. Shorter waits make results indeterminate.",
    ),
    key(
        "delivery.timeouts_percent",
        Kind::Whole(1, 1000),
        "100",
        "Scales every other wait for a server (RFC 5321 section 4.5.3.2). Anything but 100 is for tests.",
    ),
    key("delivery.max_concurrent_total", Kind::Whole(1, 10_000), "200", "Most deliveries at a time."),
    key(
        "delivery.max_concurrent_per_destination",
        Kind::Whole(1, 1000),
        "10",
        "Most deliveries at a time to one recipient domain; it begins with one and earns the others.",
    ),
    key(
        "delivery.interval_per_destination_ms",
        Kind::Whole(0, 3_600_000),
        "0",
        "Least time between the starts of two deliveries to one recipient domain.",
    ),
    key(
        "delivery.allow_private_targets",
        Kind::Bool,
        "false",
        "Deliver to loopback and private addresses too: for tests and smarthosts at home.",
    ),
    key(
        "delivery.resubmission_window_seconds",
        Kind::Whole(0, DAY),
        "120",
        "Gateways that cannot name their submissions may repeat one within this time and get the first result.",
    ),
    key(
        "delivery.tls_policy",
        Kind::Word(&["opportunistic", "dane+mta-sts", "require"]),
        "\"opportunistic\"",
        "opportunistic: TLS when it is offered. dane+mta-sts: also what the recipient's domain asks for. require: a proven certificate or no delivery.",
    ),
    key(
        "delivery.require_tls_domains",
        Kind::List,
        "[]",
        "Recipient domains for which tls_policy is require, whatever it is for others.",
    ),
    key("dkim.enabled", Kind::Bool, "false", "Sign outgoing mail."),
    key(
        "dkim.domain",
        Kind::Text,
        "\"\"",
        "Signing domain, for it and all below it. Empty: the first of `domains`.",
    ),
    key(
        "dkim.selector",
        Kind::Text,
        "\"default\"",
        "Name of the key record: SELECTOR._domainkey.DOMAIN; the Ed25519 one is SELECTOR-ed25519.",
    ),
    key(
        "dkim.rsa_key_file",
        Kind::Text,
        "\"\"",
        "RSA private key, PEM, 2048 bits or more. `waystation keys dkim` makes one.",
    ),
    key(
        "dkim.ed25519_key_file",
        Kind::Text,
        "\"\"",
        "Ed25519 private key, PEM, for a second signature (RFC 8463). Not every receiver knows it, so RSA is needed too.",
    ),
    key(
        "dkim.sign_headers",
        Kind::List,
        "[\"From\", \"To\", \"Subject\", \"Date\", \"Message-ID\", \"Sender\", \"Reply-To\", \"Cc\", \"In-Reply-To\", \"References\", \"Auto-Submitted\", \"MIME-Version\", \"Content-Type\", \"Content-Transfer-Encoding\", \"Content-Disposition\", \"List-Unsubscribe\", \"List-Unsubscribe-Post\"]",
        "Header fields that are signed when they are there.",
    ),
    key(
        "dkim.oversign_headers",
        Kind::List,
        "[\"From\", \"Subject\", \"To\", \"Date\"]",
        "Header fields nobody can add afterwards without breaking the signature.",
    ),
    key("limits.enabled", Kind::Bool, "true", "Rate limits."),
    key(
        "limits.smtp_connections_per_minute_per_ip",
        Kind::Whole(1, 1_000_000),
        "60",
        "SMTP connections; further ones get 421 in place of the greeting.",
    ),
    key(
        "limits.smtp_messages_per_minute_per_ip",
        Kind::Whole(1, 1_000_000),
        "30",
        "Messages; further ones get 451.",
    ),
    key(
        "limits.ws_auth_attempts_per_minute_per_ip",
        Kind::Whole(1, 1_000_000),
        "20",
        "Tunnel logins; further ones get `rate_limited` and close code 4408.",
    ),
    key(
        "limits.deny_window_seconds",
        Kind::Whole(1, DAY),
        "300",
        "How long an address that went over a limit is refused.",
    ),
    key(
        "limits.outbound_messages_per_hour_per_mailbox",
        Kind::Whole(1, 10_000_000),
        "500",
        "Submissions of one mailbox; further ones fail with that reason.",
    ),
    key(
        "limits.outbound_recipients_per_day_per_mailbox",
        Kind::Whole(1, 100_000_000),
        "2000",
        "Recipients outside this relay that one mailbox may write to; further ones fail with that reason.",
    ),
    key(
        "spool.retain_acked_seconds",
        Kind::Whole(0, TEN_YEARS),
        "604800",
        "Delivered items stay so long, so that they can be replayed.",
    ),
    key(
        "spool.retain_results_seconds",
        Kind::Whole(60, TEN_YEARS),
        "2592000",
        "Submissions and their results stay so long after they were settled.",
    ),
    key(
        "spool.expire_undelivered_seconds",
        Kind::Whole(60, TEN_YEARS),
        "2592000",
        "Items that no gateway fetched in this time expire.",
    ),
    key(
        "spool.min_free_bytes",
        Kind::Whole(0, BYTES_MAX),
        "1073741824",
        "Below this much free space senders get 452, while acks can still be written.",
    ),
    key(
        "admin.socket",
        Kind::Text,
        "\"\"",
        "Path of the admin socket, mode 0600. Empty: DATA_DIR/admin.sock.",
    ),
    key(
        "log.format",
        Kind::Word(&["text", "json"]),
        "\"text\"",
        "text: one readable line per event. json: one object per line.",
    ),
    key(
        "log.level",
        Kind::Text,
        "\"info\"",
        "error, warn, info, debug or trace, or directives like \"info,waystation::tunnel=debug\".",
    ),
    key("metrics.enabled", Kind::Bool, "true", "Serve /metrics."),
];

/// The key of that path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// Whether `path` names a table like `smtp`.
pub(super) fn is_table(path: &str) -> bool {
    KEYS.iter().any(|k| k.path.split_once('.').is_some_and(|(table, _)| table == path))
}

/// The known key or table that looks most like `path`, if any does.
pub(super) fn nearest(path: &str) -> Option<&'static str> {
    /// Below this likeness (0 to 1) a suggestion would only confuse.
    const LIKENESS_MIN: f64 = 0.75;
    let leaf = path.rsplit('.').next().unwrap_or(path);
    let tables = KEYS.iter().filter_map(|k| k.path.split_once('.').map(|(table, _)| table));
    KEYS.iter()
        .map(|k| k.path)
        .chain(tables)
        .map(|known| {
            let known_leaf = known.rsplit('.').next().unwrap_or(known);
            // A key put into the wrong table has the right leaf; a misspelt one is close as a whole.
            let in_other_table = if known_leaf == leaf { 0.9 } else { 0.0 };
            (known, strsim::jaro_winkler(known, path).max(in_other_table))
        })
        .filter(|(_, likeness)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(known, _)| known)
}

/// The example file: every key with its default and reason, all commented out but the tables.
#[must_use]
pub fn example() -> String {
    let mut text = String::from(
        "# Waystation configuration. Every key with its default; remove the `#` to change one.\n\
         # Any key can also be set by environment: WAYSTATION_SMTP__MAX_RECIPIENTS=10, lists with commas.\n\
         # Order: defaults < this file < environment < flags. Check with `waystation check-config FILE`.\n",
    );
    let mut table = "";
    for key in KEYS {
        let (of, leaf) = key.path.split_once('.').unwrap_or(("", key.path));
        if of != table {
            table = of;
            text.push_str(&format!("\n[{table}]\n"));
        } else if table.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("# {}\n#{leaf} = {}\n", key.help, key.default));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_keys_get_the_right_suggestion() {
        assert_eq!(nearest("smtp.max_recipient"), Some("smtp.max_recipients"));
        assert_eq!(nearest("smpt"), Some("smtp"));
        assert_eq!(nearest("domain"), Some("domains"));
        assert_eq!(nearest("http.max_connections"), Some("smtp.max_connections"));
        assert_eq!(nearest("qqqqq"), None);
    }

    #[test]
    fn tables_stay_together_in_the_example() {
        let text = example();
        for table in [
            "http",
            "smtp",
            "tunnel",
            "admission",
            "delivery",
            "dkim",
            "limits",
            "spool",
            "admin",
            "log",
            "metrics",
        ] {
            assert_eq!(text.matches(&format!("\n[{table}]\n")).count(), 1, "{table}");
        }
    }
}
