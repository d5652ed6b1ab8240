//! Registries: mirrors, those without valid TLS, and proxies on the way.

use anyhow::{Context, bail};
use ipnet::IpNet;

use super::settings::Reader;

/// What pulls and pushes are to heed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Registries {
    /// Mirrors of Docker Hub, each with a slash at its end.
    pub(crate) mirrors: Vec<String>,
    /// As the user wrote them.
    pub(crate) insecure: Vec<String>,
    /// Layers of a pull at a time.
    pub(crate) max_downloads: i64,
    /// Layers of a push at a time.
    pub(crate) max_uploads: i64,
    /// Attempts for each layer.
    pub(crate) max_attempts: i64,
}

/// Proxies for what the daemon itself fetches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Proxies {
    /// For HTTP.
    pub(crate) http: String,
    /// For HTTPS.
    pub(crate) https: String,
    /// Hosts reached without.
    pub(crate) none: String,
}

impl Registries {
    /// Reads and checks them.
    ///
    /// # Errors
    /// In dockerd's words.
    pub(super) fn read(reader: &Reader) -> anyhow::Result<Self> {
        let insecure = reader.list("insecure-registries");
        insecure.iter().try_for_each(|registry| check_insecure(registry))?;
        let positive = |key: &str, default: i64, least: i64| match reader.number(key) {
            Some(number) if number < least => bail!("invalid {}: {number}", key.replace('-', " ")),
            Some(0) | None => Ok(default),
            Some(number) => Ok(number),
        };
        Ok(Self {
            mirrors: reader
                .list("registry-mirrors")
                .iter()
                .map(|mirror| self::mirror(mirror))
                .collect::<Result<_, _>>()?,
            insecure,
            max_downloads: positive("max-concurrent-downloads", 3, 0)?,
            max_uploads: positive("max-concurrent-uploads", 5, 0)?,
            max_attempts: positive("max-download-attempts", 5, 0)?,
        })
    }

    /// Subnets of registries without valid TLS; loopback is always one.
    pub(crate) fn insecure_subnets(&self) -> Vec<String> {
        let given = self.insecure.iter().filter(|registry| registry.parse::<IpNet>().is_ok()).cloned();
        let mut all: Vec<String> = given.chain(["::1/128", "127.0.0.0/8"].map(str::to_owned)).collect();
        all.sort();
        all.dedup();
        all
    }

    /// Registries without valid TLS by name.
    pub(crate) fn insecure_hosts(&self) -> impl Iterator<Item = &String> {
        self.insecure.iter().filter(|registry| registry.parse::<IpNet>().is_err())
    }
}

impl Proxies {
    /// As they may be shown: for HTTP, for HTTPS, and the hosts reached without.
    pub(crate) fn shown(&self) -> [String; 3] {
        [super::merge::mask_credentials(&self.http), super::merge::mask_credentials(&self.https), self.none.clone()]
    }

    /// Reads and checks them; what is not given is taken from the environment, as dockerd does.
    ///
    /// # Errors
    /// When one is no URL.
    pub(super) fn read(reader: &Reader) -> anyhow::Result<Self> {
        let of = |key: &str, names: [&str; 2]| {
            let from_environment =
                || names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
            reader.text(key).or_else(from_environment).unwrap_or_default()
        };
        let proxies = Self {
            http: of("http-proxy", ["HTTP_PROXY", "http_proxy"]),
            https: of("https-proxy", ["HTTPS_PROXY", "https_proxy"]),
            none: of("no-proxy", ["NO_PROXY", "no_proxy"]),
        };
        for (name, url) in [("http-proxy", &proxies.http), ("https-proxy", &proxies.https)] {
            check_proxy(url).with_context(|| format!("invalid {name}"))?;
        }
        Ok(proxies)
    }
}

/// A URL, or a host with a port, as in the variables of other programs.
fn check_proxy(url: &str) -> anyhow::Result<()> {
    if url.is_empty() {
        return Ok(());
    }
    let shown = super::merge::mask_credentials(url);
    let Ok(parsed) = url.parse::<http::Uri>() else { bail!("{shown:?} is not a URL") };
    let is_known = parsed.scheme_str().is_none_or(|scheme| ["http", "https", "socks5", "socks5h"].contains(&scheme));
    if parsed.authority().is_none() || !is_known {
        bail!("{shown:?} is none of http://host:port, https://host:port and socks5://host:port");
    }
    Ok(())
}

fn mirror(text: &str) -> anyhow::Result<String> {
    let Ok(parsed) = text.parse::<http::Uri>() else { bail!("invalid mirror: {text:?} is not a valid URI") };
    let scheme = parsed.scheme_str().unwrap_or_default();
    if !["http", "https"].contains(&scheme) {
        bail!("invalid mirror: unsupported scheme {scheme:?} in {text:?}");
    }
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        bail!("invalid mirror: username/password not allowed in URI {:?}", super::merge::mask_credentials(text));
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        bail!("invalid mirror: path, query, or fragment at end of the URI {text:?}");
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

fn check_insecure(registry: &str) -> anyhow::Result<()> {
    if registry.parse::<IpNet>().is_ok() {
        return Ok(());
    }
    if registry.contains("://") {
        bail!("insecure registry {registry} should not contain '://'");
    }
    let bare = registry.strip_suffix('/').unwrap_or(registry);
    if bare.starts_with('-') || bare.ends_with('-') {
        bail!("invalid index name ({registry}). Cannot begin or end with a hyphen");
    }
    match bare.parse::<http::uri::Authority>() {
        Ok(authority)
            if !bare.contains('@') && (authority.port_u16().is_some() || authority.host().len() == bare.len()) =>
        {
            Ok(())
        }
        _ => bail!("insecure registry {registry} is not valid: invalid host {registry:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_registries_are_checked_as_dockerd_checks_them() {
        assert_eq!(mirror("https://mirror.local").expect("mirror"), "https://mirror.local/");
        for (text, expected) in [
            ("ftp://x", "unsupported scheme \"ftp\" in \"ftp://x\""),
            ("https://u:secret@x", "username/password not allowed"),
            ("https://x/y", "path, query, or fragment at end"),
        ] {
            let error = mirror(text).expect_err(text).to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
        for fine in ["reg.local:5000", "10.0.0.0/8", "fd00::/8", "localhost"] {
            assert!(check_insecure(fine).is_ok(), "{fine}");
        }
        for wrong in ["http://x", "-x", "reg:99999x", "a b"] {
            assert!(check_insecure(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_proxy_is_a_url_and_its_password_is_never_shown() {
        assert!(check_proxy("http://user:secret@proxy:3128").is_ok());
        let error = check_proxy("ftp://user:secret@proxy").expect_err("scheme").to_string();
        assert!(error.contains("xxxxx:xxxxx@proxy") && !error.contains("secret"), "{error}");
    }
}
