//! Dockerfile instructions that `import --change` takes.

use std::collections::BTreeMap;

use shoal_proto::error::Failure;

use crate::model::{Empty, HealthConfig, ImageConfig};

/// Instructions that may stand in a change.
const ALLOWED: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "HEALTHCHECK",
    "ENV",
    "EXPOSE",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Carries the instructions out.
///
/// # Errors
/// When one is not allowed or malformed; messages as dockerd's.
pub(super) fn apply_changes(config: &mut ImageConfig, changes: &[String]) -> Result<(), Failure> {
    let mut command_set = false;
    for line in logical_lines(&changes.join("\n")) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let (instruction, rest) = (word.to_uppercase(), rest.trim());
        if !ALLOWED.contains(&instruction.as_str()) {
            return Err(Failure::invalid(format!("{word} is not a valid change command")));
        }
        if rest.is_empty() && !matches!(instruction.as_str(), "CMD" | "ENTRYPOINT") {
            return Err(Failure::invalid(format!("{instruction} requires at least one argument")));
        }
        match instruction.as_str() {
            "CMD" => {
                config.cmd = Some(command(rest));
                command_set = true;
            }
            "ENTRYPOINT" => {
                config.entrypoint = Some(command(rest));
                // As dockerd: an entrypoint resets the command, unless it was set here.
                if !command_set {
                    config.cmd = None;
                }
            }
            "ENV" => env(config, rest)?,
            "LABEL" => {
                let pairs = pairs(rest, "LABEL")?;
                let environment = environment(config);
                let labels = config.labels.get_or_insert_default();
                for (name, value) in pairs {
                    labels.insert(expand(&name, &environment)?, expand(&value, &environment)?);
                }
            }
            "EXPOSE" => expose(config, rest)?,
            "USER" => config.user = expand(rest, &environment(config))?,
            "WORKDIR" => config.working_dir = workdir(&config.working_dir, &expand(rest, &environment(config))?),
            "VOLUME" => volume(config, rest)?,
            "STOPSIGNAL" => config.stop_signal = stop_signal(&expand(rest, &environment(config))?)?,
            "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
            _ => on_build(config, rest)?,
        }
    }
    Ok(())
}

/// Lines without comments, continued ones joined.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut current = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        match trimmed.strip_suffix('\\') {
            Some(begin) => current.push_str(begin),
            None => {
                current.push_str(trimmed);
                lines.push(std::mem::take(&mut current));
            }
        }
    }
    if !current.trim().is_empty() {
        lines.push(current);
    }
    lines.iter().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// `["a", "b"]` as it is; anything else for the shell.
fn command(text: &str) -> Vec<String> {
    if let Ok(words) = serde_json::from_str::<Vec<String>>(text) {
        return words;
    }
    vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]
}

fn environment(config: &ImageConfig) -> BTreeMap<String, String> {
    let variables = config.env.iter().flatten();
    variables.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn env(config: &mut ImageConfig, rest: &str) -> Result<(), Failure> {
    // All values of one instruction see the environment before it.
    let environment = environment(config);
    for (name, value) in pairs(rest, "ENV")? {
        let (name, value) = (expand(&name, &environment)?, expand(&value, &environment)?);
        if name.is_empty() {
            return Err(Failure::invalid("ENV names can not be blank"));
        }
        let line = format!("{name}={value}");
        let lines = config.env.get_or_insert_default();
        match lines.iter_mut().find(|line| line.split('=').next() == Some(&name)) {
            Some(existing) => *existing = line,
            None => lines.push(line),
        }
    }
    Ok(())
}

/// `name=value name="a value"`, or of old `name the rest`.
fn pairs(text: &str, instruction: &str) -> Result<Vec<(String, String)>, Failure> {
    let words = words(text);
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Failure::invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| {
        let (name, value) = word.split_once('=').ok_or_else(|| {
            Failure::invalid(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"))
        })?;
        Ok((name.to_owned(), value.to_owned()))
    };
    words.into_iter().map(pair).collect()
}

/// Words, quotes and backslashes kept.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => {
                word.push(letter);
                word.extend(letters.next());
                continue;
            }
            ('"' | '\'', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            (letter, None) if letter.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(letter);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// Removes quotes and puts variables in: `$NAME`, `${NAME}`, `${NAME:-else}`, `${NAME:+then}`.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> Result<String, Failure> {
    let mut result = String::new();
    let mut quote = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\'', None) | ('"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('\\', None) => result.extend(letters.next()),
            ('\\', Some('"')) => match letters.peek() {
                Some('"' | '$' | '\\') => result.extend(letters.next()),
                _ => result.push('\\'),
            },
            ('$', None | Some('"')) => {
                if letters.peek() == Some(&'{') {
                    letters.next();
                    let body: String = letters.by_ref().take_while(|letter| *letter != '}').collect();
                    result.push_str(&substitution(&body, environment)?);
                } else {
                    let mut name = String::new();
                    while let Some(letter) = letters.next_if(|letter| letter.is_ascii_alphanumeric() || *letter == '_')
                    {
                        name.push(letter);
                    }
                    if name.is_empty() {
                        result.push('$');
                    }
                    result.push_str(environment.get(&name).map_or("", String::as_str));
                }
            }
            (letter, _) => result.push(letter),
        }
    }
    if quote.is_some() {
        return Err(Failure::invalid(format!(
            "unexpected end of statement while looking for matching quote in {text:?}"
        )));
    }
    Ok(result)
}

