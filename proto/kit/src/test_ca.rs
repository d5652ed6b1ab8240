//! A small CA for this crate's tests; the real one lives in the manager.

use std::time::Duration;

use shoal_proto::id::{ClusterId, NodeId};
use shoal_proto::spec::NodeRole;
use shoal_proto::time::Timestamp;
use time::OffsetDateTime;

use crate::identity::{Material, role_name};

pub(crate) struct TestCa {
    key: rcgen::KeyPair,
    params: rcgen::CertificateParams,
    pub(crate) root_der: Vec<u8>,
    pub(crate) root_pem: String,
    pub(crate) cluster: ClusterId,
    now: Timestamp,
}

fn date(at: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.0 / 1_000_000_000).unwrap()
}

impl TestCa {
    pub(crate) fn new(now: Timestamp) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = date(now);
        params.not_after = date(now.after(Duration::from_secs(86_400)));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "swarm-ca");
        let root = params.clone().self_signed(&key).unwrap();
        let cluster = ClusterId::from_bits(77);
        Self { key, params, root_der: root.der().to_vec(), root_pem: root.pem(), cluster, now }
    }

    pub(crate) fn issue(&self, node: u128, role: NodeRole) -> Material {
        let node = NodeId::from_bits(node);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec![role_name(role).to_owned(), node.to_string()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = date(self.now);
        params.not_after = date(self.now.after(Duration::from_secs(3600)));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, node.to_string());
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, role_name(role));
        params.distinguished_name.push(rcgen::DnType::OrganizationName, self.cluster.to_string());
        let issuer = rcgen::Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Material { key_pem: key.serialize_pem().into(), chain_pem: certificate.pem(), trust_pem: self.root_pem.clone() }
    }
}
