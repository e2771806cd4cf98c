//! `darkroom __manual FOLDER`: man pages and completions, made from the command line itself, for the packages.

use std::path::Path;

use clap_complete::{Shell, generate_to};

/// Writes `darkroom.1`, `darkroom-VERB.1` and a file for each of bash, fish and zsh, and makes the folder.
///
/// # Errors
/// The folder can't be written.
pub fn manual(command: clap::Command, folder: &Path) -> std::io::Result<()> {
    let mut command = without_help(command);
    std::fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command, "darkroom", folder)?;
    }
    clap_mangen::generate_to(command, folder)
}

/// `help` would bring a page for each verb once more.
fn without_help(command: clap::Command) -> clap::Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}
