//! Pages that are made from the program are what the program says.

use super::read;
use crate::support::process::run_text;

fn equals(page: &str, name: &str) {
    let (code, made, problem) = run_text(&["reference", name]);
    assert_eq!(code, 0, "{problem}");
    assert!(
        read(page) == made,
        "{page} is not what the program says; regenerate: waystation reference {name} > {page}"
    );
}

#[test]
fn the_configuration_reference_is_what_the_program_reads() {
    equals("docs/configuration.md", "configuration");
}

#[test]
fn the_command_reference_is_what_the_program_takes() {
    equals("docs/cli.md", "commands");
}
