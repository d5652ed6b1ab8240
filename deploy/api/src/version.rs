//! Versions of the Docker Engine API: which are spoken, and what a client that asks for another one is told.

use std::fmt;

use crate::error::ApiError;

/// A version of the API, `major.minor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    major: u32,
    minor: u32,
}

impl ApiVersion {
    /// The oldest version that is spoken.
    pub const MIN: Self = Self::new(1, 24);
    /// The newest version that is spoken; requests without a version prefix get it.
    pub const MAX: Self = Self::new(1, 51);

    /// A version from its numbers.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Is this at least version `1.<minor>`?
    pub fn at_least(self, minor: u32) -> bool {
        self >= Self::new(1, minor)
    }

    /// Parses the part of a path after `/v`; `None` when it is not a version at all (then it is part of a route).
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = match numbers.next() {
            Some(minor) => minor.parse().ok()?,
            None => 0,
        };
        numbers.all(|rest| rest.bytes().all(|b| b.is_ascii_digit())).then_some(Self { major, minor })
    }

    /// Refuses what is not spoken, in dockerd's words.
    ///
    /// # Errors
    /// When the version lies outside [`Self::MIN`] to [`Self::MAX`].
    pub fn check(self) -> Result<Self, ApiError> {
        if self > Self::MAX {
            let max = Self::MAX;
            return Err(ApiError::invalid(format!(
                "client version {self} is too new. Maximum supported API version is {max}"
            )));
        }
        if self < Self::MIN {
            let min = Self::MIN;
            return Err(ApiError::invalid(format!(
                "client version {self} is too old. Minimum supported API version is {min}, please upgrade your \
                 client to a newer version"
            )));
        }
        Ok(self)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Splits `/v1.41/info` into its version and `/info`. A path without a version gets the newest.
pub(crate) fn split_path(path: &str) -> (ApiVersion, &str) {
    let prefixed = path.strip_prefix("/v").and_then(|rest| {
        let (version, _) = rest.split_once('/')?;
        Some((ApiVersion::parse(version)?, &rest[version.len()..]))
    });
    prefixed.unwrap_or((ApiVersion::MAX, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers_not_as_text() {
        assert!(ApiVersion::new(1, 9) < ApiVersion::new(1, 24));
        assert!(ApiVersion::new(2, 0) > ApiVersion::MAX);
    }

    #[test]
    fn prefix_is_split_off_only_when_it_is_a_version() {
        assert_eq!(split_path("/v1.41/info"), (ApiVersion::new(1, 41), "/info"));
        assert_eq!(split_path("/info"), (ApiVersion::MAX, "/info"));
        assert_eq!(split_path("/version"), (ApiVersion::MAX, "/version"));
        assert_eq!(split_path("/volumes/v1.2"), (ApiVersion::MAX, "/volumes/v1.2"));
    }

    #[test]
    fn what_is_not_spoken_is_refused_in_dockerds_words() {
        let too_new = ApiVersion::new(1, 99).check().expect_err("1.99 was accepted");
        assert_eq!(too_new.message(), "client version 1.99 is too new. Maximum supported API version is 1.51");
        let too_old = ApiVersion::new(1, 12).check().expect_err("1.12 was accepted");
        assert!(too_old.message().starts_with("client version 1.12 is too old. Minimum supported API version is 1.24"));
        assert_eq!(too_old.status(), 400);
        assert!(ApiVersion::MIN.check().is_ok() && ApiVersion::MAX.check().is_ok());
    }
}
