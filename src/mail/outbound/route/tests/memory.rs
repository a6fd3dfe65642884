//! What is learned of connections, and what the settings require.

use super::*;

async fn one_host(policy: TlsPolicy) -> (World, tempfile::TempDir, Router) {
    let (world, dir) = (World::new().await, tempfile::tempdir().unwrap());
    world.mx("d.test", 10, "a.test").host("a.test", "127.0.0.2");
    let router = Router::new(Settings { tls_policy: policy, ..settings(&world, &dir) }).unwrap();
    (world, dir, router)
}

async fn place(router: &Router) -> Endpoint {
    router.route("d.test", NOW).await.unwrap().endpoints.remove(0)
}

#[tokio::test]
async fn broken_starttls_goes_on_in_the_clear_at_a_domain_without_a_past() {
    let (_world, _dir, router) = one_host(TlsPolicy::Opportunistic).await;
    let first = place(&router).await;
    let again = router.learned("d.test", &first, Learned::StarttlsBroke, NOW).unwrap(); // S2
    assert_eq!(again, Endpoint { tls: TlsDemand::Cleartext, ..first });
    assert_eq!(place(&router).await, again);
    assert_eq!(router.learned("d.test", &again, Learned::Reached(TlsLevel::None), NOW), None);
}

#[tokio::test]
async fn a_domain_seen_with_tls_is_not_sent_to_in_the_clear_even_after_a_restart() {
    let (world, dir, router) = one_host(TlsPolicy::Opportunistic).await;
    let first = place(&router).await;
    assert_eq!(router.learned("d.test", &first, Learned::Reached(TlsLevel::Unverified), NOW), None);
    drop(router);
    let router = Router::new(settings(&world, &dir)).unwrap();
    let second = place(&router).await;
    assert_eq!(second.tls, TlsDemand::Opportunistic { cleartext: false }); // S12
    for what in [Learned::StarttlsBroke, Learned::StarttlsMissing] {
        assert_eq!(router.learned("d.test", &second, what, NOW), None);
    }
    assert_eq!(place(&router).await.tls, TlsDemand::Opportunistic { cleartext: false });
}

#[tokio::test]
async fn require_holds_for_all_or_for_named_domains() {
    let pki = TlsDemand::WebPki { names: vec!["a.test".into()] };
    let (world, dir, router) = one_host(TlsPolicy::Require).await;
    assert_eq!(place(&router).await.tls, pki);
    world.mx("other.test", 10, "a.test");
    let settings = Settings { require_domains: vec!["d.test".into()], ..settings(&world, &dir) };
    let router = Router::new(settings).unwrap();
    assert_eq!(place(&router).await.tls, pki);
    let other = router.route("other.test", NOW).await.unwrap();
    assert_eq!(other.endpoints[0].tls, TlsDemand::Opportunistic { cleartext: true });
    assert_eq!(router.learned("d.test", &place(&router).await, Learned::StarttlsMissing, NOW), None);
}

#[test]
fn policies_have_the_words_of_the_configuration() {
    assert_eq!(TlsPolicy::from_word("opportunistic"), Some(TlsPolicy::Opportunistic));
    assert_eq!(TlsPolicy::from_word("dane+mta-sts"), Some(TlsPolicy::DaneMtaSts));
    assert_eq!(TlsPolicy::from_word("require"), Some(TlsPolicy::Require));
    assert_eq!(TlsPolicy::from_word("dane"), None);
}
