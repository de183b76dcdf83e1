/* Runs ZooKeeper's C client against a cluster: `recipes HOST:PORT,HOST:PORT,...`.
 *
 * Each part prints `ok NAME`; the first failure prints what was expected and ends the program with
 * exit code 1. One part (reconnection.c) prints `kill HOST:PORT`, and goes on when a line
 * comes on standard input: then that server must be dead. */
#include "support.h"
#include <unistd.h>

/* After this the program is ended by a signal, wherever it stands. */
enum { WATCHDOG_S = 90 };

enum { PIPELINED = 1000 };

void reconnection(const char *servers);

static void nodes(zhandle_t *client) {
    char name[PATH_MAX_BYTES], data[16];
    struct Stat made, seen;
    int length = sizeof data;
    EXPECT_OK(zoo_create2(client, "/c", "one", 3, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT, name, sizeof name, &made));
    EXPECT(strcmp(name, "/c") == 0, "the path, not %s", name);
    EXPECT(made.version == 0 && made.dataLength == 3, "the stat of a new node");
    EXPECT_CODE(ZNODEEXISTS, zoo_create(client, "/c", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    EXPECT_OK(zoo_get(client, "/c", 0, data, &length, &seen));
    EXPECT(length == 3 && memcmp(data, "one", 3) == 0, "the data that was created");
    EXPECT(made.czxid == seen.czxid && made.pzxid == seen.pzxid && made.ctime == seen.ctime, "the stat that create2 returned");
    EXPECT_OK(zoo_set2(client, "/c", "two", 3, 0, &seen));
    EXPECT(seen.version == 1 && seen.mzxid > made.mzxid, "version %d after a change", seen.version);
    EXPECT_CODE(ZBADVERSION, zoo_set(client, "/c", "x", 1, 0));
    /* A length of -1 is no data at all, which is not the same as data of no length. */
    EXPECT_OK(zoo_create(client, "/c/null", NULL, -1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    length = sizeof data;
    EXPECT_OK(zoo_get(client, "/c/null", 0, data, &length, &seen));
    EXPECT(length == -1, "no data, not %d bytes", length);
    EXPECT_CODE(ZNOTEMPTY, zoo_delete(client, "/c", -1));
    EXPECT_CODE(ZBADVERSION, zoo_delete(client, "/c/null", 4));
    EXPECT_OK(zoo_delete(client, "/c/null", 0));
    EXPECT_CODE(ZNONODE, zoo_exists(client, "/c/null", 0, &seen));
    EXPECT_CODE(ZNONODE, zoo_create(client, "/c/no/parent", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));

    EXPECT_OK(zoo_create(client, "/c/n-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_SEQUENTIAL, name, sizeof name));
    EXPECT(strcmp(name, "/c/n-0000000001") == 0, "the second sequential name, not %s", name);
    EXPECT_OK(zoo_create2(client, "/c/e-", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_EPHEMERAL_SEQUENTIAL, name, sizeof name, &made));
    EXPECT(strcmp(name, "/c/e-0000000002") == 0, "the third sequential name, not %s", name);
    EXPECT(made.ephemeralOwner == zoo_client_id(client)->client_id, "the session as the owner");
    EXPECT_CODE(ZNOCHILDRENFOREPHEMERALS,
                zoo_create(client, "/c/e-0000000002/x", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    struct String_vector children;
    EXPECT_OK(zoo_get_children2(client, "/c", 0, &children, &seen));
    EXPECT(children.count == 2 && seen.numChildren == 2, "2 children, not %d", children.count);
    deallocate_String_vector(&children);
    part_is_ok("nodes");
}

/* The owner of a container, and of a node with a time to live, says what kind they are. Clients are
 * shown 0, so that they do not take them for ephemeral. */
static void owners_that_are_not_shown(zhandle_t *client) {
    char name[PATH_MAX_BYTES];
    struct Stat made;
    EXPECT_OK(zoo_create2_ttl(client, "/c-ttl", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_WITH_TTL, 3600000, name,
                              sizeof name, &made));
    EXPECT(made.ephemeralOwner == 0, "the owner shown of a node with a time to live, not %llx",
           (unsigned long long)made.ephemeralOwner);
    EXPECT_OK(zoo_create2(client, "/c-box", "", 0, &ZOO_OPEN_ACL_UNSAFE, ZOO_CONTAINER, name, sizeof name, &made));
    EXPECT(made.ephemeralOwner == 0, "the owner shown of a container, not %llx", (unsigned long long)made.ephemeralOwner);
    part_is_ok("owners-that-are-not-shown");
}

static void access_lists(zhandle_t *client) {
    struct ACL entries[] = {{ZOO_PERM_READ | ZOO_PERM_ADMIN, {"world", "anyone"}}, {ZOO_PERM_ALL, {"ip", "10.0.0.0/8"}}};
    struct ACL_vector list = {2, entries}, seen;
    struct Stat stat;
    EXPECT_OK(zoo_create(client, "/c/acl", "x", 1, &list, 0, NULL, 0));
    EXPECT_OK(zoo_get_acl(client, "/c/acl", &seen, &stat));
    EXPECT(seen.count == 2 && stat.aversion == 0, "two entries, not %d", seen.count);
    for (int i = 0; i < seen.count; i++) {
        EXPECT(seen.data[i].perms == entries[i].perms && strcmp(seen.data[i].id.scheme, entries[i].id.scheme) == 0 &&
                   strcmp(seen.data[i].id.id, entries[i].id.id) == 0,
               "entry %d as it was given", i);
    }
    deallocate_ACL_vector(&seen);
    EXPECT_CODE(ZNOAUTH, zoo_set(client, "/c/acl", "y", 1, -1));
    EXPECT_CODE(ZBADVERSION, zoo_set_acl(client, "/c/acl", 3, &ZOO_OPEN_ACL_UNSAFE));
    EXPECT_OK(zoo_set_acl(client, "/c/acl", 0, &ZOO_OPEN_ACL_UNSAFE));
    EXPECT_OK(zoo_set(client, "/c/acl", "y", 1, -1));
    part_is_ok("access-lists");
}

static void watches(zhandle_t *client) {
    struct events data = NO_EVENTS, children = NO_EVENTS, existence = NO_EVENTS;
    struct Stat stat;
    struct String_vector names;
    char bytes[8];
    int length = sizeof bytes;
    EXPECT_CODE(ZNONODE, zoo_wexists(client, "/c/w", keep_event, &existence, &stat));
    EXPECT_OK(zoo_create(client, "/c/w", "0", 1, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    expect_event(&existence, ZOO_CREATED_EVENT, "/c/w");
    EXPECT_OK(zoo_wget(client, "/c/w", keep_event, &data, bytes, &length, &stat));
    EXPECT_OK(zoo_wget_children(client, "/c/w", keep_event, &children, &names));
    deallocate_String_vector(&names);
    EXPECT_OK(zoo_create(client, "/c/w/x", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    expect_event(&children, ZOO_CHILD_EVENT, "/c/w");
    EXPECT_OK(zoo_set(client, "/c/w", "1", 1, -1));
    expect_event(&data, ZOO_CHANGED_EVENT, "/c/w");
    /* All three have fired, and nothing was armed again. */
    EXPECT_OK(zoo_set(client, "/c/w", "2", 1, -1));
    EXPECT_OK(zoo_delete(client, "/c/w/x", -1));
    EXPECT_OK(zoo_wexists(client, "/c/w", keep_event, &existence, &stat));
    EXPECT_OK(zoo_delete(client, "/c/w", -1));
    expect_event(&existence, ZOO_DELETED_EVENT, "/c/w");
    expect_no_more(&data);
    expect_no_more(&children);
    expect_no_more(&existence);
    part_is_ok("watches");
}

static void multi(zhandle_t *client) {
    char name[PATH_MAX_BYTES];
    struct Stat changed, gone;
    zoo_op_t good[4], bad[3];
    zoo_op_result_t results[4];
    zoo_create_op_init(&good[0], "/c/m", "x", 1, &ZOO_OPEN_ACL_UNSAFE, 0, name, sizeof name);
    zoo_check_op_init(&good[1], "/c/m", 0);
    zoo_set_op_init(&good[2], "/c/m", "y", 1, 0, &changed);
    zoo_create_op_init(&good[3], "/c/m/child", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    EXPECT_OK(zoo_multi(client, 4, good, results));
    for (int i = 0; i < 4; i++) {
        EXPECT(results[i].err == ZOK, "operation %d is done, not %d", i, results[i].err);
    }
    EXPECT(strcmp(name, "/c/m") == 0 && changed.version == 1, "the results %s and version %d", name, changed.version);
    zoo_delete_op_init(&bad[0], "/c/m/child", -1);
    zoo_set_op_init(&bad[1], "/c/m", "z", 1, 0, NULL);
    zoo_delete_op_init(&bad[2], "/c/m", -1);
    EXPECT_CODE(ZBADVERSION, zoo_multi(client, 3, bad, results));
    EXPECT(results[0].err == ZOK, "nothing said of the operation before, not %d", results[0].err);
    EXPECT(results[1].err == ZBADVERSION, "the reason, not %d", results[1].err);
    EXPECT(results[2].err == ZRUNTIMEINCONSISTENCY, "what follows is not tried, not %d", results[2].err);
    EXPECT_OK(zoo_exists(client, "/c/m/child", 0, &gone));
    part_is_ok("multi");
}

/* Answers to requests that were all in flight, as they come. */
struct answers {
    pthread_mutex_t lock;
    pthread_cond_t all;
    int count;
    int64_t last_zxid;
};

static struct answers answers = {.lock = PTHREAD_MUTEX_INITIALIZER, .all = PTHREAD_COND_INITIALIZER};

static void answer_came(intptr_t number) {
    pthread_mutex_lock(&answers.lock);
    EXPECT(number == answers.count, "answer %d next, not %d", answers.count, (int)number);
    answers.count++;
    pthread_cond_signal(&answers.all);
    pthread_mutex_unlock(&answers.lock);
}

static void await_answers(int count) {
    struct timespec until = deadline();
    pthread_mutex_lock(&answers.lock);
    for (int code = 0; answers.count < count && code == 0;) {
        code = pthread_cond_timedwait(&answers.all, &answers.lock, &until);
    }
    EXPECT(answers.count == count, "%d answers, not %d", count, answers.count);
    answers.count = 0;
    pthread_mutex_unlock(&answers.lock);
}

static void created(int code, const char *path, const struct Stat *stat, const void *number) {
    char wanted[PATH_MAX_BYTES];
    EXPECT_OK(code);
    snprintf(wanted, sizeof wanted, "/c/p/n-%010d", (int)(intptr_t)number);
    EXPECT(strcmp(path, wanted) == 0, "%s, not %s", wanted, path);
    EXPECT(stat->czxid > answers.last_zxid, "creations in the order of their requests");
    answers.last_zxid = stat->czxid;
    answer_came((intptr_t)number);
}

static void deleted(int code, const void *number) {
    EXPECT_OK(code);
    answer_came((intptr_t)number);
}

static void pipelined(zhandle_t *client) {
    EXPECT_OK(zoo_create(client, "/c/p", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    for (intptr_t i = 0; i < PIPELINED; i++) {
        EXPECT_OK(zoo_acreate2(client, "/c/p/n-", "x", 1, &ZOO_OPEN_ACL_UNSAFE, ZOO_PERSISTENT_SEQUENTIAL, created, (void *)i));
    }
    /* A read behind the writes sees them all. */
    struct String_vector names;
    EXPECT_OK(zoo_get_children(client, "/c/p", 0, &names));
    EXPECT(names.count == PIPELINED, "%d children, not %d", PIPELINED, names.count);
    await_answers(PIPELINED);
    for (intptr_t i = 0; i < PIPELINED; i++) {
        char path[PATH_MAX_BYTES];
        snprintf(path, sizeof path, "/c/p/n-%010d", (int)i);
        EXPECT_OK(zoo_adelete(client, path, 0, deleted, (void *)i));
    }
    await_answers(PIPELINED);
    deallocate_String_vector(&names);
    part_is_ok("pipelined");
}

static void synced(int code, const char *path, const void *number) {
    EXPECT_OK(code);
    EXPECT(strcmp(path, "/c/s") == 0, "the path of the sync, not %s", path);
    answer_came((intptr_t)number);
}

static void made(int code, const char *path, const void *number) {
    EXPECT_OK(code);
    EXPECT(strncmp(path, "/c/x/", 5) == 0, "the path of a new node, not %s", path);
    answer_came((intptr_t)number);
}

static void read_back(int code, const char *value, int length, const struct Stat *stat, const void *number) {
    EXPECT_OK(code);
    EXPECT(length == 1 && value[0] == 'x' && stat->version == 0, "the data that was created");
    answer_came((intptr_t)number);
}

/* So many times a sync, a write, a read and a write again, without waiting for answers. */
static void burst(zhandle_t *client, int rounds) {
    enum { KINDS = 4 };
    char path[PATH_MAX_BYTES];
    for (intptr_t i = 0; i < rounds * KINDS; i += KINDS) {
        snprintf(path, sizeof path, "/c/x/%d", (int)i);
        EXPECT_OK(zoo_async(client, "/c/s", synced, (void *)i));
        EXPECT_OK(zoo_acreate(client, path, "x", 1, &ZOO_OPEN_ACL_UNSAFE, 0, made, (void *)(i + 1)));
        EXPECT_OK(zoo_aget(client, path, 0, read_back, (void *)(i + 2)));
        EXPECT_OK(zoo_adelete(client, path, 0, deleted, (void *)(i + 3)));
    }
    await_answers(rounds * KINDS);
}

/* Each kind of request takes another way through the servers, and still answers come in order. */
static void mixed(zhandle_t *client) {
    EXPECT_OK(zoo_create(client, "/c/x", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    for (int i = 0; i < 200; i++) {
        burst(client, 1);
    }
    burst(client, 200);
    part_is_ok("mixed");
}

/* After a sync, a client sees what another wrote before through another server. */
static void syncs(zhandle_t *writer, zhandle_t *reader) {
    EXPECT_OK(zoo_create(writer, "/c/s", "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0));
    enum { ROUNDS = 50 };
    for (intptr_t i = 0; i < ROUNDS; i++) {
        struct Stat written, seen;
        EXPECT_OK(zoo_set2(writer, "/c/s", "x", 1, (int)i, &written));
        EXPECT_OK(zoo_async(reader, "/c/s", synced, (void *)i));
        EXPECT_OK(zoo_exists(reader, "/c/s", 0, &seen));
        EXPECT(seen.version == written.version, "version %d after a sync, not %d", written.version, seen.version);
    }
    await_answers(ROUNDS);
    part_is_ok("syncs");
}

int main(int count, char **arguments) {
    EXPECT(count == 2, "one argument: HOST:PORT,HOST:PORT,...");
    alarm(WATCHDOG_S);
    /* The library reports every failed attempt to connect; here they are many, and expected. */
    zoo_set_debug_level((ZooLogLevel)0);
    struct events first = NO_EVENTS, second = NO_EVENTS;
    zhandle_t *client = connected(arguments[1], &first);
    zhandle_t *other = connected(arguments[1], &second);
    nodes(client);
    access_lists(client);
    watches(client);
    multi(client);
    pipelined(client);
    syncs(client, other);
    EXPECT_OK(zookeeper_close(client));
    /* The ephemeral node of the closed session is gone. */
    struct Stat stat;
    EXPECT_OK(zoo_async(other, "/c/s", synced, (void *)0));
    EXPECT_CODE(ZNONODE, zoo_exists(other, "/c/e-0000000002", 0, &stat));
    await_answers(1);
    part_is_ok("close");
    EXPECT_OK(zookeeper_close(other));
    reconnection(arguments[1]);
    struct events third = NO_EVENTS;
    zhandle_t *last = connected(arguments[1], &third);
    mixed(last);
    owners_that_are_not_shown(last);
    EXPECT_OK(zookeeper_close(last));
    return 0;
}
