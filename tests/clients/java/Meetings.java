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
import org.apache.curator.framework.recipes.barriers.DistributedBarrier;
import org.apache.curator.framework.recipes.barriers.DistributedDoubleBarrier;
import org.apache.curator.framework.recipes.queue.DistributedQueue;
import org.apache.curator.framework.recipes.queue.QueueBuilder;
import org.apache.curator.framework.recipes.queue.QueueConsumer;
import org.apache.curator.framework.recipes.queue.QueueSerializer;
import org.apache.curator.framework.recipes.queue.SimpleDistributedQueue;
import org.apache.curator.framework.state.ConnectionState;

/** Where clients meet: barriers and queues. */
final class Meetings {
    private Meetings() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("barrier", Meetings::barrier);
        parts.put("double-barrier", Meetings::doubleBarrier);
        parts.put("queue", Meetings::queue);
        parts.put("simple-queue", Meetings::simpleQueue);
    }

    private static void barrier(String root) throws Exception {
        ExecutorService thread = Executors.newSingleThreadExecutor();
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            DistributedBarrier barrier = new DistributedBarrier(a, root);
            barrier.setBarrier();
            b.sync().forPath(root);
            DistributedBarrier other = new DistributedBarrier(b, root);
            Check.that(!other.waitOnBarrier(200, TimeUnit.MILLISECONDS), "the barrier holds");
            Future<Boolean> passed =
                    thread.submit(() -> other.waitOnBarrier(Check.PATIENCE_MS, TimeUnit.MILLISECONDS));
            barrier.removeBarrier();
            Check.that(passed.get(), "the other passes when the barrier is gone");
        } finally {
            thread.shutdownNow();
        }
    }

    private static void doubleBarrier(String root) throws Exception {
        int members = 3;
        ExecutorService threads = Executors.newFixedThreadPool(members);
        List<CuratorFramework> clients = new ArrayList<>();
        try {
            List<Future<Boolean>> runs = new ArrayList<>();
            BlockingQueue<String> order = new LinkedBlockingQueue<>();
            for (int i = 0; i < members; i++) {
                CuratorFramework client = Clients.curator();
                clients.add(client);
                DistributedDoubleBarrier barrier = new DistributedDoubleBarrier(client, root, members);
                runs.add(threads.submit(() -> {
                    order.add("comes");
                    boolean in = barrier.enter(Check.PATIENCE_MS, TimeUnit.MILLISECONDS);
                    order.add("is in");
                    return in && barrier.leave(Check.PATIENCE_MS, TimeUnit.MILLISECONDS);
                }));
            }
            for (Future<Boolean> run : runs) {
                Check.that(run.get(), "every member enters and leaves the double barrier");
            }
            Check.equal(
                    List.of("comes", "comes", "comes", "is in", "is in", "is in"), new ArrayList<>(order), "the order at the barrier");
        } finally {
            threads.shutdownNow();
            clients.forEach(CuratorFramework::close);
        }
    }

    private static void queue(String root) throws Exception {
        int items = 50;
        BlockingQueue<String> taken = new LinkedBlockingQueue<>();
        QueueConsumer<String> consumer = new QueueConsumer<>() {
            @Override
            public void consumeMessage(String message) {
                taken.add(message);
            }

            @Override
            public void stateChanged(CuratorFramework client, ConnectionState state) {}
        };
        QueueSerializer<String> serializer = new QueueSerializer<>() {
            @Override
            public byte[] serialize(String item) {
                return Clients.bytes(item);
            }

            @Override
            public String deserialize(byte[] bytes) {
                return Clients.text(bytes);
            }
        };
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                DistributedQueue<String> producer =
                        QueueBuilder.<String>builder(a, null, serializer, root).buildQueue();
                DistributedQueue<String> taker =
                        QueueBuilder.builder(b, consumer, serializer, root).lockPath(root + "-locks").buildQueue()) {
            producer.start();
            taker.start();
            for (int i = 0; i < items; i++) {
                producer.put("item " + i);
            }
            Check.that(producer.flushPuts(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the items are put");
            for (int i = 0; i < items; i++) {
                Check.equal("item " + i, taken.poll(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the next item");
            }
            Check.becomes(List.of(), () -> b.getChildren().forPath(root), "what is left in the queue");
            Check.equal("[]", taken.toString(), "items that came twice");
        }
    }

    private static void simpleQueue(String root) throws Exception {
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            SimpleDistributedQueue giver = new SimpleDistributedQueue(a, root);
            SimpleDistributedQueue taker = new SimpleDistributedQueue(b, root);
            for (String item : List.of("one", "two", "three")) {
                giver.offer(Clients.bytes(item));
            }
            b.sync().forPath(root);
            Check.equal("one", Clients.text(taker.peek()), "the head");
            for (String item : List.of("one", "two", "three")) {
                Check.equal(item, Clients.text(taker.poll(Check.PATIENCE_MS, TimeUnit.MILLISECONDS)), "the next item");
            }
            Check.equal(null, taker.poll(), "an item of an empty queue");
        }
    }
}
