import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.atomic.AtomicValue;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.shared.SharedCount;
import org.apache.curator.framework.recipes.shared.SharedCountListener;
import org.apache.curator.framework.recipes.shared.SharedCountReader;
import org.apache.curator.framework.recipes.shared.VersionedValue;
import org.apache.curator.framework.state.ConnectionState;
import org.apache.curator.retry.RetryNTimes;

/** Numbers that clients share. */
final class Numbers {
    private Numbers() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("shared-count", Numbers::sharedCount);
        parts.put("atomic-long", Numbers::atomicLong);
    }

    private static void sharedCount(String root) throws Exception {
        BlockingQueue<Integer> told = new LinkedBlockingQueue<>();
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                SharedCount first = new SharedCount(a, root, 7);
                SharedCount second = new SharedCount(b, root, 8)) {
            first.start();
            b.sync().forPath(root);
            second.start();
            Check.equal(7, second.getCount(), "the count: the first seed stays");
            second.addListener(new SharedCountListener() {
                @Override
                public void countHasChanged(SharedCountReader count, int value) {
                    told.add(value);
                }

                @Override
                public void stateChanged(CuratorFramework client, ConnectionState state) {}
            });
            VersionedValue<Integer> old = second.getVersionedValue();
            first.setCount(10);
            Check.equal(10, told.poll(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the count that the other is told");
            Check.that(!second.trySetCount(old, 11), "an update from an old version is refused");
            Check.that(second.trySetCount(second.getVersionedValue(), 12), "an update from the last version is taken");
            Check.becomes(12, first::getCount, "the count at the end");
        }
    }

    private static void atomicLong(String root) throws Exception {
        int clients = 2;
        int turns = 30;
        ExecutorService threads = Executors.newFixedThreadPool(clients);
        try {
            List<Future<?>> runs = new ArrayList<>();
            for (int i = 0; i < clients; i++) {
                runs.add(threads.submit(() -> {
                    add(root, turns);
                    return null;
                }));
            }
            for (Future<?> run : runs) {
                run.get();
            }
        } finally {
            threads.shutdownNow();
        }
        try (CuratorFramework client = Clients.curator()) {
            client.sync().forPath(root);
            AtomicValue<Long> value = number(client, root).get();
            Check.that(value.succeeded(), "the value can be read");
            Check.equal((long) clients * turns, value.postValue(), "the sum");
        }
    }

    private static void add(String root, int turns) throws Exception {
        try (CuratorFramework client = Clients.curator()) {
            DistributedAtomicLong number = number(client, root);
            for (int i = 0; i < turns; i++) {
                AtomicValue<Long> added = number.increment();
                Check.that(added.succeeded(), "an increment within the retries");
                Check.equal(added.preValue() + 1, added.postValue(), "the value after an increment");
            }
        }
    }

    private static DistributedAtomicLong number(CuratorFramework client, String path) {
        return new DistributedAtomicLong(client, path, new RetryNTimes(1_000, 1));
    }
}
