import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderSelector;
import org.apache.curator.framework.recipes.leader.LeaderSelectorListenerAdapter;

/** Who leads: by LeaderLatch and by LeaderSelector. */
final class Elections {
    private Elections() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("leader-latch", Elections::latch);
        parts.put("leader-latch-of-a-lost-session", Elections::latchOfLostSession);
        parts.put("leader-selector", Elections::selector);
    }

    private static void latch(String root) throws Exception {
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            LeaderLatch first = new LeaderLatch(a, root, "first");
            first.start();
            Check.that(first.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the only one leads");
            try (LeaderLatch second = new LeaderLatch(b, root, "second")) {
                second.start();
                Check.becomes(2, () -> first.getParticipants().size(), "the number of participants");
                Check.equal("first", second.getLeader().getId(), "the leader, as the second sees it");
                Check.that(!second.hasLeadership(), "the second does not lead beside the first");
                first.close();
                Check.that(second.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the second takes over");
                Check.equal("second", second.getLeader().getId(), "the leader after the first has closed");
            }
        }
    }

    private static void latchOfLostSession(String root) throws Exception {
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                LeaderLatch first = new LeaderLatch(a, root, "first");
                LeaderLatch second = new LeaderLatch(b, root, "second")) {
            first.start();
            Check.that(first.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the only one leads");
            second.start();
            Check.becomes(2, () -> first.getParticipants().size(), "the number of participants");
            Clients.killSession(a.getZookeeperClient().getZooKeeper());
            Check.that(second.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the second takes over from a lost session");
            // The first comes back with a new session, at the end of the queue.
            Check.becomes(2, () -> second.getParticipants().size(), "the number of participants after the return");
            Check.becomes(false, first::hasLeadership, "whether the first leads");
            Check.becomes("second", () -> first.getLeader().getId(), "the leader, as the first sees it");
        }
    }

    private static void selector(String root) throws Exception {
        int terms = 6;
        CountDownLatch left = new CountDownLatch(terms);
        AtomicInteger leaders = new AtomicInteger();
        AtomicInteger leadersMax = new AtomicInteger();
        LeaderSelectorListenerAdapter lead = new LeaderSelectorListenerAdapter() {
            @Override
            public void takeLeadership(CuratorFramework client) {
                leadersMax.accumulateAndGet(leaders.incrementAndGet(), Math::max);
                left.countDown();
                leaders.decrementAndGet();
            }
        };
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                LeaderSelector first = new LeaderSelector(a, root, lead);
                LeaderSelector second = new LeaderSelector(b, root, lead)) {
            for (LeaderSelector selector : new LeaderSelector[] {first, second}) {
                selector.autoRequeue();
                selector.start();
            }
            Check.that(left.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), terms + " terms, " + left.getCount() + " missing");
            Check.equal(1, leadersMax.get(), "the most leaders at one time");
        }
    }
}
