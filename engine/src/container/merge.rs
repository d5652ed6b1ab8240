//! A container's configuration: what the user gave, and for the rest what the image says. As dockerd's `merge`.

use shoal_proto::error::Failure;

use crate::model::{ContainerConfig, HealthConfig, ImageConfig};

/// Fills in from the image what the user left open.
///
/// # Errors
/// When there is nothing to run.
pub fn merge(mut config: ContainerConfig, image: &ImageConfig) -> Result<ContainerConfig, Failure> {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    for (mine, theirs) in [(&mut config.exposed_ports, &image.exposed_ports), (&mut config.volumes, &image.volumes)] {
        match mine {
            Some(set) if !set.is_empty() => {
                set.extend(theirs.iter().flatten().map(|(key, value)| (key.clone(), *value)))
            }
            // As dockerd: an empty set is none.
            _ => mine.clone_from(theirs),
        }
    }
    merge_environment(&mut config, image);
    for (label, value) in image.labels.iter().flatten() {
        config.labels.entry(label.clone()).or_insert_with(|| value.clone());
    }
    merge_command(&mut config, image)?;
    merge_health(&mut config.healthcheck, image.healthcheck.as_ref());
    Ok(config)
}

fn variable(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

fn merge_environment(config: &mut ContainerConfig, image: &ImageConfig) {
    let Some(theirs) = image.env.as_ref().filter(|env| !env.is_empty()) else { return };
    let mine = config.env.get_or_insert_default();
    for entry in theirs {
        if !mine.iter().any(|have| variable(have) == variable(entry)) {
            mine.push(entry.clone());
        }
    }
}

fn merge_command(config: &mut ContainerConfig, image: &ImageConfig) -> Result<(), Failure> {
    if config.entrypoint.as_deref().is_none_or(<[String]>::is_empty) {
        if config.cmd.as_deref().is_none_or(<[String]>::is_empty) && image.cmd.is_some() {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // `--entrypoint ""` resets the image's.
    if config.entrypoint.as_ref().is_some_and(|entrypoint| entrypoint.len() == 1 && entrypoint[0].is_empty()) {
        config.entrypoint = None;
    }
    let empty = |words: &Option<Vec<String>>| words.as_deref().is_none_or(<[String]>::is_empty);
    if empty(&config.entrypoint) && empty(&config.cmd) {
        return Err(Failure::invalid("no command specified"));
    }
    Ok(())
}

fn merge_health(mine: &mut Option<HealthConfig>, theirs: Option<&HealthConfig>) {
    let Some(theirs) = theirs else { return };
    let Some(mine) = mine else {
        *mine = Some(theirs.clone());
        return;
    };
    if mine.test.as_deref().is_none_or(<[String]>::is_empty) {
        mine.test.clone_from(&theirs.test);
    }
    for (mine, theirs) in [
        (&mut mine.interval, theirs.interval),
        (&mut mine.timeout, theirs.timeout),
        (&mut mine.start_period, theirs.start_period),
        (&mut mine.start_interval, theirs.start_interval),
        (&mut mine.retries, theirs.retries),
    ] {
        if *mine == 0 {
            *mine = theirs;
        }
    }
}

/// Program and arguments.
pub fn command_line(config: &ContainerConfig) -> (String, Vec<String>) {
    let mut words = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned();
    (words.next().unwrap_or_default(), words.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn words(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|word| (*word).to_owned()).collect())
    }

    fn image() -> ImageConfig {
        ImageConfig {
            user: "nobody".to_owned(),
            env: words(&["PATH=/bin", "A=image"]),
            entrypoint: words(&["/entry"]),
            cmd: words(&["serve"]),
            working_dir: "/srv".to_owned(),
            labels: Some(BTreeMap::from([("a".to_owned(), "1".to_owned())])),
            exposed_ports: Some([("80/tcp".to_owned(), crate::model::Empty {})].into()),
            healthcheck: Some(HealthConfig { test: words(&["CMD", "x"]), interval: 5, ..HealthConfig::default() }),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn nothing_given_takes_the_image() {
        let config = merge(ContainerConfig::default(), &image()).unwrap();
        assert_eq!(command_line(&config), ("/entry".to_owned(), vec!["serve".to_owned()]));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("nobody", "/srv"));
        assert_eq!(config.env, words(&["PATH=/bin", "A=image"]));
        assert!(config.exposed_ports.unwrap().contains_key("80/tcp"));
    }

    #[test]
    fn a_command_keeps_the_entrypoint_and_an_entrypoint_drops_the_command() {
        let config = merge(ContainerConfig { cmd: words(&["ls"]), ..Default::default() }, &image()).unwrap();
        assert_eq!(command_line(&config), ("/entry".to_owned(), vec!["ls".to_owned()]));
        let config = merge(ContainerConfig { entrypoint: words(&["sh"]), ..Default::default() }, &image()).unwrap();
        assert_eq!(command_line(&config), ("sh".to_owned(), Vec::new()));
        let reset = ContainerConfig { entrypoint: words(&[""]), cmd: words(&["ls"]), ..Default::default() };
        assert_eq!(command_line(&merge(reset, &image()).unwrap()).0, "ls");
    }

    #[test]
    fn environment_is_merged_by_name() {
        let given = ContainerConfig { env: words(&["A=mine", "B"]), ..Default::default() };
        assert_eq!(merge(given, &image()).unwrap().env, words(&["A=mine", "B", "PATH=/bin"]));
    }

    #[test]
    fn health_is_merged_field_by_field() {
        let mine = HealthConfig { interval: 9, retries: 2, ..HealthConfig::default() };
        let config = merge(ContainerConfig { healthcheck: Some(mine), ..Default::default() }, &image()).unwrap();
        let health = config.healthcheck.unwrap();
        assert_eq!((health.interval, health.retries, health.test), (9, 2, words(&["CMD", "x"])));
    }

    #[test]
    fn nothing_to_run_is_refused() {
        let failure = merge(ContainerConfig::default(), &ImageConfig::default()).unwrap_err();
        assert_eq!(failure.message, "no command specified");
    }
}
