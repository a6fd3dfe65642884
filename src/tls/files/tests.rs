//! Files that change under a running watch.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{CertificateParams, KeyPair};

use super::*;

/// Longest wait for a watch that looks every few milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

struct Place {
    dir: tempfile::TempDir,
    files: Files,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { cert: dir.path().join("chain.pem"), key: dir.path().join("key.pem") };
        Self { dir, files }
    }

    /// A new pair; `key`: write the key that belongs to it.
    fn write(&self, name: &str, with_key: bool) {
        let key = KeyPair::generate().unwrap();
        let chain = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        self.replace(&self.files.cert, &chain);
        if with_key {
            self.replace(&self.files.key, &key.serialize_pem());
        }
    }

    /// As tools that renew do: a new file, moved into place.
    fn replace(&self, path: &Path, text: &str) {
        let fresh = self.dir.path().join("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    fn watch(&self, every: Duration) -> Result<Watch, FilesError> {
        Watch::start(self.files.clone(), Store::new(), Arc::new(Metrics::new()), every)
    }
}

async fn until_named(store: &Store, name: &str) {
    let seen = async {
        while store.installed().is_none_or(|installed| installed.names != [name]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the new certificate is served");
}

#[tokio::test]
async fn changed_files_are_served_and_broken_ones_are_not() {
    let place = Place::new();
    place.write("one.example", true);
    let watch = place.watch(Duration::from_millis(10)).unwrap();
    let (store, stop) = (Arc::clone(&watch.store), CancellationToken::new());
    let running = tokio::spawn(watch.run(stop.clone()));
    until_named(&store, "one.example").await;
    place.write("two.example", true);
    until_named(&store, "two.example").await; // J8
    place.write("three.example", false); // its key is missing
    place.write("four.example", true);
    until_named(&store, "four.example").await;
    stop.cancel();
    running.await.unwrap();
}

#[test]
fn a_key_file_that_is_closed_to_others_is_taken_up() {
    let place = Place::new();
    place.write("one.example", true);
    let watch = place.watch(Duration::from_millis(10)).unwrap();
    let mode =
        |bits| std::fs::set_permissions(&place.files.key, std::fs::Permissions::from_mode(bits)).unwrap();
    place.write("two.example", true);
    mode(0o640);
    let (refused, seen) = watch.look(watch.loaded, watch.files.get().stamp(), false);
    assert_eq!(watch.store.installed().unwrap().names, ["one.example"], "others can read the key");
    mode(0o600); // as the error advises; no byte of it changes
    let (_, seen) = watch.look(refused, seen, false);
    watch.look(refused, seen, false);
    assert_eq!(watch.store.installed().unwrap().names, ["two.example"]);
}

#[test]
fn a_broken_pair_leaves_the_old_one() {
    let place = Place::new();
    place.write("one.example", true);
    let watch = place.watch(LOOK_EVERY).unwrap();
    place.write("two.example", false);
    let (first, seen) = watch.look(watch.loaded, watch.loaded, false);
    assert_eq!(first, watch.loaded, "one look at files that just changed is not enough");
    let (tried, _) = watch.look(first, seen, false);
    assert_eq!(tried, seen, "a broken pair is tried once");
    assert_eq!(watch.store.installed().unwrap().names, ["one.example"]);
    std::fs::remove_file(&place.files.key).unwrap();
    watch.look(tried, seen, true);
    assert_eq!(watch.store.installed().unwrap().names, ["one.example"]);
    place.write("three.example", true);
    watch.look(tried, seen, true);
    assert_eq!(watch.store.installed().unwrap().names, ["three.example"]);
}

#[tokio::test]
async fn a_reload_does_not_wait_for_the_next_look() {
    let place = Place::new();
    place.write("one.example", true);
    let watch = place.watch(Duration::from_secs(3600)).unwrap();
    let (store, stop) = (Arc::clone(&watch.store), CancellationToken::new());
    let running = tokio::spawn(watch.clone().run(stop.clone()));
    place.write("two.example", true);
    watch.reload();
    until_named(&store, "two.example").await;
    stop.cancel();
    running.await.unwrap();
}

#[test]
fn the_start_needs_both_files() {
    let place = Place::new();
    let said = |place: &Place| place.watch(LOOK_EVERY).unwrap_err().to_string();
    assert!(said(&place).contains("tls.cert_file"), "{}", said(&place));
    place.write("one.example", false);
    assert!(said(&place).contains("tls.key_file"), "{}", said(&place));
    place.replace(&place.files.key, "no key");
    assert!(said(&place).contains("key.pem: there is no usable private key"), "{}", said(&place));
    std::fs::set_permissions(&place.files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(said(&place).contains("chmod 600"), "{}", said(&place));
    place.replace(&place.files.cert, &"x".repeat(1024 * 1024 + 1));
    assert!(said(&place).contains("1 MiB"), "{}", said(&place));
}

#[test]
fn both_files_may_be_credentials_of_systemd() {
    let place = Place::new();
    place.write("one.example", true);
    let credentials = Some(place.dir.path());
    let named = Files { cert: "credential:chain.pem".into(), key: "$CREDENTIALS_DIRECTORY/key.pem".into() };
    assert_eq!(named.read_in(credentials).unwrap().installed().names, ["one.example"]);
    assert_eq!(named.stamp_in(credentials), place.files.stamp(), "the watch looks behind the names");
    assert_eq!(named.stamp_in(None), [None, None], "and not at a file of that name here");
    let said = named.read_in(None).unwrap_err().to_string();
    assert!(said.contains("LoadCredential=") && said.contains("tls.cert_file"), "{said}");
    let one_of_them = Files { cert: place.files.cert.clone(), ..named };
    let said = one_of_them.read_in(None).unwrap_err().to_string();
    assert!(said.contains("LoadCredential=") && said.contains("tls.key_file"), "{said}");
    let none = Files { cert: "credential:none.pem".into(), ..one_of_them };
    let said = none.read_in(credentials).unwrap_err().to_string();
    assert!(said.contains(&place.dir.path().join("none.pem").display().to_string()), "{said}");
}

#[test]
fn a_pair_that_cannot_be_read_is_tried_at_each_look() {
    let place = Place::new();
    place.write("one.example", true);
    let watch = place.watch(LOOK_EVERY).unwrap();
    std::fs::remove_file(&place.files.cert).unwrap();
    std::fs::create_dir(&place.files.cert).unwrap(); // it opens, and does not read
    let (loaded, seen) = watch.look(watch.loaded, watch.loaded, false);
    assert!(watch.unread.get().is_none(), "not looked into yet");
    for _ in 0..3 {
        assert_eq!(watch.look(loaded, seen, false), (watch.loaded, seen), "it is not done with");
        assert_eq!(*watch.unread.get(), Some(seen), "and it need not be said again");
    }
    assert_eq!(watch.store.installed().unwrap().names, ["one.example"]);
    std::fs::remove_dir(&place.files.cert).unwrap();
    place.write("two.example", true);
    let (loaded, seen) = watch.look(loaded, seen, false);
    assert_eq!(watch.look(loaded, seen, false), (seen, seen));
    assert_eq!(watch.store.installed().unwrap().names, ["two.example"]);
    assert!(watch.unread.get().is_none());
}
