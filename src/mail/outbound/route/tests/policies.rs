//! MTA-STS against a policy host with a real certificate (rows S3 to S5).

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// An HTTPS server that says one thing.
struct PolicyHost {
    port: u16,
    root: CertificateDer<'static>,
    says: Arc<Mutex<(Duration, Vec<u8>)>>,
    asked: Arc<AtomicUsize>,
}

impl PolicyHost {
    /// `names`: what its certificate is good for.
    async fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let root = certificate.der().clone();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![root.clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let says = Arc::new(Mutex::new((Duration::ZERO, Vec::new())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, count) = (Arc::clone(&says), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, answer, count) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    count.fetch_add(1, Ordering::Relaxed);
                    let mut request = vec![0; 4096];
                    let length = stream.read(&mut request).await.unwrap_or_default();
                    let request = String::from_utf8_lossy(&request[..length]).into_owned();
                    assert!(request.starts_with("GET /.well-known/mta-sts.txt HTTP/1.1\r\n"), "{request}");
                    assert!(request.to_lowercase().contains("host: mta-sts."), "{request}");
                    let (delay, text) = answer.lock().unwrap().clone();
                    tokio::time::sleep(delay).await;
                    let _ = stream.write_all(&text).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self { port, root, says, asked }
    }

    fn says(&self, status: &str, kind: &str, body: &str) -> &Self {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n", body.len());
        let text = format!("{head}Location: https://elsewhere.test/\r\n\r\n{body}");
        *self.says.lock().unwrap() = (Duration::ZERO, text.into_bytes());
        self
    }

    fn policy(&self, mode: &str, mx: &str, max_age: u64) -> &Self {
        let body = format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {max_age}\n");
        self.says("200 OK", "text/plain; charset=utf-8", &body)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

struct Scene {
    world: World,
    host: PolicyHost,
    dir: tempfile::TempDir,
}

impl Scene {
    /// `d.test` with one mail server, and a policy announced as `id=1`.
    async fn new() -> Self {
        let world = World::new().await;
        let host = PolicyHost::new(&["mta-sts.d.test"]).await;
        world.mx("d.test", 10, "mx.d.test").host("mx.d.test", "127.0.0.2");
        world.host("mta-sts.d.test", "127.0.0.1").txt("_mta-sts.d.test", "v=STSv1; id=1;");
        Self { world, host, dir: tempfile::tempdir().unwrap() }
    }

    /// A router as after a restart.
    fn router(&self) -> Router {
        let policies = FetchSettings {
            port: self.host.port,
            extra_roots: vec![self.host.root.clone()],
            allow_private_targets: true,
            timeout: Duration::from_millis(1500),
        };
        let settings =
            Settings { tls_policy: TlsPolicy::DaneMtaSts, policies, ..settings(&self.world, &self.dir) };
        Router::new(settings).unwrap()
    }
}

async fn demands(router: &Router, now: WallMs) -> Result<Vec<TlsDemand>, String> {
    match router.route("d.test", now).await {
        Ok(route) => Ok(route.endpoints.into_iter().map(|place| place.tls).collect()),
        Err(error) => Err(refusal(Err(error))),
    }
}

fn pki(host: &str) -> TlsDemand {
    TlsDemand::WebPki { names: vec![host.into()] }
}

const OPEN: TlsDemand = TlsDemand::Opportunistic { cleartext: true };

#[tokio::test]
async fn enforce_leaves_only_named_hosts_and_asks_for_their_certificates() {
    let scene = Scene::new().await;
    scene.host.policy("enforce", "*.d.test", 86_400);
    scene.world.mx("d.test", 5, "stray.test").host("stray.test", "127.0.0.3");
    let router = scene.router();
    assert_eq!(demands(&router, NOW).await, Ok(vec![pki("mx.d.test")])); // S3
    assert_eq!(demands(&router, NOW).await, Ok(vec![pki("mx.d.test")]));
    assert_eq!(scene.host.asked(), 1);
    assert!(router.route("d.test", NOW).await.unwrap().left_out, "the policy may name the other one day"); // P2
    scene.world.forget("d.test", RecordType::MX).mx("d.test", 5, "stray.test");
    assert_eq!(demands(&router, NOW).await, Err("temporary 4.7.0".into()));
}

#[tokio::test]
async fn testing_and_none_deliver_as_without_a_policy() {
    for mode in ["testing", "none"] {
        let scene = Scene::new().await;
        scene.host.policy(mode, "nobody.test", 86_400);
        assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![OPEN])); // S4
        assert_eq!(scene.host.asked(), 1);
    }
}

#[tokio::test]
async fn what_the_rfc_forbids_is_no_policy() {
    let scene = Scene::new().await;
    let good = "version: STSv1\nmode: enforce\nmx: nobody.test\nmax_age: 86400\n";
    let large = format!("{good}{}", "x-pad: yyyyyyyyyyyyyyyy\n".repeat(4000));
    for (status, kind, body) in [
        ("301 Moved Permanently", "text/plain", good),
        ("302 Found", "text/plain", good),
        ("404 Not Found", "text/plain", good),
        ("204 No Content", "text/plain", ""),
        ("200 OK", "text/html", good),
        ("200 OK", "text/plainly", good),
        ("200 OK", "text/plain", large.as_str()),
        ("200 OK", "text/plain", "mode: enforce\n"),
    ] {
        scene.host.says(status, kind, body);
        assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![OPEN]), "{status} {kind}"); // S5
    }
    assert_eq!(scene.host.asked(), 8);
    scene.host.says("200 OK", "text/plain", good).says.lock().unwrap().0 = Duration::from_secs(30);
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![OPEN]));
    scene.host.says.lock().unwrap().0 = Duration::ZERO;
    assert_eq!(demands(&scene.router(), NOW).await, Err("temporary 4.7.0".into()));
}

