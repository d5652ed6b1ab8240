//! Secrets and configs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shoal_proto::object::{Config, Secret};
use shoal_proto::spec::{ConfigSpec, SecretSpec};

use super::not_offered;
use crate::error::ApiError;
use crate::swarm::model::{Payload, PayloadSpec};

fn data(what: &str, spec: &PayloadSpec) -> Result<Vec<u8>, ApiError> {
    if spec.driver.is_some() {
        return Err(not_offered(&format!("{what}Spec.Driver")));
    }
    if spec.templating.is_some() {
        return Err(not_offered(&format!("{what}Spec.Templating")));
    }
    STANDARD
        .decode(spec.data.as_deref().unwrap_or(""))
        .map_err(|error| ApiError::invalid(format!("{what}Spec.Data is not base64: {error}")))
}

/// A secret as its user sent it.
pub(crate) fn secret_spec(spec: PayloadSpec) -> Result<SecretSpec, ApiError> {
    Ok(SecretSpec { data: data("Secret", &spec)?, name: spec.name, labels: spec.labels })
}

/// A config as its user sent it.
pub(crate) fn config_spec(spec: PayloadSpec) -> Result<ConfigSpec, ApiError> {
    Ok(ConfigSpec { data: data("Config", &spec)?, name: spec.name, labels: spec.labels })
}

/// A secret as the API shows it: without its payload.
pub(crate) fn secret(secret: &Secret) -> Payload {
    Payload {
        id: secret.id.to_string(),
        meta: (&secret.meta).into(),
        spec: PayloadSpec {
            name: secret.spec.name.clone(),
            labels: secret.spec.labels.clone(),
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
            data: Some(STANDARD.encode(&config.spec.data)),
            ..PayloadSpec::default()
        },
    }
}
