/* What the parts share: expectations that end the program, and events with a deadline. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zookeeper/zookeeper.h>

enum {
    PATIENCE_S = 20, /* Far longer than anything takes on a machine that is not stuck. */
    SESSION_TIMEOUT_MS = 10000,
    EVENTS_MAX = 64,
    PATH_MAX_BYTES = 128,
};

/* Ends the program unless the condition holds; the rest is what was expected, as for printf. */
#define EXPECT(condition, ...)                                                     \
    do {                                                                           \
        if (!(condition)) {                                                        \
            printf("FAILED %s:%d: expected %s: ", __FILE__, __LINE__, #condition); \
            printf(__VA_ARGS__);                                                   \
            printf("\n");                                                          \
            fflush(stdout);                                                        \
            _Exit(1);                                                              \
        }                                                                          \
    } while (0)

/* Ends the program unless a call returns this code. */
#define EXPECT_CODE(wanted, call)                                                        \
    do {                                                                                 \
        int code_ = (call);                                                              \
        EXPECT(code_ == (wanted), "%s returned %d (%s)", #call, code_, zerror(code_)); \
    } while (0)

#define EXPECT_OK(call) EXPECT_CODE(ZOK, call)

/* Events as they came, in order. */
struct events {
    pthread_mutex_t lock;
    pthread_cond_t more;
    int count; /* How many came. */
    int taken; /* How many of them were looked at. */
    struct {
        int type;
        int state;
        char path[PATH_MAX_BYTES];
    } list[EVENTS_MAX];
};

#define NO_EVENTS {.lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER}

/* A watcher whose context is a `struct events`. */
void keep_event(zhandle_t *client, int type, int state, const char *path, void *context);

/* The next event must be of this type and path. Events of the session are passed over, which every
 * watch is told of. */
void expect_event(struct events *events, int type, const char *path);

/* There must be no event of a node that was not looked at. */
void expect_no_more(struct events *events);

/* An event of the session must bring this state, whatever comes before it. */
void expect_state(struct events *events, int state);

/* Connects, and waits for it. Events of the session go to `events`. */
zhandle_t *connected(const char *servers, struct events *events);

/* The moment by which something must have happened that begins now. */
struct timespec deadline(void);

void part_is_ok(const char *name);

#endif
