//! TLS for clients of ZooKeeper, and who a certificate says that a client is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rota_core::state::Identity;
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{NoClientAuth, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_cert::der::Decode;

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
        let config = config.with_single_cert(certificates, key).map_err(|error| {
            let fault = format!("it does not go with the key in {}: {error}", self.key.display());
            TlsError::of(&self.certificate)(&fault)
        })?;
        Ok(TlsAcceptor::from(Arc::new(config)))
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
