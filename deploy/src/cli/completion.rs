//! `completion`: scripts that complete commands and flags in a shell.

use clap::{Args, ValueEnum};

/// Generate a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  source <(shoal completion bash)
  shoal completion zsh > ~/.zfunc/_shoal
  shoal completion fish > ~/.config/fish/completions/shoal.fish")]
pub(crate) struct CompletionArgs {
    /// Shell
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl CompletionArgs {
    /// Prints the script.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let shell = match self.shell {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::command(), "shoal", &mut script);
        super::output::text(String::from_utf8_lossy(&script))
    }
}
