//! `image ls` and `images`.

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::cli::client::Filters;
use crate::cli::context::Context;
use crate::cli::human;
use crate::cli::listing::{Listing, Row, row};
use crate::cli::look::Look as _;
use crate::cli::refused;

const HEADERS: &[(&str, &str)] = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
];

const LISTING: Listing = Listing {
    headers: HEADERS,
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "{{.ID}}",
};

const WITH_DIGESTS: Listing = Listing {
    headers: HEADERS,
    table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    quiet: "{{.ID}}",
};

/// List images
#[derive(Debug, Args)]
#[command(after_help = "Example:
  shoal images --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
pub(crate) struct ListArgs {
    /// Show all images (default hides intermediate images)
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter output, as in dangling=true
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Format output: table, json, or a Go template
    #[arg(long)]
    format: Option<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    /// List multi-platform images as a tree
    #[arg(long, hide = true)]
    tree: bool,
    /// Only images of this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    reference: Option<String>,
}

impl ListArgs {
    /// Runs the command.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        refused::check(&[("--tree", self.tree, refused::ONE_PLATFORM)])?;
        let mut filters = Filters::parse(&self.filter)?;
        if let Some(reference) = &self.reference {
            filters.add("reference", reference);
        }
        let images = context.client.get("/images/json").query_if("all", self.all).filters(&filters).json().await?;
        let mut rows = Vec::new();
        for image in images.items("") {
            rows.extend(image_rows(image, self.no_trunc, self.quiet, context.now()));
        }
        if self.digests { WITH_DIGESTS } else { LISTING }.print(self.format.as_deref(), self.quiet, rows)
    }
}

/// A row for each of the image's names; one row with `<none>` when it has none.
/// The lines of an image: one for each of its names.
pub(crate) fn image_rows(image: &Value, no_trunc: bool, once: bool, now: Timestamp) -> Vec<Row> {
    let id = image.text("Id");
    let one = |repository: &str, tag: &str, digest: &str| {
        row([
            ("Repository", repository.to_owned()),
            ("Tag", tag.to_owned()),
            ("Digest", digest.to_owned()),
            ("ID", if no_trunc { id } else { human::short_id(id) }.to_owned()),
            ("CreatedSince", human::ago(image.number("Created"), now)),
            ("CreatedAt", human::local_time(image.number("Created"))),
            ("Size", human::decimal_size3(image.number("Size"))),
            (
                "Containers",
                if image.number("Containers") < 0 { "N/A".to_owned() } else { image.number("Containers").to_string() },
            ),
        ])
    };
    let digests = image.texts("RepoDigests");
    let digest_of = |repository: &str| {
        let of = |entry: &String| {
            entry.split_once('@').filter(|(name, _)| *name == repository).map(|(_, digest)| digest.to_owned())
        };
        digests.iter().find_map(of).unwrap_or_else(|| "<none>".to_owned())
    };
    let tags: Vec<String> = image.texts("RepoTags").into_iter().filter(|tag| tag != "<none>:<none>").collect();
    let mut rows: Vec<Row> = Vec::new();
    for name in &tags {
        let (repository, tag) = super::split_name(name);
        rows.push(one(repository, tag, &digest_of(repository)));
    }
    if rows.is_empty() {
        let digest = digests.first().and_then(|entry| entry.split_once('@'));
        let (repository, digest) = digest.filter(|(name, _)| *name != "<none>").unwrap_or(("<none>", "<none>"));
        rows.push(one(repository, "<none>", digest));
    }
    rows.truncate(if once { 1 } else { usize::MAX });
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_reads_as_dockers() {
        let now = Timestamp::from_second(100_000).unwrap();
        let image = json!({"Id": "sha256:0123456789abcdef", "RepoTags": ["web:1", "web:latest"], "RepoDigests": [], "Created": 92_800, "Size": 4_261_502});
        let bare = json!({"Id": "sha256:fedcba9876543210", "RepoTags": null, "Created": 92_800, "Size": 1_000});
        let rows = [image_rows(&image, false, false, now), image_rows(&bare, false, false, now)].concat();
        assert_eq!(
            LISTING.render(None, false, rows).unwrap(),
            "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE\n\
             web          1         0123456789ab   2 hours ago   4.26MB\n\
             web          latest    0123456789ab   2 hours ago   4.26MB\n\
             <none>       <none>    fedcba987654   2 hours ago   1kB\n"
        );
    }
}
