import static java.util.Arrays.asList;

import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.api.CuratorEvent;
import org.apache.curator.framework.api.CuratorEventType;
import org.apache.curator.framework.api.transaction.CuratorTransactionResult;
import org.apache.curator.framework.api.transaction.OperationType;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.data.Stat;

/** Nodes of all kinds, and transactions, by Curator. */
final class Nodes {
    private Nodes() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("nodes", Nodes::nodes);
        parts.put("sequences", Nodes::sequences);
        parts.put("background", Nodes::background);
        parts.put("transactions", Nodes::transactions);
        parts.put("containers", Nodes::containers);
        parts.put("times-to-live", Nodes::timesToLive);
        parts.put("reaping", Nodes::reaping);
    }

    private static void nodes(String root) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            String path = root + "/a";
            Stat made = new Stat();
            String name = client.create().storingStatIn(made).creatingParentsIfNeeded().forPath(path, Clients.bytes("one"));
            Check.equal(path, name, "the created path");
            Check.equal(0, made.getVersion(), "the first version");
            Check.equal(3, made.getDataLength(), "the length of the data");
            Check.equal(made.getCzxid(), made.getPzxid(), "pzxid of a node without children");
            Check.refused(KeeperException.NodeExistsException.class, () -> client.create().forPath(path), "create twice");

            Stat set = client.setData().withVersion(0).forPath(path, Clients.bytes("two"));
            Check.equal(1, set.getVersion(), "the version after a change");
            Check.that(set.getMzxid() > made.getMzxid(), "a later mzxid");
            Check.refused(
                    KeeperException.BadVersionException.class,
                    () -> client.setData().withVersion(0).forPath(path, Clients.bytes("three")),
                    "set of an old version");
            Stat got = new Stat();
            Check.equal("two", Clients.text(client.getData().storingStatIn(got).forPath(path)), "the data");
            Check.equal(set, got, "the stat that setData and getData return");
            Check.equal(got, client.checkExists().forPath(path), "the stat of exists");

            client.create().orSetData().forPath(path, Clients.bytes("four"));
            Check.equal("four", Clients.text(client.getData().forPath(path)), "the data after orSetData");
            client.create().forPath(path + "/empty", new byte[0]);
            Check.equal(0, client.getData().forPath(path + "/empty").length, "the length of no data");
            Check.equal(asList("empty"), client.getChildren().forPath(path), "the children");
            Check.refused(KeeperException.NotEmptyException.class, () -> client.delete().forPath(path), "delete of a parent");
            client.create().withMode(CreateMode.EPHEMERAL).forPath(path + "/e");
            Check.refused(
                    KeeperException.NoChildrenForEphemeralsException.class,
                    () -> client.create().forPath(path + "/e/x"),
                    "a child of an ephemeral node");
            client.delete().guaranteed().deletingChildrenIfNeeded().forPath(root);
            Check.equal(null, client.checkExists().forPath(root), "the stat of a deleted node");
            Check.refused(KeeperException.NoNodeException.class, () -> client.getData().forPath(path), "get of a deleted node");
            client.delete().quietly().forPath(path);
        }
    }

    private static void sequences(String root) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            client.create().forPath(root);
            String prefix = root + "/n-";
            for (int i = 0; i < 3; i++) {
                String name = client.create().withMode(CreateMode.PERSISTENT_SEQUENTIAL).forPath(prefix);
                Check.equal(prefix + String.format("%010d", i), name, "the name of a sequential node");
            }
            // The counter is the parent's: deletions do not take a number back.
            client.delete().forPath(prefix + "0000000002");
            String name = client.create().withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath(prefix);
            Check.equal(prefix + "0000000003", name, "the name after a deletion");
            Check.equal(
                    client.getZookeeperClient().getZooKeeper().getSessionId(),
                    client.checkExists().forPath(name).getEphemeralOwner(),
                    "the owner of an ephemeral node");
            String hidden = client.create().withProtection().withMode(CreateMode.EPHEMERAL_SEQUENTIAL).forPath(prefix);
            Check.that(hidden.endsWith("n-0000000004"), "a protected name that ends in n-0000000004, not " + hidden);
        }
    }

    private static void background(String root) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            BlockingQueue<CuratorEvent> answers = new LinkedBlockingQueue<>();
            client.create().inBackground((c, answer) -> answers.add(answer)).forPath(root, Clients.bytes("x"));
            client.getData().inBackground((c, answer) -> answers.add(answer)).forPath(root);
            client.sync().inBackground((c, answer) -> answers.add(answer)).forPath(root);
            client.delete().inBackground((c, answer) -> answers.add(answer)).forPath(root + "/none");
            expectAnswer(answers, CuratorEventType.CREATE, KeeperException.Code.OK);
            CuratorEvent got = expectAnswer(answers, CuratorEventType.GET_DATA, KeeperException.Code.OK);
            Check.equal("x", Clients.text(got.getData()), "the data");
            expectAnswer(answers, CuratorEventType.SYNC, KeeperException.Code.OK);
            expectAnswer(answers, CuratorEventType.DELETE, KeeperException.Code.NONODE);
        }
    }

    /** Answers come in the order of the requests. */
    private static CuratorEvent expectAnswer(
            BlockingQueue<CuratorEvent> answers, CuratorEventType type, KeeperException.Code code) throws Exception {
        CuratorEvent answer = answers.poll(Check.PATIENCE_MS, TimeUnit.MILLISECONDS);
        Check.that(answer != null, "an answer of kind " + type);
        Check.equal(type, answer.getType(), "the kind of the next answer");
        Check.equal(code, KeeperException.Code.get(answer.getResultCode()), "the code of " + type);
        return answer;
    }

    private static void transactions(String root) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            client.create().forPath(root);
            client.create().forPath(root + "/old");
            List<CuratorTransactionResult> results = client.transaction().forOperations(
                    client.transactionOp().check().withVersion(0).forPath(root + "/old"),
                    client.transactionOp().create().withMode(CreateMode.PERSISTENT_SEQUENTIAL).forPath(root + "/n-", Clients.bytes("1")),
                    client.transactionOp().create().forPath(root + "/new"),
                    client.transactionOp().create().forPath(root + "/new/child"),
                    client.transactionOp().setData().withVersion(0).forPath(root + "/new", Clients.bytes("2")),
                    client.transactionOp().delete().forPath(root + "/old"));
            List<OperationType> kinds = results.stream().map(CuratorTransactionResult::getType).toList();
            Check.equal(
                    asList(OperationType.CHECK, OperationType.CREATE, OperationType.CREATE, OperationType.CREATE,
                            OperationType.SET_DATA, OperationType.DELETE),
                    kinds, "the kinds of the results");
            Check.equal(root + "/n-0000000001", results.get(1).getResultPath(), "the name of the sequential node");
            Check.equal(1, results.get(4).getResultStat().getVersion(), "the version after set");
            Stat child = client.checkExists().forPath(root + "/new/child");
            Stat changed = client.checkExists().forPath(root + "/new");
            Check.equal(child.getCzxid(), changed.getMzxid(), "one zxid for the whole transaction");
            Check.equal(1, changed.getCversion(), "the child version of the new node");
            List<String> names = client.getChildren().forPath(root);
            Collections.sort(names);
            Check.equal(asList("n-0000000001", "new"), names, "the children after the transaction");

            Check.refused(
                    KeeperException.BadVersionException.class,
                    () -> client.transaction().forOperations(
                            client.transactionOp().create().forPath(root + "/never"),
                            client.transactionOp().delete().withVersion(7).forPath(root + "/new/child")),
                    "a transaction that fails");
            Check.equal(null, client.checkExists().forPath(root + "/never"), "what a failed transaction created");
        }
    }

    /**
     * The owner of a container, and of a node with a time to live, is the servers' own business: it
     * says what kind they are. Clients are shown 0, so that they do not take them for ephemeral.
     */
    private static void hasNoOwner(CuratorFramework client, String path) throws Exception {
        Check.equal(0L, client.checkExists().forPath(path).getEphemeralOwner(), "the owner of " + path + ", as clients are shown it");
    }

    private static void containers(String root) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            client.createContainers(root + "/deep/box");
            client.create().withMode(CreateMode.CONTAINER).forPath(root + "/box", Clients.bytes("x"));
            client.create().withMode(CreateMode.EPHEMERAL).forPath(root + "/box/inside");
            Check.equal(asList("inside"), client.getChildren().forPath(root + "/box"), "the children of a container");
            client.create().creatingParentContainersIfNeeded().forPath(root + "/other/leaf");
            for (String path : asList("/deep", "/deep/box", "/box", "/other", "/other/leaf")) {
                hasNoOwner(client, root + path);
            }
        }
    }

    private static void timesToLive(String root) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            client.create().forPath(root);
            long ttlMs = 3_600_000;
            Stat stat = new Stat();
            client.create().withTtl(ttlMs).storingStatIn(stat).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath(root + "/t");
            Check.equal(0L, stat.getEphemeralOwner(), "the owner in the answer to create");
            hasNoOwner(client, root + "/t");
            String name = client.create().withTtl(ttlMs).withMode(CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL).forPath(root + "/s-");
            Check.equal(root + "/s-0000000001", name, "the name of a sequential node with a time to live");
            client.create().forPath(root + "/t/child");
            Check.equal(asList("child"), client.getChildren().forPath(root + "/t"), "the children of a node with a time to live");
        }
    }

    /** The servers must look often for what is to be reaped: by default they do so once a minute. */
    private static void reaping(String root) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            client.create().forPath(root);
            client.create().withMode(CreateMode.CONTAINER).forPath(root + "/used");
            client.create().forPath(root + "/used/child");
            client.create().withMode(CreateMode.CONTAINER).forPath(root + "/held");
            client.create().forPath(root + "/held/child");
            client.create().withTtl(100).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath(root + "/old");
            client.create().withTtl(100).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath(root + "/parent");
            client.create().forPath(root + "/parent/child");
            client.create().withTtl(3_600_000).withMode(CreateMode.PERSISTENT_WITH_TTL).forPath(root + "/young");
            client.delete().forPath(root + "/used/child");
            Check.becomes(null, () -> client.checkExists().forPath(root + "/used"), "a container whose last child is gone");
            Check.becomes(null, () -> client.checkExists().forPath(root + "/old"), "a node whose time is over");
            for (String path : asList("/held", "/parent", "/young")) {
                Check.that(client.checkExists().forPath(root + path) != null, root + path + " stays");
            }
            client.delete().forPath(root + "/parent/child");
            Check.becomes(null, () -> client.checkExists().forPath(root + "/parent"), "a node whose time is over, without children");
        }
    }
}
