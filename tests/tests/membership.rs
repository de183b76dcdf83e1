//! Who belongs to the cluster: a server is added, given a vote, and another
//! taken out, over HTTP and from the command line.

use rota_protocol::http::{AddServer, Cluster as View, Code, NodeBody, NodeCreate, Role, TransferLeader};
use rota_tests::{Call, Cluster, LIVENESS, eventually};

async fn write(cluster: &Cluster, through: u64, path: &str) {
    let call = Call::post(&format!("/v1/nodes{path}"), &NodeCreate::default());
    let _: NodeBody = cluster.ask(through, call).await.ok().unwrap();
}

fn role_of(view: &View, id: u64) -> Option<Role> {
    view.servers.iter().find(|server| server.id == id).map(|server| server.role)
}

async fn has_role(cluster: &Cluster, asked: u64, id: u64, role: Option<Role>) {
    eventually(&format!("server {asked} sees {id} as {role:?}"), LIVENESS, async || {
        let view = cluster.view(asked).await?;
        anyhow::ensure!(role_of(&view, id) == role, "{:?}", view.servers);
        Ok(())
    })
    .await;
}

fn follower_of(cluster: &Cluster, leader: u64) -> u64 {
    cluster.ids().into_iter().find(|id| *id != leader && *id <= 3).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fourth_server_takes_the_place_of_an_old_one() {
    let mut cluster = Cluster::start(3).await;
    write(&cluster, 1, "/before").await;
    cluster.start_joiner(4);
    let old = follower_of(&cluster, cluster.leader().await);

    // Any server takes the request.
    let body = AddServer { id: 4, peer_address: cluster.peer(4), force: false };
    let added = cluster.ask(old, Call::post("/v1/cluster/servers", &body)).await;
    assert_eq!(added.status, 201);
    assert_eq!(role_of(&added.ok().unwrap(), 4), Some(Role::Learner));
    cluster.agree(&[1, 2, 3, 4]).await;
    let refused = cluster.ask(1, Call::post("/v1/cluster/leader", &TransferLeader { server: 4 })).await;
    let _ = refused.refused(Code::Conflict, &["4", "learner"]);

    let promoted = cluster.ask(old, Call::post("/v1/cluster/servers/4/promote", &())).await;
    assert_eq!(role_of(&promoted.ok().unwrap(), 4), Some(Role::Follower));
    let removed = cluster.ask(4, Call::delete(&format!("/v1/cluster/servers/{old}"))).await;
    assert_eq!(removed.status, 204, "{}", removed.text());
    has_role(&cluster, 4, old, None).await;
    cluster.stop_in_order(old).await;

    // The new one's vote counts: with it, two of three are a majority.
    let left: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    let leader = cluster.leader().await;
    let victim = left.iter().copied().find(|id| *id != 4 && *id != leader).unwrap();
    cluster.kill9(victim);
    write(&cluster, 4, "/after").await;
    let others: Vec<u64> = left.into_iter().filter(|id| *id != victim).collect();
    cluster.agree(&others).await;
    let moved = cluster.ask(4, Call::post("/v1/cluster/leader", &TransferLeader { server: 4 })).await;
    assert_eq!(moved.ok::<View>().unwrap().leader, Some(4));
    let again = AddServer { id: old, peer_address: cluster.peer(old), force: false };
    let again = cluster.ask(4, Call::post("/v1/cluster/servers", &again)).await;
    let _ = again.refused(Code::Conflict, &[&format!("no server {old} answers")]);
    write(&cluster, others[0], "/last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_taken_out_leaves_the_others_with_another() {
    let cluster = Cluster::start(3).await;
    let old = cluster.leader().await;
    let other = follower_of(&cluster, old);
    let removed = cluster.ask(other, Call::delete(&format!("/v1/cluster/servers/{old}"))).await;
    assert_eq!(removed.status, 204, "{}", removed.text());
    has_role(&cluster, other, old, None).await;
    eventually("one of the others leads", LIVENESS, async || {
        let leader = cluster.view(other).await?.leader;
        anyhow::ensure!(leader.is_some_and(|id| id != old), "{leader:?} leads");
        Ok(())
    })
    .await;
    write(&cluster, other, "/after").await;
    // One that was taken out must not go on answering as if it knew.
    eventually("the one taken out says that it is not ready", LIVENESS, async || {
        let ready = cluster.send(old, Call::get("/readyz")).await?;
        anyhow::ensure!(ready.status == 503, "{}: {}", ready.status, ready.text());
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_to_the_members_is_said() {
    let cluster = Cluster::start(1).await;
    let ask = async |call: Call| cluster.ask(1, call).await;
    let add = |id, address: &str| {
        Call::post("/v1/cluster/servers", &AddServer { id, peer_address: address.to_owned(), force: false })
    };
    let _ = ask(add(1, "127.0.0.1:1")).await.refused(Code::Exists, &["1"]);
    let _ = ask(add(0, "127.0.0.1:1")).await.refused(Code::BadRequest, &["number"]);
    let _ = ask(add(2, "no-port")).await.refused(Code::BadRequest, &["HOST:PORT"]);
    let _ = ask(Call::post("/v1/cluster/servers/7/promote", &())).await.refused(Code::NoServer, &["7"]);
    let _ = ask(Call::delete("/v1/cluster/servers/7")).await.refused(Code::NoServer, &["7"]);
    let _ = ask(Call::delete("/v1/cluster/servers/1")).await.refused(Code::Conflict, &["last voter"]);
    let lead = Call::post("/v1/cluster/leader", &TransferLeader { server: 7 });
    let _ = ask(lead).await.refused(Code::NoServer, &["7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_vote_goes_to_a_server_that_does_not_answer() {
    let cluster = Cluster::start(1).await;
    write(&cluster, 1, "/before").await;
    // Nobody listens there.
    let body =
        AddServer { id: 2, peer_address: format!("127.0.0.1:{}", rota_tests::free_port()), force: true };
    assert_eq!(cluster.ask(1, Call::post("/v1/cluster/servers", &body)).await.status, 201);
    let lead = Call::post("/v1/cluster/leader", &TransferLeader { server: 2 });
    let _ = cluster.ask(1, lead).await.refused(Code::Conflict, &["learner", "cluster promote 2"]);
    let promoted = cluster.ask(1, Call::post("/v1/cluster/servers/2/promote", &())).await;
    let _ = promoted.refused(Code::Conflict, &["does not answer", "majority"]);
    write(&cluster, 1, "/after").await;
    assert_eq!(cluster.ask(1, Call::delete("/v1/cluster/servers/2")).await.status, 204);
    write(&cluster, 1, "/last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_living_voter_is_not_taken_out_while_another_is_dead() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let [dead, living] = cluster.ids().into_iter().filter(|id| *id != leader).collect::<Vec<_>>()[..] else {
        panic!("two others")
    };
    cluster.kill9(dead);
    // The leader has not noticed yet.
    let removed = cluster.ask(leader, Call::delete(&format!("/v1/cluster/servers/{living}"))).await;
    let _ = removed.refused(Code::Conflict, &["majority", &dead.to_string()]);
    write(&cluster, living, "/still").await;
    assert_eq!(cluster.ask(living, Call::delete(&format!("/v1/cluster/servers/{dead}"))).await.status, 204);
    write(&cluster, living, "/after").await;
}
