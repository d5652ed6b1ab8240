//! Placeholders in a service's host name, environment and mounts: `{{.Node.Hostname}}` and the like, as Swarm's; and in
//! secrets and configs that are templates.
//!
//! ## Design notes
//! One reader for both sides: what a manager accepts is by construction what a node can expand. It is the part of Go's
//! template language that has a meaning here: fields, `index .Service.Labels "name"`, and trim markers.

use crate::spec::{ContainerSpec, Labels};

/// What a placeholder stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder<'a> {
    /// Id of the service.
    ServiceId,
    /// Its name.
    ServiceName,
    /// All its labels, as Go prints a map.
    ServiceLabels,
    /// One of its labels.
    ServiceLabel {
        /// Which.
        name: &'a str,
        /// Must it be there? `.Service.Labels.name` wants it, `index` is content with nothing.
        required: bool,
    },
    /// Id of the node.
    NodeId,
    /// Its host name.
    NodeHostname,
    /// Its architecture.
    NodeArchitecture,
    /// Its operating system.
    NodeOs,
    /// Id of the task.
    TaskId,
    /// Its name.
    TaskName,
    /// Its slot; the node's id for global services.
    TaskSlot,
    /// In a payload only: something else of the container.
    Of {
        /// What.
        source: Source,
        /// A file's name, as its reference has it, or a variable's.
        name: &'a str,
    },
}

/// What a payload can be filled with besides what a task tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The contents of a secret.
    Secret,
    /// The contents of a config.
    Config,
    /// The value of a variable.
    Variable,
}

/// A piece of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Stands for itself.
    Text(&'a str),
    /// Is replaced.
    Value(Placeholder<'a>),
}

/// A text that is no template which can be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("unclosed action")]
    Unclosed,
    /// `{{}}`.
    #[error("missing value for command")]
    Empty,
    /// Something that has no meaning here.
    #[error(
        "cannot evaluate {{{{{action}}}}}: known are .Service.ID, .Service.Name, .Service.Labels.<name>, index \
         .Service.Labels \"<name>\", .Node.ID, .Node.Hostname, .Node.Platform.Architecture, .Node.Platform.OS, \
         .Task.ID, .Task.Name and .Task.Slot"
    )]
    Unknown {
        /// What stood between the braces.
        action: String,
        /// Where they begin, in bytes.
        at: usize,
    },
    /// The same in a text that nobody is to see.
    #[error("the action at byte {at} is not known")]
    UnknownAt {
        /// Where its braces begin.
        at: usize,
    },
    /// A label that the service does not have.
    #[error("the service has no label {name:?}")]
    NoSuchLabel {
        /// Which.
        name: String,
    },
    /// A file that the container does not have.
    #[error("the container has no {kind} {name:?}")]
    NoSuchFile {
        /// `secret` or `config`.
        kind: &'static str,
        /// Which.
        name: String,
    },
    /// The same in a text that nobody is to see.
    #[error("the container has no {kind} of a name in it")]
    NoSuchFileInIt {
        /// `secret` or `config`.
        kind: &'static str,
    },
    /// The contents of a secret or config.
    #[error("not a text in UTF-8")]
    NotText,
    /// More than a file of a container may have.
    #[error("it would be longer than {limit} bytes")]
    TooLong {
        /// How much that is.
        limit: usize,
    },
}

/// No message has more of a text.
const QUOTED_CHARACTERS: usize = 64;

impl TemplateError {
    /// The same without anything of the text, which is a secret.
    #[must_use]
    pub fn without_text(self) -> Self {
        match self {
            Self::Unknown { at, .. } => Self::UnknownAt { at },
            Self::NoSuchFile { kind, .. } => Self::NoSuchFileInIt { kind },
            other => other,
        }
    }

    /// The same with so much of the text as a message can have.
    #[must_use]
    pub fn shortened(self) -> Self {
        let short = |text: String| match text.char_indices().nth(QUOTED_CHARACTERS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        };
        match self {
            Self::Unknown { action, at } => Self::Unknown { action: short(action), at },
            Self::NoSuchFile { kind, name } => Self::NoSuchFile { kind, name: short(name) },
            other => other,
        }
    }
}

/// Takes a text apart.
///
/// # Errors
/// When it is not one that can be expanded.
pub fn parse(text: &str) -> Result<Vec<Part<'_>>, TemplateError> {
    take_apart(text, placeholder)
}

