//! Which cluster a server belongs to, and which data directory is whose: no cluster is made
//! beside another, and nothing that was emptied, removed or replaced passes for what it was.

use std::fs;
use std::time::Duration;

use anyhow::ensure;
use rota_protocol::http::{AddServer, Cluster as View, Code, NodeBody, NodeCreate, TransferLeader};
use rota_tests::{Call, Cluster, LIVENESS, command, eventually};

/// How long a server may take to end by itself.
const ENDS: Duration = Duration::from_secs(20);

async fn write(cluster: &Cluster, through: u64, path: &str) {
    let call = Call::post(&format!("/v1/nodes{path}"), &NodeCreate::default());
    let _: NodeBody = cluster.ask(through, call).await.ok().unwrap();
}

async fn has(cluster: &Cluster, asked: u64, path: &str) -> bool {
    cluster.ask(asked, Call::get(&format!("/v1/nodes{path}?consistent=true"))).await.status == 200
}

async fn view(cluster: &Cluster, id: u64) -> View {
    cluster.ask(id, Call::get("/v1/cluster")).await.ok().unwrap()
}

/// Waits until a server has said all of these words in one line since `from`.
async fn says(cluster: &Cluster, id: u64, from: usize, words: &[&str]) {
    eventually(&format!("server {id} says {words:?}"), LIVENESS, async || {
        let said = cluster.said(id)[from..].to_owned();
        ensure!(said.lines().any(|line| words.iter().all(|word| line.contains(word))), "it said: {said}");
        Ok(())
    })
    .await;
}

/// Waits until a server does not serve, and says why with these words.
async fn does_not_serve(cluster: &Cluster, id: u64, words: &[&str]) {
    eventually(&format!("server {id} does not serve"), LIVENESS, async || {
        let ready = cluster.send(id, Call::get("/readyz")).await?;
        ensure!(ready.status == 503, "{}: {}", ready.status, ready.text());
        ensure!(words.iter().all(|word| ready.text().contains(word)), "{}", ready.text());
        Ok(())
    })
    .await;
    let read = cluster.ask(id, Call::get("/v1/nodes/kept")).await;
    let _ = read.refused(Code::NotServing, words);
}

