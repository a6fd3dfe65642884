//! Mail that goes in by SMTP, as far as several measurements ask for it with the same words.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::smtp::{Load, Size};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Traffic {
    /// Messages
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(super) messages: u64,
    /// Bytes of each, or `mix`: half of them 2 KiB, one in a hundred 1 MiB
    #[arg(long, value_name = "BYTES", default_value = "4096")]
    pub(super) size: Size,
    /// SMTP sessions at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    sessions: u16,
    /// Messages a second; without it as fast as answers come
    #[arg(long, value_name = "N", value_parser = positive)]
    rate: Option<f64>,
}

/// A rate or a time: more than nothing, and a number.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().map_err(|error| error.to_string())?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("it must be above 0".to_owned()) }
}

impl Traffic {
    pub(super) fn load(&self, target: SocketAddr, recipients: Vec<String>) -> Load {
        Load {
            sessions: usize::from(self.sessions),
            rate: self.rate,
            ..Load::new(target, recipients, self.messages, self.size)
        }
    }

    /// For the headline.
    pub(super) fn words(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate} a second"));
        format!("{} messages, {}, {} sessions{rate}", self.messages, self.size, self.sessions)
    }

    /// For JSON.
    pub(super) fn described(&self) -> Map<String, Value> {
        let mut load = Map::new();
        load.insert("messages".to_owned(), json!(self.messages));
        load.insert("size".to_owned(), json!(self.size.to_string()));
        load.insert("sessions".to_owned(), json!(self.sessions));
        load.insert("rate".to_owned(), json!(self.rate));
        load
    }
}