/// The same with a secret or config, which can name others: `{{secret "key"}}`, `{{config "page"}}`, `{{env "HOME"}}`.
///
/// # Errors
/// When it is not one that can be expanded.
pub fn parse_payload(text: &str) -> Result<Vec<Part<'_>>, TemplateError> {
    take_apart(text, |action| of_another(action).or_else(|| placeholder(action)))
}

fn take_apart<'a>(
    text: &'a str,
    placeholder: impl Fn(&'a str) -> Option<Placeholder<'a>>,
) -> Result<Vec<Part<'a>>, TemplateError> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, tail) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
        let is_space = |letter: Option<char>| letter.is_some_and(char::is_whitespace);
        // As in Go a trim marker is a minus with white space on its inner side: `{{-3}}` is a number.
        let left = action.strip_prefix('-').filter(|inner| is_space(inner.chars().next()));
        let inner = left.unwrap_or(action);
        let right = inner.strip_suffix('-').filter(|inner| is_space(inner.chars().next_back()));
        parts.push(Part::Text(if left.is_some() { before.trim_end() } else { before }));
        let meant = right.unwrap_or(inner).trim();
        if meant.is_empty() {
            return Err(TemplateError::Empty);
        }
        let at = text.len() - rest.len() + before.len();
        let unknown = || TemplateError::Unknown { action: meant.to_owned(), at };
        parts.push(Part::Value(placeholder(meant).ok_or_else(unknown)?));
        rest = if right.is_some() { tail.trim_start() } else { tail };
    }
    parts.push(Part::Text(rest));
    parts.retain(|part| *part != Part::Text(""));
    Ok(parts)
}

fn placeholder(action: &str) -> Option<Placeholder<'_>> {
    Some(match action {
        ".Service.ID" => Placeholder::ServiceId,
        ".Service.Name" => Placeholder::ServiceName,
        ".Service.Labels" => Placeholder::ServiceLabels,
        ".Node.ID" => Placeholder::NodeId,
        ".Node.Hostname" => Placeholder::NodeHostname,
        ".Node.Platform.Architecture" => Placeholder::NodeArchitecture,
        ".Node.Platform.OS" => Placeholder::NodeOs,
        ".Task.ID" => Placeholder::TaskId,
        ".Task.Name" => Placeholder::TaskName,
        ".Task.Slot" => Placeholder::TaskSlot,
        other => return label(other),
    })
}

fn label(action: &str) -> Option<Placeholder<'_>> {
    if let Some(name) = action.strip_prefix(".Service.Labels.") {
        let is_name = !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
        return is_name.then_some(Placeholder::ServiceLabel { name, required: true });
    }
    let arguments = action.strip_prefix("index")?.trim_start().strip_prefix(".Service.Labels")?.trim_start();
    quoted(arguments).map(|name| Placeholder::ServiceLabel { name, required: false })
}

fn of_another(action: &str) -> Option<Placeholder<'_>> {
    let (function, argument) = action.split_once(char::is_whitespace)?;
    let source = match function {
        "secret" => Source::Secret,
        "config" => Source::Config,
        "env" => Source::Variable,
        _ => return None,
    };
    quoted(argument.trim_start()).map(|name| Placeholder::Of { source, name })
}

/// What stands between quotes. No escapes: no name needs one.
fn quoted(text: &str) -> Option<&str> {
    let between = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    between('"').or_else(|| between('`')).filter(|name| !name.contains(['"', '`', '\\']))
}

/// Is the text one that can be expanded for a service with these labels?
///
/// # Errors
/// What is wrong with it.
pub fn check(text: &str, labels: &Labels) -> Result<(), TemplateError> {
    let missing = parse(text)?.into_iter().find_map(|part| match part {
        Part::Value(Placeholder::ServiceLabel { name, required: true }) if !labels.contains_key(name) => Some(name),
        _ => None,
    });
    missing.map_or(Ok(()), |name| Err(TemplateError::NoSuchLabel { name: name.to_owned() }))
}

/// The texts of a container that may hold placeholders.
pub fn texts(container: &ContainerSpec) -> impl Iterator<Item = &String> {
    let mounts = container.mounts.iter().flat_map(|mount| {
        let volume = mount.volume_labels.values().chain(mount.volume_options.values());
        [&mount.source, &mount.target].into_iter().chain(volume)
    });
    std::iter::once(&container.hostname).chain(&container.env).chain(mounts)
}

