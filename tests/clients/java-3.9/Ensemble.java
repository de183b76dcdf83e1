import java.io.ByteArrayInputStream;
import java.util.HashSet;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.curator.ensemble.fixed.FixedEnsembleProvider;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.imps.EnsembleTracker;
import org.apache.curator.retry.RetryOneTime;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.server.quorum.QuorumPeer.QuorumServer;
import org.apache.zookeeper.server.quorum.flexible.QuorumMaj;

/**
 * What ZooKeeper's and Curator's own classes make of /zookeeper/config. Arguments: the servers.
 * It reads them as soon as it can, so that a text which is not complete at first would show.
 */
public final class Ensemble {
    public static void main(String[] args) throws Exception {
        Set<String> servers = new HashSet<>(Set.of(args[0].split(",")));
        QuorumMaj config = config(args[0]);
        check(config.getVersion() > 0, "the version is " + config.getVersion());
        check(config.getAllMembers().size() == servers.size(), config + " has other members than " + servers);
        Set<String> named = new HashSet<>();
        for (QuorumServer server : config.getAllMembers().values()) {
            named.add(server.clientAddr.getAddress().getHostAddress() + ":" + server.clientAddr.getPort());
        }
        check(named.equals(servers), named + " are named, not " + servers);
        System.out.println("ok QuorumMaj");

        String one = servers.iterator().next();
        CountDownLatch tracked = new CountDownLatch(1);
        FixedEnsembleProvider ensemble = new FixedEnsembleProvider(one, true) {
            @Override
            public void setConnectionString(String connection) {
                super.setConnectionString(connection);
                if (new HashSet<>(Set.of(connection.split(","))).equals(servers)) {
                    tracked.countDown();
                }
            }
        };
        CuratorFramework client = CuratorFrameworkFactory.builder()
            .ensembleProvider(ensemble)
            .ensembleTracker(true)
            .retryPolicy(new RetryOneTime(100))
            .build();
        client.start();
        check(tracked.await(60, TimeUnit.SECONDS), "Curator knows only " + ensemble.getConnectionString());
        check(EnsembleTracker.configToConnectionString(config).split(",").length == servers.size(), "a server is missing");
        client.create().creatingParentsIfNeeded().forPath("/a/b");
        client.close();
        System.out.println("ok EnsembleTracker");
    }

    private static QuorumMaj config(String servers) throws Exception {
        CountDownLatch connected = new CountDownLatch(1);
        try (ZooKeeper client = new ZooKeeper(servers, 30_000, event -> connected.countDown())) {
            check(connected.await(60, TimeUnit.SECONDS), "no connection");
            Properties properties = new Properties();
            properties.load(new ByteArrayInputStream(client.getConfig(false, null)));
            return new QuorumMaj(properties);
        }
    }

    private static void check(boolean holds, String otherwise) {
        if (!holds) {
            System.out.println("FAILED: " + otherwise);
            System.exit(1);
        }
    }
}
