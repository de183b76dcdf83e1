import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.locks.InterProcessLock;
import org.apache.curator.framework.recipes.locks.InterProcessMultiLock;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.locks.Lease;

/** Locks and semaphores. */
final class Locks {
    /** How long a lock is tried that is not free: an answer of the servers takes far less. */
    private static final long TRY_MS = 200;

    private Locks() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("mutex", Locks::mutex);
        parts.put("mutex-of-a-lost-session", Locks::mutexOfLostSession);
        parts.put("read-write-lock", Locks::readWriteLock);
        parts.put("semaphore", Locks::semaphore);
        parts.put("multi-lock", Locks::multiLock);
    }

    /** A number in a node, read and written unconditionally: only the lock keeps updates from getting lost. */
    private static void mutex(String root) throws Exception {
        int clients = 2;
        int turns = 40;
        String counter = root + "-counter";
        ExecutorService threads = Executors.newFixedThreadPool(clients);
        try (CuratorFramework watcher = Clients.curator()) {
            watcher.create().forPath(counter, Clients.bytes("0"));
            List<Future<?>> runs = new ArrayList<>();
            for (int i = 0; i < clients; i++) {
                runs.add(threads.submit(() -> {
                    count(root, counter, turns);
                    return null;
                }));
            }
            for (Future<?> run : runs) {
                run.get();
            }
            watcher.sync().forPath(counter);
            Check.equal(
                    String.valueOf(clients * turns), Clients.text(watcher.getData().forPath(counter)), "the counter at the end");
        } finally {
            threads.shutdownNow();
        }
    }

    private static void count(String lockPath, String counter, int turns) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            InterProcessMutex lock = new InterProcessMutex(client, lockPath);
            for (int i = 0; i < turns; i++) {
                acquire(lock, "the lock");
                // Held twice by the same thread, it must be released twice.
                acquire(lock, "the lock that this thread has");
                // The other wrote through another server: this one may be behind.
                client.sync().forPath(counter);
                int before = Integer.parseInt(Clients.text(client.getData().forPath(counter)));
                client.setData().forPath(counter, Clients.bytes(String.valueOf(before + 1)));
                lock.release();
                lock.release();
            }
        }
    }

    private static void acquire(InterProcessLock lock, String what) throws Exception {
        Check.that(lock.acquire(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), what + " within " + Check.PATIENCE_MS + " ms");
    }

    private static void isTaken(InterProcessLock lock, String what) throws Exception {
        Check.that(!lock.acquire(TRY_MS, TimeUnit.MILLISECONDS), what + " cannot be had");
    }

    private static void mutexOfLostSession(String root) throws Exception {
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            InterProcessMutex first = new InterProcessMutex(a, root);
            InterProcessMutex second = new InterProcessMutex(b, root);
            acquire(first, "the free lock");
            isTaken(second, "a lock that another client has");
            Clients.killSession(a.getZookeeperClient().getZooKeeper());
            acquire(second, "the lock of a session that has ended");
            second.release();
        }
    }

    private static void readWriteLock(String root) throws Exception {
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            InterProcessReadWriteLock first = new InterProcessReadWriteLock(a, root);
            InterProcessReadWriteLock second = new InterProcessReadWriteLock(b, root);
            acquire(first.readLock(), "the first read lock");
            acquire(second.readLock(), "a second read lock");
            isTaken(second.writeLock(), "the write lock beside a reader");
            first.readLock().release();
            second.readLock().release();
            acquire(second.writeLock(), "the write lock without readers");
            isTaken(first.readLock(), "a read lock beside a writer");
            isTaken(first.writeLock(), "a write lock beside a writer");
            // A writer may become a reader without a gap.
            acquire(second.readLock(), "the writer's own read lock");
            second.writeLock().release();
            acquire(first.readLock(), "a read lock after the writer");
            first.readLock().release();
            second.readLock().release();
        }
    }

    private static void semaphore(String root) throws Exception {
        int leases = 3;
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            InterProcessSemaphoreV2 first = new InterProcessSemaphoreV2(a, root, leases);
            InterProcessSemaphoreV2 second = new InterProcessSemaphoreV2(b, root, leases);
            Lease one = acquire(() -> first.acquire(Check.PATIENCE_MS, TimeUnit.MILLISECONDS));
            Lease two = acquire(() -> second.acquire(Check.PATIENCE_MS, TimeUnit.MILLISECONDS));
            Lease three = acquire(() -> first.acquire(Check.PATIENCE_MS, TimeUnit.MILLISECONDS));
            Check.equal(leases, first.getParticipantNodes().size(), "the leases in use");
            Check.equal(null, second.acquire(TRY_MS, TimeUnit.MILLISECONDS), "a lease too many");
            first.returnLease(one);
            Lease four = acquire(() -> second.acquire(Check.PATIENCE_MS, TimeUnit.MILLISECONDS));
            second.returnLease(two);
            second.returnLease(four);
            first.returnLease(three);
            Check.becomes(0, () -> first.getParticipantNodes().size(), "the leases in use at the end");
        }
    }

    private static Lease acquire(Callable<Lease> attempt) throws Exception {
        Lease lease = attempt.call();
        Check.that(lease != null, "a lease within " + Check.PATIENCE_MS + " ms");
        return lease;
    }

    private static void multiLock(String root) throws Exception {
        List<String> paths = List.of(root + "/a", root + "/b");
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            InterProcessMultiLock both = new InterProcessMultiLock(a, paths);
            InterProcessMutex one = new InterProcessMutex(b, paths.get(1));
            acquire(one, "one of two locks");
            isTaken(both, "both locks while another has one");
            one.release();
            acquire(both, "both locks");
            isTaken(one, "one of two locks that another has");
            both.release();
            acquire(one, "one lock after both were released");
            one.release();
        }
    }
}
