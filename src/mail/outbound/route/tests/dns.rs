//! Rows of section O over a real resolver and a scripted name server.

use super::*;

async fn world() -> (World, tempfile::TempDir) {
    (World::new().await, tempfile::tempdir().unwrap())
}

#[tokio::test]
async fn hosts_come_by_preference_and_in_both_families() {
    let (world, dir) = world().await;
    world.mx("d.test", 20, "b.test").mx("d.test", 10, "a.test");
    world.host("a.test", "127.0.0.2").host("a.test", "::1").host("b.test", "127.0.0.3");
    let router = Router::new(settings(&world, &dir)).unwrap();
    let route = router.route("d.test", NOW).await.unwrap(); // O1, O11
    assert!(route.endpoints.iter().all(|place| place.address.port() == 2525));
    assert!(route.endpoints.iter().all(|place| place.tls == TlsDemand::Opportunistic { cleartext: true }));
    assert_eq!(places(Ok(route)).unwrap(), ["a.test ::1", "a.test 127.0.0.2", "b.test 127.0.0.3"]);
}

#[tokio::test]
async fn the_domain_stands_in_only_for_a_certain_no() {
    let (world, dir) = world().await;
    world.host("v4.test", "127.0.0.2").host("v6.test", "::1");
    let router = Router::new(settings(&world, &dir)).unwrap();
    assert_eq!(places(router.route("v4.test", NOW).await).unwrap(), ["v4.test 127.0.0.2"]); // O2
    assert_eq!(places(router.route("v6.test", NOW).await).unwrap(), ["v6.test ::1"]);
    for fault in [Fault::ServFail, Fault::Refused, Fault::Silent, Fault::Garbage] {
        let name = format!("{fault:?}.test").to_lowercase();
        world.host(&name, "127.0.0.2").fail(&name, RecordType::MX, fault);
        assert_eq!(refusal(router.route(&name, NOW).await), "temporary 4.4.3", "{fault:?}"); // O4
    }
}

#[tokio::test]
async fn certain_noes_are_final_with_their_own_codes() {
    let (world, dir) = world().await;
    world.mx("null.test", 0, ".").host("null.test", "127.0.0.2");
    world.mx("nowhere.test", 10, "gone.test");
    world.txt("bare.test", "exists");
    world.mx("us.test", 10, "Relay.Example").mx("us.test", 20, "worse.test").host("worse.test", "127.0.0.2");
    let router = Router::new(settings(&world, &dir)).unwrap();
    for (domain, expected) in [
        ("absent.test", "permanent 5.1.2"),  // O5
        ("null.test", "permanent 5.1.10"),   // O6
        ("nowhere.test", "permanent 5.4.4"), // O3
        ("bare.test", "permanent 5.4.4"),    // O3
        ("us.test", "permanent 5.4.6"),      // L7
        ("[192.0.2.9]", "permanent 5.1.2"),  // O12
        ("[ipv6:2001:db8::1]", "permanent 5.1.2"),
    ] {
        assert_eq!(refusal(router.route(domain, NOW).await), expected, "{domain}");
    }
    world.fail("gone.test", RecordType::AAAA, Fault::ServFail);
    let router = Router::new(settings(&world, &dir)).unwrap();
    assert_eq!(refusal(router.route("nowhere.test", NOW).await), "temporary 4.4.3"); // O3
}

#[tokio::test]
async fn our_own_listener_as_a_mail_server_is_a_loop() {
    let (world, dir) = world().await;
    world.mx("d.test", 10, "front.test").host("front.test", "127.0.0.1");
    let with = |own: &str| {
        let own_addresses = vec![own.parse().unwrap()];
        Router::new(Settings { own_addresses, ..settings(&world, &dir) }).unwrap()
    };
    assert_eq!(refusal(with("127.0.0.1:2525").route("d.test", NOW).await), "permanent 5.4.6"); // L7
    assert_eq!(refusal(with("0.0.0.0:2525").route("d.test", NOW).await), "permanent 5.4.6");
    assert!(with("127.0.0.1:25").route("d.test", NOW).await.is_ok());
}

