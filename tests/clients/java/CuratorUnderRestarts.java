import java.util.Scanner;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.data.Stat;

/**
 * Curator while servers are killed and started again, one after the other:
 * {@code java CuratorUnderRestarts HOST:PORT,...}.
 *
 * <p>Prints {@code ready} when a server may be killed. A line on standard input says that all
 * servers run again; then it waits for everybody to get on, and prints {@code ready} again. At the
 * end of the input it checks what is left, and prints {@code ok restarts}.
 */
public final class CuratorUnderRestarts {
    private static final String ROOT = "/java-restarts";
    private static final int PROGRESS = 5;
    private static final int WATCHDOG_S = 100;

    /** Who holds the lock now: never more than one, for no session ends here. */
    private static final Semaphore LOCK_AS_SEEN_HERE = new Semaphore(1);
    private static final AtomicReference<Throwable> FAILURE = new AtomicReference<>();

    private CuratorUnderRestarts() {}

    private interface Step {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        start(() -> {
            TimeUnit.SECONDS.sleep(WATCHDOG_S);
            throw new AssertionError("expected: the end within " + WATCHDOG_S + " s");
        });
        Clients.connectTo(arguments[0]);
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                CuratorFramework c = Clients.curator();
                CuratorCache cache = CuratorCache.build(c, ROOT + "/data");
                LeaderLatch first = new LeaderLatch(a, ROOT + "/latch", "first");
                LeaderLatch second = new LeaderLatch(b, ROOT + "/latch", "second")) {
            a.create().creatingParentsIfNeeded().forPath(ROOT + "/data", Clients.bytes("0"));
            c.sync().forPath(ROOT);
            cache.start();
            first.start();
            second.start();
            AtomicInteger turnsOfA = holdInTurns(new InterProcessMutex(a, ROOT + "/lock"));
            AtomicInteger turnsOfB = holdInTurns(new InterProcessMutex(b, ROOT + "/lock"));
            long session = c.getZookeeperClient().getZooKeeper().getSessionId();
            Scanner lines = new Scanner(System.in);
            int written = 0;
            do {
                int before = Math.max(turnsOfA.get(), turnsOfB.get());
                Check.becomes(true, () -> turnsOfA.get() > before + PROGRESS, "whether the first gets the lock");
                Check.becomes(true, () -> turnsOfB.get() > before + PROGRESS, "whether the second gets the lock");
                String wanted = String.valueOf(++written);
                write(b, wanted);
                Check.becomes(
                        wanted, () -> cache.get(ROOT + "/data").map(node -> Clients.text(node.getData())).orElse(null), "the cached data");
                Check.becomes(1, () -> leaders(first) + leaders(second), "the number of leaders");
                System.out.println("ready");
            } while (lines.hasNextLine() && !lines.nextLine().isEmpty());
            Check.equal(session, c.getZookeeperClient().getZooKeeper().getSessionId(), "the session, after all that");
            System.out.println("ok restarts");
            System.exit(0);
        }
    }

    private static int leaders(LeaderLatch latch) {
        return latch.hasLeadership() ? 1 : 0;
    }

    /** The first try may be done, and its answer lost: then the next one finds a later version. */
    private static void write(CuratorFramework client, String text) throws Exception {
        Stat before = client.checkExists().forPath(ROOT + "/data");
        try {
            client.setData().withVersion(before.getVersion()).forPath(ROOT + "/data", Clients.bytes(text));
        } catch (KeeperException.BadVersionException done) {
            client.sync().forPath(ROOT);
            Check.equal(text, Clients.text(client.getData().forPath(ROOT + "/data")), "what the only writer wrote");
        }
    }

    /** Takes and gives back the lock for ever; returns the count of turns. */
    private static AtomicInteger holdInTurns(InterProcessMutex lock) {
        AtomicInteger turns = new AtomicInteger();
        start(() -> {
            while (true) {
                try {
                    lock.acquire();
                    Check.that(LOCK_AS_SEEN_HERE.tryAcquire(), "nobody else holds the lock");
                    turns.incrementAndGet();
                    LOCK_AS_SEEN_HERE.release();
                    lock.release();
                } catch (KeeperException.ConnectionLossException longerThanTheRetries) {
                    // Whatever node is left of the lock, Curator deletes in the background.
                    continue;
                }
            }
        });
        return turns;
    }

    /** Runs beside the others; what fails there ends the program. */
    private static void start(Step step) {
        Thread thread = new Thread(() -> {
            try {
                step.run();
            } catch (Throwable failure) {
                if (FAILURE.compareAndSet(null, failure)) {
                    System.out.println("FAILED restarts: " + failure);
                    failure.printStackTrace();
                    Runtime.getRuntime().halt(1);
                }
            }
        });
        thread.setDaemon(true);
        thread.start();
    }
}
