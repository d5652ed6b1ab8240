//! `system df -v`: what each image, container and volume takes.

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::container::list::container_row;
use crate::cli::human;
use crate::cli::image::image_rows;
use crate::cli::listing::{Listing, Row, row};
use crate::cli::look::Look as _;

const IMAGES: Listing = Listing {
    headers: &[
        ("Repository", "REPOSITORY"),
        ("Tag", "TAG"),
        ("ID", "IMAGE ID"),
        ("CreatedSince", "CREATED"),
        ("Size", "SIZE"),
        ("SharedSize", "SHARED SIZE"),
        ("UniqueSize", "UNIQUE SIZE"),
        ("Containers", "CONTAINERS"),
    ],
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
    quiet: "{{.ID}}",
};

const CONTAINERS: Listing = Listing {
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ],
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
    quiet: "{{.ID}}",
};

const VOLUMES: Listing = Listing {
    headers: &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")],
    table: "{{.Name}}\t{{.Links}}\t{{.Size}}",
    quiet: "{{.Name}}",
};

/// The whole text.
pub(super) fn text(usage: &Value, now: Timestamp) -> Result<String, String> {
    let images = usage.items("Images").iter().flat_map(|image| images(image, now)).collect();
    let containers = usage.items("Containers").iter().map(|container| containers(container, now)).collect();
    let volumes = usage.items("Volumes").iter().map(volume).collect();
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}",
        IMAGES.render(None, false, images)?,
        CONTAINERS.render(None, false, containers)?,
        VOLUMES.render(None, false, volumes)?
    ))
}

fn images(image: &Value, now: Timestamp) -> Vec<Row> {
    let size = image.number("Size");
    // -1 says that the daemon did not look.
    let shared = image.number("SharedSize").max(0);
    let mut rows = image_rows(image, false, false, now);
    for row in &mut rows {
        let mut put = |name: &str, text: String| row.insert(name.to_owned(), Value::String(text));
        put("SharedSize", human::decimal_size(shared));
        put("UniqueSize", human::decimal_size((size - shared).max(0)));
        put("Containers", image.number("Containers").max(0).to_string());
    }
    rows
}

fn containers(container: &Value, now: Timestamp) -> Row {
    let mut row = container_row(container, false, now);
    row.insert("Size".to_owned(), Value::String(human::decimal_size3(container.number("SizeRw"))));
    row
}

fn volume(volume: &Value) -> Row {
    row([
        ("Name", volume.text("Name").to_owned()),
        ("Links", volume.number("UsageData.RefCount").max(0).to_string()),
        ("Size", human::decimal_size3(volume.number("UsageData.Size").max(0))),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_thing_has_its_line() {
        let usage = json!({
            "Images": [{"Id": "sha256:0123456789abcdef", "RepoTags": ["web:1"], "Created": 92_800, "Size": 3000, "SharedSize": 1000, "Containers": 2}],
            "Containers": [{"Id": "fedcba9876543210", "Image": "web:1", "Command": "sleep", "Names": ["/c"], "Created": 92_800, "SizeRw": 5, "SizeRootFs": 9, "Status": "Up", "Mounts": [{"Driver": "local"}]}],
            "Volumes": [{"Name": "v", "UsageData": {"RefCount": 1, "Size": 7}}]
        });
        assert_eq!(
            text(&usage, Timestamp::from_second(100_000).unwrap()).unwrap(),
            "Images space usage:\n\n\
             REPOSITORY   TAG       IMAGE ID       CREATED       SIZE      SHARED SIZE   UNIQUE SIZE   CONTAINERS\n\
             web          1         0123456789ab   2 hours ago   3kB       1kB           2kB           2\n\n\
             Containers space usage:\n\n\
             CONTAINER ID   IMAGE     COMMAND   LOCAL VOLUMES   SIZE      CREATED       STATUS    NAMES\n\
             fedcba987654   web:1     \"sleep\"   1               5B        2 hours ago   Up        c\n\n\
             Local Volumes space usage:\n\n\
             VOLUME NAME   LINKS     SIZE\n\
             v             1         7B\n"
        );
    }
}
