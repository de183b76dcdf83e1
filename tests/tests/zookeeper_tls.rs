//! Clients of ZooKeeper over TLS: who they are is in their certificate.

use std::path::Path;
use std::time::Duration;

use rota_tests::{Certificates, Cluster, Process, Settings, free_port, python, run};

/// Longer than it takes a client to give up.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_says_who_a_client_is() {
    let cluster = Cluster::start_with(3, Settings { tls: true, ..Settings::default() }).await;
    let files = cluster.certificates().unwrap();
    let mut command = python();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/kazoo/tls.py"));
    command.args([cluster.zookeeper_tls_all(), cluster.zookeeper_all()]);
    command.args([&files.authority, &files.client, &files.client_key]).arg(Certificates::CLIENT);
    let mut client = Process::spawn(command, &cluster.dir().join("client.log"));
    let status = client.ended(PATIENCE).await;
    let said = client.said();
    assert!(status.success(), "{said}");
    assert_eq!(said.matches("ok ").count(), 3, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_version_1_serves() {
    let dir = tempfile::tempdir().unwrap();
    let files = Certificates::make(dir.path());
    let [certificate, key, authority] =
        [&files.server_v1, &files.server_key, &files.authority].map(|path| path.to_str().unwrap());
    let text = run(Path::new("openssl"), &["x509", "-in", certificate, "-noout", "-text"], PATIENCE).await;
    assert!(text.out.contains("Version: 1 "), "{}", text.out);
    let address = format!("127.0.0.1:{}", free_port());
    let flags =
        ["--zookeeper-tls", &address, "--zookeeper-tls-certificate", certificate, "--zookeeper-tls-key", key];
    let flags = flags.map(str::to_owned).to_vec();
    let cluster = Cluster::start_with(1, Settings { flags, ..Settings::default() }).await;
    let script = format!(
        "from kazoo.client import KazooClient\n\
         client = KazooClient('{address}', use_ssl=True, ca='{authority}')\n\
         client.start()\n\
         client.create('/n', b'x')\n\
         print('ok', client.get('/n')[0])\n\
         client.stop()\n"
    );
    let mut command = python();
    command.args(["-c", &script]);
    let mut client = Process::spawn(command, &cluster.dir().join("client.log"));
    let status = client.ended(PATIENCE).await;
    assert!(status.success() && client.said().contains("ok b'x'"), "{}", client.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = Certificates::make(dir.path());
    for certificate in [&files.server, &files.server_v1] {
        let [certificate, key] = [certificate, &files.client_key].map(|path| path.to_str().unwrap());
        let data = dir.path().join("data");
        let args = ["coordinator", "--id", "1", "--data", data.to_str().unwrap(), "--http", "127.0.0.1:0"];
        let args = [
            &args[..],
            &["--peer", "127.0.0.1:0", "--zookeeper", "off", "--zookeeper-tls", "127.0.0.1:0"],
            &["--zookeeper-tls-certificate", certificate, "--zookeeper-tls-key", key],
        ]
        .concat();
        let ran = run(&rota_tests::rota(), &args, PATIENCE).await;
        assert_ne!(ran.code, Some(0));
        assert!(ran.err.contains("certifies another key"), "{}", ran.err);
    }
}
