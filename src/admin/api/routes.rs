//! Every route of the admin API, in one table: the router is made of it, and a test holds `openapi.json` to it.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodRouter, get, post};

use super::{
    Admin, attestation, compare, delivery, dns, dns_wanted, explain, invitations, item, items, live, mailbox,
    mailboxes, make, make_backup, openapi, process, raw, receipt, reload, restart, rotate, stats, throw,
    verify_all,
};

/// One route.
pub struct Route {
    /// `get` or `post`.
    pub method: &'static str,
    /// Its path, with names in braces.
    pub path: &'static str,
    answer: MethodRouter<Arc<Admin>>,
}

/// A question.
fn look<H: Handler<T, Arc<Admin>>, T: 'static>(path: &'static str, answer: H) -> Route {
    Route { method: "get", path, answer: get(answer) }
}

/// A change, or work that is asked for.
fn post_to<H: Handler<T, Arc<Admin>>, T: 'static>(path: &'static str, answer: H) -> Route {
    Route { method: "post", path, answer: post(answer) }
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Route> {
    vec![
        look("/admin/openapi.json", openapi),
        look("/admin/overview", live::overview),
        look("/admin/sessions", live::sessions),
        look("/admin/events", live::events),
        look("/admin/mailboxes", mailboxes),
        post_to("/admin/mailboxes", make),
        look("/admin/mailboxes/{name}", mailbox),
        post_to("/admin/mailboxes/{name}/allow", make),
        post_to("/admin/mailboxes/{name}/revoke", make),
        post_to("/admin/mailboxes/{name}/alias", make),
        post_to("/admin/mailboxes/{name}/quota", make),
        look("/admin/invitations", invitations),
        post_to("/admin/invitations", make),
        post_to("/admin/invitations/{id}/withdraw", make),
        look("/admin/delivery", delivery),
        post_to("/admin/delivery/pause", throw),
        post_to("/admin/delivery/resume", throw),
        look("/admin/attestation", attestation),
        post_to("/admin/attestation/rotate", rotate),
        look("/admin/reload", compare),
        post_to("/admin/reload", reload),
        look("/admin/restart", process),
        post_to("/admin/restart", restart),
        post_to("/admin/backup", make_backup),
        look("/admin/dns", dns),
        look("/admin/dns/wanted", dns_wanted),
        look("/admin/spool/items", items),
        look("/admin/spool/items/{id}", item),
        look("/admin/spool/items/{id}/explain", explain),
        look("/admin/spool/items/{id}/raw", raw),
        look("/admin/spool/items/{id}/receipt", receipt),
        post_to("/admin/spool/items/{id}/hold", make),
        post_to("/admin/spool/items/{id}/release", make),
        post_to("/admin/spool/items/{id}/replay", make),
        post_to("/admin/spool/items/{id}/retry", make),
        post_to("/admin/spool/items/{id}/cancel", make),
        post_to("/admin/spool/items/{id}/purge", make),
        post_to("/admin/spool/items/{id}/resend", make),
        post_to("/admin/spool/replay", make),
        look("/admin/spool/stats", stats),
        post_to("/admin/spool/verify", verify_all),
    ]
}

pub(super) fn table() -> Router<Arc<Admin>> {
    all().into_iter().fold(Router::new(), |router, route| router.route(route.path, route.answer))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn document() -> Value {
        serde_json::from_str(include_str!("../openapi.json")).expect("JSON")
    }

    #[test]
    fn the_document_describes_every_route_and_no_other() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let methods =
            |path: &str| paths[path].as_object().expect("methods").keys().cloned().collect::<Vec<_>>();
        let described: BTreeSet<(String, String)> = paths
            .keys()
            .flat_map(|path| methods(path).into_iter().map(|method| (path.clone(), method)))
            .collect();
        let routes: BTreeSet<_> = all().iter().map(|r| (r.path.to_owned(), r.method.to_owned())).collect();
        assert_eq!(described, routes);
        assert_eq!(routes.len(), all().len(), "no route is there twice");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_name_in_a_path_is_a_described_parameter_and_every_operation_has_its_own_id() {
        let document = document();
        let mut ids = BTreeSet::new();
        for route in all() {
            let operation = &document["paths"][route.path][route.method];
            let id = operation["operationId"].as_str().expect("an id");
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            let names = route.path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
            for name in names {
                let described = operation["parameters"].as_array().into_iter().flatten();
                assert!(
                    described.clone().any(|p| p["name"] == name && p["in"] == "path"),
                    "{}: {name}",
                    route.path
                );
            }
            assert!(operation["summary"].is_string(), "{}", route.path);
        }
    }
}
