//! DANE against zones with real signatures (rows S6 to S8).
//!
//! bind9 signs and serves a root, `test.` and three domains below it; unbound stands in between as the local name
//! server of a relay, validating with the root's key or not. Skipped, with a line that says so, where the tools are not installed.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::*;

/// How long the name servers may take until they answer.
const START_PATIENCE: Duration = Duration::from_secs(60);
const TOOLS: [&str; 4] = ["named", "unbound", "dnssec-keygen", "dnssec-signzone"];

/// Domains and what happens there; `DIGEST` and `FORGED` stand for 64 hexadecimal digits.
const GOOD: &str = "
@       IN MX 10 mx
mx      IN A 127.0.0.2
_2525._tcp.mx     IN TLSA 3 1 1 DIGEST
roll    IN MX 10 mxroll
mxroll  IN A 127.0.0.2
_2525._tcp.mxroll IN TLSA 3 1 1 DIGEST
_2525._tcp.mxroll IN TLSA 2 0 1 DIGEST
pkix    IN MX 10 mxpkix
mxpkix  IN A 127.0.0.2
_2525._tcp.mxpkix IN TLSA 1 0 1 DIGEST
none    IN MX 10 mxnone
mxnone  IN A 127.0.0.2
        IN AAAA ::1
cname   IN MX 10 alias
alias   IN CNAME mx
far     IN MX 10 mx.plain.test.
bad     IN MX 10 mx.broken.test.
forged  IN MX 10 mxforged
mxforged IN A 127.0.0.2
_2525._tcp.mxforged IN TLSA 3 1 1 FORGED
bare    IN A 127.0.0.2
_2525._tcp.bare   IN TLSA 3 1 1 DIGEST
empty   IN TXT \"hello\"
*.wild  IN MX 10 mx
zzz     IN A 127.0.0.2
";
const OTHER: &str = "
@       IN MX 10 mx
mx      IN A 127.0.0.3
_2525._tcp.mx     IN TLSA 3 1 1 DIGEST
";

/// Runs until it is dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Signed {
    _servers: [Server; 2],
    _zones: tempfile::TempDir,
    address: SocketAddr,
}

fn installed(tool: &str) -> bool {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let known = std::env::split_paths(&dirs).chain(["/usr/sbin".into(), "/sbin".into()]);
    known.into_iter().any(|dir| dir.join(tool).exists())
}

fn command(tool: &str, dir: &Path) -> Command {
    let mut command = Command::new(tool);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).current_dir(dir).stdin(Stdio::null());
    command
}

