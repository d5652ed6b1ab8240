//! `system prune`.

use clap::Args;

use crate::cli::client::Filters;
use crate::cli::container::lifecycle::prune_kind;
use crate::cli::context::Context;
use crate::cli::exit::fail;
use crate::cli::{confirm_text, human, output};

/// Remove unused data
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal system prune -f --filter until=24h")]
pub(super) struct PruneArgs {
    /// Remove all unused images not just dangling ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values, as in label=team=blue
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
    /// Prune anonymous volumes
    #[arg(long)]
    volumes: bool,
}

impl PruneArgs {
    /// Runs the command.
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let filters = Filters::parse(&self.filter)?;
        if self.volumes && filters.has("until") {
            return Err(fail(1, "ERROR: The \"until\" filter is not supported with \"--volumes\""));
        }
        if !self.force && !confirm_text(&self.warning())? {
            return Ok(());
        }
        let dangling = if self.all { "false" } else { "true" };
        let images = filters.clone().with("dangling", dangling);
        let mut kinds = vec![("containers", "ContainersDeleted", &filters), ("networks", "NetworksDeleted", &filters)];
        if self.volumes {
            kinds.push(("volumes", "VolumesDeleted", &filters));
        }
        kinds.push(("images", "ImagesDeleted", &images));
        let mut reclaimed = 0;
        for (kind, deleted, filters) in kinds {
            let pruned = prune_kind(context, kind, deleted, filters).await?;
            output::text(pruned.text)?;
            reclaimed += pruned.reclaimed.unwrap_or(0);
        }
        output::line(format!("Total reclaimed space: {}", human::decimal_size(reclaimed)))
    }

    fn warning(&self) -> String {
        let mut lines = vec!["all stopped containers", "all networks not used by at least one container"];
        if self.volumes {
            lines.push("all anonymous volumes not used by at least one container");
        }
        lines.push(match self.all {
            true => "all images without at least one container associated to them",
            false => "all dangling images",
        });
        let mut text = "WARNING! This will remove:\n".to_owned();
        lines.iter().for_each(|line| text.push_str(&format!("  - {line}\n")));
        if !self.filter.is_empty() {
            text.push_str("\n  Items to be pruned will be filtered with:\n");
            self.filter.iter().for_each(|filter| text.push_str(&format!("  - {filter}\n")));
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_says_all_that_goes() {
        let args = PruneArgs { all: true, filter: vec!["label=a".to_owned()], force: false, volumes: true };
        assert_eq!(
            args.warning(),
            "WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n  \
             - all anonymous volumes not used by at least one container\n  \
             - all images without at least one container associated to them\n\n  \
             Items to be pruned will be filtered with:\n  - label=a\n\n"
        );
    }
}
