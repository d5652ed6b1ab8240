//! temporary
use clap::Args;

/// Clusters on this machine
#[derive(Debug, Args)]
pub(crate) struct LabArgs {}

impl LabArgs {
    /// Runs the command.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        Ok(())
    }
}
