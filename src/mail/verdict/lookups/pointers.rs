//! Names of the client (`ptr`, `%{p}`), which are its own choice, whoever's policy asks for them.
//!
//! mail-auth gets only those that were found and checked here ([`Lookups::point`]): what is too many, too large or too late
//! is no name, and no trouble.

use std::borrow::Borrow;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use mail_auth::common::resolver::ToFqdn as _;
use mail_auth::hickory_resolver::lookup::Lookup;
use mail_auth::hickory_resolver::proto::rr::{Name, RData};
use mail_auth::{RecordSet, ResolverCache};
use tokio::time::timeout_at;

use super::{KEPT_BYTES_MAX, Kind, Lookups, Question, RECORD_BYTES, set, spelled, text};

/// Most names of the client that are looked at (RFC 7208 section 4.6.4).
const POINTERS_MAX: usize = 10;

/// What is known of them.
#[derive(Default)]
pub(super) struct Pointers {
    /// A policy asks for them.
    wanted: bool,
    /// The client, and its names that lead back to it, without final dots; `None`: nobody has looked.
    checked: Option<(IpAddr, Arc<[Box<str>]>)>,
}

impl Lookups {
    /// A policy asks for the names of the client, and they are not known yet.
    pub(in crate::mail::verdict) fn wants_pointers(&self) -> bool {
        let state = self.state();
        state.pointers.wanted && state.pointers.checked.is_none()
    }

    /// Finds the names of the client that lead back to it, as far as that is known `until` then (RFC 7208 section 5.5).
    pub(in crate::mail::verdict) async fn point(&self, client: IpAddr, until: Instant) {
        let names = timeout_at(until.into(), self.names_of(client)).await.unwrap_or_default();
        let checked = join_all(names.into_iter().map(|name| async move {
            let back = timeout_at(until.into(), self.leads_to(&name, client)).await;
            back.unwrap_or(false).then_some(name)
        }));
        let names = checked.await.into_iter().flatten().collect();
        self.state().pointers.checked = Some((client, names));
    }

    async fn names_of(&self, client: IpAddr) -> Vec<Box<str>> {
        let asked = Name::from(client);
        let question = (Kind::Ptr, spelled(&client));
        let Some(lookup) = self.ask_unweighed(question, asked).await else { return Vec::new() };
        let names = lookup.answers().iter().filter_map(|record| {
            let RData::PTR(name) = &record.data else { return None };
            let name = name.to_lowercase().to_ascii();
            // With the dot mail-auth would not find the domain at its end.
            let name = name.trim_end_matches('.');
            (!name.is_empty()).then(|| Box::from(name))
        });
        names.take(POINTERS_MAX).collect()
    }

    async fn leads_to(&self, name: &str, client: IpAddr) -> bool {
        let name = name.to_fqdn();
        let Ok(asked) = Name::from_str_relaxed(&*name) else { return false };
        let kind = if client.is_ipv4() { Kind::V4 } else { Kind::V6 };
        let lookup = self.ask_unweighed((kind, spelled::<str>(&name)), asked).await;
        lookup.is_some_and(|found| found.answers().iter().any(|record| record.data.ip_addr() == Some(client)))
    }

    /// An answer that nothing depends on: without room for the question there is none.
    async fn ask_unweighed(&self, question: Question, asked: Name) -> Option<Lookup> {
        let may = self.state().budget.take(&question);
        if !may {
            return None;
        }
        let kind = question.0.record();
        let found = self.resolver.lookup(asked.clone(), kind).await;
        let lookup = found.map_err(|error| self.missing(&error)).ok()?;
        self.state().answered = true;
        if lookup.answers().len() * RECORD_BYTES > KEPT_BYTES_MAX {
            self.resolver.clear_lookup_cache(asked, kind);
        }
        Some(lookup)
    }

    /// The client, if that name is known to lead to it.
    pub(super) fn leads_back(&self, name: &[u8]) -> Option<IpAddr> {
        let name = text(name)?.trim_end_matches('.');
        let state = self.state();
        let (client, names) = state.pointers.checked.as_ref()?;
        names.iter().any(|known| **known == *name).then_some(*client)
    }
}

/// There is always an answer, so that mail-auth asks nobody: nothing until [`Lookups::point`] has looked.
impl ResolverCache<IpAddr, RecordSet<Box<str>>> for Lookups {
    fn get<Q>(&self, _: &Q) -> Option<RecordSet<Box<str>>>
    where
        IpAddr: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let mut state = self.state();
        state.pointers.wanted = true;
        Some(set(state.pointers.checked.as_ref().map(|(_, names)| Arc::clone(names)).unwrap_or_default()))
    }

    fn remove<Q>(&self, _: &Q) -> Option<RecordSet<Box<str>>>
    where
        IpAddr: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: IpAddr, _: RecordSet<Box<str>>, _: Instant) {}
}
