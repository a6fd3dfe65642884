//! Wiring of the ACME client: its settings, and its answers on the HTTP listener.

use std::sync::Arc;

use super::StartError;
use crate::acme::plan::PAUSES;
use crate::acme::{Answers, Client, Proof, Settings};
use crate::config::{AcmeChallenge, Config, Tls};
use crate::http::Challenges;
use crate::observe::Metrics;
use crate::tls::Store;

/// The client, ready to run, and what the HTTP listener answers for it.
pub(super) struct Acme {
    pub(super) client: Client,
    pub(super) challenges: Arc<dyn Challenges>,
}

/// Serves the certificate got before, if there is one; `None` when certificates come from elsewhere.
pub(super) fn prepare(
    config: &Config,
    store: &Arc<Store>,
    metrics: &Arc<Metrics>,
) -> Result<Option<Acme>, StartError> {
    let Some(Tls::Acme(acme)) = &config.tls else { return Ok(None) };
    let answers = Arc::new(Answers::default());
    let settings = Settings {
        dir: super::records::acme_dir(&config.data_dir),
        directory_url: acme.directory_url.clone(),
        contact: acme.contact.clone(),
        names: acme.names.clone(),
        proof: match acme.challenge {
            AcmeChallenge::Http01 => Proof::Http01,
            AcmeChallenge::TlsAlpn01 => Proof::TlsAlpn01,
        },
        ca_file: acme.ca_file.clone(),
        pauses: PAUSES,
    };
    let client = Client::start(settings, Arc::clone(store), Arc::clone(&answers), Arc::clone(metrics))
        .map_err(|error| StartError::Secret { key: "data_dir", error })?;
    Ok(Some(Acme { client, challenges: Arc::new(Bridge(answers)) }))
}

/// `http` does not know `acme`.
struct Bridge(Arc<Answers>);

impl Challenges for Bridge {
    fn answer(&self, token: &str) -> Option<String> {
        self.0.answer(token)
    }
}
