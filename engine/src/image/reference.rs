//! Names of images, as Docker reads and shortens them.

use std::fmt;

use super::digest::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library";
const LONGEST_NAME: usize = 255;

/// The text names no image. Messages as dockerd's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Nothing fits.
    #[error("invalid reference format")]
    Format,
    /// Upper case in the path.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It would be taken for an id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// Too long.
    #[error("repository name must not be more than {LONGEST_NAME} characters")]
    TooLong,
    /// The tag alone.
    #[error("invalid tag format")]
    Tag,
    /// The digest alone.
    #[error("invalid checksum digest format")]
    Digest,
}

/// A repository, perhaps with tag and digest. Prints in full: `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// What a user may write where an image is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyReference {
    /// 64 digits, or `sha256:` and 64 digits.
    Id(Digest),
    /// A name.
    Named(Reference),
}

impl Reference {
    /// Reads a name as a user writes it: the domain `docker.io` and the path `library/` are added where missing.
    ///
    /// # Errors
    /// When it is no name.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if Digest::from_hex(text).is_some() {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (domain, rest) = split_domain(text);
        let without_tag = rest.split([':', '@']).next().unwrap_or(&rest);
        if without_tag.chars().any(|letter| letter.is_uppercase()) {
            return Err(ReferenceError::Uppercase(without_tag.to_owned()));
        }
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| digest_error(digest))?)),
            None => (rest.as_str(), None),
        };
        let last = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[last..].split_once(':') {
            Some((name, tag)) => (&rest[..last + name.len()], Some(tag)),
            None => (rest, None),
        };
        if !is_domain(&domain) || !is_path(path) || tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Format);
        }
        if path.len() + domain.len() + 1 > LONGEST_NAME {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self { domain, path: path.to_owned(), tag: tag.map(str::to_owned), digest })
    }

    /// `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `library/busybox`: what the registry calls it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `busybox`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// `busybox:latest`, `busybox@sha256:...`.
    pub fn familiar(&self) -> String {
        self.familiar_name() + &self.suffix()
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Neither tag nor digest?
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// With the tag `latest` when there is neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// With this tag.
    ///
    /// # Errors
    /// When it is no tag.
    pub fn with_tag(mut self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag);
        }
        self.tag = Some(tag.to_owned());
        Ok(self)
    }

    /// What is looked up: the digest alone where there is one, the tag otherwise.
    #[must_use]
    pub fn for_lookup(mut self) -> Self {
        if self.digest.is_some() {
            self.tag = None;
        }
        self.or_latest()
    }

    /// Does a pattern as in `docker images <pattern>` fit the short form with or without tag?
    ///
    /// # Errors
    /// When it is no pattern.
    pub fn matches(&self, pattern: &str) -> Result<bool, BadPattern> {
        Ok(glob(pattern, &self.familiar())? || glob(pattern, &self.familiar_name())?)
    }
}

fn digest_error(text: &str) -> ReferenceError {
    match text.split_once(':') {
        Some((_, hex)) if hex.len() >= 32 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            ReferenceError::Digest
        }
        _ => ReferenceError::Format,
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl AnyReference {
    /// Reads an id or a name.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if let Some(id) = Digest::from_hex(text).or_else(|| text.parse().ok()) {
            return Ok(Self::Id(id));
        }
        Reference::parse(text).map(Self::Named)
    }
}

/// As Docker's `splitDockerDomain`: a first part with a dot, a colon or upper case, or `localhost`, is a domain.
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first => {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
    let rest = if official { format!("{OFFICIAL}/{rest}") } else { rest.to_owned() };
    (domain.to_owned(), rest)
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if text.starts_with('[') {
        match text.find(']') {
            Some(end) => (&text[..=end], &text[end + 1..]),
            None => return false,
        }
    } else {
        text.split_at(text.find(':').unwrap_or(text.len()))
    };
    let port_is_right = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()),
        None => port.is_empty(),
    };
    let host_is_right = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => !address.is_empty() && address.bytes().all(|digit| digit.is_ascii_hexdigit() || digit == b':'),
        None => host.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        }),
    };
    host_is_right && port_is_right
}

