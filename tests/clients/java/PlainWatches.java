import java.util.Map;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.Watcher.WatcherType;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;

/** Watches of all kinds, by ZooKeeper's own client. */
final class PlainWatches {
    private PlainWatches() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("one-shot-watches", PlainWatches::oneShot);
        parts.put("persistent-watches", PlainWatches::persistent);
        parts.put("remove-watches", PlainWatches::remove);
        parts.put("watches-over-a-reconnection", PlainWatches::reconnection);
        parts.put("many-watches-over-a-reconnection", PlainWatches::manyOverReconnection);
    }

    private static void create(ZooKeeper client, String path) throws Exception {
        client.create(path, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
    }

    private static void oneShot(String root) throws Exception {
        Clients.Events data = new Clients.Events();
        Clients.Events children = new Clients.Events();
        Clients.Events existence = new Clients.Events();
        try (ZooKeeper client = Clients.plain(new Clients.Events()); ZooKeeper other = Clients.plain(new Clients.Events())) {
            client.exists(root, existence);
            create(other, root);
            existence.expect(EventType.NodeCreated, root);
            client.getData(root, data, null);
            client.getChildren(root, children);
            create(other, root + "/a");
            children.expect(EventType.NodeChildrenChanged, root);
            other.setData(root, Clients.bytes("x"), -1);
            data.expect(EventType.NodeDataChanged, root);
            other.setData(root, Clients.bytes("y"), -1);
            other.delete(root + "/a", -1);
            client.getData(root, data, null);
            client.exists(root, existence);
            client.getChildren(root, children);
            other.delete(root, -1);
            for (Clients.Events events : new Clients.Events[] {data, existence, children}) {
                events.expect(EventType.NodeDeleted, root);
                events.expectNoMore();
            }
        }
    }

    /** Two clients: before 3.9, a session's second watch of the same path replaces the first. */
    private static void persistent(String root) throws Exception {
        Clients.Events node = new Clients.Events();
        Clients.Events tree = new Clients.Events();
        try (ZooKeeper client = Clients.plain(new Clients.Events());
                ZooKeeper client2 = Clients.plain(new Clients.Events());
                ZooKeeper other = Clients.plain(new Clients.Events())) {
            client.addWatch(root, node, AddWatchMode.PERSISTENT);
            client2.addWatch(root, tree, AddWatchMode.PERSISTENT_RECURSIVE);
            create(other, root);
            create(other, root + "/a");
            create(other, root + "/a/b");
            other.setData(root, Clients.bytes("x"), -1);
            other.delete(root + "/a/b", -1);
            other.delete(root + "/a", -1);
            other.delete(root, -1);
            // A watch of one node is told of its children's coming and going ...
            node.expect(EventType.NodeCreated, root);
            node.expect(EventType.NodeChildrenChanged, root);
            node.expect(EventType.NodeDataChanged, root);
            node.expect(EventType.NodeChildrenChanged, root);
            node.expect(EventType.NodeDeleted, root);
            node.expectNoMore();
            // ... and a recursive one of the children themselves instead.
            tree.expect(EventType.NodeCreated, root);
            tree.expect(EventType.NodeCreated, root + "/a");
            tree.expect(EventType.NodeCreated, root + "/a/b");
            tree.expect(EventType.NodeDataChanged, root);
            tree.expect(EventType.NodeDeleted, root + "/a/b");
            tree.expect(EventType.NodeDeleted, root + "/a");
            tree.expect(EventType.NodeDeleted, root);
            tree.expectNoMore();
        }
    }

    private static void remove(String root) throws Exception {
        Clients.Events data = new Clients.Events();
        Clients.Events children = new Clients.Events();
        Clients.Events tree = new Clients.Events();
        try (ZooKeeper client = Clients.plain(new Clients.Events())) {
            create(client, root);
            client.getData(root, data, null);
            client.getChildren(root, children);
            client.addWatch(root, tree, AddWatchMode.PERSISTENT_RECURSIVE);
            client.removeWatches(root, data, WatcherType.Data, false);
            data.expect(EventType.DataWatchRemoved, root);
            client.removeWatches(root, children, WatcherType.Children, false);
            children.expect(EventType.ChildWatchRemoved, root);
            client.setData(root, Clients.bytes("x"), -1);
            tree.expect(EventType.NodeDataChanged, root);
            client.removeAllWatches(root, WatcherType.Any, false);
            tree.expect(EventType.PersistentWatchRemoved, root);
            create(client, root + "/a");
            client.setData(root, Clients.bytes("y"), -1);
            Check.refused(
                    KeeperException.NoWatcherException.class,
                    () -> client.removeWatches(root, data, WatcherType.Data, false),
                    "removal of a watch that is not there");
            // The client answers the last one itself; this one is the server's to answer.
            Check.refused(
                    KeeperException.NoWatcherException.class,
                    () -> client.removeAllWatches(root + "/a", WatcherType.Any, false),
                    "removal of all watches where there are none");
            for (Clients.Events events : new Clients.Events[] {data, children, tree}) {
                events.expectNoMore();
            }
        }
    }

    /** While a client is away, everything that it watches changes; it comes back to another server. */
    private static void reconnection(String root) throws Exception {
        Clients.Events states = new Clients.Events();
        Clients.Events data = new Clients.Events();
        Clients.Events children = new Clients.Events();
        Clients.Events created = new Clients.Events();
        Clients.Events deleted = new Clients.Events();
        Clients.Events untouched = new Clients.Events();
        Clients.Events node = new Clients.Events();
        Clients.Events tree = new Clients.Events();
        try (Gate gate = new Gate(Clients.server(0));
                ZooKeeper client = Clients.plain(gate.address(), Clients.SESSION_TIMEOUT_MS, states);
                ZooKeeper other = Clients.plain(new Clients.Events())) {
            create(client, root);
            for (String name : new String[] {"/data", "/parent", "/deleted", "/same", "/node", "/tree"}) {
                create(client, root + name);
            }
            client.getData(root + "/data", data, null);
            client.getChildren(root + "/parent", children);
            client.exists(root + "/created", created);
            client.exists(root + "/deleted", deleted);
            client.getData(root + "/same", untouched, null);
            client.getChildren(root + "/same", untouched);
            client.addWatch(root + "/node", node, AddWatchMode.PERSISTENT);
            client.addWatch(root + "/tree", tree, AddWatchMode.PERSISTENT_RECURSIVE);

            gate.shut();
            states.expectState(KeeperState.Disconnected);
            other.setData(root + "/data", Clients.bytes("x"), -1);
            create(other, root + "/parent/child");
            create(other, root + "/created");
            other.delete(root + "/deleted", -1);
            gate.open(Clients.server(1));
            states.expectState(KeeperState.SyncConnected);

            data.expect(EventType.NodeDataChanged, root + "/data");
            children.expect(EventType.NodeChildrenChanged, root + "/parent");
            created.expect(EventType.NodeCreated, root + "/created");
            deleted.expect(EventType.NodeDeleted, root + "/deleted");
            other.setData(root + "/node", Clients.bytes("y"), -1);
            node.expect(EventType.NodeDataChanged, root + "/node");
            create(other, root + "/tree/leaf");
            tree.expect(EventType.NodeCreated, root + "/tree/leaf");
            untouched.expectNoMore();
            other.setData(root + "/same", Clients.bytes("y"), -1);
            untouched.expect(EventType.NodeDataChanged, root + "/same");
            for (Clients.Events events : new Clients.Events[] {data, children, created, deleted, untouched, node, tree}) {
                events.expectNoMore();
            }
        }
    }

    /** So many watches that the client needs several packets to set them again. */
    private static void manyOverReconnection(String root) throws Exception {
        int count = 3_000;
        Clients.Events states = new Clients.Events();
        Clients.Events events = new Clients.Events();
        String prefix = root + "/" + "x".repeat(100) + "-";
        try (Gate gate = new Gate(Clients.server(0));
                ZooKeeper client = Clients.plain(gate.address(), Clients.SESSION_TIMEOUT_MS, states);
                ZooKeeper other = Clients.plain(new Clients.Events())) {
            create(client, root);
            for (int i = 0; i < count; i++) {
                client.exists(prefix + i, events, (code, path, context, stat) -> {}, null);
            }
            // Answers come in order: after this one the watches are set.
            Check.equal(0, client.getChildren(root, false).size(), "the number of children");
            gate.shut();
            states.expectState(KeeperState.Disconnected);
            create(other, prefix + 0);
            gate.open(Clients.server(1));
            states.expectState(KeeperState.SyncConnected);
            events.expect(EventType.NodeCreated, prefix + 0);
            for (int i : new int[] {1, count / 2, count - 1}) {
                create(other, prefix + i);
                events.expect(EventType.NodeCreated, prefix + i);
            }
            events.expectNoMore();
        }
    }
}
