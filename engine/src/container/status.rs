//! A container's state in words, as `docker ps` shows it.

use std::time::Duration;

use shoal_proto::time::Timestamp;

use super::lifecycle::{Phase, State};

/// `Up 3 seconds (healthy)`, `Exited (0) 5 minutes ago`, `Created`. `health` is empty without a check.
pub fn describe(state: &State, health: &str, now: Timestamp) -> String {
    let up = || human(now.since(state.started_at));
    let ago = || human(now.since(state.finished_at));
    match state.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => match health {
            "" | "none" => format!("Up {}", up()),
            "starting" => format!("Up {} (health: starting)", up()),
            health => format!("Up {} ({health})", up()),
        },
        Phase::Paused => format!("Up {} (Paused)", up()),
        Phase::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago()),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Dead => "Dead".to_owned(),
        Phase::Exited if state.finished_at == Timestamp::ZERO => String::new(),
        Phase::Exited => format!("Exited ({}) {} ago", state.exit_code, ago()),
    }
}

/// As Docker's go-units puts a duration in words.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match seconds {
        0 => return "Less than a second".to_owned(),
        1 => return "1 second".to_owned(),
        2..60 => return format!("{seconds} seconds"),
        _ => {}
    }
    match minutes {
        1 => return "About a minute".to_owned(),
        2..60 => return format!("{minutes} minutes"),
        _ => {}
    }
    match hours {
        0 | 1 => "About an hour".to_owned(),
        2..48 => format!("{hours} hours"),
        48..336 => format!("{} days", hours / 24),
        336..1440 => format!("{} weeks", hours / 24 / 7),
        1440..17520 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_docker_says_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3600, "About an hour"),
            (2 * 3600, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (800 * 86_400, "2 years"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn states_in_words() {
        let at = Timestamp::from_seconds;
        let state = |phase| State { phase, started_at: at(10), finished_at: at(12), exit_code: 3, ..State::default() };
        let say = |phase, health| describe(&state(phase), health, at(20));
        assert_eq!(say(Phase::Created, ""), "Created");
        assert_eq!(say(Phase::Running, ""), "Up 10 seconds");
        assert_eq!(say(Phase::Running, "healthy"), "Up 10 seconds (healthy)");
        assert_eq!(say(Phase::Running, "starting"), "Up 10 seconds (health: starting)");
        assert_eq!(say(Phase::Paused, "healthy"), "Up 10 seconds (Paused)");
        assert_eq!(say(Phase::Restarting, ""), "Restarting (3) 8 seconds ago");
        assert_eq!(say(Phase::Exited, ""), "Exited (3) 8 seconds ago");
    }
}
