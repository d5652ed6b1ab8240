//! Secrets and configs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_proto::object::{Config, Secret};
use shoal_proto::spec::{ConfigSpec, SecretSpec};

use super::not_offered;
use crate::error::ApiError;
use crate::swarm::model::{Driver, Payload, PayloadSpec};

/// The only kind of templates.
const TEMPLATES: &str = "golang";

fn templating(is_template: bool) -> Option<Driver> {
    is_template.then(|| Driver { name: TEMPLATES.to_owned(), ..Driver::default() })
}

fn data(what: &str, spec: &PayloadSpec) -> Result<Vec<u8>, ApiError> {
    if spec.driver.is_some() {
        return Err(not_offered(&format!("{what}Spec.Driver")));
    }
    match spec.templating.as_ref().map(|driver| driver.name.as_str()) {
        None | Some(TEMPLATES) => {}
        Some(other) => {
            return Err(ApiError::invalid(format!("{what}Spec.Templating: unknown driver {other:?}: use {TEMPLATES}")));
        }
    }
    if spec.templating.as_ref().is_some_and(|driver| !driver.options.is_empty()) {
        return Err(not_offered(&format!("{what}Spec.Templating.Options")));
    }
    STANDARD
        .decode(spec.data.as_deref().unwrap_or(""))
        .map_err(|error| ApiError::invalid(format!("{what}Spec.Data is not base64: {error}")))
}

/// A secret as its user sent it.
pub(crate) fn secret_spec(spec: PayloadSpec) -> Result<SecretSpec, ApiError> {
    let is_template = spec.templating.is_some();
    Ok(SecretSpec { data: data("Secret", &spec)?, name: spec.name, labels: spec.labels, is_template })
}

/// A config as its user sent it.
pub(crate) fn config_spec(spec: PayloadSpec) -> Result<ConfigSpec, ApiError> {
    let is_template = spec.templating.is_some();
    Ok(ConfigSpec { data: data("Config", &spec)?, name: spec.name, labels: spec.labels, is_template })
}

/// A secret as the API shows it: without its payload.
pub(crate) fn secret(secret: &Secret) -> Payload {
    Payload {
        id: secret.id.to_string(),
        meta: (&secret.meta).into(),
        spec: PayloadSpec {
            name: secret.spec.name.clone(),
            labels: secret.spec.labels.clone(),
            templating: templating(secret.spec.is_template),
            ..PayloadSpec::default()
        },
    }
}

/// A config as the API shows it.
pub(crate) fn config(config: &Config) -> Payload {
    Payload {
        id: config.id.to_string(),
        meta: (&config.meta).into(),
        spec: PayloadSpec {
            name: config.spec.name.clone(),
            labels: config.spec.labels.clone(),
            templating: templating(config.spec.is_template),
            data: Some(STANDARD.encode(&config.spec.data)),
            ..PayloadSpec::default()
        },
    }
}
