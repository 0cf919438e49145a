/* The load generator: what its files share. Nothing in here knows of Python.
 *
 *   load_histogram.c  latencies in log-linear buckets, as in aionet/bench/histogram.py
 *   load_exchange.c   one connection: what it sends, what must come back, and what happens when it does not
 *   load_drive.c      all of them: opening, the open or closed loop, epoll
 *   load.c            the type `Load`, through which Python drives it
 *
 * Theory of operation
 * -------------------
 * One thread *spins* on an epoll instance (a generator that sleeps makes the server pay for waking it, and slower
 * servers pay more often). A connection is registered once, edge-triggered for input and room together, so that an
 * exchange costs the load fewer system calls than it costs the fastest server, and the server is what is measured.
 *
 * The loop is *closed* when there is no rate: the next request of a connection follows its last reply at once. With a
 * rate it is *open*: requests fall due at even intervals whatever the server does, the next free connection takes the
 * one that is due longest, and latency counts from when it was due, not from when it could be sent. What was due and
 * has no reply in the end is recorded with the time that it has waited: nothing slow is left out (coordinated omission).
 *
 * Its clock stands still while nobody drives it, so that several loads can take turns: an answer that comes meanwhile
 * is not late, and nothing falls due.
 *
 * While connections are opened, those that have had their first reply rest: their requests would stand in the way of
 * those that come.
 *
 * Connections to 127.0.0.0/8 start from several addresses of that network in turn, for one has only so many ports.
 */
#ifndef AIONET_LOAD_H
#define AIONET_LOAD_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

enum {
    LOAD_LINEAR_BITS = 7, /* 2 ** 7 buckets to every power of two */
    LOAD_BUCKETS = 7424,  /* up to 2 ** 63 - 1 ns */
    LOAD_ERRNOS = 160,    /* errno is below this */
    LOAD_PERIOD = 8191,   /* prime: messages are cut from a pattern at places that visit all of it */
    LOAD_STREAM_PERIOD = 251, /* byte n of a bulk stream is n % 251 */
    LOAD_READ_BYTES = 256 * 1024,
    LOAD_OPENING = 128, /* connections that are opened and not served yet: fewer than any backlog */
    LOAD_REOPEN_AFTER = 10 * 1000 * 1000, /* ns; a server that is gone is not asked flat out */
};

typedef enum {
    LOAD_ECHO,    /* messages on connections that stay */
    LOAD_ACCEPT,  /* connect, a byte each way, reset */
    LOAD_CONNECT, /* connect, end, wait for the other side's end */
    LOAD_BULK,    /* the server sends without end */
    LOAD_IDLE,    /* one message on each connection, which then stays */
    LOAD_WORKLOADS,
} LoadWorkload;

/* What can be wrong beside an errno. */
typedef enum { LOAD_MISMATCH, LOAD_EARLY_END, LOAD_NO_ANSWER, LOAD_MISTAKES } LoadMistake;

typedef enum { LOAD_CLOSED, LOAD_CONNECTING, LOAD_FREE, LOAD_ASKING } LoadPhase;

typedef struct {
    uint64_t counts[LOAD_BUCKETS];
    uint64_t count, total;
    int64_t minimum, maximum;
} LoadHistogram;

typedef struct {
    const char *message; /* what was sent and must come back */
    int64_t started;     /* when the request began, or was due */
    uint64_t completed;  /* requests since `load_begin` */
    uint64_t offset;     /* of a bulk stream */
    int fd, sent, received;
    char phase, served, ended, queued;
} LoadConnection;

/* First in, first out; a connection is in a queue at most once. */
typedef struct {
    int *slots;
    int first, length, room;
} LoadQueue;

typedef struct {
    LoadWorkload workload;
    struct sockaddr_storage address;
    socklen_t address_length;
    int count, size, sources, wait;
    int64_t interval; /* between requests of an open loop; 0: the loop is closed */

    int epoll;
    LoadConnection *connections;
    LoadQueue closed; /* to be opened, when `started` has come */
    LoadQueue free;   /* ready for a request: of an open loop, or while others are opened */
    int resting;      /* others are opened */
    int opening;      /* opened, not served yet, and to stay */
    int served;       /* connections that have had a reply */
    char *pattern, *incoming;
    uint32_t sequence;

    int64_t next_due;
    int64_t driven_until;
    int64_t rested; /* between the times in which it was driven */
    int64_t idle; /* ns in which there was nothing to do */
    uint64_t requests, bytes_compared, overdue;
    uint64_t errnos[LOAD_ERRNOS], mistakes[LOAD_MISTAKES];
    LoadHistogram histogram;
} Load;

static inline int64_t load_now(const Load *load)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec - load->rested;
}

static inline int load_stays(const Load *load) /* whether a connection serves for more than one request */
{
    return load->workload != LOAD_ACCEPT && load->workload != LOAD_CONNECT;
}

/* -- load_histogram.c ----------------------------------------------------------------------------------------- */

void load_record(LoadHistogram *histogram, int64_t nanoseconds);

/* -- load_exchange.c ------------------------------------------------------------------------------------------ */

void load_open(Load *load, int slot);                    /* connect; what follows comes as events */
void load_ask(Load *load, int slot, int64_t due);        /* begin a request, which counts from then */
void load_on_event(Load *load, int slot, uint32_t events);
void load_close_connection(Load *load, int slot);

/* -- load_drive.c --------------------------------------------------------------------------------------------- */

int load_prepare(Load *load); /* 0, or -1 with errno; all that is above `epoll` was set, the rest is zero */
void load_drive(Load *load, int64_t nanoseconds, int until_served);
void load_begin(Load *load);  /* forget what was counted, but for errors */
void load_finish(Load *load, int64_t patience); /* close everything; count what had no answer for so long */
void load_release(Load *load);
void load_completed(Load *load, int slot, int64_t now); /* a whole reply came; what is next for its connection */
void load_failed(Load *load, int slot, int number);     /* by an errno; it is opened again a little later */
void load_mistaken(Load *load, int slot, LoadMistake mistake);

#endif
