//! A small Internet in a network namespace of its own: this machine has a public address, bind9 serves what `dns show`
//! printed, unbound validates it, and the relay listens on ports 25 and 443.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

use super::{lines, of, private, waystation};
use crate::support::programs::{is_root, program};
use crate::support::until;

/// The address of the relay. Packets to it never leave the namespace.
const ADDRESS: &str = "9.9.9.25";
const TOOLS: [&str; 8] =
    ["named", "named-checkzone", "unbound", "dnssec-keygen", "dnssec-signzone", "unshare", "nsenter", "ip"];
/// Head of every zone.
const HEAD: &str = "$TTL 60\n@ IN SOA ns.test. root.test. 1 3600 600 86400 60\n@ IN NS ns.test.\n";

/// Ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The namespace.
struct Network {
    keeper: Ended,
    dir: tempfile::TempDir,
}

impl Network {
    /// `None`, with words, where it cannot be made.
    async fn new() -> Option<Self> {
        for tool in TOOLS {
            program(tool)?;
        }
        if !is_root("a network namespace").await {
            return None;
        }
        let setup = format!(
            "ip link set lo up && ip address add {ADDRESS}/32 dev lo && ip route add default dev lo src {ADDRESS} && echo up && exec sleep infinity"
        );
        let mut keeper = Command::new("unshare")
            .args(["-n", "sh", "-c", &setup])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let mut said = String::new();
        let out = keeper.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut said).expect("read");
        let keeper = Ended(keeper);
        if said.trim() != "up" {
            eprintln!("SKIPPED: network namespaces are not allowed here");
            return None;
        }
        Some(Self { keeper, dir: tempfile::tempdir().expect("directory") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A program inside.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let path = std::env::var("PATH").unwrap_or_default();
        command.args(["-t", &self.keeper.0.id().to_string(), "-n", "--", program]);
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("WAYSTATION_"))
        {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program).args(args).output().expect("it runs")
    }

