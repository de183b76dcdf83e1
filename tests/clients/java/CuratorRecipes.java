import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/**
 * Runs Curator's recipes and ZooKeeper's own Java client against a cluster:
 * {@code java CuratorRecipes HOST:PORT,... [PART...]}.
 *
 * <p>Each part works below a node of its own, prints {@code ok NAME}, or {@code FAILED NAME} and
 * what was expected; one failure makes the exit code 1. Service discovery is not among the parts:
 * Debian packages no curator-x-discovery.
 */
public final class CuratorRecipes {
    private static final long PART_TIMEOUT_S = 40;
    private static final long WATCHDOG_S = 120;
    private static final int WATCHDOG_EXIT_CODE = 2;

    private CuratorRecipes() {}

    /** A part: it gets the path below which it works, which does not exist yet. */
    interface Part {
        void run(String root) throws Exception;
    }

    private static Map<String, Part> parts() {
        Map<String, Part> parts = new LinkedHashMap<>();
        Nodes.addTo(parts);
        Access.addTo(parts);
        Elections.addTo(parts);
        Locks.addTo(parts);
        Meetings.addTo(parts);
        Numbers.addTo(parts);
        Caches.addTo(parts);
        Members.addTo(parts);
        PlainRequests.addTo(parts);
        PlainWatches.addTo(parts);
        PlainSessions.addTo(parts);
        return parts;
    }

    public static void main(String[] arguments) throws Exception {
        startWatchdog();
        Clients.connectTo(arguments[0]);
        Map<String, Part> parts = parts();
        for (int i = 1; i < arguments.length; i++) {
            Check.that(parts.containsKey(arguments[i]), "a part that exists, not " + arguments[i]);
        }
        if (arguments.length > 1) {
            parts.keySet().retainAll(Arrays.asList(arguments).subList(1, arguments.length));
        }
        boolean allWell = true;
        for (Map.Entry<String, Part> part : parts.entrySet()) {
            allWell &= isWell(part.getKey(), part.getValue());
        }
        System.out.println(allWell ? "all parts are well" : "not all parts are well");
        // Not a return: a part that hangs has threads that would keep the program.
        System.exit(allWell ? 0 : 1);
    }

    private static boolean isWell(String name, Part part) throws InterruptedException {
        ExecutorService runner = Executors.newSingleThreadExecutor();
        long start = System.nanoTime();
        Future<Void> run = runner.submit(() -> {
            part.run("/java-" + name);
            return null;
        });
        try {
            run.get(PART_TIMEOUT_S, TimeUnit.SECONDS);
            long took = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start);
            System.out.println("ok " + name);
            System.err.println(name + " took " + took + " ms");
            return true;
        } catch (ExecutionException failure) {
            System.out.println("FAILED " + name + ": " + failure.getCause());
            failure.getCause().printStackTrace();
            return false;
        } catch (TimeoutException hang) {
            System.out.println("FAILED " + name + ": expected its end within " + PART_TIMEOUT_S + " s");
            printStacks();
            return false;
        } finally {
            runner.shutdownNow();
        }
    }

    private static void startWatchdog() {
        Thread watchdog = new Thread(() -> {
            try {
                TimeUnit.SECONDS.sleep(WATCHDOG_S);
            } catch (InterruptedException ended) {
                return;
            }
            System.out.println("FAILED: expected the end within " + WATCHDOG_S + " s");
            printStacks();
            Runtime.getRuntime().halt(WATCHDOG_EXIT_CODE);
        });
        watchdog.setDaemon(true);
        watchdog.start();
    }

    /** Where everybody stands: what a hang is understood by. */
    private static void printStacks() {
        Thread.getAllStackTraces().forEach((thread, stack) -> {
            System.err.println(thread);
            for (StackTraceElement frame : stack) {
                System.err.println("    at " + frame);
            }
        });
    }
}