/// Waits until a server has ended with 1, and returns what it said since `from`.
async fn refuses_to_run(cluster: &mut Cluster, id: u64, from: usize) -> String {
    let status = cluster.process(id).ended(ENDS).await;
    let said = cluster.said(id)[from..].to_owned();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn peers_of(cluster: &Cluster, ids: &[u64]) -> Vec<String> {
    let peers: Vec<String> = ids.iter().map(|id| format!("{id}={}", cluster.peer(*id))).collect();
    vec!["--peers".to_owned(), peers.join(",")]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_grows_to_three_by_being_joined_and_not_by_its_flags() {
    let mut cluster = Cluster::start(1).await;
    write(&cluster, 1, "/kept").await;
    let id = view(&cluster, 1).await.cluster_id.expect("a cluster has an id");
    assert_eq!(id.len(), 16, "{id}");
    cluster.stop_in_order(1).await;

    // Somebody gives all three the same --peers.
    cluster.start_joiner(2);
    cluster.start_joiner(3);
    let three = peers_of(&cluster, &[1, 2, 3]);
    for new in [2, 3] {
        cluster.kill9(new);
        // It may not have got so far as to make it.
        let _ = fs::remove_dir_all(cluster.data(new));
        cluster.set_role(new, three.clone());
        cluster.restart(new);
    }
    let alone = peers_of(&cluster, &[1]);
    cluster.set_role(1, three);
    let from = cluster.said(1).len();
    cluster.restart(1);
    let said = refuses_to_run(&mut cluster, 1, from).await;
    for word in [&id, "--join", "rota cluster add 2", "without it"] {
        assert!(said.contains(word), "it does not name {word:?}: {said}");
    }
    // The others wait: server 1 may have a cluster.
    for new in [2, 3] {
        does_not_serve(&cluster, new, &["waiting for server 1"]).await;
    }

    // The server itself stays as it was; the others learn that it has a cluster.
    cluster.set_role(1, alone);
    cluster.restart(1);
    for new in [2, 3] {
        let said = refuses_to_run(&mut cluster, new, 0).await;
        assert!(said.contains("--join") && said.contains(&id), "{said}");
        fs::remove_dir_all(cluster.data(new)).unwrap();
        cluster.set_role(new, vec!["--join".to_owned()]);
        cluster.restart(new);
    }
    for new in [2, 3] {
        let (number, address) = (new.to_string(), cluster.peer(new));
        does_not_serve(&cluster, new, &["rota cluster add"]).await;
        let added = cluster.operate(&["cluster", "add", &number, &address]).await;
        assert_eq!(added.code, Some(0), "{}", added.err);
        let promoted = cluster.operate(&["cluster", "promote", &number]).await;
        assert_eq!(promoted.code, Some(0), "{}", promoted.err);
    }
    cluster.agree(&[1, 2, 3]).await;
    for server in [1, 2, 3] {
        assert!(has(&cluster, server, "/kept").await, "server {server}");
        assert_eq!(view(&cluster, server).await.cluster_id.as_ref(), Some(&id));
    }
    // Three servers of one cluster: one may fail.
    let leader = cluster.leader().await;
    cluster.kill9(leader);
    cluster.leader_after(leader).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_cluster_of_the_same_name_is_not_added() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, 1, "/kept").await;
    // It was started without --join, and has made a cluster of its own.
    cluster.start_founder(7, &[]);
    eventually("server 7 leads its own cluster", LIVENESS, async || {
        let seen: View = cluster.send(7, Call::get("/v1/cluster")).await?.ok()?;
        ensure!(seen.leader == Some(7), "{seen:?}");
        Ok(())
    })
    .await;
    let before = view(&cluster, 1).await;
    let body = AddServer { id: 7, peer_address: cluster.peer(7), force: false };
    let refused = cluster.ask(1, Call::post("/v1/cluster/servers", &body)).await;
    let _ = refused.refused(Code::Conflict, &["belongs to cluster", "--join", "empty --data"]);
    // Even by force it does no harm to either.
    let forced = AddServer { force: true, ..body };
    assert_eq!(cluster.ask(1, Call::post("/v1/cluster/servers", &forced)).await.status, 201);
    let leader = before.leader.unwrap();
    says(&cluster, leader, 0, &["refuses", "cluster id mismatch"]).await;
    write(&cluster, 1, "/after").await;
    let after = view(&cluster, 1).await;
    assert_eq!(
        (after.leader, after.term),
        (before.leader, before.term),
        "the healthy cluster kept its leader"
    );
    assert_eq!(view(&cluster, 7).await.leader, Some(7));
    // Whichever of the two clusters is asked.
    for servers in [[leader, 7], [7, leader]] {
        let servers = servers.map(|id| cluster.http(id)).join(",");
        let status = command(&["--servers", &servers, "status"]).await;
        assert_eq!(status.code, Some(1), "{}", status.out);
        assert!(status.err.contains("--servers names two clusters"), "{}", status.err);
    }
    cluster.kill9(7);
    cluster.restart(7);
    eventually("server 7 has what it had", LIVENESS, async || {
        let seen: View = cluster.send(7, Call::get("/v1/cluster")).await?.ok()?;
        ensure!(seen.leader == Some(7), "{seen:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_comes_back_with_an_empty_disk_is_refused() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, 1, "/kept").await;
    let leader = cluster.leader().await;
    let [emptied, other] = cluster.ids().into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..]
    else {
        panic!("two others")
    };
    // With the same command line as before.
    cluster.kill9(emptied);
    fs::remove_dir_all(cluster.data(emptied)).unwrap();
    let from = cluster.said(emptied).len();
    cluster.restart(emptied);
    let words = ["emptied or replaced", "rota cluster remove", "--join"];
    says(&cluster, emptied, from, &words).await;
    does_not_serve(&cluster, emptied, &words).await;
    eventually("status fails", LIVENESS, async || {
        let status = cluster.operate(&["status"]).await;
        ensure!(status.code == Some(1) && status.err.contains("emptied"), "{status:?}");
        Ok(())
    })
    .await;
    // With --join it waits just so.
    cluster.kill9(emptied);
    fs::remove_dir_all(cluster.data(emptied)).unwrap();
    cluster.set_role(emptied, vec!["--join".to_owned()]);
    cluster.restart(emptied);
    does_not_serve(&cluster, emptied, &["emptied or replaced"]).await;
    // The leader has found out as well.
    eventually("the leader knows that it lost its data", LIVENESS, async || {
        let view = view(&cluster, leader).await;
        let fault = view.servers.iter().find(|s| s.id == emptied).and_then(|s| s.fault.clone());
        ensure!(fault.is_some_and(|fault| fault.contains("emptied")), "{:?}", view.servers);
        let page = cluster.send(leader, Call::get("/metrics")).await?.text();
        ensure!(page.contains(&format!("rota_peer_out_of_service{{peer=\"{emptied}\"}} 1")), "no metric");
        Ok(())
    })
    .await;
    // Like the first server of a cluster it waits, too.
    cluster.kill9(emptied);
    fs::remove_dir_all(cluster.data(emptied)).unwrap();
    cluster.set_role(emptied, Vec::new());
    cluster.restart(emptied);
    does_not_serve(&cluster, emptied, &["emptied or replaced"]).await;
    says(&cluster, emptied, from, &["makes no cluster of its own"]).await;
    let status = cluster.operate(&["status"]).await;
    assert_eq!(status.code, Some(1), "{}", status.out);
    assert!(status.err.contains("emptied"), "{}{}", status.out, status.err);
    // It does not lead, and the leader stays.
    let lead = TransferLeader { server: emptied };
    let refused = cluster.ask(other, Call::post("/v1/cluster/leader", &lead)).await;
    let _ = refused.refused(Code::Conflict, &["cannot lead", "emptied"]);
    assert_eq!(cluster.leader().await, leader);
    write(&cluster, other, "/after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_removed_learns_of_it_and_does_not_start_again() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, 1, "/kept").await;
    let leader = cluster.leader().await;
    let removed = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let said = cluster.ask(leader, Call::delete(&format!("/v1/cluster/servers/{removed}"))).await;
    assert_eq!(said.status, 204, "{}", said.text());
    does_not_serve(&cluster, removed, &["was removed"]).await;
    assert!(view(&cluster, removed).await.not_serving.is_some_and(|why| why.contains("was removed")));
    cluster.stop_in_order(removed).await;
    let from = cluster.said(removed).len();
    cluster.restart(removed);
    assert!(refuses_to_run(&mut cluster, removed, from).await.contains("was removed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_while_it_was_removed_learns_of_it() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, 1, "/kept").await;
    let leader = cluster.leader().await;
    let removed = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.kill9(removed);
    let said = cluster.ask(leader, Call::delete(&format!("/v1/cluster/servers/{removed}"))).await;
    assert_eq!(said.status, 204, "{}", said.text());
    cluster.restart(removed);
    does_not_serve(&cluster, removed, &["was removed"]).await;
    write(&cluster, leader, "/after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_address_changed_says_so() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let moved = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.stop_in_order(moved).await;
    cluster.set_role(moved, vec![]);
    let address = cluster.move_peer(moved);
    cluster.restart(moved);
    eventually("the cluster knows its address", LIVENESS, async || {
        let view = view(&cluster, leader).await;
        let known = view.servers.iter().find(|server| server.id == moved).map(|s| s.peer_address.clone());
        ensure!(known.as_ref() == Some(&address), "{known:?}");
        Ok(())
    })
    .await;
    write(&cluster, leader, "/after").await;
    cluster.agree(&[1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_added_where_it_waits_and_nowhere_else() {
    let mut cluster = Cluster::start(1).await;
    let add = |id, address: &str| {
        let body = AddServer { id, peer_address: address.to_owned(), force: false };
        Call::post("/v1/cluster/servers", &body)
    };
    let own = cluster.peer(1);
    let _ = cluster.ask(1, add(9, &own)).await.refused(Code::Conflict, &["server 1 is at", &own]);
    let nobody = format!("127.0.0.1:{}", rota_tests::free_port());
    let _ =
        cluster.ask(1, add(9, &nobody)).await.refused(Code::Conflict, &["no server 9 answers", "--force"]);
    let nowhere = cluster.operate(&["cluster", "add", "9", &nobody]).await;
    assert_eq!(nowhere.code, Some(1), "{}", nowhere.err);
    cluster.start_joiner(2);
    eventually("server 2 waits", LIVENESS, async || {
        let ready = cluster.send(2, Call::get("/readyz")).await?;
        ensure!(ready.text().contains("rota cluster add 2"), "{}", ready.text());
        Ok(())
    })
    .await;
    let other = cluster.peer(2);
    let _ = cluster.ask(1, add(9, &other)).await.refused(Code::Conflict, &["server 2 is at"]);
    let unreachable = cluster.ask(1, add(2, "10.255.255.1:7720")).await;
    let _ = unreachable.refused(Code::Conflict, &["its own machine alone", "--peer"]);
    assert_eq!(cluster.ask(1, add(2, &other)).await.status, 201);
    cluster.agree(&[1, 2]).await;
    assert!(view(&cluster, 1).await.servers.iter().all(|server| server.disk_id.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_newer_version_or_without_its_log_is_refused() {
    let mut cluster = Cluster::start(1).await;
    write(&cluster, 1, "/kept").await;
    cluster.kill9(1);
    let identity = cluster.data(1).join("identity.json");
    let before = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, before.replace("\"format\": 1", "\"format\": 99")).unwrap();
    let from = cluster.said(1).len();
    cluster.restart(1);
    let said = refuses_to_run(&mut cluster, 1, from).await;
    assert!(said.contains("newer version") && said.contains("99"), "{said}");
    fs::write(&identity, before).unwrap();

    let log = cluster.data(1).join("log");
    let aside = cluster.dir().join("aside");
    fs::rename(&log, &aside).unwrap();
    let from = cluster.said(1).len();
    cluster.restart(1);
    let said = refuses_to_run(&mut cluster, 1, from).await;
    assert!(said.contains("has lost data"), "{said}");
    fs::remove_dir_all(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    cluster.restart(1);
    cluster.all_follow_one_leader().await;
    assert!(has(&cluster, 1, "/kept").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_disk_is_an_old_copy_is_refused() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, 1, "/kept").await;
    cluster.agree(&[1, 2, 3]).await;
    let leader = cluster.leader().await;
    let old = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.kill9(old);
    let (data, copy) = (cluster.data(old), cluster.dir().join("copy"));
    copy_all(&data, &copy);
    cluster.restart(old);
    cluster.agree(&[1, 2, 3]).await;
    // Without the third server, the write needs the acknowledgement of this one.
    let third = 6 - leader - old;
    cluster.pause(third);
    write(&cluster, leader, "/since").await;
    cluster.resume(third);
    cluster.kill9(old);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&copy, &data).unwrap();
    let from = cluster.said(old).len();
    cluster.restart(old);
    does_not_serve(&cluster, old, &["it has lost data"]).await;
    says(&cluster, old, from, &["ERROR", "has lost data"]).await;
    says(&cluster, leader, 0, &["ERROR", "has lost data"]).await;
    let status = cluster.operate(&["status"]).await;
    assert_eq!(status.code, Some(1), "{}", status.out);
    write(&cluster, leader, "/after").await;
}

fn copy_all(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_all(&path, &target),
            false => drop(fs::copy(&path, &target).unwrap()),
        }
    }
}
