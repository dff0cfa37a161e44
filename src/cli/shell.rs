//! `doorward completions` and `doorward man`: what the shell and `man` show about the commands.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell, for example bash
    shell: Shell,
}

#[derive(Args)]
pub struct ManArgs {
    /// Directory for one page per command; without it, the page of doorward is printed
    #[arg(long)]
    dir: Option<PathBuf>,
}

pub(super) fn completions(
    args: &CompletionsArgs,
    mut program: Command,
) -> anyhow::Result<ExitCode> {
    // The generator panics if it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "doorward", &mut script);
    print!("{}", String::from_utf8(script)?);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &ManArgs, program: Command) -> anyhow::Result<ExitCode> {
    match &args.dir {
        Some(directory) => write_pages(program, directory)
            .with_context(|| format!("cannot write to {}", directory.display()))?,
        None => {
            let mut page = Vec::new();
            Man::new(program).render(&mut page)?;
            print!("{}", String::from_utf8(page)?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_pages(program: Command, directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(program, directory)
}