fn substitution(body: &str, environment: &BTreeMap<String, String>) -> Result<String, Failure> {
    let end = body.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(body.len());
    let (name, modifier) = body.split_at(end);
    let value = environment.get(name).filter(|value| !value.is_empty());
    if let Some(otherwise) = modifier.strip_prefix(":-") {
        return Ok(value.cloned().unwrap_or_else(|| otherwise.to_owned()));
    }
    if let Some(then) = modifier.strip_prefix(":+") {
        return Ok(if value.is_some() { then.to_owned() } else { String::new() });
    }
    if modifier.is_empty() && !name.is_empty() {
        return Ok(environment.get(name).cloned().unwrap_or_default());
    }
    Err(Failure::invalid(format!("unsupported modifier in substitution ${{{body}}}")))
}

fn expose(config: &mut ImageConfig, rest: &str) -> Result<(), Failure> {
    let environment = environment(config);
    for word in words(rest) {
        let word = expand(&word, &environment)?;
        let (range, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
        let protocol = protocol.to_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
            return Err(Failure::invalid(format!("Invalid proto: {protocol}")));
        }
        let port =
            |text: &str| text.parse::<u16>().map_err(|_| Failure::invalid(format!("Invalid containerPort: {range}")));
        let (first, last) = match range.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(range)?, port(range)?),
        };
        if last < first {
            return Err(Failure::invalid(format!("Invalid range specified for port: {range}")));
        }
        let ports = config.exposed_ports.get_or_insert_default();
        ports.extend((first..=last).map(|port| (format!("{port}/{protocol}"), Empty {})));
    }
    Ok(())
}

/// An absolute path as it is, another one below what was set before.
fn workdir(current: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{current}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn volume(config: &mut ImageConfig, rest: &str) -> Result<(), Failure> {
    let environment = environment(config);
    let paths = serde_json::from_str::<Vec<String>>(rest).unwrap_or_else(|_| words(rest));
    for path in paths {
        let path = expand(path.trim(), &environment)?;
        if path.is_empty() {
            return Err(Failure::invalid("VOLUME specified can not be an empty string"));
        }
        config.volumes.get_or_insert_default().insert(path, Empty {});
    }
    Ok(())
}

/// A number, or a name with or without `SIG`; kept as it was written.
fn stop_signal(text: &str) -> Result<String, Failure> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = ["RTMIN", "RTMAX"].iter().any(|limit| {
        name.strip_prefix(limit).is_some_and(|offset| {
            offset.is_empty()
                || offset[1..].parse::<u8>().is_ok_and(|number| number <= 30) && "+-".contains(&offset[..1])
        })
    });
    let known = NAMES.contains(&name) || matches!(name, "CLD" | "POLL" | "IOT" | "UNUSED") || real_time;
    if known || text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number)) {
        return Ok(text.to_owned());
    }
    Err(Failure::invalid(format!("Invalid signal: {text}")))
}

fn healthcheck(rest: &str) -> Result<HealthConfig, Failure> {
    let mut config = HealthConfig::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let duration = || {
            let nanos = duration(value).ok_or_else(|| Failure::invalid(format!("time: invalid duration {value:?}")))?;
            if nanos != 0 && nanos < 1_000_000 {
                return Err(Failure::invalid(format!("Interval {name:?} cannot be less than 1ms")));
            }
            Ok(nanos)
        };
        match name {
            "interval" => config.interval = duration()?,
            "timeout" => config.timeout = duration()?,
            "start-period" => config.start_period = duration()?,
            "start-interval" => config.start_interval = duration()?,
            "retries" => {
                config.retries = value
                    .parse::<u32>()
                    .map_err(|_| Failure::invalid(format!("--retries cannot be negative ({value})")))?
                    .into();
            }
            _ => return Err(Failure::invalid(format!("unknown flag: {name}"))),
        }
        rest = after.trim_start();
    }
    let (kind, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let arguments = arguments.trim();
    match kind.to_uppercase().as_str() {
        "NONE" if arguments.is_empty() => config.test = Some(vec!["NONE".to_owned()]),
        "NONE" => return Err(Failure::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" if arguments.is_empty() => return Err(Failure::invalid("Missing command after HEALTHCHECK CMD")),
        "CMD" => {
            let mut test = vec!["CMD".to_owned()];
            match serde_json::from_str::<Vec<String>>(arguments) {
                Ok(words) => test.extend(words),
                Err(_) => test = vec!["CMD-SHELL".to_owned(), arguments.to_owned()],
            }
            config.test = Some(test);
        }
        other => return Err(Failure::invalid(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)"))),
    }
    Ok(config)
}

/// Nanoseconds of a duration as Go writes it: `1m30s`, `1.5h`, `500ms`.
pub(super) fn duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(rest.len());
        let nanos = match &rest[..unit] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            _ => return None,
        };
        total += number * nanos;
        rest = &rest[unit..];
    }
    if total > 9e18 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    Some(total.round() as i64)
}

