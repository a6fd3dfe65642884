//! `health`: asks a relay over HTTP how it is; the probe of containers and scripts, which have no curl.
//!
//! Bounded in time and bytes; follows no redirect; changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use super::{Exit, Global, Stop, load, screen};
use crate::clock;
use crate::gateway::dial::{self, Endpoint, Trust};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two questions of `--wait`.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Says to a listener that expects a PROXY header that nobody else is behind this connection.
const NOBODY_ELSE: &[u8] = b"PROXY UNKNOWN\r\n";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to ask; by default /health at `http.listen` of the configuration
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Ask whether it can take mail (/ready), and not only whether it is alive
    #[arg(long, conflicts_with = "url")]
    ready: bool,
    /// Ask again for so long until the answer is good
    #[arg(long, value_name = "SECONDS", default_value_t = 0, hide_default_value = true,
        value_parser = clap::value_parser!(u64).range(..=3600))]
    wait: u64,
}

/// Whom to ask.
struct Question {
    endpoint: Endpoint,
    /// Whether a PROXY header comes first.
    announced: bool,
}

pub(crate) fn run(global: &Global, args: &Args) -> anyhow::Result<Exit> {
    let question = question(global, args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let trust = Trust::new(None)?;
    let until = clock::monotonic() + Duration::from_secs(args.wait);
    runtime.block_on(async {
        loop {
            let asked = tokio::time::timeout(PATIENCE, ask(&question, &trust)).await;
            let answer = asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
            if matches!(answer, Ok((StatusCode::OK, _))) || clock::monotonic() >= until {
                return tell(global, &question.endpoint, answer);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })
}

fn question(global: &Global, args: &Args) -> anyhow::Result<Question> {
    let usage = |error: dial::DialError| Stop::new(Exit::Usage, error.to_string());
    if let Some(url) = &args.url {
        return Ok(Question { endpoint: Endpoint::http(url).map_err(usage)?, announced: false });
    }
    let config = load::config(global)?;
    let path = if args.ready { "/ready" } else { "/health" };
    let url = format!("http://{}{path}", reachable(config.http.listen));
    Ok(Question { endpoint: Endpoint::http(&url).map_err(usage)?, announced: config.http.proxy_protocol })
}

/// The address at which a listener on every address can be asked from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(question: &Question, trust: &Trust) -> anyhow::Result<(StatusCode, Bytes)> {
    let endpoint = &question.endpoint;
    let request = Request::get(endpoint.target.as_str())
        .header(header::HOST, endpoint.authority.as_str())
        .header(header::USER_AGENT, concat!("waystation/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let mut stream = dial::open(endpoint, trust).await?;
    if question.announced {
        stream.write_all(NOBODY_ELSE).await?;
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let answer = async {
        let response = sender.send_request(request).await.context("no answer")?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        anyhow::Ok((status, body.map_err(|error| anyhow::anyhow!("half an answer: {error}"))?.to_bytes()))
    };
    // The connection lives as long as this request.
    tokio::pin!(connection);
    tokio::pin!(answer);
    tokio::select! {
        answered = &mut answer => answered,
        _ = &mut connection => answer.await,
    }
}

/// Prints the answer, and says whether it is a good one.
fn tell(
    global: &Global,
    endpoint: &Endpoint,
    answer: anyhow::Result<(StatusCode, Bytes)>,
) -> anyhow::Result<Exit> {
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(error) if global.json => {
            screen::line(&json!({ "url": endpoint.url, "ok": false, "problem": format!("{error:#}") }))?;
            return Ok(Exit::Failed);
        }
        Err(error) => return Err(error.context(endpoint.url.clone())),
    };
    let ok = status == StatusCode::OK;
    // What is no JSON is some other server's answer.
    let said: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    if global.json {
        screen::line(&json!({ "url": endpoint.url, "ok": ok, "status": status.as_u16(), "answer": said }))?;
    } else {
        let paint = screen::Paint::new(global.color.on_stdout());
        let word = said["status"].as_str().unwrap_or_default();
        let reasons: Vec<&str> =
            said["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let line = format!("{}: {} {word} {}", endpoint.url, status.as_u16(), reasons.join(", "));
        let line = screen::clean(line.trim_end());
        screen::print(&format!("{}\n", if ok { paint.good(&line) } else { paint.bad(&line) }))?;
    }
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:8080", "[::1]:8080"),
            ("192.0.2.1:8080", "192.0.2.1:8080"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
