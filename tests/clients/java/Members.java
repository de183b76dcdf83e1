import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.nodes.GroupMember;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.framework.recipes.nodes.PersistentTtlNode;
import org.apache.curator.framework.recipes.watch.PersistentWatcher;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.data.Stat;

/** Nodes that somebody keeps in being, groups of such, and watches that stay. */
final class Members {
    private Members() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("persistent-node", Members::persistentNode);
        parts.put("persistent-ttl-node", Members::persistentTtlNode);
        parts.put("group-member", Members::groupMember);
        parts.put("persistent-watcher", Members::persistentWatcher);
    }

    private static void persistentNode(String root) throws Exception {
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                PersistentNode node = new PersistentNode(a, CreateMode.EPHEMERAL, false, root, Clients.bytes("here"))) {
            node.start();
            Check.that(node.waitForInitialCreate(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the node is created");
            long first = waitForOther(b, root, 0);
            b.delete().forPath(root);
            long second = waitForOther(b, root, first);
            Check.equal("here", Clients.text(b.getData().forPath(root)), "the data of the node that was created again");
            Clients.killSession(a.getZookeeperClient().getZooKeeper());
            waitForOther(b, root, second);
            Check.becomes(
                    a.getZookeeperClient().getZooKeeper().getSessionId(),
                    () -> owner(b, root),
                    "the owner of the node: the new session");
        }
    }

    /** Waits for a node at the path that was created after another one. Returns its czxid. */
    private static long waitForOther(CuratorFramework client, String path, long after) throws Exception {
        Check.becomes(true, () -> czxid(client, path) > after, "whether " + path + " was created after " + after);
        return czxid(client, path);
    }

    private static long czxid(CuratorFramework client, String path) throws Exception {
        Stat stat = client.checkExists().forPath(path);
        return stat == null ? 0 : stat.getCzxid();
    }

    private static long owner(CuratorFramework client, String path) throws Exception {
        Stat stat = client.checkExists().forPath(path);
        return stat == null ? 0 : stat.getEphemeralOwner();
    }

    /** A node with a time to live that is kept alive by a child that is touched. */
    private static void persistentTtlNode(String root) throws Exception {
        try (CuratorFramework client = Clients.curator();
                PersistentTtlNode node = new PersistentTtlNode(client, root, 400, Clients.bytes("x"))) {
            node.start();
            Check.that(node.waitForInitialCreate(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the node is created");
            Check.becomes(1, () -> client.getChildren().forPath(root).size(), "the number of touched children");
        }
    }

    private static void groupMember(String root) throws Exception {
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                GroupMember ann = new GroupMember(a, root, "ann", Clients.bytes("A"))) {
            ann.start();
            try (GroupMember bob = new GroupMember(b, root, "bob", Clients.bytes("B"))) {
                bob.start();
                Check.becomes("B", () -> Clients.text(ann.getCurrentMembers().get("bob")), "bob's data, as ann sees it");
                Check.becomes("A", () -> Clients.text(bob.getCurrentMembers().get("ann")), "ann's data, as bob sees it");
                bob.setThisData(Clients.bytes("B2"));
                Check.becomes("B2", () -> Clients.text(ann.getCurrentMembers().get("bob")), "bob's new data");
            }
            Check.becomes(1, () -> ann.getCurrentMembers().size(), "the number of members after bob has left");
        }
    }

    private static void persistentWatcher(String root) throws Exception {
        Clients.Events events = new Clients.Events();
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                PersistentWatcher watcher = new PersistentWatcher(a, root, true)) {
            // The watch is set in the background; the listener is told when it is.
            CountDownLatch set = new CountDownLatch(1);
            watcher.getListenable().addListener(events);
            watcher.getResetListenable().addListener(set::countDown);
            watcher.start();
            Check.that(set.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the watch is set");
            b.create().forPath(root);
            events.expect(EventType.NodeCreated, root);
            b.create().forPath(root + "/x");
            events.expect(EventType.NodeCreated, root + "/x");
            b.create().forPath(root + "/x/y");
            events.expect(EventType.NodeCreated, root + "/x/y");
            b.setData().forPath(root + "/x/y", Clients.bytes("1"));
            events.expect(EventType.NodeDataChanged, root + "/x/y");
            b.setData().forPath(root + "/x/y", Clients.bytes("2"));
            events.expect(EventType.NodeDataChanged, root + "/x/y");
            b.delete().deletingChildrenIfNeeded().forPath(root + "/x");
            events.expect(EventType.NodeDeleted, root + "/x/y");
            events.expect(EventType.NodeDeleted, root + "/x");
            b.delete().forPath(root);
            events.expect(EventType.NodeDeleted, root);
            b.create().forPath(root);
            events.expect(EventType.NodeCreated, root);
            events.expectNoMore();
        }
    }
}
