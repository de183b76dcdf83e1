import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.cache.ChildData;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.cache.CuratorCacheListener;
import org.apache.curator.framework.recipes.cache.NodeCache;
import org.apache.curator.framework.recipes.cache.PathChildrenCache;
import org.apache.curator.framework.recipes.cache.TreeCache;
import org.apache.curator.framework.recipes.cache.TreeCacheEvent;

/** Caches, which show whether watches are told of every change. */
@SuppressWarnings("deprecation") // The caches before CuratorCache are what most programs still use.
final class Caches {
    private Caches() {}

    static void addTo(Map<String, CuratorRecipes.Part> parts) {
        parts.put("path-children-cache", Caches::pathChildrenCache);
        parts.put("node-cache", Caches::nodeCache);
        parts.put("tree-cache", Caches::treeCache);
        parts.put("curator-cache", Caches::curatorCache);
        parts.put("curator-cache-of-a-lost-session", Caches::curatorCacheOfLostSession);
    }

    private static void expectNext(String expected, BlockingQueue<String> told) throws InterruptedException {
        Check.equal(expected, told.poll(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "what the listener is told next");
    }

    private static void pathChildrenCache(String root) throws Exception {
        BlockingQueue<String> told = new LinkedBlockingQueue<>();
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            b.create().forPath(root);
            b.create().forPath(root + "/before", Clients.bytes("0"));
            a.sync().forPath(root);
            try (PathChildrenCache cache = new PathChildrenCache(a, root, true)) {
                cache.getListenable().addListener((client, event) -> {
                    if (event.getData() != null) {
                        told.add(event.getType() + " " + event.getData().getPath() + " " + Clients.text(event.getData().getData()));
                    }
                });
                cache.start(PathChildrenCache.StartMode.BUILD_INITIAL_CACHE);
                Check.equal(1, cache.getCurrentData().size(), "the size of the first cache");
                b.create().forPath(root + "/x", Clients.bytes("1"));
                expectNext("CHILD_ADDED " + root + "/x 1", told);
                b.setData().forPath(root + "/x", Clients.bytes("2"));
                expectNext("CHILD_UPDATED " + root + "/x 2", told);
                b.setData().forPath(root + "/before", Clients.bytes("3"));
                expectNext("CHILD_UPDATED " + root + "/before 3", told);
                b.delete().forPath(root + "/x");
                expectNext("CHILD_REMOVED " + root + "/x 2", told);
                Check.equal("3", Clients.text(cache.getCurrentData(root + "/before").getData()), "the cached data");
                Check.equal(null, cache.getCurrentData(root + "/x"), "the cache of a deleted child");
            }
        }
    }

