//! `darkroom __man-pages FOLDER`: man pages and shell completions for the packages, generated from the command line.

use std::path::Path;

use clap_complete::{Shell, generate_to};

/// Writes `darkroom.1`, `darkroom-COMMAND.1` and completions for bash, fish and zsh into the folder, which it creates.
pub fn write_man_pages(command: clap::Command, folder: &Path) -> anyhow::Result<bool> {
    let mut command = disable_help(command);
    std::fs::create_dir_all(folder)?;
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut command, "darkroom", folder)?;
    }
    clap_mangen::generate_to(command, folder)?;
    Ok(true)
}

/// Each `help` subcommand would add a page for every command.
fn disable_help(command: clap::Command) -> clap::Command {
    command.disable_help_subcommand(true).mut_subcommands(disable_help)
}
