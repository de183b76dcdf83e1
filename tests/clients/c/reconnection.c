/* A client loses its server while it writes, and goes on with another: what was acknowledged is
 * there, its session and its ephemeral node live on, and no watch misses what happened meanwhile. */
#include "support.h"

enum {
    IN_FLIGHT_MAX = 100,
    ANSWERS_BEFORE_THE_KILL = 200,
    WRITES_MAX = 200000, /* Far more than fit in the time until the kill. */
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t fewer;
    int in_flight;
    int done;          /* How many were acknowledged, */
    int refused;       /* and of how many nobody knows. */
    bool is_done[WRITES_MAX];
} writes = {.lock = PTHREAD_MUTEX_INITIALIZER, .fewer = PTHREAD_COND_INITIALIZER};

static void written(int code, const char *path, const void *number) {
    (void)path;
    EXPECT(code == ZOK || code == ZCONNECTIONLOSS, "a write that is done or lost, not %d (%s)", code, zerror(code));
    pthread_mutex_lock(&writes.lock);
    writes.in_flight--;
    writes.is_done[(intptr_t)number] = code == ZOK;
    writes.done += code == ZOK;
    writes.refused += code != ZOK;
    pthread_cond_signal(&writes.fewer);
    pthread_mutex_unlock(&writes.lock);
}

/* Waits until there are at most so many writes in flight. The lock is held. */
static void await_room(int in_flight_max) {
    struct timespec until = deadline();
    for (int code = 0; writes.in_flight > in_flight_max && code == 0;) {
        code = pthread_cond_timedwait(&writes.fewer, &writes.lock, &until);
    }
    EXPECT(writes.in_flight <= in_flight_max, "answers to all but %d writes, not %d", in_flight_max, writes.in_flight);
}

static void path_of(intptr_t number, char *path) {
    snprintf(path, PATH_MAX_BYTES, "/r/writes/%d", (int)number);
}

/* Writes until the server is gone. Returns how many writes there were. */
static int write_until_it_dies(zhandle_t *client, const char *server) {
    for (intptr_t i = 0; i < WRITES_MAX; i++) {
        char path[PATH_MAX_BYTES];
        path_of(i, path);
        pthread_mutex_lock(&writes.lock);
        await_room(IN_FLIGHT_MAX - 1);
        bool lost = writes.refused > 0;
        if (writes.done >= ANSWERS_BEFORE_THE_KILL && server != NULL) {
            printf("kill %s\n", server);
            fflush(stdout);
            server = NULL;
        }
        writes.in_flight += !lost;
        pthread_mutex_unlock(&writes.lock);
        if (lost) {
            return (int)i;
        }
        int code = zoo_acreate(client, path, "x", 1, &ZOO_OPEN_ACL_UNSAFE, 0, written, (void *)i);
        if (code != ZOK) {
            /* Not sent: there will be no answer. */
            written(ZCONNECTIONLOSS, path, (void *)i);
        }
    }
    EXPECT(false, "the server's death within %d writes", WRITES_MAX);
    return 0;
}

static const struct timespec before_the_next_try = {.tv_nsec = 10 * 1000 * 1000};

/* A read or write by a client that may lose its connection too while a new leader is found. */
#define UNTIL_DONE(call)                                                                     \
    ({                                                                                       \
        struct timespec until_ = deadline(), now_;                                           \
        int code_;                                                                           \
        do {                                                                                 \
            code_ = (call);                                                                  \
            if (code_ != ZCONNECTIONLOSS && code_ != ZOPERATIONTIMEOUT) {                    \
                break;                                                                       \
            }                                                                                \
            nanosleep(&before_the_next_try, NULL);                                           \
            clock_gettime(CLOCK_REALTIME, &now_);                                            \
        } while (now_.tv_sec < until_.tv_sec);                                               \
        code_;                                                                               \
    })

