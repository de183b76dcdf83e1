import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooKeeper;

/** Clients of the cluster under test, as their users set them up. */
final class Clients {
    static final int SESSION_TIMEOUT_MS = 10_000;
    private static final int CONNECT_TIMEOUT_MS = 10_000;

    private static String servers;

    private Clients() {}

    static void connectTo(String connectString) {
        servers = connectString;
    }

    static String servers() {
        return servers;
    }

    /** The address of one server, counted from 0 and over again. */
    static String server(int number) {
        String[] addresses = servers.split(",");
        return addresses[number % addresses.length];
    }

    /** A Curator client that is connected. */
    static CuratorFramework curator() throws Exception {
        return started(builder());
    }

    /** A Curator client that has said who it is. */
    static CuratorFramework curatorAs(String userAndPassword) throws Exception {
        return started(builder().authorization("digest", bytes(userAndPassword)));
    }

    private static CuratorFrameworkFactory.Builder builder() {
        return CuratorFrameworkFactory.builder()
                .connectString(servers)
                .sessionTimeoutMs(SESSION_TIMEOUT_MS)
                .connectionTimeoutMs(CONNECT_TIMEOUT_MS)
                .retryPolicy(new ExponentialBackoffRetry(100, 5));
    }

    private static CuratorFramework started(CuratorFrameworkFactory.Builder builder) throws Exception {
        CuratorFramework client = builder.build();
        client.start();
        Check.that(
                client.blockUntilConnected(CONNECT_TIMEOUT_MS, TimeUnit.MILLISECONDS),
                "Curator connects within " + CONNECT_TIMEOUT_MS + " ms");
        return client;
    }

    /** ZooKeeper's own client, connected. */
    static ZooKeeper plain(Events events) throws Exception {
        return plain(servers, SESSION_TIMEOUT_MS, events);
    }

    /** ZooKeeper's own client, connected to where it is told. */
    static ZooKeeper plain(String addresses, int timeoutMs, Events events) throws Exception {
        ZooKeeper client = new ZooKeeper(addresses, timeoutMs, events);
        events.expectState(KeeperState.SyncConnected);
        return client;
    }

    /** ZooKeeper's own client, which asks to go on with a session. It may not be connected yet. */
    static ZooKeeper resuming(long session, byte[] password, Events events) throws IOException {
        return new ZooKeeper(servers, SESSION_TIMEOUT_MS, events, session, password);
    }

    /** Ends a client's session behind its back: a second client goes on with it, and closes it. */
    static void killSession(ZooKeeper victim) throws Exception {
        Events events = new Events();
        ZooKeeper twin = resuming(victim.getSessionId(), victim.getSessionPasswd(), events);
        events.expectState(KeeperState.SyncConnected);
        twin.close();
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] bytes) {
        return bytes == null ? null : new String(bytes, StandardCharsets.UTF_8);
    }

    /** A watcher that keeps what it was told, in order: states apart from events of nodes. */
    static final class Events implements Watcher {
        private final BlockingQueue<WatchedEvent> ofNodes = new LinkedBlockingQueue<>();
        private final BlockingQueue<KeeperState> states = new LinkedBlockingQueue<>();

        @Override
        public void process(WatchedEvent event) {
            if (event.getType() == EventType.None) {
                states.add(event.getState());
            } else {
                ofNodes.add(event);
            }
        }

        /** The next event of a node must be this one. */
        void expect(EventType type, String path) throws InterruptedException {
            WatchedEvent event = ofNodes.poll(Check.PATIENCE_MS, TimeUnit.MILLISECONDS);
            String seen = event == null ? "none" : event.getType() + " " + event.getPath();
            Check.equal(type + " " + path, seen, "the next event");
        }

        /** There must be no event that was not expected. */
        void expectNoMore() {
            Check.equal("[]", ofNodes.toString(), "further events");
        }

        /** This state must come, whatever comes before it. */
        void expectState(KeeperState wanted) throws InterruptedException {
            KeeperState seen = null;
            while (seen != wanted) {
                seen = states.poll(Check.PATIENCE_MS, TimeUnit.MILLISECONDS);
                Check.that(seen != null, "state " + wanted + " within " + Check.PATIENCE_MS + " ms");
            }
        }
    }
}
