//! How fast a container starts.

use anyhow::{Context, ensure};
use shoal_tests::image;
use shoal_tests::lab::Lab;
use shoal_tests::wait::now;

use crate::figures::{Docker, median, row, seconds, time};

/// Started at the same time.
const PARALLEL: usize = 50;

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
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        a.push(exec_over_api(&lab)?);
        b.push(exec_over_api(&peer)?);
    }
    row("exec true over the API, without the CLI", median(a), median(b), "s");
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        a.push(parallel_starts(&lab)?);
        b.push(parallel_starts(&peer)?);
    }
    row("50 containers started at once over the API", median(a), median(b), "s");
    lab.down()?;
    peer.down()
}

/// What both sides answer, or why not.
fn post(lab: &Lab, path: &str, body: &str) -> anyhow::Result<serde_json::Value> {
    let (status, answer) = lab.request_of_version("1.41", "POST", "m1", path, body)?;
    ensure!((200..300).contains(&status), "{path}: {status}: {answer}");
    Ok(answer)
}

fn exec_over_api(lab: &Lab) -> anyhow::Result<f64> {
    let begin = now();
    let made =
        post(lab, "/containers/sleeper/exec", r#"{"Cmd": ["true"], "AttachStdout": true, "AttachStderr": true}"#)?;
    let id = made["Id"].as_str().context("no exec")?;
    // Answered when the streams end, which is when the command ends.
    post(lab, &format!("/exec/{id}/start"), r#"{"Detach": false, "Tty": false}"#)?;
    Ok(seconds(begin.elapsed()))
}

/// Creates and starts many containers from as many clients; the time from the first request to the last answer.
fn parallel_starts(lab: &Lab) -> anyhow::Result<f64> {
    let body = format!(r#"{{"Image": "{}", "Cmd": ["sleep", "1000"]}}"#, image::NAME);
    let begin = now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..PARALLEL)
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    let made = post(lab, "/containers/create", &body)?;
                    let id = made["Id"].as_str().context("no container")?;
                    post(lab, &format!("/containers/{id}/start"), "").map(drop)
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked"))))
    })?;
    let took = seconds(begin.elapsed());
    let all = lab.ok("m1", "ps -q")?;
    let sleeper = lab.ok("m1", "ps -q --filter name=sleeper")?;
    let made: Vec<&str> = all.lines().filter(|id| *id != sleeper).collect();
    ensure!(made.len() == PARALLEL, "{} of {PARALLEL} run", made.len());
    lab.docker("m1", &[&["rm", "-f"], &made[..]].concat())?.ok()?;
    Ok(took)
}
