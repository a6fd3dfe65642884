//! Listing the newest first.
//!
//! Promises: one answer costs the ledger at most [`CALLS_MAX`] of its own bounded steps, about twenty thousand entries; `next` goes
//! on where it stopped, and is an item's id, or `LANE:SEQ` of one or two lanes with a comma between.

use serde_json::{Value, json};
use spool::ids::LaneId;
use spool::types::Page;
use spool::{Spool, Whence};

use super::{BATCH, CALLS_MAX, Wanted, parse_page};
use crate::admin::ask::{AskError, Context};

pub(super) fn items(view: &Spool, wanted: &Wanted<'_>, context: &Context<'_>) -> Result<Value, AskError> {
    let lanes = wanted.lanes(view, context)?;
    let mut at = Some(match &wanted.ask.after {
        Some(text) => parse(text, lanes.as_deref())?,
        None => lanes.as_deref().map_or(Whence::Everywhere(None), Whence::top_of),
    });
    // Addresses are in the records: to find a few, many are read.
    let batch = if wanted.reads_addresses() { BATCH } else { wanted.limit };
    let mut found = Vec::new();
    for _ in 0..CALLS_MAX {
        let Some(whence) = &mut at else { break };
        let (page, next) = view.newest(&wanted.filter, whence, batch)?;
        let mut rest = page.iter();
        for item in rest.by_ref() {
            whence.pass(item);
            found.extend(wanted.object(view, item, context)?);
            if found.len() >= wanted.limit {
                break;
            }
        }
        if found.len() < wanted.limit || rest.len() == 0 {
            at = next;
        }
        if found.len() >= wanted.limit {
            break;
        }
    }
    Ok(json!({ "items": found, "next": at.as_ref().map(text) }))
}

fn text(whence: &Whence) -> String {
    match whence {
        Whence::Everywhere(id) => id.map_or_else(String::new, |id| id.to_string()),
        Whence::Lanes(lanes) => {
            let pages = lanes.iter().map(|page| format!("{}:{}", page.lane.0, page.seq.0));
            pages.collect::<Vec<_>>().join(",")
        }
    }
}

/// Undoes [`text`]; only the lanes that are asked for can be gone on with.
fn parse(text: &str, lanes: Option<&[LaneId]>) -> Result<Whence, AskError> {
    let wrong = || AskError::Bad(format!("`{text}` is no page; take `next` of the answer before"));
    let Some(lanes) = lanes else {
        return text.parse().map(|id| Whence::Everywhere(Some(id))).map_err(|_| wrong());
    };
    let pages: Vec<Page> = text.split(',').take(lanes.len() + 1).map(parse_page).collect::<Result<_, _>>()?;
    if pages.iter().map(|page| page.lane).eq(lanes.iter().copied()) {
        Ok(Whence::Lanes(pages))
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use spool::ids::{ItemId, Seq, WallMs};

    use super::*;

    #[test]
    fn pages_are_read_as_they_are_written_and_only_where_they_belong() {
        let id = Whence::Everywhere(Some(ItemId::new(WallMs(1_790_000_000_123), [7; 10])));
        assert_eq!(parse(&text(&id), None), Ok(id.clone()));
        let page = |lane, seq| Page { lane: LaneId(lane), seq: Seq(seq) };
        let lanes = Whence::Lanes(vec![page(3, 9), page(8, 1)]);
        assert_eq!(text(&lanes), "3:9,8:1");
        assert_eq!(parse("3:9,8:1", Some(&[LaneId(3), LaneId(8)])), Ok(lanes));
        for (wrong, lanes) in [
            ("3:9", Some([LaneId(3), LaneId(8)].as_slice())),
            ("3:9,8:1,9:1", Some(&[LaneId(3), LaneId(8)])),
            ("4:9", Some(&[LaneId(3)])),
            ("3:9", None),
            ("", None),
        ] {
            assert!(parse(wrong, lanes).is_err(), "{wrong}");
        }
        assert!(parse(&text(&id), Some(&[LaneId(3)])).is_err());
    }
}