/// Does the container need to know the labels of its service?
pub fn uses_service_labels(container: &ContainerSpec) -> bool {
    texts(container).any(|text| text.contains(".Service.Labels"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_taken_apart() {
        let text = |text| Part::Text(text);
        let value = Part::Value;
        for (given, expected) in [
            ("", vec![]),
            ("plain", vec![text("plain")]),
            ("a}b{c}}", vec![text("a}b{c}}")]),
            (
                "{{.Service.Name}}-{{ .Task.Slot }}!",
                vec![value(Placeholder::ServiceName), text("-"), value(Placeholder::TaskSlot), text("!")],
            ),
            ("a {{- .Task.ID -}} b", vec![text("a"), value(Placeholder::TaskId), text("b")]),
            ("a {{.Task.ID -}} b", vec![text("a "), value(Placeholder::TaskId), text("b")]),
            (
                "{{index .Service.Labels \"a.b\"}}",
                vec![value(Placeholder::ServiceLabel { name: "a.b", required: false })],
            ),
            ("{{.Service.Labels.a}}", vec![value(Placeholder::ServiceLabel { name: "a", required: true })]),
        ] {
            assert_eq!(parse(given), Ok(expected), "{given}");
        }
    }

    #[test]
    fn payloads_name_other_payloads() {
        let of = |source, name| Part::Value(Placeholder::Of { source, name });
        let text = "{{secret \"key\"}}:{{ config `page` }}{{env \"HOME\"}}{{.Task.ID}}";
        let expected = [
            of(Source::Secret, "key"),
            Part::Text(":"),
            of(Source::Config, "page"),
            of(Source::Variable, "HOME"),
            Part::Value(Placeholder::TaskId),
        ];
        assert_eq!(parse_payload(text).as_deref(), Ok(&expected[..]));
        for text in ["{{secret key}}", "{{secret}}", "{{file \"x\"}}", "{{env \"a\" \"b\"}}"] {
            assert!(parse_payload(text).is_err(), "{text}");
        }
        assert!(parse("{{secret \"key\"}}").is_err(), "elsewhere nobody sees secrets");
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        for text in [
            "{{",
            "{{}}",
            "{{.Nothing}}",
            "{{.Task.ID",
            "{{ {{.Task.ID}}",
            "{{index .Task \"x\"}}",
            "{{index .Service.Labels}}",
            "{{index .Service.Labels \"a\" \"b\"}}",
            "{{.Task.ID .Task.Name}}",
            "{{Task.ID}}",
            "{{-.Task.ID-}}",
            "{{.Service.Labels.a.b}}",
            "{{.Service.Labels.}}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn messages_have_little_of_a_text_and_nothing_of_a_secret() {
        let error = parse_payload("ab {{.Task.ID}} {{ hunter2 }}").expect_err("accepted");
        assert_eq!(error, TemplateError::Unknown { action: "hunter2".to_owned(), at: 16 });
        assert_eq!(error.without_text().to_string(), "the action at byte 16 is not known");
        let file = |name: &str| TemplateError::NoSuchFile { kind: "secret", name: name.to_owned() };
        assert!(!file("hunter2").without_text().to_string().contains("hunter2"));
        assert_eq!(file(&"ä".repeat(64)).shortened(), file(&"ä".repeat(64)));
        assert_eq!(file(&"ä".repeat(65)).shortened(), file(&format!("{}…", "ä".repeat(64))));
        let long = parse(&format!("{{{{{}}}}}", "x".repeat(100_000))).expect_err("accepted");
        assert!(long.shortened().to_string().len() < 500);
    }

    #[test]
    fn a_label_that_is_named_has_to_be_there() {
        let labels = Labels::from([("tier".to_owned(), "front".to_owned())]);
        assert_eq!(check("{{.Service.Labels.tier}}", &labels), Ok(()));
        assert_eq!(check("{{index .Service.Labels \"zone\"}}", &labels), Ok(()));
        let missing = check("{{.Service.Labels.zone}}", &labels).expect_err("accepted");
        assert_eq!(missing.to_string(), "the service has no label \"zone\"");
    }
}
