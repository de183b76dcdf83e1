//! Certificates for tests of TLS: an authority, a server's and a client's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority's certificate.
    pub authority: PathBuf,
    /// A server's certificate, for 127.0.0.1.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// A certificate of X.509 version 1 with the same key, as `openssl x509 -req` makes it.
    pub server_v1: PathBuf,
    /// A client's certificate.
    pub client: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

impl Certificates {
    /// The name in the client's certificate.
    pub const CLIENT: &str = "CN=client,O=Rota tests";

    /// Makes them in a directory.
    ///
    /// # Panics
    /// When `openssl` is not there.
    #[must_use]
    pub fn make(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("the directory can be made");
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
        openssl(
            dir,
            &["req", "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Rota tests CA"],
            &new_key,
        );
        let signed = |name: &str, subject: &str, extension: &str| {
            let [key, request, pem, extensions] =
                ["key", "csr", "pem", "ext"].map(|ending| format!("{name}.{ending}"));
            openssl(dir, &["req", "-keyout", &key, "-out", &request, "-subj", subject], &new_key[..5]);
            fs::write(dir.join(&extensions), extension).expect("the file can be written");
            let sign =
                ["x509", "-req", "-in", &request, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
            openssl(dir, &sign, &["-days", "2", "-out", &pem, "-extfile", &extensions]);
            (dir.join(pem), dir.join(key))
        };
        let (server, server_key) = signed("server", "/CN=server", "subjectAltName=IP:127.0.0.1\n");
        let sign =
            ["x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(dir, &sign, &["-days", "2", "-out", "server-v1.pem"]);
        let (client, client_key) =
            signed("client", "/O=Rota tests/CN=client", "extendedKeyUsage=clientAuth\n");
        let server_v1 = dir.join("server-v1.pem");
        Self { authority: dir.join("ca.pem"), server, server_key, server_v1, client, client_key }
    }
}

fn openssl(dir: &Path, args: &[&str], more: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(args).args(more).current_dir(dir).stdin(Stdio::null());
    let ran = command.output().expect("`make test-setup` installs openssl");
    assert!(ran.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
