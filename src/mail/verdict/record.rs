//! PURE: a published DMARC record, as far as it can be used (RFC 9989 section 4.7).
//!
//! mail-auth drops a record whole for a fault in any tag that it knows, and with it the protection: a slip in `fo=`, which
//! only concerns reports, would let every forgery pass. So of a record that it cannot read the tags that decide are taken
//! one by one, each with its default when it makes no sense.
//!
//! Policy: without a `p=` that makes sense there is no record. An `sp=` or `np=` that makes none counts as `none`: what its
//! owner wanted for names below is not known, and nobody is refused by guess.

use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::dmarc::Dmarc;

use super::tags::Tags;

/// What `p=`, `sp=` and `np=` may say.
const POLICIES: [&str; 3] = ["none", "quarantine", "reject"];
/// Other tags that decide, and what they may say.
const OTHERS: [(&str, &[&str]); 4] =
    [("adkim", &["r", "s"]), ("aspf", &["r", "s"]), ("psd", &["y", "n", "u"]), ("t", &["y", "n"])];

/// Reads a text; `None` when it is no record, or none that says anything.
#[must_use]
pub fn read(text: &[u8]) -> Option<Dmarc> {
    Dmarc::parse(text).ok().or_else(|| mended(text))
}

fn mended(text: &[u8]) -> Option<Dmarc> {
    let tags = Tags::parse(text)?;
    let (tag, version) = tags.first()?;
    if tag != "v" || !version.eq_ignore_ascii_case("DMARC1") {
        return None;
    }
    let said = |tag: &str| tags.get(tag).map(str::to_ascii_lowercase);
    let policy = said("p").filter(|policy| POLICIES.contains(&policy.as_str()))?;
    let mut terms = vec!["v=DMARC1".to_owned(), format!("p={policy}")];
    for tag in ["sp", "np"] {
        if let Some(policy) = said(tag) {
            let known = POLICIES.contains(&policy.as_str());
            terms.push(format!("{tag}={}", if known { policy.as_str() } else { "none" }));
        }
    }
    for (tag, may) in OTHERS {
        if let Some(value) = said(tag).filter(|value| may.contains(&value.as_str())) {
            terms.push(format!("{tag}={value}"));
        }
    }
    Dmarc::parse(terms.join("; ").as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use mail_auth::dmarc::{Alignment, Policy, Psd};

    use super::*;

    #[test]
    fn a_fault_in_one_tag_leaves_the_others() {
        let faults = [
            "v=DMARC1; p=reject; aspf=s; fo=x",
            "v=DMARC1; p=Reject; aspf=S; adkim=strict; rua=mailto:a@b.example!ten",
            "v=DMARC1;p = reject ;aspf=s;fo=",
        ];
        let read = |text: &str| read(text.as_bytes());
        for text in faults {
            let record = read(text).unwrap_or_else(|| panic!("{text}"));
            let said = (record.p, record.sp, record.aspf, record.adkim);
            assert_eq!(
                said,
                (Policy::Reject, Policy::Reject, Alignment::Strict, Alignment::Relaxed),
                "{text}"
            );
        }
        let whole = read("v=DMARC1; p=reject; sp=quarantine; np=none; adkim=s; psd=n; t=y; fo=x").unwrap();
        assert_eq!((whole.sp, whole.np, whole.adkim), (Policy::Quarantine, Policy::None, Alignment::Strict));
        assert_eq!((whole.psd, whole.t), (Psd::No, true));
    }

    #[test]
    fn what_is_not_known_refuses_nobody() {
        let below = |text: &str| read(text.as_bytes()).map(|record| (record.p, record.sp, record.np));
        let (reject, none) = (Policy::Reject, Policy::None);
        assert_eq!(below("v=DMARC1; p=reject; sp=rejct"), Some((reject, none, none)));
        assert_eq!(below("v=DMARC1; p=reject; np=rejct"), Some((reject, reject, none)));
        for text in [
            "v=DMARC1; p=rejct; sp=reject; fo=x",
            "v=DMARC1; sp=reject; fo=x",
            "v=DMARC1; P=none; p=reject; fo=x",
            "p=reject; v=DMARC1; fo=x",
            "v=DMARC2; p=reject; fo=x",
            "v=spf1 -all",
            "hello",
        ] {
            assert_eq!(below(text), None, "{text}");
        }
    }
}