    private static void nodeCache(String root) throws Exception {
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                NodeCache cache = new NodeCache(a, root)) {
            cache.start(true);
            Check.equal(null, cache.getCurrentData(), "the cache of a node that is not there");
            b.create().forPath(root, Clients.bytes("1"));
            Check.becomes("1", () -> cached(cache), "the cached data after create");
            b.setData().forPath(root, Clients.bytes("2"));
            Check.becomes("2", () -> cached(cache), "the cached data after set");
            b.delete().forPath(root);
            Check.becomes(null, () -> cached(cache), "the cached data after delete");
            b.create().forPath(root, Clients.bytes("3"));
            Check.becomes("3", () -> cached(cache), "the cached data of the node's second life");
        }
    }

    private static String cached(NodeCache cache) {
        ChildData data = cache.getCurrentData();
        return data == null ? null : Clients.text(data.getData());
    }

    private static void treeCache(String root) throws Exception {
        CountDownLatch filled = new CountDownLatch(1);
        try (CuratorFramework a = Clients.curator(); CuratorFramework b = Clients.curator()) {
            b.create().creatingParentsIfNeeded().forPath(root + "/a/b", Clients.bytes("1"));
            a.sync().forPath(root);
            try (TreeCache cache = new TreeCache(a, root)) {
                cache.getListenable().addListener((client, event) -> {
                    if (event.getType() == TreeCacheEvent.Type.INITIALIZED) {
                        filled.countDown();
                    }
                });
                cache.start();
                Check.that(filled.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the tree cache is filled");
                Check.equal("1", cached(cache, root + "/a/b"), "the first cached data");
                b.create().forPath(root + "/a/b/c", Clients.bytes("2"));
                Check.becomes("2", () -> cached(cache, root + "/a/b/c"), "the cached data of a new grandchild");
                b.setData().forPath(root + "/a/b", Clients.bytes("3"));
                Check.becomes("3", () -> cached(cache, root + "/a/b"), "the cached data after set");
                b.delete().deletingChildrenIfNeeded().forPath(root + "/a");
                Check.becomes(null, () -> cached(cache, root + "/a"), "the cache of a deleted subtree");
                Check.becomes(0, () -> cache.getCurrentChildren(root).size(), "the number of cached children");
            }
        }
    }

    private static String cached(TreeCache cache, String path) {
        ChildData data = cache.getCurrentData(path);
        return data == null ? null : Clients.text(data.getData());
    }

    private static void curatorCache(String root) throws Exception {
        BlockingQueue<String> told = new LinkedBlockingQueue<>();
        CountDownLatch filled = new CountDownLatch(1);
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                CuratorCache cache = CuratorCache.build(a, root)) {
            b.create().creatingParentsIfNeeded().forPath(root + "/a/b", Clients.bytes("1"));
            a.sync().forPath(root);
            cache.listenable().addListener(CuratorCacheListener.builder()
                    .forInitialized(filled::countDown)
                    .forCreates(node -> told.add("created " + node.getPath()))
                    .forChanges((old, node) -> told.add("changed " + node.getPath() + " to " + Clients.text(node.getData())))
                    .forDeletes(node -> told.add("deleted " + node.getPath()))
                    .afterInitialized()
                    .build());
            cache.start();
            Check.that(filled.await(Check.PATIENCE_MS, TimeUnit.MILLISECONDS), "the cache is filled");
            Check.equal(3L, cache.stream().count(), "the size of the first cache");
            b.create().forPath(root + "/a/b/c", Clients.bytes("2"));
            expectNext("created " + root + "/a/b/c", told);
            b.setData().forPath(root + "/a/b/c", Clients.bytes("3"));
            expectNext("changed " + root + "/a/b/c to 3", told);
            b.setData().forPath(root + "/a", Clients.bytes("4"));
            expectNext("changed " + root + "/a to 4", told);
            b.delete().deletingChildrenIfNeeded().forPath(root + "/a");
            for (String path : List.of("/a/b/c", "/a/b", "/a")) {
                expectNext("deleted " + root + path, told);
            }
            Check.equal(List.of(root), new ArrayList<>(cache.stream().map(ChildData::getPath).toList()), "the paths in the cache");
        }
    }

    /** What happens between two sessions is in no event: the cache must find it by looking again. */
    private static void curatorCacheOfLostSession(String root) throws Exception {
        try (CuratorFramework a = Clients.curator();
                CuratorFramework b = Clients.curator();
                CuratorCache cache = CuratorCache.build(a, root)) {
            b.create().creatingParentsIfNeeded().forPath(root + "/goes");
            b.create().forPath(root + "/stays", Clients.bytes("1"));
            cache.start();
            Check.becomes(3L, () -> cache.stream().count(), "the size of the first cache");
            Clients.killSession(a.getZookeeperClient().getZooKeeper());
            b.delete().forPath(root + "/goes");
            b.setData().forPath(root + "/stays", Clients.bytes("2"));
            b.create().forPath(root + "/comes", Clients.bytes("3"));
            Map<String, String> expected = new TreeMap<>(Map.of(root + "/comes", "3", root + "/stays", "2"));
            Check.becomes(expected, () -> childrenIn(cache, root), "the cache after the new session");
            b.setData().forPath(root + "/stays", Clients.bytes("4"));
            expected.put(root + "/stays", "4");
            Check.becomes(expected, () -> childrenIn(cache, root), "the cache after a change in the new session");
        }
    }

    private static Map<String, String> childrenIn(CuratorCache cache, String root) {
        Map<String, String> children = new TreeMap<>();
        cache.stream()
                .filter(node -> !node.getPath().equals(root))
                .forEach(node -> children.put(node.getPath(), Clients.text(node.getData())));
        return children;
    }
}
