import static java.util.Arrays.asList;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.KeeperException.Code;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/** Requests that Curator does not make, by ZooKeeper's own client. */
final class PlainRequests {
    private static final byte[] NONE = new byte[0];

    private PlainRequests() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("multi-errors", PlainRequests::multiErrors);
        parts.put("multi-read", PlainRequests::multiRead);
        parts.put("sync", PlainRequests::sync);
        parts.put("ephemerals", PlainRequests::ephemerals);
        parts.put("all-children-number", PlainRequests::allChildrenNumber);
        parts.put("who-am-i", PlainRequests::whoAmI);
        parts.put("stat-of-parents", PlainRequests::statOfParents);
        parts.put("bad-requests", PlainRequests::badRequests);
        parts.put("big-data", PlainRequests::bigData);
        parts.put("sync-before-a-write", PlainRequests::syncBeforeWrite);
        parts.put("config", PlainRequests::config);
    }

    private static void create(ZooKeeper client, String path, CreateMode mode) throws Exception {
        client.create(path, NONE, Ids.OPEN_ACL_UNSAFE, mode);
    }

    private static void multiErrors(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            create(client, root, CreateMode.PERSISTENT);
            KeeperException refusal = Check.refused(
                    KeeperException.NodeExistsException.class,
                    () -> client.multi(asList(
                            Op.check(root, 0),
                            Op.create(root + "/x", NONE, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
                            Op.create(root, NONE, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT),
                            Op.setData(root, NONE, 7),
                            Op.delete(root + "/x", -1))),
                    "a multi whose third operation fails");
            // Those before the failure say nothing; those after it were not tried.
            Check.equal(
                    asList(Code.OK, Code.OK, Code.NODEEXISTS, Code.RUNTIMEINCONSISTENCY, Code.RUNTIMEINCONSISTENCY),
                    codes(refusal.getResults()),
                    "the errors of the multi");
            Check.equal(null, client.exists(root + "/x", false), "what a failed multi created");
            Check.equal(0, client.exists(root, false).getVersion(), "the version that a failed multi leaves");
            Check.equal(0, client.multi(Collections.emptyList()).size(), "the results of an empty multi");
            Check.refused(
                    KeeperException.NoNodeException.class,
                    () -> client.multi(asList(Op.check(root + "/none", -1))),
                    "a check of a node that is not there");
        }
    }

    private static List<Code> codes(List<OpResult> results) {
        return results.stream()
                .map(result -> result instanceof OpResult.ErrorResult error ? Code.get(error.getErr()) : Code.OK)
                .collect(Collectors.toList());
    }

    private static void multiRead(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            client.create(root, Clients.bytes("x"), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            create(client, root + "/child", CreateMode.PERSISTENT);
            List<OpResult> results =
                    client.multi(asList(Op.getData(root), Op.getChildren(root), Op.getData(root + "/none"), Op.getChildren(root)));
            Check.equal("x", Clients.text(((OpResult.GetDataResult) results.get(0)).getData()), "the data");
            Check.equal(asList("child"), ((OpResult.GetChildrenResult) results.get(1)).getChildren(), "the children");
            // A read that fails does not keep the others from being done.
            Check.equal(Code.NONODE.intValue(), ((OpResult.ErrorResult) results.get(2)).getErr(), "the error of a read");
            Check.equal(asList("child"), ((OpResult.GetChildrenResult) results.get(3)).getChildren(), "the children after an error");
        }
    }

    /** After a sync, a client sees what another wrote before it through any server. */
    private static void sync(String root) throws Exception {
        try (ZooKeeper writer = Clients.plain(new Clients.Events()); ZooKeeper reader = Clients.plain(new Clients.Events())) {
            create(writer, root, CreateMode.PERSISTENT);
            for (int i = 0; i < 100; i++) {
                writer.setData(root, Clients.bytes(String.valueOf(i)), -1);
                CompletableFuture<String> answer = new CompletableFuture<>();
                reader.sync(root, (code, path, context) -> answer.complete(Code.get(code) + " " + path), null);
                String seen = Clients.text(reader.getData(root, false, null));
                Check.equal(String.valueOf(i), seen, "the data after a sync");
                Check.equal("OK " + root, answer.get(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the answer to sync");
            }
        }
    }

    private static void ephemerals(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events()); ZooKeeper other = Clients.plain(new Clients.Events())) {
            create(client, root, CreateMode.PERSISTENT);
            create(client, root + "/a", CreateMode.EPHEMERAL);
            create(client, root + "/b", CreateMode.EPHEMERAL);
            other.sync(root, (code, path, context) -> {}, null);
            create(other, root + "/c", CreateMode.EPHEMERAL);
            List<String> mine = new ArrayList<>(client.getEphemerals());
            Collections.sort(mine);
            Check.equal(asList(root + "/a", root + "/b"), mine, "a session's ephemeral nodes");
            Check.equal(asList(root + "/b"), client.getEphemerals(root + "/b"), "those with a prefix");
            Check.equal(asList(root + "/c"), other.getEphemerals("/"), "another session's");
            Check.equal(asList(), client.getEphemerals("/none"), "those below a path that is not there");
            other.close();
            client.sync(root, (code, path, context) -> {}, null);
            Check.equal(null, client.exists(root + "/c", false), "an ephemeral node of a closed session");
        }
    }

    private static void allChildrenNumber(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            create(client, root, CreateMode.PERSISTENT);
            // Not counted: it only begins like the other.
            create(client, root + "x", CreateMode.PERSISTENT);
            Check.equal(0, client.getAllChildrenNumber(root), "the number without children");
            for (String path : asList("/a", "/a/b", "/a/b/c", "/d")) {
                create(client, root + path, CreateMode.PERSISTENT);
            }
            Check.equal(4, client.getAllChildrenNumber(root), "the number of all below");
            Check.equal(2, client.getAllChildrenNumber(root + "/a"), "the number of all below a child");
            Check.refused(
                    KeeperException.NoNodeException.class, () -> client.getAllChildrenNumber(root + "/none"), "the number below nothing");
        }
    }

    private static void whoAmI(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            Check.equal(asList("ip 127.0.0.1"), identities(client), "who a client is that has said nothing");
            client.addAuthInfo("digest", Clients.bytes("ann:secret"));
            Check.equal(asList("digest ann", "ip 127.0.0.1"), identities(client), "who it is after it has said so");
        }
    }

    private static List<String> identities(ZooKeeper client) throws Exception {
        return client.whoAmI().stream().map(one -> one.getAuthScheme() + " " + one.getUser()).sorted().toList();
    }

    private static void statOfParents(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            create(client, root, CreateMode.PERSISTENT);
            create(client, root + "/a", CreateMode.PERSISTENT);
            create(client, root + "/b", CreateMode.PERSISTENT);
            Stat two = client.exists(root, false);
            Check.equal(asList(2, 2), asList(two.getNumChildren(), two.getCversion()), "children and cversion after two creates");
            client.setData(root + "/a", Clients.bytes("x"), -1);
            Check.equal(two, client.exists(root, false), "the parent after a change of a child's data");
            client.delete(root + "/a", -1);
            Stat one = client.exists(root, false);
            Check.equal(asList(1, 3), asList(one.getNumChildren(), one.getCversion()), "children and cversion after a delete");
            Check.that(one.getPzxid() > two.getPzxid(), "a delete moves pzxid");
            Check.equal(two.getMzxid(), one.getMzxid(), "the mzxid of a parent");
        }
    }

    private static void badRequests(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            Check.refused(KeeperException.NoNodeException.class, () -> create(client, root + "/a/b", CreateMode.PERSISTENT), "no parent");
            Check.refused(KeeperException.BadArgumentsException.class, () -> client.delete("/", -1), "delete of the root");
            Check.refused(
                    KeeperException.BadArgumentsException.class, () -> client.delete("/zookeeper/quota", -1), "delete of /zookeeper/quota");
            Check.refused(KeeperException.NodeExistsException.class, () -> create(client, "/", CreateMode.PERSISTENT), "create of the root");
            Check.refused(
                    KeeperException.InvalidACLException.class,
                    () -> client.create(root, NONE, Collections.emptyList(), CreateMode.PERSISTENT),
                    "create with an empty list");
            Check.refused(
                    KeeperException.NoNodeException.class, () -> client.setACL(root, Ids.OPEN_ACL_UNSAFE, -1), "setACL of nothing");
            // All this left the session as it was.
            create(client, root, CreateMode.PERSISTENT);
            Check.equal(0, client.exists(root, false).getVersion(), "the version of a new node");
        }
    }

    /** Packets may have a megabyte; one that has more costs the connection, but not the session. */
    private static void bigData(String root) throws Exception {
        Clients.Events states = new Clients.Events();
        try (ZooKeeper client = new ZooKeeper(Clients.servers(), Clients.SESSION_TIMEOUT_MS, states)) {
            states.expectState(KeeperState.SyncConnected);
            create(client, root, CreateMode.EPHEMERAL);
            byte[] big = new byte[1_000_000];
            Arrays.fill(big, (byte) 7);
            client.setData(root, big, 0);
            Check.that(Arrays.equals(big, client.getData(root, false, null)), "the big data comes back as it was");
            Check.refused(
                    KeeperException.ConnectionLossException.class, () -> client.setData(root, new byte[1_100_000], 1), "data that are too big");
            states.expectState(KeeperState.Disconnected);
            states.expectState(KeeperState.SyncConnected);
            Stat stat = client.exists(root, false);
            Check.equal(1, stat.getVersion(), "the version after a packet that was too big");
            Check.equal(client.getSessionId(), stat.getEphemeralOwner(), "the owner: the session went on");
        }
    }

    /** A write right behind a sync, without waiting for it: both are done. */
    private static void syncBeforeWrite(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            create(client, root, CreateMode.PERSISTENT);
            for (int i = 0; i < 100; i++) {
                CompletableFuture<Code> synced = new CompletableFuture<>();
                client.sync(root, (code, path, context) -> synced.complete(Code.get(code)), null);
                Check.equal(i + 1, client.setData(root, NONE, i).getVersion(), "the version after the write behind a sync");
                Check.equal(Code.OK, synced.get(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the answer to sync");
            }
        }
    }

    private static void config(String root) throws Exception {
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            String config = Clients.text(client.getConfig(false, new Stat()));
            String[] lines = config.split("\n");
            for (int i = 0; i < lines.length - 1; i++) {
                String server = "server." + (i + 1) + "=";
                Check.that(lines[i].startsWith(server) && lines[i].contains(":participant"), server + "...:participant, not " + lines[i]);
            }
            Check.that(lines[lines.length - 1].startsWith("version="), "the version in the last line of " + config);
        }
    }
}
