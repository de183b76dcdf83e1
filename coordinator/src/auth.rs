//! Who a client proves to be. What that allows is decided where it is applied
//! ([`rota_core::state::Acl`]).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rota_core::state::Identity;
use sha1::{Digest, Sha1};

/// Knows who may do everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authority {
    /// `USER:DIGEST` of the super user, if there is one.
    super_digest: Option<String>,
    /// The name in its certificate, if it has one.
    super_x509: Option<String>,
}

impl Authority {
    pub(crate) fn new(super_digest: Option<String>, super_x509: Option<String>) -> Self {
        Self { super_digest, super_x509 }
    }

    /// Who somebody is whose certificate says that.
    pub(crate) fn of_certificate(&self, own: Identity) -> Vec<Identity> {
        let is_super = self.super_x509.as_ref() == Some(&own.id);
        is_super.then(Identity::superuser).into_iter().chain([own]).collect()
    }

    /// Who somebody is that shows `user:password`.
    pub(crate) fn of_password(&self, user_password: &[u8]) -> Vec<Identity> {
        let digest = digest(user_password);
        let is_super = self.super_digest.as_ref() == Some(&digest);
        let own = Identity { scheme: "digest".to_owned(), id: digest };
        is_super.then(Identity::superuser).into_iter().chain([own]).collect()
    }
}

/// `user:` and the SHA-1 of all of `user:password` in base64, as ZooKeeper's
/// `DigestAuthenticationProvider.generateDigest`. It is a name rather than a
/// secret: whoever may read a node's list sees it.
#[must_use]
pub fn digest(user_password: &[u8]) -> String {
    let text = String::from_utf8_lossy(user_password);
    let user = text.split(':').next().unwrap_or_default();
    format!("{user}:{}", STANDARD.encode(Sha1::digest(text.as_bytes())))
}

/// Whether that can be what [`digest`] gives.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let hash = text.split_once(':').map(|(_, hash)| STANDARD.decode(hash));
    hash.is_some_and(|hash| hash.is_ok_and(|hash| hash.len() == Sha1::output_size()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_zookeepers() {
        // Of ZooKeeper's own documentation of `superDigest`, and of its tests.
        assert_eq!(digest(b"super:test"), "super:D/InIHSb7yEEbrWz8b9l71RjZJU=");
        let authority = Authority::new(Some("super:D/InIHSb7yEEbrWz8b9l71RjZJU=".to_owned()), None);
        assert_eq!(authority.of_password(b"super:test").len(), 2);
        assert_eq!(authority.of_password(b"super:text").len(), 1);
        assert!(is_digest("super:D/InIHSb7yEEbrWz8b9l71RjZJU="));
        assert!(!is_digest("super:secret") && !is_digest("D/InIHSb7yEEbrWz8b9l71RjZJU="));
    }
}