#[tokio::test]
async fn aliases_are_followed_and_circles_end() {
    let (world, dir) = world().await;
    world.mx("d.test", 10, "mx.test").alias("mx.test", "real.test").host("real.test", "127.0.0.2");
    world.mx("round.test", 10, "one.test").alias("one.test", "two.test").alias("two.test", "one.test");
    let router = Router::new(settings(&world, &dir)).unwrap();
    assert_eq!(places(router.route("d.test", NOW).await).unwrap(), ["mx.test 127.0.0.2"]); // O8
    let circle = tokio::time::timeout(Duration::from_secs(20), router.route("round.test", NOW)).await;
    assert!(circle.unwrap().is_err()); // O17
}

#[tokio::test]
async fn every_attempt_asks_again() {
    let (world, dir) = world().await;
    world.mx("d.test", 10, "a.test").host("a.test", "127.0.0.2");
    let router = Router::new(settings(&world, &dir)).unwrap();
    assert_eq!(places(router.route("d.test", NOW).await).unwrap(), ["a.test 127.0.0.2"]);
    world.forget("a.test", RecordType::A).host("a.test", "127.0.0.3");
    assert_eq!(places(router.route("d.test", NOW).await).unwrap(), ["a.test 127.0.0.3"]); // O14
    assert_eq!(world.asked("d.test", RecordType::MX), 2);
}

#[tokio::test]
async fn long_answers_come_by_tcp_and_are_capped() {
    let (world, dir) = world().await;
    for n in 0..40 {
        world.mx("d.test", n, &format!("h{n}.test"));
        for last in 1..=10 {
            world.host(&format!("h{n}.test"), &format!("127.0.{n}.{last}"));
        }
    }
    world.fail("d.test", RecordType::MX, Fault::Truncated);
    let router = Router::new(settings(&world, &dir)).unwrap();
    let found = places(router.route("d.test", NOW).await).unwrap(); // O10
    assert_eq!(found.len(), ADDRESSES_MAX);
    assert!(found[0].starts_with("h0.test") && found[5].starts_with("h1.test"), "{found:?}");
}

#[tokio::test]
async fn impossible_names_are_answered_without_a_question() {
    let (world, dir) = world().await;
    let router = Router::new(settings(&world, &dir)).unwrap();
    for name in ["a".repeat(64) + ".test", "abc.".repeat(70) + "test", String::from("a..b")] {
        assert_eq!(refusal(router.route(&name, NOW).await), "permanent 5.1.2", "{name}"); // O17
    }
    assert!(world.zone.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn private_targets_need_the_switch() {
    let (world, dir) = world().await;
    world.mx("inside.test", 10, "mx.test").host("mx.test", "127.0.0.1").host("mx.test", "10.0.0.1");
    let router = Router::new(Settings { allow_private_targets: false, ..settings(&world, &dir) }).unwrap();
    let refused = places(router.route("inside.test", NOW).await).unwrap_err();
    assert!(
        refused.starts_with("permanent 5.4.4") && refused.contains("not on the public internet"),
        "{refused}"
    );
    world.host("mx.test", "8.8.8.8");
    assert_eq!(places(router.route("inside.test", NOW).await).unwrap(), ["mx.test 8.8.8.8"]);
}

#[tokio::test]
async fn a_smarthost_takes_all_mail_without_mx() {
    let (world, dir) = world().await;
    world.mx("d.test", 10, "a.test").host("smart.test", "127.0.0.9").mx("smart.test", 1, "a.test");
    let with = |smarthost: &str, allow_private_targets| {
        let smarthost = Smarthost::parse(smarthost);
        assert!(smarthost.is_some());
        Router::new(Settings { smarthost, allow_private_targets, ..settings(&world, &dir) }).unwrap()
    };
    let route = with("smart.test:587", true).route("d.test", NOW).await.unwrap();
    assert_eq!(route.endpoints[0].address, SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), 587));
    assert_eq!((route.endpoints.len(), world.asked("d.test", RecordType::MX)), (1, 0));
    let route = with("[::1]:2525", true).route("d.test", NOW).await.unwrap();
    assert_eq!(route.endpoints[0].address, "[::1]:2525".parse().unwrap());
    // A mistake in the settings must not fail mail for good.
    for (wrong, private) in [("smart.test:587", false), ("nowhere.test:587", true)] {
        assert_eq!(refusal(with(wrong, private).route("d.test", NOW).await), "temporary 4.3.5", "{wrong}");
    }
    assert_eq!(refusal(with("smart.test:587", true).route("[192.0.2.1]", NOW).await), "permanent 5.1.2");
    for odd in ["smart.test", "smart.test:", "smart.test:0", "smart.test:70000", ":25", "a b:25", "[::1]"] {
        assert_eq!(Smarthost::parse(odd), None, "{odd}");
    }
}