static void create(zhandle_t *client, const char *path) {
    int code = UNTIL_DONE(zoo_create(client, path, "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    /* The first try may have been done, and its answer lost. */
    EXPECT(code == ZOK || code == ZNODEEXISTS, "create of %s, not %d (%s)", path, code, zerror(code));
}

static void acknowledged_writes_are_there(zhandle_t *client, int count) {
    for (int i = 0; i < count; i++) {
        char path[PATH_MAX_BYTES];
        struct Stat stat;
        path_of(i, path);
        int code = UNTIL_DONE(zoo_exists(client, path, 0, &stat));
        EXPECT(code == ZOK || (code == ZNONODE && !writes.is_done[i]), "%s, which was acknowledged, not %d (%s)", path, code,
               zerror(code));
    }
}

void reconnection(const char *servers) {
    char server[PATH_MAX_BYTES], bytes[8];
    snprintf(server, sizeof server, "%.*s", (int)strcspn(servers, ","), servers);
    const char *rest = servers + strlen(server) + 1;
    struct events states = NO_EVENTS, other_states = NO_EVENTS;
    struct events data = NO_EVENTS, children = NO_EVENTS, comes = NO_EVENTS, goes = NO_EVENTS, same = NO_EVENTS;
    zhandle_t *client = connected(server, &states);
    zhandle_t *other = connected(rest, &other_states);
    int64_t session = zoo_client_id(client)->client_id;

    const char *paths[] = {"/r", "/r/writes", "/r/data", "/r/parent", "/r/goes", "/r/same"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        create(client, paths[i]);
    }
    EXPECT_OK(zoo_create(client, "/r/mine", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL, NULL, 0));
    struct Stat stat;
    struct String_vector names;
    int length = sizeof bytes;
    EXPECT_OK(zoo_wget(client, "/r/data", keep_event, &data, bytes, &length, &stat));
    EXPECT_OK(zoo_wget_children(client, "/r/parent", keep_event, &children, &names));
    deallocate_String_vector(&names);
    EXPECT_CODE(ZNONODE, zoo_wexists(client, "/r/comes", keep_event, &comes, &stat));
    EXPECT_OK(zoo_wexists(client, "/r/goes", keep_event, &goes, &stat));
    EXPECT_OK(zoo_wexists(client, "/r/same", keep_event, &same, &stat));

    int count = write_until_it_dies(client, server);
    EXPECT(fgets(bytes, sizeof bytes, stdin) != NULL, "a line that says that %s is dead", server);
    expect_state(&states, ZOO_CONNECTING_STATE);
    pthread_mutex_lock(&writes.lock);
    await_room(0);
    pthread_mutex_unlock(&writes.lock);

    /* The client knows no other server yet: all this happens while it is away. */
    EXPECT_OK(UNTIL_DONE(zoo_set(other, "/r/data", "x", 1, -1)));
    create(other, "/r/parent/child");
    create(other, "/r/comes");
    int code = UNTIL_DONE(zoo_delete(other, "/r/goes", -1));
    EXPECT(code == ZOK || code == ZNONODE, "delete of /r/goes, not %d (%s)", code, zerror(code));

    EXPECT_OK(zoo_set_servers(client, rest));
    expect_state(&states, ZOO_CONNECTED_STATE);
    EXPECT(zoo_client_id(client)->client_id == session, "the same session on another server");
    expect_event(&data, ZOO_CHANGED_EVENT, "/r/data");
    expect_event(&children, ZOO_CHILD_EVENT, "/r/parent");
    expect_event(&comes, ZOO_CREATED_EVENT, "/r/comes");
    expect_event(&goes, ZOO_DELETED_EVENT, "/r/goes");
    expect_no_more(&same);
    EXPECT_OK(UNTIL_DONE(zoo_set(other, "/r/same", "x", 1, -1)));
    expect_event(&same, ZOO_CHANGED_EVENT, "/r/same");
    struct events *all[] = {&data, &children, &comes, &goes, &same};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        expect_no_more(all[i]);
    }
    EXPECT_OK(UNTIL_DONE(zoo_exists(client, "/r/mine", 0, &stat)));
    EXPECT(stat.ephemeralOwner == session, "the session's ephemeral node");
    acknowledged_writes_are_there(client, count);
    fprintf(stderr, "%d writes done, %d lost\n", writes.done, writes.refused);
    EXPECT_OK(zookeeper_close(client));
    EXPECT_OK(zookeeper_close(other));
    part_is_ok("reconnection");
}
