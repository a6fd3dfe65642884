//! The wire between a relay and a gateway in a network namespace of its own: `wire.py` with two TUN devices.
//!
//! The kernel's own network emulation is a module that few kernels have; this one loses, delays, doubles and reorders
//! packets in user space, and can be cut. Needs root.

use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::disk::run;

/// Where the relay is, seen from the gateway's side.
pub(crate) const RELAY_HOST: &str = "10.213.77.1";
const GATEWAY_HOST: &str = "10.213.77.2";

/// See above; the namespace ends with it.
pub(crate) struct Wire {
    namespace: String,
    child: Child,
    orders: ChildStdin,
}

/// What happens to packets, in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Of a thousand.
    pub(crate) lost: u64,
    /// Of a thousand.
    pub(crate) doubled: u64,
    /// Each waits so long, milliseconds.
    pub(crate) delay_ms: u64,
    /// And up to so much longer: what overtakes is reordered.
    pub(crate) jitter_ms: u64,
    /// Nothing comes through.
    pub(crate) cut: bool,
}

impl Wire {
    /// Makes namespace, devices and forwarder.
    pub(crate) fn start() -> Result<Self, String> {
        let id = std::process::id();
        let namespace = format!("campaign-{id}");
        let (here, there) = (format!("cwa{id}"), format!("cwb{id}"));
        run("ip", &["netns", "add", &namespace])?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/campaign/wire.py");
        let mut child = Command::new("python3")
            .args([script, &here, &there])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("python3: {error}"))?;
        let orders = child.stdin.take().expect("piped");
        // It says a line when both devices are there.
        let mut said = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().expect("piped"));
        std::io::BufRead::read_line(&mut out, &mut said).map_err(|error| error.to_string())?;
        let wire = Self { namespace, child, orders };
        if said.trim() != "ready" {
            return Err("the wire did not get its devices".to_owned());
        }
        let name = wire.namespace.as_str();
        run("ip", &["link", "set", &there, "netns", name])?;
        run("ip", &["addr", "add", RELAY_HOST, "peer", GATEWAY_HOST, "dev", &here])?;
        run("ip", &["link", "set", &here, "up"])?;
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        run("ip", &["-n", name, "addr", "add", GATEWAY_HOST, "peer", RELAY_HOST, "dev", &there])?;
        run("ip", &["-n", name, "link", "set", &there, "up"])?;
        Ok(wire)
    }

    /// What stands before the command of a process on the far side.
    pub(crate) fn far_side(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.namespace].map(str::to_owned).to_vec()
    }

    /// From now on.
    pub(crate) fn set(&mut self, weather: Weather) -> Result<(), String> {
        let Weather { lost, doubled, delay_ms, jitter_ms, cut } = weather;
        let order = format!("{lost} {doubled} {delay_ms} {jitter_ms} {}\n", u8::from(cut));
        self.orders.write_all(order.as_bytes()).map_err(|error| format!("the wire has ended: {error}"))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(problem) = run("ip", &["netns", "del", &self.namespace]) {
            eprintln!("{problem}");
        }
    }
}
