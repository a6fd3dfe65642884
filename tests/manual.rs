//! The manual is true: every command block of README.md, docs/ and deploy/README.md is run, and what it shows is what comes.
//!
//! Each page is played from top to bottom in a room of its own: the machine's file system with a layer on top that is thrown
//! away, a network that is only a loopback interface, its own processes, a name server with the example domains, and
//! shims for the few things a room cannot have (`tests/manual/room.sh`). docs/testing.md says how blocks are marked.

mod compare;
mod fences;
mod links;
mod page;
mod references;
mod room;
mod symptoms;
mod tunnel_client;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::layering::root;
use fences::Fence;

/// Blocks that are not run: page, how many, and the reason that stands in the page. Nothing else may be left out.
const NOT_RUN: &[(&str, usize, &str)] = &[
    ("README.md", 1, "runs the tests themselves"),
    ("deploy/README.md", 4, "walked in a clean root by deploy/test-clean-root"),
    ("deploy/README.md", 1, "walked by tests/deploy"),
    ("deploy/README.md", 1, "walked over ssh by tests/deploy/remote"),
    ("deploy/README.md", 1, "needs a container engine"),
    ("docs/getting-started.md", 1, "installing is tried in a clean root by deploy/test-clean-root"),
    ("docs/performance.md", 11, "takes minutes and a quiet machine"),
    ("docs/reliability.md", 2, "runs the tests themselves"),
    ("docs/testing.md", 4, "runs the tests themselves"),
];

/// All pages whose blocks are held to this, relative to the tree.
fn pages() -> BTreeSet<String> {
    let mut pages: BTreeSet<String> = ["README.md", "deploy/README.md"].map(str::to_owned).into();
    for entry in fs::read_dir(root().join("docs")).expect("docs") {
        let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
        if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
            pages.insert(format!("docs/{name}"));
        }
    }
    pages
}

fn read(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn fences_of(page: &str) -> Vec<Fence> {
    fences::read(page, &read(page)).unwrap_or_else(|problem| panic!("{problem}"))
}

/// Every Markdown file of the tree.
fn all_markdown() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("directory") {
            let path = entry.expect("entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "node_modules" {
                    walk(&path, found);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), &mut found);
    found.sort();
    found
}

/// One test per page, so that they run beside one another; the list is checked against the directory.
macro_rules! played {
    ($($name:ident: $page:literal),* $(,)?) => {
        const PLAYED: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $name() {
                page::play($page);
            }
        )*
    };
}

played! {
    readme_runs_as_written: "README.md",
    installation_runs_as_written: "deploy/README.md",
    index_runs_as_written: "docs/README.md",
    command_reference_runs_as_written: "docs/cli.md",
    comparison_runs_as_written: "docs/comparison.md",
    configuration_reference_runs_as_written: "docs/configuration.md",
    gateway_page_runs_as_written: "docs/gateway.md",
    getting_started_runs_as_written: "docs/getting-started.md",
    metrics_page_runs_as_written: "docs/metrics.md",
    migration_runs_as_written: "docs/migration.md",
    operating_runs_as_written: "docs/operating.md",
    performance_page_runs_as_written: "docs/performance.md",
    protocol_runs_as_written: "docs/protocol.md",
    quirks_run_as_written: "docs/quirks.md",
    reliability_page_runs_as_written: "docs/reliability.md",
    security_page_runs_as_written: "docs/security.md",
    sending_runs_as_written: "docs/sending.md",
    testing_page_runs_as_written: "docs/testing.md",
    troubleshooting_runs_as_written: "docs/troubleshooting.md",
}

#[test]
fn every_page_is_played() {
    let played: BTreeSet<String> = PLAYED.iter().map(|page| (*page).to_owned()).collect();
    assert_eq!(played, pages());
}

#[test]
fn only_these_blocks_are_not_run() {
    let mut found: Vec<(String, usize, String)> = Vec::new();
    for page in pages() {
        for reason in fences_of(&page).into_iter().filter_map(|fence| fence.not_run) {
            match found.iter_mut().find(|(of, _, why)| *of == page && *why == reason) {
                Some((_, count, _)) => *count += 1,
                None => found.push((page.clone(), 1, reason)),
            }
        }
    }
    for (page, count, reason) in &found {
        eprintln!("NOT RUN: {count} of {page}: {reason}");
    }
    let allowed: Vec<_> =
        NOT_RUN.iter().map(|(page, count, why)| ((*page).to_owned(), *count, (*why).to_owned())).collect();
    assert_eq!(found, allowed);
}

/// The room has one user, who may everything; a reader's machine has two. Lines behind `sudo` lose what the shell has exported,
/// lines without it cannot enter the data directory.
#[test]
fn the_guide_is_typed_by_one_user_throughout() {
    let fences = fences_of("docs/getting-started.md");
    let mixed: Vec<_> = fences.iter().filter(|fence| fence.text.contains("sudo ")).collect();
    assert!(mixed.is_empty(), "{mixed:#?}");
}