fn run(tool: &str, dir: &Path, arguments: &[&str]) -> String {
    let output = command(tool, dir).args(arguments).output().unwrap();
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Free for both protocols: a name server that gets one only does not start.
fn port() -> u16 {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Writes, signs and names the zone; returns the text of its key-signing key.
fn sign(dir: &Path, zone: &str, file: &str, content: &str) -> String {
    let head = "$TTL 60\n@ IN SOA ns.test. root.test. 1 3600 600 86400 60\n@ IN NS ns.test.\n";
    std::fs::write(dir.join(file), format!("{head}{content}")).unwrap();
    let key = run("dnssec-keygen", dir, &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", zone]);
    run("dnssec-keygen", dir, &["-q", "-a", "ECDSAP256SHA256", zone]);
    run("dnssec-signzone", dir, &["-q", "-S", "-o", zone, "-f", &format!("{file}.signed"), file]);
    let key = std::fs::read_to_string(dir.join(format!("{key}.key"))).unwrap();
    key.lines().filter(|line| !line.starts_with(';')).collect()
}

impl Signed {
    fn start(validating: bool) -> Option<Self> {
        if let Some(missing) = TOOLS.iter().find(|tool| !installed(tool)) {
            println!("SKIPPED: {missing} is not installed, so nothing was shown about DNSSEC and DANE");
            return None;
        }
        let zones = tempfile::tempdir().unwrap();
        let dir = zones.path();
        let (digest, forged) = ("ab".repeat(32), "cd".repeat(32));
        let fill = |text: &str| text.replace("DIGEST", &digest).replace("FORGED", &forged);
        sign(dir, "good.test", "good", &fill(GOOD));
        let text = std::fs::read_to_string(dir.join("good.signed")).unwrap();
        assert!(text.contains("CDCDCDCD"));
        std::fs::write(dir.join("good.signed"), text.replace("CDCDCDCD", "CECECECE")).unwrap();
        sign(dir, "broken.test", "broken", &fill(OTHER));
        sign(dir, "plain.test", "plain", &fill(OTHER)); // and served without signatures
        let delegation = |zone: &str| std::fs::read_to_string(dir.join(format!("dsset-{zone}."))).unwrap();
        let wrong_digest = delegation("plain.test").replace("plain.test.", "broken.test.");
        let test = "ns IN A 127.0.0.1\ngood IN NS ns\nplain IN NS ns\nbroken IN NS ns\n";
        sign(dir, "test", "test", &format!("{test}{}{wrong_digest}", delegation("good.test")));
        let root = format!("test. IN NS ns.test.\nns.test. IN A 127.0.0.1\n{}", delegation("test"));
        let anchor = sign(dir, ".", "root", &root);

        let zones_served = [
            (".", "root.signed"),
            ("test", "test.signed"),
            ("good.test", "good.signed"),
            ("broken.test", "broken.signed"),
            ("plain.test", "plain"),
        ];
        let (source, front) = (port(), port());
        let modules = if validating { "validator iterator" } else { "iterator" };
        let at = dir.display();
        let mut bind = format!(
            "options {{ directory \"{at}\"; listen-on port {source} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; \
             recursion no; pid-file none; session-keyfile none; dnssec-validation no; notify no; }};\ncontrols {{}};\n"
        );
        let mut unbound = format!(
            "server:\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n \
             directory: \"{at}\"\n interface: 127.0.0.1@{front}\n module-config: \"{modules}\"\n trust-anchor: \"{anchor}\"\n \
             do-not-query-localhost: no\n local-zone: \"test.\" nodefault\n"
        );
        for (zone, file) in zones_served {
            bind.push_str(&format!("zone \"{zone}\" {{ type primary; file \"{file}\"; }};\n"));
            unbound.push_str(&format!("stub-zone:\n name: \"{zone}\"\n stub-addr: 127.0.0.1@{source}\n"));
        }
        std::fs::write(dir.join("named.conf"), bind).unwrap();
        std::fs::write(dir.join("unbound.conf"), unbound).unwrap();
        let serve = |tool: &str, arguments: &[&str]| {
            let log = std::fs::File::create(dir.join(format!("{tool}.log"))).unwrap();
            let errors = log.try_clone().unwrap();
            Server(command(tool, dir).args(arguments).stdout(log).stderr(errors).spawn().unwrap())
        };
        let servers = [
            serve("named", &["-g", "-n", "1", "-c", "named.conf"]),
            serve("unbound", &["-d", "-c", "unbound.conf"]),
        ];
        let address = SocketAddr::from(([127, 0, 0, 1], front));
        Some(Self { _servers: servers, _zones: zones, address })
    }

    async fn router(&self, dir: &tempfile::TempDir) -> Router {
        let world = World { address: self.address, zone: Arc::default() };
        let mut settings = Settings { tls_policy: TlsPolicy::DaneMtaSts, ..settings(&world, dir) };
        settings.dns.timeout = Duration::from_secs(2);
        let router = Router::new(settings).unwrap();
        // One question without an answer takes seconds itself.
        let answered = async {
            while router.dns().mx(Eyes::Plain, "plain.test").await.found().is_none() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(START_PATIENCE, answered).await.expect("the name servers answer");
        router
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn dane_engages_exactly_where_every_step_is_signed() {
    let Some(signed) = Signed::start(true) else { return };
    let dir = tempfile::tempdir().unwrap();
    let router = signed.router(&dir).await;
    assert_eq!(router.warning().await, None); // S7

    for (domain, hosts, records) in [
        ("good.test", &["mx.good.test", "good.test"][..], 1),
        ("roll.good.test", &["mxroll.good.test", "roll.good.test"], 2),
        ("bare.good.test", &["bare.good.test"], 1),
        ("x.wild.good.test", &["mx.good.test", "x.wild.good.test"], 1),
        ("cname.good.test", &["mx.good.test", "alias.good.test", "cname.good.test"], 1),
    ] {
        let route = router.route(domain, NOW).await.unwrap(); // S6
        let TlsDemand::Dane { records: found, names: known } = &route.endpoints[0].tls else {
            panic!("{domain}: {route:?}")
        };
        assert_eq!((found.len(), known), (records, &names(hosts)), "{domain}");
        assert!(found.iter().all(|record| record.data == [0xab; 32]), "{domain}");
    }
    for (domain, expected) in [
        ("pkix.good.test", TlsDemand::Encrypted),
        ("none.good.test", TlsDemand::Opportunistic { cleartext: true }),
        ("far.good.test", TlsDemand::Opportunistic { cleartext: true }),
        ("plain.test", TlsDemand::Opportunistic { cleartext: true }),
    ] {
        let route = router.route(domain, NOW).await;
        assert_eq!(route.map(|route| route.endpoints[0].tls.clone()), Ok(expected), "{domain}"); // S6
    }
    for (domain, expected) in [
        ("broken.test", "temporary 4.4.3"),
        ("bad.good.test", "temporary 4.4.3"),
        ("forged.good.test", "temporary 4.4.3"),
        ("absent.good.test", "permanent 5.1.2"),
        ("empty.good.test", "permanent 5.4.4"),
        ("absent.plain.test", "permanent 5.1.2"),
    ] {
        assert_eq!(refusal(router.route(domain, NOW).await), expected, "{domain}"); // S6
    }
    // What is remembered keeps its proof.
    let again = router.route("good.test", NOW).await.unwrap();
    assert!(matches!(again.endpoints[0].tls, TlsDemand::Dane { .. }));
}

#[tokio::test]
async fn without_a_validating_name_server_mail_flows_without_dane() {
    let Some(signed) = Signed::start(false) else { return };
    let dir = tempfile::tempdir().unwrap();
    // Signatures arrive, and nobody checks them.
    let router = signed.router(&dir).await;
    assert!(router.warning().await.is_some()); // S7
    for domain in ["good.test", "broken.test", "forged.good.test"] {
        let route = router.route(domain, NOW).await.unwrap();
        assert_eq!(route.endpoints[0].tls, TlsDemand::Opportunistic { cleartext: true }, "{domain}");
    }
}
