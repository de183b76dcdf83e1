//! TLS for clients of ZooKeeper, and who a certificate says that a client is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rota_core::state::Identity;
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_cert::der::{Decode, Encode};

/// The files, in PEM, with which a server speaks TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// The server's certificate, and those between it and an authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that clients' certificates come from. Without it, clients show
    /// none.
    pub authorities: Option<PathBuf>,
    /// Whether a client may come without a certificate. Default false: ZooKeeper's
    /// `ssl.clientAuth=need`.
    pub client_certificate_optional: bool,
}

/// Files with which no TLS can be spoken.
#[derive(Debug, thiserror::Error)]
#[error("TLS for clients of ZooKeeper: {path}: {fault}")]
pub struct TlsError {
    path: String,
    fault: String,
}

impl TlsError {
    fn of(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> Self + '_ {
        move |fault| Self { path: path.display().to_string(), fault: fault.to_string() }
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let certificates = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| match error {
            pem::Error::NoItemsFound => {
                let fault =
                    "it holds no key that can be read; `openssl pkey -in FILE -out FILE` decrypts one";
                TlsError::of(&self.key)(&fault)
            }
            error => TlsError::of(&self.key)(&error),
        })?;
        let verifier = match &self.authorities {
            None => Arc::new(NoClientAuth) as Arc<_>,
            Some(path) => {
                let fault = TlsError::of(path);
                let mut roots = RootCertStore::empty();
                for certificate in certificates_of(path)? {
                    roots.add(certificate).map_err(|e| fault(&e))?;
                }
                let mut builder = WebPkiClientVerifier::builder(Arc::new(roots));
                if self.client_certificate_optional {
                    builder = builder.allow_unauthenticated();
                }
                builder.build().map_err(|e| fault(&e))?
            }
        };
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        let keys = config.crypto_provider().key_provider;
        let key = keys.load_private_key(key).map_err(|e| TlsError::of(&self.key)(&e))?;
        let own = CertifiedKey::new(certificates, key);
        check_key(&own).map_err(|fault| {
            let fault = format!("it does not go with the key in {}: {fault}", self.key.display());
            TlsError::of(&self.certificate)(&fault)
        })?;
        let config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Makes sure that a key is the one of its certificate. `rustls` does that only for certificates of
/// X.509 version 3; `openssl x509 -req` makes those of version 1 unless it is told otherwise, and
/// clients take them.
fn check_key(own: &CertifiedKey) -> Result<(), String> {
    let certificate = own.end_entity_cert().map_err(|error| error.to_string())?;
    let certificate = x509_cert::Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    let certified = certificate.tbs_certificate().subject_public_key_info().to_der();
    let certified = certified.map_err(|error| error.to_string())?;
    match own.key.public_key() {
        Some(key) if *key != *certified => Err("it certifies another key".to_owned()),
        _ => Ok(()),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = certificates_of(path)?;
    match found.is_empty() {
        true => Err(TlsError::of(path)(&"it holds no certificate")),
        false => Ok(found),
    }
}

fn certificates_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = TlsError::of(path);
    let read = CertificateDer::pem_file_iter(path).map_err(|e| fault(&e))?;
    read.collect::<Result<_, _>>().map_err(|e| fault(&e))
}

/// Who a certificate is of, by its subject's name as RFC 2253 writes it.
pub(super) fn identity(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(Identity::new("x509", &certificate.tbs_certificate().subject().to_string()))
}
