//! How far a service is: pure, from what the API says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::cli::look::Look as _;

/// States of a task in order, up to running; a task's bar grows with them.
const STEPS: [&str; 9] =
    ["new", "allocated", "pending", "assigned", "accepted", "preparing", "ready", "starting", "running"];

/// What the update status of a service means for the one who waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Go on looking.
    Wait,
    /// The update has ended well.
    Done,
    /// The update has ended badly.
    Failed(String),
}

/// Judges the update status.
pub(super) fn status(service: &Value, rolling_back: bool) -> Verdict {
    let message = service.text("UpdateStatus.Message");
    match service.text("UpdateStatus.State") {
        "completed" => Verdict::Done,
        "paused" => Verdict::Failed(format!("service update paused: {message}")),
        "rollback_paused" => Verdict::Failed(format!("service rollback paused: {message}")),
        "rollback_completed" if rolling_back => Verdict::Done,
        "rollback_completed" => Verdict::Failed(format!("service rolled back: {message}")),
        _ => Verdict::Wait,
    }
}

/// One task's place: a slot of a replicated service, a node of a global one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// What stands before its bar.
    pub(super) label: String,
    /// How far it is, out of [`STEPS`].
    pub(super) step: usize,
    /// Its state, or why it is not further.
    pub(super) words: String,
}

/// How far a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    wanted: usize,
    running: usize,
    job: bool,
    rollback: bool,
    places: Vec<Place>,
}

/// A line of the display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// What stands before the colon.
    pub(super) label: String,
    /// The rest.
    pub(super) words: String,
    /// Steps done and steps in all, when the line has a bar.
    pub(super) bar: Option<(usize, usize)>,
}

/// More places than this are only counted.
const BARS: usize = 20;

impl State {
    /// From the service, its up-to-date tasks and the nodes.
    pub(super) fn new(service: &Value, tasks: &[Value], nodes: &[Value]) -> Self {
        let mode = service.at("Spec.Mode");
        let job = mode.at("ReplicatedJob").is_object() || mode.at("GlobalJob").is_object();
        let rollback = service.text("UpdateStatus.State").starts_with("rollback");
        let iteration = service.number("JobStatus.JobIteration.Index");
        let current = |task: &&Value| !job || task.number("JobIteration.Index") == iteration;
        let active: BTreeSet<&str> =
            nodes.iter().filter(|node| node.text("Status.State") != "down").map(|node| node.text("ID")).collect();
        if mode.at("Global").is_object() || mode.at("GlobalJob").is_object() {
            return Self::global(tasks.iter().filter(current), &active, job, rollback, nodes);
        }
        let wanted = match job {
            true => mode.at("ReplicatedJob.TotalCompletions").as_u64().unwrap_or(1),
            false => mode.at("Replicated.Replicas").as_u64().unwrap_or(1),
        };
        Self::replicated(
            tasks.iter().filter(current),
            &active,
            usize::try_from(wanted).unwrap_or(usize::MAX),
            job,
            rollback,
        )
    }

    fn replicated<'a>(
        tasks: impl Iterator<Item = &'a Value>,
        active: &BTreeSet<&str>,
        wanted: usize,
        job: bool,
        rollback: bool,
    ) -> Self {
        let mut slots: BTreeMap<i64, &Value> = BTreeMap::new();
        for task in tasks.filter(|task| task.text("NodeID").is_empty() || active.contains(task.text("NodeID"))) {
            let better = |old: &&Value| newer(task, old);
            let slot = task.number("Slot");
            if slots.get(&slot).is_none_or(better) {
                slots.insert(slot, task);
            }
        }
        slots.retain(|_, task| job || task.text("DesiredState") == "running" || task.text("DesiredState") == "ready");
        let running = slots.values().filter(|task| done(task, job)).count();
        let places = match wanted {
            0..=BARS => (1..=wanted)
                .zip(slots.values().map(Some).chain(std::iter::repeat(None)))
                .map(|(number, task)| place(format!("{number}/{wanted}"), task.copied(), job))
                .collect(),
            _ => Vec::new(),
        };
        Self { wanted, running, job, rollback, places }
    }

    fn global<'a>(
        tasks: impl Iterator<Item = &'a Value>,
        active: &BTreeSet<&str>,
        job: bool,
        rollback: bool,
        nodes: &[Value],
    ) -> Self {
        let mut by_node: BTreeMap<&str, &Value> = BTreeMap::new();
        for task in tasks.filter(|task| active.contains(task.text("NodeID"))) {
            let node = task.text("NodeID");
            if by_node.get(node).is_none_or(|old| newer(task, old)) {
                by_node.insert(node, task);
            }
        }
        by_node.retain(|_, task| job || ["running", "ready"].contains(&task.text("DesiredState")));
        let running = by_node.values().filter(|task| done(task, job)).count();
        let label = |id: &str| {
            let node = nodes.iter().find(|node| node.text("ID") == id);
            node.map(|node| node.text("Description.Hostname")).filter(|name| !name.is_empty()).unwrap_or(id).to_owned()
        };
        let places = match by_node.len() {
            0..=BARS => by_node.iter().map(|(node, task)| place(label(node), Some(task), job)).collect(),
            _ => Vec::new(),
        };
        Self { wanted: by_node.len(), running, job, rollback, places }
    }

    /// Whether every wanted task runs (or has completed, for a job).
    pub(super) fn converged(&self) -> bool {
        self.running == self.wanted
    }

    /// Whether the service is a job, which needs no watching once it is done.
    pub(super) fn is_job(&self) -> bool {
        self.job
    }

    /// What to display.
    pub(super) fn lines(&self) -> Vec<Line> {
        let verb = if self.rollback {
            "rolling back update"
        } else if self.job {
            "job progress"
        } else {
            "overall progress"
        };
        let what = if self.job { "complete" } else { "tasks" };
        let overall = Line {
            label: verb.to_owned(),
            words: format!("{} out of {} {what}", self.running, self.wanted),
            bar: None,
        };
        let line = |place: &Place| Line {
            label: place.label.clone(),
            words: place.words.clone(),
            bar: Some((place.step, STEPS.len())),
        };
        std::iter::once(overall).chain(self.places.iter().map(line)).collect()
    }
}

