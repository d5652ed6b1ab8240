//! Templates in a container spec: are they such that the agent can expand them?

/// What a template may name. Labels are maps: `index .Service.Labels "name"` or `.Service.Labels.name`.
const FIELDS: [&str; 8] = [
    ".Service.ID",
    ".Service.Name",
    ".Node.ID",
    ".Node.Hostname",
    ".Node.Platform.Architecture",
    ".Node.Platform.OS",
    ".Task.ID",
    ".Task.Name",
];

/// Checks a text for template syntax.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        if before.contains("}}") {
            return Err("unexpected }}".to_owned());
        }
        let (action, tail) = after.split_once("}}").ok_or("unclosed action")?;
        check_action(action.trim().trim_matches('-').trim())?;
        rest = tail;
    }
    Ok(())
}

fn check_action(action: &str) -> Result<(), String> {
    if action.is_empty() {
        return Err("missing value for command".to_owned());
    }
    if action.contains("{{") {
        return Err("unexpected {{ in action".to_owned());
    }
    let mut words = action.split_whitespace();
    match words.next() {
        Some("index") => {
            let map = words.next().unwrap_or_default();
            let key = words.next().unwrap_or_default();
            let quoted = key.len() >= 2 && key.starts_with('"') && key.ends_with('"');
            if map == ".Service.Labels" && quoted && words.next().is_none() {
                return Ok(());
            }
            Err(format!("cannot evaluate {action:?}: only index .Service.Labels \"name\" is known"))
        }
        Some(field) if words.next().is_none() => check_field(field),
        _ => Err(format!("cannot evaluate {action:?}")),
    }
}

fn check_field(field: &str) -> Result<(), String> {
    let label = field.strip_prefix(".Service.Labels.").is_some_and(|name| !name.is_empty());
    if FIELDS.contains(&field) || field == ".Task.Slot" || field == ".Service.Labels" || label {
        return Ok(());
    }
    Err(format!("can't evaluate field {field}"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn known_fields_pass() {
        for text in [
            "",
            "plain",
            "a}b{c",
            "{{.Service.Name}}-{{.Task.Slot}}",
            "{{ .Node.Hostname }}",
            "{{- .Task.ID -}}",
            "{{index .Service.Labels \"a.b\"}}",
            "{{.Service.Labels.a}}",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn others_do_not() {
        for text in [
            "{{",
            "{{}}",
            "{{.Nothing}}",
            "x}}{{.Task.ID}}",
            "{{.Task.ID",
            "{{ {{.Task.ID}}",
            "{{index .Task \"x\"}}",
            "{{.Task.ID .Task.Name}}",
            "{{Task.ID}}",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
