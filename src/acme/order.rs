//! Driver: one order at an ACME server, from the account to the certificate (RFC 8555 section 7).
//!
//! Promises: what is shown for a validation is taken away when the order ends, however it ends; the whole order has
//! [`PATIENCE`]; the key of the certificate before is used again, so that TLSA records that name it (RFC 7672 section 3.1) stay
//! right over renewals, unless the server gives nothing for it. Failure policy: the server's own words, with those of each
//! failed validation, in one [`OrderError`].

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CertificateSigningRequest, CustomExtension, DistinguishedName, KeyPair};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::answers::Answers;
use super::disk::Place;
use super::{Proof, Settings};
use crate::secrets::SecretError;
use crate::tls::Store;

/// Longest time of one order; servers try a validation for a minute or so.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// How the server is asked whether it has finished.
const POLLS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));
/// Most characters of an error text that are kept; the server writes it.
const WORDS_MAX: usize = 2000;
/// Problem types of a key that the server does not want in a certificate (RFC 8555 section 6.7).
const REFUSED_KEY: [&str; 2] =
    ["urn:ietf:params:acme:error:badCSR", "urn:ietf:params:acme:error:badPublicKey"];
/// Problem types that are about no key.
const TROUBLE_OF_ITS_OWN: [&str; 2] =
    ["urn:ietf:params:acme:error:serverInternal", "urn:ietf:params:acme:error:rateLimited"];
/// Problem type of an account the server does not know (RFC 8555 section 6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// An order gave no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The server, or the way to it.
    #[error("{0}")]
    Server(String),
    /// The server does not know our account; the next order makes another.
    #[error("the ACME server does not know our account any more: {0}")]
    NoAccount(String),
    /// The names were not proved; what the server found for each.
    #[error("the ACME server could not validate: {0}")]
    Invalid(String),
    /// The names were proved, and it gave nothing for the key of the certificate before.
    #[error("the ACME server gave no certificate for the key of the one before: {0}")]
    KeptKey(String),
    /// It does not offer the way of proof that is configured.
    #[error("the ACME server does not offer {0} for these names; `tls.acme.challenge` names another way")]
    NotOffered(&'static str),
    /// The certificate for a validation could not be made.
    #[error("cannot make the certificate for the validation: {0}")]
    Challenge(String),
    /// The key, or the request for a certificate of it, could not be made.
    #[error("cannot make the request for the certificate: {0}")]
    Request(String),
    /// Files.
    #[error(transparent)]
    Disk(#[from] SecretError),
    /// It took too long.
    #[error("the ACME server did not finish in {} s", PATIENCE.as_secs())]
    Timeout,
}

impl From<Error> for OrderError {
    fn from(error: Error) -> Self {
        let unknown = matches!(&error, Error::Api(problem) if problem.r#type.as_deref() == Some(NO_ACCOUNT));
        let words = told(&error);
        if unknown { Self::NoAccount(words) } else { Self::Server(words) }
    }
}

/// An error with all its causes: "client error (Connect)" alone helps nobody.
fn told(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let text = deeper.to_string();
        if !words.contains(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = deeper.source();
    }
    plain(&words)
}

/// Fit for one log line.
fn plain(words: &str) -> String {
    words.chars().take(WORDS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What an order gives.
pub(super) struct Got {
    pub(super) key_pem: Zeroizing<String>,
    pub(super) chain_pem: String,
}

/// Runs one order to its end. `keeps_key`: the certificate is for the key of the one before, if there is one.
pub(super) async fn run(
    settings: &Settings,
    (place, keeps_key): (&Place, bool),
    answers: &Arc<Answers>,
    store: &Arc<Store>,
) -> Result<Got, OrderError> {
    let shown = Shown { answers, store, what: Vec::new() };
    tokio::time::timeout(PATIENCE, to_the_end(settings, (place, keeps_key), shown))
        .await
        .unwrap_or(Err(OrderError::Timeout))
}

async fn to_the_end(
    settings: &Settings,
    (place, keeps_key): (&Place, bool),
    mut shown: Shown<'_>,
) -> Result<Got, OrderError> {
    let account = account(settings, place).await?;
    let names: Vec<_> = settings.names.iter().map(|name| Identifier::Dns(name.clone())).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    show(&mut order, settings.proof, &mut shown).await?;
    match order.poll_ready(&POLLS).await {
        Ok(OrderStatus::Ready | OrderStatus::Valid) => {}
        Ok(OrderStatus::Invalid | OrderStatus::Pending | OrderStatus::Processing) => {
            return Err(invalid(&mut order, String::new()).await);
        }
        Err(Error::Api(problem)) => return Err(invalid(&mut order, told(&problem)).await),
        Err(error) => return Err(error.into()),
    }
    let kept = match place.key() {
        Some(_) if !keeps_key => {
            another_key("it gave nothing for it again and again");
            None
        }
        kept => kept,
    };
    let (key, is_kept) = finalize(&mut order, &settings.names, kept).await?;
    let key_pem = Zeroizing::new(key.serialize_pem());
    let polled = order.poll_certificate(&POLLS).await;
    let chain_pem = polled.map_err(|error| if is_kept { for_kept_key(error) } else { error.into() })?;
    Ok(Got { key_pem, chain_pem })
}

fn another_key(why: &str) {
    tracing::warn!(
        event = "relay.acme.key_refused",
        "the ACME server does not take the key of the certificate before, so another is made; TLSA records need its name: {why}"
    );
}

/// Says which key the certificate is for: the one that was kept (true), or a new one.
async fn finalize(
    order: &mut Order,
    names: &[String],
    kept: Option<KeyPair>,
) -> Result<(KeyPair, bool), OrderError> {
    if let Some(key) = kept {
        match order.finalize_csr(request(names, &key)?.der()).await {
            Ok(()) => return Ok((key, true)),
            // Its certificate was revoked as stolen, perhaps: no order with it would ever succeed.
            Err(Error::Api(problem)) if is_refused_key(&problem) => another_key(&told(&problem)),
            Err(error) => return Err(for_kept_key(error)),
        }
    }
    let key = KeyPair::generate().map_err(|error| OrderError::Request(error.to_string()))?;
    order.finalize_csr(request(names, &key)?.der()).await?;
    Ok((key, false))
}

/// What the server says to a kept key, in whatever words, may be about the key. The way to it never is.
fn for_kept_key(error: Error) -> OrderError {
    let of_its_own =
        |problem: &Problem| problem.r#type.as_deref().is_some_and(|kind| TROUBLE_OF_ITS_OWN.contains(&kind));
    let said =
        matches!(&error, Error::Api(problem) if !of_its_own(problem)) || matches!(&error, Error::Str(_));
    let error = OrderError::from(error);
    if said && matches!(error, OrderError::Server(_)) {
        OrderError::KeptKey(error.to_string())
    } else {
        error
    }
}

fn is_refused_key(problem: &Problem) -> bool {
    problem.r#type.as_deref().is_some_and(|kind| REFUSED_KEY.contains(&kind))
}

/// What the server is asked to sign: the names, and the key.
fn request(names: &[String], key: &KeyPair) -> Result<CertificateSigningRequest, OrderError> {
    let failed = |error: rcgen::Error| OrderError::Request(error.to_string());
    let mut params = CertificateParams::new(names).map_err(failed)?;
    // Else it has a common name, which is none of the names that were proved.
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).map_err(failed)
}

async fn account(settings: &Settings, place: &Place) -> Result<Account, OrderError> {
    let builder = match &settings.ca_file {
        Some(file) => Account::builder_with_root(file)?,
        None => Account::builder()?,
    };
    if let Some(known) = place.account()? {
        return Ok(builder.from_credentials(known).await?);
    }
    let contact = settings.contact.as_ref().map(|address| format!("mailto:{address}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&wanted, settings.directory_url.clone(), None).await?;
    place.keep_account(&credentials)?;
    tracing::info!(
        event = "relay.acme.account_made",
        directory = settings.directory_url,
        account = account.id(),
        "made an account at the ACME server"
    );
    Ok(account)
}

/// Shows what the server wants to see for each name, and says so.
async fn show(order: &mut Order, proof: Proof, shown: &mut Shown<'_>) -> Result<(), OrderError> {
    let kind = match proof {
        Proof::Http01 => ChallengeType::Http01,
        Proof::TlsAlpn01 => ChallengeType::TlsAlpn01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue; // proved a short time ago
        }
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(OrderError::NotOffered(proof.word()));
        };
        let answer = challenge.key_authorization();
        match proof {
            Proof::Http01 => shown.token(&challenge.token, answer.as_str()),
            Proof::TlsAlpn01 => shown.certificate(&name, validation(&name, answer.digest().as_ref())?),
        }
        challenge.set_ready().await?;
    }
    Ok(())
}

/// The certificate that proves a name over TLS (RFC 8737 section 3).
fn validation(name: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, OrderError> {
    let failed = |problem: &dyn std::fmt::Display| OrderError::Challenge(problem.to_string());
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(|error| failed(&error))?;
    // The constructor of this extension panics for other lengths.
    if digest.len() != 32 {
        return Err(failed(&"the digest is not SHA-256"));
    }
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let signing = any_supported_type(&key).map_err(|error| failed(&error))?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signing)))
}

/// Why: the order's own words, and what the server found for each name.
async fn invalid(order: &mut Order, words: String) -> OrderError {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        // What is known of it may be from before the validation.
        let _ = authorization.refresh().await;
        let name = authorization.identifier().to_string();
        let errors = authorization.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(|problem| format!("{name}: {problem}")));
    }
    if reasons.is_empty() {
        reasons.push(if words.is_empty() { "it did not say why".to_owned() } else { words });
    }
    OrderError::Invalid(plain(&reasons.join("; ")))
}

