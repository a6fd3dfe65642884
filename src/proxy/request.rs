//! Who sent an HTTP request: the connection's other end, or whom trusted proxies name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::HeaderValue;
use ipnet::IpNet;

use super::client_address;

/// The real client of a request that the listener has put its `ConnectInfo` into; `0.0.0.0` when it has not.
#[must_use]
pub fn client_of(request: &Request, trusted: &[IpNet]) -> IpAddr {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let forwarded = request.headers().get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    client_address(peer, forwarded, trusted)
}
