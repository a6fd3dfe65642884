//! The router against real sockets: a name server of our own, policy hosts with real certificates, signed zones.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use spool::ids::WallMs;

use super::*;
use world::{Fault, World};

mod dns;
mod memory;
mod policies;
mod properties;
mod signed;
mod world;

const NOW: WallMs = WallMs(1_800_000_000_000);

/// A router that asks `world`, with everything on loopback allowed.
fn settings(world: &World, dir: &tempfile::TempDir) -> Settings {
    Settings {
        dns: DnsSettings { servers: vec![world.address], timeout: Duration::from_millis(300) },
        port: 2525,
        own_names: vec!["relay.example".into()],
        own_addresses: Vec::new(),
        smarthost: None,
        tls_policy: TlsPolicy::Opportunistic,
        require_domains: Vec::new(),
        allow_private_targets: true,
        data_dir: dir.path().to_owned(),
        policies: FetchSettings::default(),
    }
}

/// Hosts and addresses of a route, `host address`, in order.
fn places(route: Result<Route, RouteError>) -> Result<Vec<String>, String> {
    match route {
        Ok(route) => {
            Ok(route.endpoints.iter().map(|place| format!("{} {}", place.host, place.address.ip())).collect())
        }
        Err(RouteError::Temporary { enhanced, text }) => Err(format!("temporary {enhanced} {text}")),
        Err(RouteError::Permanent { enhanced, text }) => Err(format!("permanent {enhanced} {text}")),
    }
}

fn refusal(route: Result<Route, RouteError>) -> String {
    let error = places(route).expect_err("no route");
    error.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