/// What is shown to the server, taken away when dropped.
struct Shown<'a> {
    answers: &'a Arc<Answers>,
    store: &'a Arc<Store>,
    what: Vec<What>,
}

enum What {
    Token(String),
    Name(String),
}

impl Shown<'_> {
    fn token(&mut self, token: &str, answer: &str) {
        self.answers.show(token, answer);
        self.what.push(What::Token(token.to_owned()));
    }

    fn certificate(&mut self, name: &str, certificate: Arc<CertifiedKey>) {
        self.store.set_challenge(name, certificate);
        self.what.push(What::Name(name.to_owned()));
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        for what in self.what.drain(..) {
            match what {
                What::Token(token) => self.answers.hide(&token),
                What::Name(name) => self.store.clear_challenge(&name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_of_the_server_cast_doubt_on_a_key() {
        let said = |kind: &str| {
            let problem =
                serde_json::json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "no" });
            for_kept_key(Error::Api(serde_json::from_value(problem).unwrap()))
        };
        assert!(matches!(said("unauthorized"), OrderError::KeptKey(_)));
        assert!(matches!(for_kept_key(Error::Str("no certificate")), OrderError::KeptKey(_)));
        assert!(matches!(said("accountDoesNotExist"), OrderError::NoAccount(_)));
        assert!(matches!(said("serverInternal"), OrderError::Server(_)));
        assert!(matches!(said("rateLimited"), OrderError::Server(_)));
        assert!(matches!(for_kept_key(Error::Timeout(None)), OrderError::Server(_)));
    }
}