#[tokio::test]
async fn one_broken_domain_does_not_touch_its_neighbours() {
    let (world, dir) = world().await;
    for domain in ["a.test", "b.test", "c.test"] {
        world.mx(domain, 10, "shared.test");
    }
    world.host("shared.test", "127.0.0.2").fail("b.test", RecordType::MX, Fault::Silent);
    let router = Router::new(settings(&world, &dir)).unwrap();
    let begun = clock::monotonic();
    let (a, b, c) = tokio::join!(
        async { (router.route("a.test", NOW).await, begun.elapsed()) },
        router.route("b.test", NOW),
        router.route("c.test", NOW)
    );
    assert!(a.0.is_ok() && c.is_ok()); // O15, O16
    assert!(a.1 < Duration::from_millis(290), "{:?}", a.1);
    assert_eq!(refusal(b), "temporary 4.4.3");
}

#[tokio::test]
async fn domains_with_many_dead_name_servers_do_not_hold_up_the_others() {
    let (world, dir) = world().await;
    for domain in 0..60 {
        for host in 0..10 {
            let name = format!("h{host}.d{domain}.test");
            world.mx(&format!("d{domain}.test"), host, &name);
            world.fail(&name, RecordType::A, Fault::Silent).fail(&name, RecordType::AAAA, Fault::Silent);
        }
    }
    world.mx("good.test", 10, "mx.good.test").host("mx.good.test", "127.0.0.2");
    let router = Router::new(settings(&world, &dir)).unwrap();
    let slow: Vec<_> = (0..60)
        .map(|domain| {
            let router = router.clone();
            tokio::spawn(async move { router.route(&format!("d{domain}.test"), NOW).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(150)).await;
    let begun = clock::monotonic();
    assert!(router.route("good.test", NOW).await.is_ok()); // O15
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_name_server_without_signatures_keeps_dane_off() {
    let (world, dir) = world().await;
    world.mx("d.test", 10, "a.test").host("a.test", "127.0.0.2");
    let router =
        Router::new(Settings { tls_policy: TlsPolicy::DaneMtaSts, ..settings(&world, &dir) }).unwrap();
    assert!(router.warning().await.is_some_and(|text| text.contains("DANE is off"))); // S7
    let route = router.route("d.test", NOW).await.unwrap();
    assert_eq!(route.endpoints[0].tls, TlsDemand::Opportunistic { cleartext: true });
    assert_eq!(world.asked("_2525._tcp.a.test", RecordType::TLSA), 0);
    assert!(Router::new(settings(&world, &dir)).unwrap().warning().await.is_none());
}

#[tokio::test]
async fn the_name_servers_word_counts_for_one_whole_answer() {
    let (world, dir) = world().await;
    world.zone.lock().unwrap().vouches = true;
    world.mx("d.test", 10, "mx.test").host("mx.test", "127.0.0.2").tlsa("_2525._tcp.mx.test");
    // This name server gives aliases without what they lead to, so a second question is needed.
    world.mx("pieces.test", 10, "alias.test").alias("alias.test", "mx.test").tlsa("_2525._tcp.alias.test");
    let with = |tls_policy| Router::new(Settings { tls_policy, ..settings(&world, &dir) }).unwrap();
    let demand = |route: Result<Route, RouteError>| route.unwrap().endpoints.remove(0).tls;
    let router = with(TlsPolicy::DaneMtaSts);
    assert!(matches!(demand(router.route("d.test", NOW).await), TlsDemand::Dane { .. })); // S6
    let open = TlsDemand::Opportunistic { cleartext: true };
    for _ in 0..2 {
        assert_eq!(demand(router.route("pieces.test", NOW).await), open);
    }
    assert_eq!(demand(with(TlsPolicy::Opportunistic).route("d.test", NOW).await), open);
    world.fail("_2525._tcp.mx.test", RecordType::TLSA, Fault::ServFail);
    let router = with(TlsPolicy::DaneMtaSts);
    assert_eq!(refusal(router.route("d.test", NOW).await), "temporary 4.4.3"); // S6
}