/// Components of lower-case letters and digits, separated inside by one dot, one or two underscores, or dashes.
fn is_path(text: &str) -> bool {
    text.split('/').all(|component| {
        let bytes = component.as_bytes();
        let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if !bytes.first().is_some_and(letter) || !bytes.last().is_some_and(letter) {
            return false;
        }
        bytes
            .split(letter)
            .filter(|separator| !separator.is_empty())
            .all(|separator| matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
    })
}

fn is_tag(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
        && !matches!(bytes[0], b'.' | b'-')
}

/// The pattern cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// As Go's `path.Match`: `*` and `?` do not cross a slash, `[a-z]` and `[^a-z]` are sets, `\` quotes.
///
/// # Errors
/// When the pattern is malformed.
pub fn glob(pattern: &str, text: &str) -> Result<bool, BadPattern> {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    glob_at(&pattern, &text, &mut 200_000)
}

fn glob_at(pattern: &[char], text: &[char], fuel: &mut u32) -> Result<bool, BadPattern> {
    *fuel = fuel.checked_sub(1).ok_or(BadPattern)?;
    let Some(first) = pattern.first() else { return Ok(text.is_empty()) };
    match first {
        '*' => {
            let rest = &pattern[pattern.iter().position(|letter| *letter != '*').unwrap_or(pattern.len())..];
            for skip in 0..=text.len() {
                if glob_at(rest, &text[skip..], fuel)? {
                    return Ok(true);
                }
                if text.get(skip) == Some(&'/') {
                    break;
                }
            }
            Ok(false)
        }
        '?' => match text.first() {
            Some(letter) if *letter != '/' => glob_at(&pattern[1..], &text[1..], fuel),
            _ => Ok(false),
        },
        '[' => {
            let (found, length) = set(pattern, text.first())?;
            if found { glob_at(&pattern[length..], &text[1..], fuel) } else { Ok(false) }
        }
        '\\' => {
            let quoted = pattern.get(1).ok_or(BadPattern)?;
            if text.first() == Some(quoted) { glob_at(&pattern[2..], &text[1..], fuel) } else { Ok(false) }
        }
        letter if text.first() == Some(letter) => glob_at(&pattern[1..], &text[1..], fuel),
        _ => Ok(false),
    }
}

/// Is the letter in the set that the pattern begins with, and how long is that set?
fn set(pattern: &[char], letter: Option<&char>) -> Result<(bool, usize), BadPattern> {
    let negated = pattern.get(1) == Some(&'^');
    let mut position = if negated { 2 } else { 1 };
    let mut found = false;
    let mut ranges = 0;
    let one = |position: &mut usize| -> Result<char, BadPattern> {
        if pattern.get(*position) == Some(&'\\') {
            *position += 1;
        }
        let letter = *pattern.get(*position).ok_or(BadPattern)?;
        *position += 1;
        Ok(letter)
    };
    while ranges == 0 || pattern.get(position) != Some(&']') {
        let low = one(&mut position)?;
        let high = if pattern.get(position) == Some(&'-') {
            position += 1;
            one(&mut position)?
        } else {
            low
        };
        found |= letter.is_some_and(|letter| (low..=high).contains(letter));
        ranges += 1;
    }
    Ok((letter.is_some() && found != negated, position + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn names_are_made_whole_and_shortened() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("host:5000/app:v1", "host:5000/app:v1", "host:5000/app:v1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("x/a__b.c-d---e", "docker.io/x/a__b.c-d---e:latest", "x/a__b.c-d---e:latest"),
        ] {
            let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).or_latest();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(Reference::parse(familiar), Ok(reference), "{text}");
        }
    }

    #[test]
    fn digests_win_over_tags() {
        let reference = Reference::parse(&format!("app:v1@sha256:{ID}")).unwrap();
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(reference.for_lookup().to_string(), format!("docker.io/library/app@sha256:{ID}"));
    }

    #[test]
    fn what_docker_refuses_is_refused_in_its_words() {
        for (text, message) in [
            ("", "invalid reference format"),
            (":x", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a-", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a:-x", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("../a", "invalid reference format"),
            ("-host.x/a", "invalid reference format"),
            ("a@sha256:abc", "invalid reference format"),
            ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
            ("host.x/Busybox:A", "invalid reference format: repository name (Busybox) must be lowercase"),
        ] {
            assert_eq!(Reference::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        assert_eq!(
            Reference::parse(ID).unwrap_err().to_string(),
            format!("invalid repository name ({ID}), cannot specify 64-byte hexadecimal strings")
        );
        assert_eq!(Reference::parse(&"a".repeat(300)), Err(ReferenceError::TooLong));
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(matches!(AnyReference::parse(ID), Ok(AnyReference::Id(_))));
        assert!(matches!(AnyReference::parse(&format!("sha256:{ID}")), Ok(AnyReference::Id(_))));
        assert!(matches!(AnyReference::parse("2cf2"), Ok(AnyReference::Named(_))));
    }

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, expected) in [
            ("busy*", "busybox:latest", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("**x", "aax", true),
        ] {
            assert_eq!(glob(pattern, text), Ok(expected), "{pattern} {text}");
        }
        assert_eq!(glob("[a", "a"), Err(BadPattern));
        assert_eq!(glob("\\", "a"), Err(BadPattern));
        let reference = Reference::parse("me/app:v1").unwrap();
        assert_eq!(reference.matches("me/app"), Ok(true));
        assert_eq!(reference.matches("*/app:*"), Ok(true));
        assert_eq!(reference.matches("app"), Ok(false));
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree(text in "[a-zA-Z0-9:/@._-]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
            }
        }

        #[test]
        fn patterns_never_panic(pattern in ".{0,12}", text in ".{0,12}") {
            let _ = glob(&pattern, &text);
        }
    }
}