    /// The binary under test inside, with its configuration; exit code, standard output, standard error.
    fn waystation(&self, args: &[&str]) -> (i32, String, String) {
        let program = waystation().get_program().to_owned();
        let mut command = self.command(program.to_str().expect("text"));
        let output =
            command.args(args).arg("--config").arg(self.path("relay.toml")).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    fn serve(&self, tool: &str, args: &[&str]) -> Ended {
        let log = std::fs::File::create(self.path(&format!("{tool}.log"))).expect("log");
        let errors = log.try_clone().expect("log");
        Ended(self.command(tool).args(args).stdout(log).stderr(errors).spawn().expect("it starts"))
    }

    /// Writes, checks and, if wanted, signs a zone; returns its key-signing key.
    fn zone(&self, zone: &str, records: &str, signed: bool) -> String {
        let file = zone_file(zone);
        std::fs::write(self.path(&file), format!("{HEAD}{records}")).expect("written");
        let checked = self.run("named-checkzone", &["-i", "local", zone, &file]);
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.status.success() && said.contains("OK"), "{zone}: {said}");
        if !signed {
            return String::new();
        }
        let made = self.run("dnssec-keygen", &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", zone]);
        let key = String::from_utf8(made.stdout).expect("text").trim().to_owned();
        self.run("dnssec-keygen", &["-q", "-a", "ECDSAP256SHA256", zone]);
        let signing =
            self.run("dnssec-signzone", &["-q", "-S", "-o", zone, "-f", &format!("{file}.signed"), &file]);
        assert!(signing.status.success(), "{zone}: {}", String::from_utf8_lossy(&signing.stderr));
        let key = std::fs::read_to_string(self.path(&format!("{key}.key"))).expect("key");
        key.lines().filter(|line| !line.starts_with(';')).collect()
    }

    fn delegation(&self, zone: &str) -> String {
        std::fs::read_to_string(self.path(&format!("dsset-{zone}."))).expect("DS")
    }

    /// bind9 behind a validating unbound on port 53, with these records.
    async fn name_servers(&self, records: &str, reverse: &str) -> [Ended; 2] {
        let own = |top: &str| {
            let name = |line: &str| line.split(' ').next().map(|name| name.trim_end_matches('.').to_owned());
            let mut kept = String::new();
            let mut inside = false;
            for line in records.lines() {
                if !line.starts_with(' ') {
                    inside = name(line).is_some_and(|name| name == top || name.ends_with(&format!(".{top}")));
                }
                if inside {
                    kept.push_str(line);
                    kept.push('\n');
                }
            }
            kept
        };
        // As somebody pastes it: everything into one zone. What belongs to the other is not lost silently, so that one
        // gets its own records.
        self.zone("our.test", &own("our.test"), true);
        self.zone("host.test", &own("host.test"), true);
        self.zone("9.9.9.in-addr.arpa", reverse, false);
        let servers = "ns.test. IN A 127.0.0.1\nour.test. IN NS ns.test.\nhost.test. IN NS ns.test.\n9.9.9.in-addr.arpa. IN NS ns.test.\n";
        let root = format!("{servers}{}{}", self.delegation("our.test"), self.delegation("host.test"));
        let anchor = self.zone(".", &root, true);
        let at = self.dir.path().display();
        let mut bind = format!(
            "options {{ directory \"{at}\"; listen-on port 5300 {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion no; pid-file none; \
             session-keyfile none; dnssec-validation no; notify no; }};\ncontrols {{}};\n"
        );
        let mut unbound = format!(
            "server:\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n pidfile: \"\"\n use-syslog: no\n directory: \"{at}\"\n \
             interface: 127.0.0.1\n module-config: \"validator iterator\"\n trust-anchor: \"{anchor}\"\n do-not-query-localhost: no\n \
             local-zone: \"test.\" nodefault\n"
        );
        for (zone, signed) in
            [(".", true), ("our.test", true), ("host.test", true), ("9.9.9.in-addr.arpa", false)]
        {
            let file = if signed { format!("{}.signed", zone_file(zone)) } else { zone_file(zone) };
            bind.push_str(&format!("zone \"{zone}\" {{ type primary; file \"{file}\"; }};\n"));
            unbound.push_str(&format!("stub-zone:\n name: \"{zone}\"\n stub-addr: 127.0.0.1@5300\n"));
        }
        std::fs::write(self.path("named.conf"), bind).expect("written");
        std::fs::write(self.path("unbound.conf"), unbound).expect("written");
        let servers = [
            self.serve("named", &["-g", "-n", "1", "-c", "named.conf"]),
            self.serve("unbound", &["-d", "-c", "unbound.conf"]),
        ];
        for port in ["5300", "53"] {
            let probe = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
            until("the name servers listen", || self.run("bash", &["-c", &probe]).status.success()).await;
        }
        servers
    }

    /// The relay, until it says that it is started.
    fn relay(&self) -> Ended {
        let program = waystation().get_program().to_owned();
        let child = self
            .command(program.to_str().expect("text"))
            .args(["serve", "--config"])
            .arg(self.path("relay.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut child = Ended(child);
        let log = BufReader::new(child.0.stderr.take().expect("piped"));
        let mut log = log.lines();
        let mut seen = String::new();
        for line in log.by_ref() {
            let line = line.expect("log line");
            if line.contains("\"relay.started\"") {
                // Its pipe must be read, or it would stop at some line.
                std::thread::spawn(move || log.for_each(drop));
                return child;
            }
            seen.push_str(&line);
        }
        panic!("the relay did not start: {seen}");
    }
}

fn zone_file(zone: &str) -> String {
    if zone == "." { "root.zone".to_owned() } else { format!("{zone}.zone") }
}

/// A certificate for these names, and its authority.
fn certificate(dir: &Path, names: &[&str]) {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority =
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority");
    let key = KeyPair::generate().expect("key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let issued =
        CertificateParams::new(names).expect("parameters").signed_by(&key, &authority).expect("certificate");
    std::fs::write(dir.join("ca.pem"), authority.pem()).expect("written");
    std::fs::write(dir.join("chain.pem"), issued.pem() + &authority.pem()).expect("written");
    private(&dir.join("key.pem"), &key.serialize_pem());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dns_show_prints_is_served_and_dns_check_and_doctor_are_content() {
    let Some(net) = Network::new().await else { return };
    let dir = net.dir.path().display().to_string();
    certificate(net.dir.path(), &["mx.host.test", "mta-sts.our.test", "mta-sts.news.our.test"]);
    let (code, _, err) =
        net.waystation(&["keys", "dkim", "--dir", &dir, "--selector", "s1", "--domain", "our.test"]);
    assert_eq!(code, 0, "{err}");
    let config = format!(
        "data_dir = \"{dir}/data\"\nhostname = \"mx.host.test\"\ndomains = [\"our.test\", \"news.our.test\"]\n\
         [http]\nlisten = \"127.0.0.1:8080\"\ntls_listen = \"0.0.0.0:443\"\n\
         [tls]\ncert_file = \"{dir}/chain.pem\"\nkey_file = \"{dir}/key.pem\"\n\
         [smtp]\nlisten = [\"0.0.0.0:25\"]\nmta_sts = \"enforce\"\n\
         [delivery]\ndns_servers = [\"127.0.0.1:53\"]\n[spool]\nmin_free_bytes = 0\n[log]\nformat = \"json\"\n\
         [dkim]\nenabled = true\ndomain = \"our.test\"\nselector = \"s1\"\nrsa_key_file = \"{dir}/dkim-s1-rsa.pem\"\n\
         ed25519_key_file = \"{dir}/dkim-s1-ed25519.pem\"\n"
    );
    private(&net.path("relay.toml"), &config);
    let (code, shown, err) = net.waystation(&["dns", "show", "--dane"]);
    assert_eq!((code, err.as_str()), (0, ""), "the address is found without help");
    // The whole of it loads into either zone as it is; what is of the other zone is left out with a warning.
    for zone in ["our.test", "host.test"] {
        std::fs::write(net.path("pasted"), format!("{HEAD}{shown}")).expect("written");
        let checked = net.run("named-checkzone", &["-i", "local", zone, "pasted"]);
        assert!(checked.status.success(), "{}\n{shown}", String::from_utf8_lossy(&checked.stdout));
    }
    let pointers: String = shown
        .lines()
        .filter(|line| line.contains(" IN PTR "))
        .map(|line| format!("{}\n", line.trim_start_matches("; ")))
        .collect();
    assert_eq!(pointers, "25.9.9.9.in-addr.arpa. 3600 IN PTR mx.host.test.\n");
    let _servers = net.name_servers(&shown, &pointers).await;
    let _relay = net.relay();

    let ca = net.path("ca.pem").display().to_string();
    let check = ["dns", "check", "--dane", "--egress", "mx.host.test:25", "--extra-ca-file", &ca];
    let (code, out, err) = net.waystation(&[&check[..], &["--json"]].concat());
    let verdicts = lines(&out);
    let bad: Vec<_> = verdicts.iter().filter(|verdict| verdict["status"] != "ok").collect();
    assert!(bad.is_empty() && code == 0, "{bad:#?} {err}");
    let policy = of(&verdicts, "name", "https://mta-sts.news.our.test/.well-known/mta-sts.txt");
    assert_eq!(policy["found"][0], "version: STSv1, mode: enforce, mx: mx.host.test, max_age: 604800");
    assert_eq!(of(&verdicts, "type", "DNSSEC")["found"][0], "signed");
    assert!(
        of(&verdicts, "type", "SMTP")["found"][0]
            .as_str()
            .is_some_and(|line| line.starts_with("220 mx.host.test"))
    );
    let (code, out, _) = net.waystation(&check);
    assert!(code == 0 && out.contains("ok    MX     our.test\n") && !out.contains("advice"), "{out}");

    // The policy is answered as long as the configuration says so, and no longer.
    private(&net.path("relay.toml"), &config.replace("\"enforce\"", "\"off\""));
    let (code, out, err) = net.waystation(&["reload"]);
    assert!(code == 0 && out.contains("smtp.mta_sts"), "{out}{err}");
    let (code, out, _) = net.waystation(&[&check[..], &["--json"]].concat());
    let verdicts = lines(&out);
    let policy = of(&verdicts, "type", "HTTPS");
    assert!(code == 1 && policy["advice"].as_str().is_some_and(|advice| advice.contains("404")), "{policy}");
    private(&net.path("relay.toml"), &config);
    assert_eq!(net.waystation(&["reload"]).0, 0);

    // A certificate with another key is another TLSA record, and the published one does harm.
    let record = of(&verdicts, "type", "TLSA")["want"].as_str().expect("want").to_owned();
    certificate(net.dir.path(), &["mx.host.test"]);
    let (code, out, _) = net.waystation(&["dns", "check", "--no-egress", "--json"]);
    let verdicts = lines(&out);
    let tlsa = of(&verdicts, "type", "TLSA");
    assert_eq!(
        (code, tlsa["status"].as_str(), tlsa["found"][0].as_str()),
        (1, Some("wrong"), Some(record.as_str()))
    );

    let (_, out, _) = net.waystation(&["doctor", "--no-egress", "--json"]);
    let findings = lines(&out);
    for (what, words) in [
        ("SMTP port", "0.0.0.0:25, held by the running relay"),
        ("HTTPS port", "0.0.0.0:443, held by the running relay"),
        ("SMTP answers", "220 mx.host.test"),
        ("HTTP answers", "/health 200"),
        ("ready", "nothing waits"),
        ("relay", "runs"),
    ] {
        let finding = of(&findings, "check", what);
        assert_eq!(finding["level"], "ok", "{finding}");
        assert!(finding["finding"].as_str().is_some_and(|found| found.contains(words)), "{finding}");
    }
    let dns = of(&findings, "check", "DNS");
    assert!(dns["level"] == "wrong" && dns["advice"].as_str().is_some_and(|a| a.contains("TLSA")), "{dns}");
    let certificate = of(&findings, "check", "certificate");
    assert!(
        certificate["level"] == "warn"
            && certificate["advice"].as_str().is_some_and(|a| a.contains("mta-sts.our.test"))
    );

    let client = waystation::admin::client::Client::find(&net.path("data/admin.sock")).await;
    let client = client.expect("allowed").expect("it runs");
    let wanted: Value = client.get("/dns/wanted").await.expect("answer");
    assert_eq!(wanted["dkim"].as_array().map(Vec::len), Some(2));
    let outcome = client.get("/dns").await.expect("answer");
    let records = outcome["records"].as_array().expect("records").clone();
    assert_eq!(of(&records, "type", "PTR")["status"], "ok");
    // The authority of the policy host is known to us only.
    assert_eq!(of(&records, "type", "HTTPS")["status"], "wrong");
}
