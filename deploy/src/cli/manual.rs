//! `man`: manual pages of all commands, made of the same definition as the help.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Command};

/// Write manual pages of all commands into a folder
#[derive(Debug, Args)]
#[command(hide = true, after_help = "Example:\n  shoal man /usr/share/man/man1")]
pub(crate) struct ManualArgs {
    /// Folder
    folder: PathBuf,
}

impl ManualArgs {
    /// Writes them.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder.display()))?;
        let mut command = super::grammar::Cli::for_manual();
        command.build();
        write(&self.folder, &command)
    }
}

/// A page per command, named as git and docker name theirs: `shoal-service-create.1`.
fn write(folder: &Path, command: &Command) -> anyhow::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).source(format!("shoal {}", env!("CARGO_PKG_VERSION")));
    let path = folder.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text)?;
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    command.get_subcommands().filter(|child| !child.is_hide_set()).try_for_each(|child| write(folder, child))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().expect("folder");
        ManualArgs { folder: folder.path().to_owned() }.run().expect("pages");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
        assert!(read("shoal.1").contains(".TH shoal 1"));
        assert!(read("shoal-service-create.1").contains("replicas"));
        assert!(read("shoal-daemon.1").contains("\\-\\-data\\-root"));
        assert!(!folder.path().join("shoal-man.1").exists());
    }
}
