import java.util.Map;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;

/** Sessions: gone on with, refused, and ended. */
final class PlainSessions {
    private PlainSessions() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("resumed-session", PlainSessions::resumed);
        parts.put("session-with-a-wrong-password", PlainSessions::wrongPassword);
        parts.put("session-that-never-was", PlainSessions::unknown);
        parts.put("killed-session", PlainSessions::killed);
        parts.put("silent-session", PlainSessions::silent);
        parts.put("session-on-every-server", PlainSessions::onEveryServer);
        parts.put("session-that-may-read-only", PlainSessions::mayReadOnly);
    }

    /** A second connection with the session's number and password takes the session over. */
    private static void resumed(String root) throws Exception {
        Clients.Events firstStates = new Clients.Events();
        Leaver first = new Leaver(firstStates);
        firstStates.expectState(KeeperState.SyncConnected);
        long session = first.getSessionId();
        first.create(root, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        first.leave();
        Clients.Events states = new Clients.Events();
        try (ZooKeeper second = Clients.resuming(session, first.getSessionPasswd(), states);
                ZooKeeper other = Clients.plain(new Clients.Events())) {
            states.expectState(KeeperState.SyncConnected);
            Check.equal(session, second.getSessionId(), "the number of the resumed session");
            Check.equal(session, second.exists(root, false).getEphemeralOwner(), "the owner of the session's node");
            Check.equal(Clients.SESSION_TIMEOUT_MS, second.getSessionTimeout(), "the timeout of the resumed session");
            second.close();
            other.sync(root, (code, path, context) -> {}, null);
            Check.equal(null, other.exists(root, false), "the node after the resumed session was closed");
        }
    }

    /** A client that can go away without closing its session, as if it had died. */
    private static final class Leaver extends ZooKeeper {
        Leaver(Clients.Events events) throws Exception {
            super(Clients.servers(), Clients.SESSION_TIMEOUT_MS, events);
        }

        void leave() {
            cnxn.disconnect();
        }
    }

    private static void wrongPassword(String root) throws Exception {
        try (ZooKeeper owner = Clients.plain(new Clients.Events())) {
            owner.create(root, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            byte[] password = owner.getSessionPasswd().clone();
            password[0] ^= 1;
            Clients.Events states = new Clients.Events();
            try (ZooKeeper thief = Clients.resuming(owner.getSessionId(), password, states)) {
                states.expectState(KeeperState.Expired);
                Check.refused(KeeperException.SessionExpiredException.class, () -> thief.exists(root, false), "a request of the thief");
            }
            Check.equal(owner.getSessionId(), owner.exists(root, false).getEphemeralOwner(), "the owner of the node after the theft failed");
        }
    }

    private static void unknown(String root) throws Exception {
        Clients.Events states = new Clients.Events();
        try (ZooKeeper client = Clients.resuming(0x123456789abcdefL, new byte[16], states)) {
            states.expectState(KeeperState.Expired);
        }
    }

    private static void killed(String root) throws Exception {
        Clients.Events states = new Clients.Events();
        try (ZooKeeper victim = Clients.plain(states); ZooKeeper other = Clients.plain(new Clients.Events())) {
            victim.create(root, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            Clients.killSession(victim);
            states.expectState(KeeperState.Expired);
            Check.refused(
                    KeeperException.SessionExpiredException.class, () -> victim.exists(root, false), "a request of an ended session");
            other.sync(root, (code, path, context) -> {}, null);
            Check.equal(null, other.exists(root, false), "the ephemeral node of an ended session");
        }
    }

    /** A client that nobody hears of for longer than its timeout has lost its session. */
    private static void silent(String root) throws Exception {
        int timeoutMs = 2_000;
        Clients.Events states = new Clients.Events();
        Clients.Events watch = new Clients.Events();
        try (Gate gate = new Gate(Clients.server(0));
                ZooKeeper client = Clients.plain(gate.address(), timeoutMs, states);
                ZooKeeper other = Clients.plain(new Clients.Events())) {
            Check.equal(timeoutMs, client.getSessionTimeout(), "the timeout that was asked for");
            client.create(root, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            other.sync(root, (code, path, context) -> {}, null);
            Check.that(other.exists(root, watch) != null, "the ephemeral node is there");
            gate.shut();
            watch.expect(EventType.NodeDeleted, root);
            gate.open(Clients.server(1));
            states.expectState(KeeperState.Expired);
        }
    }

    /** A client that is led from server to server keeps its session, and sees what it wrote. */
    private static void onEveryServer(String root) throws Exception {
        Clients.Events states = new Clients.Events();
        try (Gate gate = new Gate(Clients.server(0));
                ZooKeeper client = Clients.plain(gate.address(), Clients.SESSION_TIMEOUT_MS, states)) {
            client.create(root, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
            for (int server = 1; server <= 3; server++) {
                client.setData(root, Clients.bytes(String.valueOf(server)), server - 1);
                gate.shut();
                states.expectState(KeeperState.Disconnected);
                gate.open(Clients.server(server));
                states.expectState(KeeperState.SyncConnected);
                // No sync: a server that has not seen what the client has must not take it.
                Check.equal(String.valueOf(server), Clients.text(client.getData(root, false, null)), "what the client wrote before");
            }
            Check.equal(client.getSessionId(), client.exists(root, false).getEphemeralOwner(), "the owner after all the moves");
        }
    }

    /** A client that would be content with a server that only reads gets one that writes. */
    private static void mayReadOnly(String root) throws Exception {
        Clients.Events states = new Clients.Events();
        try (ZooKeeper client = new ZooKeeper(Clients.servers(), Clients.SESSION_TIMEOUT_MS, states, true)) {
            states.expectState(KeeperState.SyncConnected);
            Check.equal(ZooKeeper.States.CONNECTED, client.getState(), "the state of the client");
            client.create(root, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        }
    }
}