#[tokio::test]
async fn a_certificate_for_another_name_or_of_nobody_is_no_policy() {
    let mut scene = Scene::new().await;
    scene.host = PolicyHost::new(&["d.test"]).await;
    scene.host.policy("enforce", "nobody.test", 86_400);
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![OPEN])); // S5
    let (honest, other) = (PolicyHost::new(&["mta-sts.d.test"]).await, PolicyHost::new(&["x.test"]).await);
    honest.policy("enforce", "nobody.test", 86_400);
    scene.host = PolicyHost { root: other.root, ..honest };
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![OPEN]));
    assert_eq!(scene.host.asked(), 0);
}

#[tokio::test]
async fn two_announcements_are_none() {
    let scene = Scene::new().await;
    scene.host.policy("enforce", "nobody.test", 86_400);
    scene.world.txt("_mta-sts.d.test", "v=STSv1; id=2;");
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![OPEN])); // S5
    assert_eq!(scene.host.asked(), 0);
}

#[tokio::test]
async fn a_kept_policy_counts_after_a_restart_and_without_dns_and_web() {
    let scene = Scene::new().await;
    scene.host.policy("enforce", "mx.d.test", 864_000);
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![pki("mx.d.test")]));
    scene.host.says("500 Oops", "text/plain", "");
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![pki("mx.d.test")])); // S5
    scene.world.fail("_mta-sts.d.test", RecordType::TXT, Fault::ServFail);
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![pki("mx.d.test")]));
    scene.world.zone.lock().unwrap().faults.clear();
    scene.world.forget("_mta-sts.d.test", RecordType::TXT);
    let late = WallMs(NOW.0 + 864_000 * 1000);
    assert_eq!(demands(&scene.router(), late).await, Ok(vec![pki("mx.d.test")]));
    assert_eq!(demands(&scene.router(), WallMs(late.0 + 1)).await, Ok(vec![OPEN]));
}

#[tokio::test]
async fn another_id_brings_another_policy_and_a_failed_fetch_keeps_the_old_one() {
    let scene = Scene::new().await;
    scene.host.policy("enforce", "mx.d.test", 864_000);
    let router = scene.router();
    assert_eq!(demands(&router, NOW).await, Ok(vec![pki("mx.d.test")]));
    let announce = |id: &str| {
        scene.world.forget("_mta-sts.d.test", RecordType::TXT);
        scene.world.txt("_mta-sts.d.test", &format!("v=STSv1; id={id}"));
    };
    announce("2");
    scene.host.says("503 Later", "text/plain", "");
    assert_eq!(demands(&router, NOW).await, Ok(vec![pki("mx.d.test")])); // S5
    assert_eq!(demands(&router, NOW).await, Ok(vec![pki("mx.d.test")]));
    assert_eq!(scene.host.asked(), 2);
    announce("3");
    scene.host.policy("none", "mx.d.test", 864_000);
    assert_eq!(demands(&router, NOW).await, Ok(vec![OPEN]));
}

#[tokio::test]
async fn a_policy_is_looked_for_again_before_it_makes_mail_fail_and_when_it_is_old() {
    let scene = Scene::new().await;
    scene.host.policy("enforce", "mx.d.test", 864_000);
    let router = scene.router();
    assert_eq!(demands(&router, NOW).await, Ok(vec![pki("mx.d.test")]));
    // The domain moved, and forgot to announce it.
    scene.world.forget("d.test", RecordType::MX).mx("d.test", 1, "new.test").host("new.test", "127.0.0.4");
    scene.host.policy("enforce", "new.test", 864_000);
    assert_eq!(demands(&router, NOW).await, Ok(vec![pki("new.test")])); // S5
    assert_eq!(scene.host.asked(), 2);
    let tomorrow = WallMs(NOW.0 + 25 * 3600 * 1000);
    assert_eq!(demands(&scene.router(), tomorrow).await, Ok(vec![pki("new.test")]));
    assert_eq!(scene.host.asked(), 3);
}

#[tokio::test]
async fn damaged_files_are_fetched_again() {
    let scene = Scene::new().await;
    scene.host.policy("enforce", "mx.d.test", 864_000);
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![pki("mx.d.test")]));
    let file = scene.dir.path().join(super::super::policies::DIR_NAME).join("d.test.json");
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert_eq!(demands(&scene.router(), NOW).await, Ok(vec![pki("mx.d.test")]));
    assert_eq!((scene.host.asked(), std::fs::read(&file).unwrap()), (2, text));
}

#[tokio::test]
async fn policy_hosts_inside_the_network_are_not_asked() {
    let scene = Scene::new().await;
    scene.host.policy("enforce", "nobody.test", 86_400);
    let policies = FetchSettings {
        port: scene.host.port,
        extra_roots: vec![scene.host.root.clone()],
        ..FetchSettings::default()
    };
    let settings =
        Settings { tls_policy: TlsPolicy::DaneMtaSts, policies, ..settings(&scene.world, &scene.dir) };
    assert_eq!(demands(&Router::new(settings).unwrap(), NOW).await, Ok(vec![OPEN]));
    assert_eq!(scene.host.asked(), 0);
}
