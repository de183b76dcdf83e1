import java.util.Objects;
import java.util.concurrent.Callable;
import java.util.concurrent.TimeUnit;

/**
 * Expectations, and waiting with a deadline. Whatever fails says what was expected and what was
 * seen; nothing here sleeps and hopes.
 */
final class Check {
    /** Far longer than anything takes on a machine that is not stuck. */
    static final long PATIENCE_MS = 15_000;

    private static final long LOOK_AGAIN_AFTER_MS = 10;

    /** Something that may throw. */
    interface Action {
        void run() throws Exception;
    }

    private Check() {}

    static void that(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("expected: " + what);
        }
    }

    static void equal(Object expected, Object seen, String what) {
        if (!Objects.equals(expected, seen)) {
            throw new AssertionError(what + ": expected <" + expected + ">, seen <" + seen + ">");
        }
    }

    /** The action must throw exactly this kind of exception, which is returned. */
    static <E extends Exception> E refused(Class<E> kind, Action action, String what) throws Exception {
        try {
            action.run();
        } catch (Exception thrown) {
            if (kind.isInstance(thrown)) {
                return kind.cast(thrown);
            }
            throw new AssertionError(
                    what + ": expected " + kind.getSimpleName() + ", seen " + thrown, thrown);
        }
        throw new AssertionError(what + ": expected " + kind.getSimpleName() + ", but it was done");
    }

    /** Looks until it sees what is expected. */
    static void becomes(Object expected, Callable<?> look, String what) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(PATIENCE_MS);
        while (true) {
            Object seen = look.call();
            if (Objects.equals(expected, seen)) {
                return;
            }
            if (System.nanoTime() > deadline) {
                throw new AssertionError(
                        what + ": expected <" + expected + "> within " + PATIENCE_MS + " ms, last seen <" + seen + ">");
            }
            Thread.sleep(LOOK_AGAIN_AFTER_MS);
        }
    }
}