/// Whether `task` tells more about its place than `old`: it is wanted, or it is younger.
fn newer(task: &Value, old: &Value) -> bool {
    let wanted = |task: &Value| ["running", "ready", "complete"].contains(&task.text("DesiredState"));
    (wanted(task), task.text("CreatedAt")) > (wanted(old), old.text("CreatedAt"))
}

fn done(task: &Value, job: bool) -> bool {
    task.text("Status.State") == if job { "complete" } else { "running" }
}

fn place(label: String, task: Option<&Value>, job: bool) -> Place {
    let Some(task) = task else { return Place { label, step: 0, words: String::new() } };
    let state = task.text("Status.State");
    let step = STEPS.iter().position(|step| *step == state).map_or(0, |index| index + 1);
    let step = if job && state == "complete" { STEPS.len() } else { step };
    let error = task.text("Status.Err");
    let words = match (error, state) {
        ("", "pending") if task.text("NodeID").is_empty() => waiting(task).to_owned(),
        ("", state) => state.to_owned(),
        (error, _) => error.to_owned(),
    };
    Place { label, step, words }
}

/// Why a task has no node yet.
fn waiting(task: &Value) -> &str {
    match task.text("Status.Message") {
        message if message.starts_with("no suitable node") => message,
        _ => "pending",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(replicas: u64) -> Value {
        json!({"ID": "s", "Spec": {"Mode": {"Replicated": {"Replicas": replicas}}}})
    }

    fn task(slot: u64, state: &str, created: &str) -> Value {
        json!({"Slot": slot, "NodeID": "n1", "DesiredState": "running", "CreatedAt": created, "Status": {"State": state}})
    }

    fn nodes() -> Vec<Value> {
        vec![json!({"ID": "n1", "Status": {"State": "ready"}, "Description": {"Hostname": "m1"}})]
    }

    #[test]
    fn replicated_counts_slots_and_draws_bars() {
        let tasks = [task(1, "running", "1"), task(2, "preparing", "1"), task(2, "failed", "0")];
        let state = State::new(&service(3), &tasks, &nodes());
        assert!(!state.converged());
        let lines = state.lines();
        assert_eq!(lines[0].words, "1 out of 3 tasks");
        assert_eq!(lines[1].bar, Some((9, 9)));
        assert_eq!(lines[2].words, "preparing");
        assert_eq!(lines[3].words, "");
        let running = [task(1, "running", "1"), task(5, "running", "1"), task(3, "running", "1")];
        assert!(State::new(&service(3), &running, &nodes()).converged());
    }

    #[test]
    fn tasks_on_nodes_that_are_down_do_not_count() {
        let down = [json!({"ID": "n1", "Status": {"State": "down"}})];
        assert!(!State::new(&service(1), &[task(1, "running", "1")], &down).converged());
    }

    #[test]
    fn many_tasks_are_only_counted() {
        assert_eq!(State::new(&service(21), &[], &nodes()).lines().len(), 1);
    }

    #[test]
    fn why_a_task_waits_is_said() {
        let waiting = json!({"Slot": 1, "DesiredState": "running", "Status": {"State": "pending", "Message": "pending task scheduling", "Err": "no suitable node (1 node not available)"}});
        let state = State::new(&service(1), &[waiting], &nodes());
        assert_eq!(state.lines()[1].words, "no suitable node (1 node not available)");
    }

    #[test]
    fn global_has_a_bar_for_each_node() {
        let service = json!({"Spec": {"Mode": {"Global": {}}}});
        let state = State::new(&service, &[task(0, "running", "1")], &nodes());
        assert!(state.converged());
        assert_eq!(state.lines()[1].label, "m1");
    }

    #[test]
    fn jobs_are_done_when_complete() {
        let service = json!({"Spec": {"Mode": {"ReplicatedJob": {"TotalCompletions": 1}}}, "JobStatus": {"JobIteration": {"Index": 7}}});
        let mut done = task(1, "complete", "1");
        done["JobIteration"] = json!({"Index": 7});
        done["DesiredState"] = json!("complete");
        assert!(State::new(&service, &[done], &nodes()).converged());
    }

    #[test]
    fn verdicts() {
        let status_of = |state: &str| json!({"UpdateStatus": {"State": state, "Message": "why"}});
        assert_eq!(status(&status_of("updating"), false), Verdict::Wait);
        assert_eq!(status(&status_of("completed"), false), Verdict::Done);
        assert_eq!(status(&status_of("paused"), false), Verdict::Failed("service update paused: why".to_owned()));
        assert_eq!(status(&status_of("rollback_completed"), true), Verdict::Done);
        assert!(matches!(status(&status_of("rollback_completed"), false), Verdict::Failed(_)));
    }
}