fn on_build(config: &mut ImageConfig, rest: &str) -> Result<(), Failure> {
    let trigger = rest.split_whitespace().next().unwrap_or_default().to_uppercase();
    match trigger.as_str() {
        "ONBUILD" => return Err(Failure::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        "MAINTAINER" | "FROM" => {
            return Err(Failure::invalid(format!("{trigger} isn't allowed as an ONBUILD trigger")));
        }
        _ => config.on_build.get_or_insert_default().push(rest.to_owned()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ImageConfig, String> {
        let mut config = ImageConfig::default();
        let changes: Vec<_> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply_changes(&mut config, &changes).map_err(|failure| failure.message)?;
        Ok(config)
    }

    #[test]
    fn every_instruction_is_carried_out() {
        let config = changed(&[
            "ENV PATH=/bin A=\"b c\" D='$A' E=$PATH",
            "env OLD the rest of it",
            "ENV F=${A}x G=${NONE:-else} H=${A:+then} I=\\$A",
            "CMD [\"sh\", \"-c\", \"x\"]",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL one=1 two=\"2 2\"",
            "USER $F",
            "WORKDIR /a",
            "WORKDIR b/../c",
            "VOLUME /data /more",
            "VOLUME [\"/json\"]",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=1m30s --timeout=500ms --retries=2 CMD curl x",
            "ONBUILD RUN true",
            "# a comment\nLABEL three=a\\\nb",
        ])
        .unwrap();
        let env = config.env.unwrap();
        assert_eq!(
            env,
            ["PATH=/bin", "A=b c", "D=$A", "E=", "OLD=the rest of it", "F=b cx", "G=else", "H=then", "I=$A"]
        );
        assert_eq!(config.cmd.unwrap(), ["sh", "-c", "x"]);
        let ports: Vec<_> = config.exposed_ports.unwrap().into_keys().collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        let labels = config.labels.unwrap();
        assert_eq!((labels["one"].as_str(), labels["two"].as_str(), labels["three"].as_str()), ("1", "2 2", "ab"));
        assert_eq!(config.user, "b cx");
        assert_eq!(config.working_dir, "/a/c");
        assert_eq!(config.volumes.unwrap().into_keys().collect::<Vec<_>>(), ["/data", "/json", "/more"]);
        assert_eq!(config.stop_signal, "SIGINT");
        let health = config.healthcheck.unwrap();
        assert_eq!(health.test.unwrap(), ["CMD-SHELL", "curl x"]);
        assert_eq!((health.interval, health.timeout, health.retries), (90_000_000_000, 500_000_000, 2));
        assert_eq!(config.on_build.unwrap(), ["RUN true"]);
    }

    #[test]
    fn shell_forms_go_to_the_shell() {
        let config = changed(&["ENTRYPOINT exec top -b", "CMD -n 1"]).unwrap();
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "exec top -b"]);
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "-n 1"]);
        let config = changed(&["CMD [\"a\"]", "ENTRYPOINT [\"b\"]"]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["a"]);
        let config = changed(&["CMD [not json]"]).unwrap();
        assert_eq!(config.cmd.unwrap(), ["/bin/sh", "-c", "[not json]"]);
    }

    #[test]
    fn other_instructions_are_refused() {
        for (change, message) in [
            ("RUN true", "RUN is not a valid change command"),
            ("FROM scratch", "FROM is not a valid change command"),
            ("nonsense", "nonsense is not a valid change command"),
            ("EXPOSE 99999", "Invalid containerPort: 99999"),
            ("EXPOSE 80/x", "Invalid proto: x"),
            ("STOPSIGNAL NONE", "Invalid signal: NONE"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV A", "ENV must have two arguments"),
            ("LABEL a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
            ("HEALTHCHECK --interval=1x CMD a", "time: invalid duration \"1x\""),
            ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("USER \"open", "unexpected end of statement while looking for matching quote in \"\\\"open\""),
        ] {
            assert_eq!(changed(&[change]).unwrap_err(), message);
        }
    }

    #[test]
    fn durations_are_go_s() {
        assert_eq!(duration("1h1m1.5s"), Some(3_661_500_000_000));
        assert_eq!(duration("10"), None);
        assert_eq!(duration("s"), None);
        assert_eq!(duration(""), None);
    }
}
