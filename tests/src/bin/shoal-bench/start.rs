//! How fast a container starts.

use shoal_tests::image;
use shoal_tests::lab::Lab;

use crate::figures::{Docker, median, row, time};

/// `run --rm … true`, A B A B, and exec into a running container.
pub(crate) fn measure() -> anyhow::Result<()> {
    let lab = Lab::up_with("bench-run", 1, 0, &["--no-cluster"])?;
    let peer = Lab::up_with("peer-run", 1, 0, &["--engine", "dockerd", "--no-cluster"])?;
    lab.load_image(&["m1"])?;
    peer.load_image(&["m1"])?;
    let ours = |args: &[&str]| lab.docker("m1", args);
    let theirs = |args: &[&str]| peer.docker("m1", args);
    let run = ["run", "--rm", image::NAME, "true"];
    let start = ["run", "-d", "--name", "sleeper", image::NAME, "sleep", "1000"];
    let exec = ["exec", "sleeper", "true"];
    for side in [&ours as Docker<'_>, &theirs as Docker<'_>] {
        side(&start)?.ok()?;
        for _ in 0..3 {
            side(&run)?.ok()?;
        }
    }
    // The CLI's own start is part of what a user waits for, and the same on both sides: shown, not subtracted.
    let floor = median((0..20).map(|_| time(&ours, &["context", "show"])).collect::<Result<_, _>>()?);
    println!("{:<44} {floor:>9.3} s", "the docker CLI alone");
    for (what, args) in [("docker run --rm true, default bridge", &run[..]), ("docker exec true", &exec[..])] {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            a.push(time(&ours, args)?);
            b.push(time(&theirs, args)?);
        }
        row(what, median(a), median(b), "s");
    }
    lab.down()?;
    peer.down()
}
