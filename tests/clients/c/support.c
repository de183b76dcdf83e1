#include "support.h"

void keep_event(zhandle_t *client, int type, int state, const char *path, void *context) {
    (void)client;
    struct events *events = context;
    pthread_mutex_lock(&events->lock);
    EXPECT(events->count < EVENTS_MAX, "no more than %d events", EVENTS_MAX);
    events->list[events->count].type = type;
    events->list[events->count].state = state;
    snprintf(events->list[events->count].path, PATH_MAX_BYTES, "%s", path ? path : "");
    events->count++;
    pthread_cond_signal(&events->more);
    pthread_mutex_unlock(&events->lock);
}

struct timespec deadline(void) {
    struct timespec then;
    clock_gettime(CLOCK_REALTIME, &then);
    then.tv_sec += PATIENCE_S;
    return then;
}

/* Waits for an event that was not looked at, and returns its place in the list, or -1. The lock is
 * held. */
static int next_event(struct events *events, const struct timespec *until) {
    int code = 0;
    while (events->taken == events->count && code == 0) {
        code = pthread_cond_timedwait(&events->more, &events->lock, until);
    }
    return events->taken < events->count ? events->taken++ : -1;
}

void expect_event(struct events *events, int type, const char *path) {
    struct timespec until = deadline();
    pthread_mutex_lock(&events->lock);
    int i;
    do {
        i = next_event(events, &until);
        EXPECT(i >= 0, "event %d of %s within %d s", type, path, PATIENCE_S);
    } while (events->list[i].type == ZOO_SESSION_EVENT);
    EXPECT(events->list[i].type == type && strcmp(events->list[i].path, path) == 0,
           "event %d of %s, not %d of %s", type, path, events->list[i].type, events->list[i].path);
    pthread_mutex_unlock(&events->lock);
}

void expect_no_more(struct events *events) {
    pthread_mutex_lock(&events->lock);
    for (int i = events->taken; i < events->count; i++) {
        EXPECT(events->list[i].type == ZOO_SESSION_EVENT, "no further event, but there is %d of %s",
               events->list[i].type, events->list[i].path);
    }
    pthread_mutex_unlock(&events->lock);
}

void expect_state(struct events *events, int state) {
    struct timespec until = deadline();
    pthread_mutex_lock(&events->lock);
    int i;
    do {
        i = next_event(events, &until);
        EXPECT(i >= 0, "state %d within %d s", state, PATIENCE_S);
    } while (events->list[i].state != state);
    pthread_mutex_unlock(&events->lock);
}

zhandle_t *connected(const char *servers, struct events *events) {
    zhandle_t *client = zookeeper_init(servers, keep_event, SESSION_TIMEOUT_MS, NULL, events, 0);
    EXPECT(client != NULL, "a client of %s", servers);
    expect_state(events, ZOO_CONNECTED_STATE);
    return client;
}

void part_is_ok(const char *name) {
    printf("ok %s\n", name);
    fflush(stdout);
}
