/* The load for TLS: as aionet/native/load.h, with TLS 1.3 on every connection and no sessions resumed.
 *
 *     tls_load_generator echo|accept PORT CONNECTIONS SIZE WARM_UP SERVER_PID
 *     cc -O2 -o tls_load_generator tls_load_generator.c -lssl -lcrypto
 *
 * echo:   messages of SIZE bytes on connections that stay; latency from send to the whole reply.
 * accept: connect, a full handshake, one byte out, one byte back, reset (SO_LINGER 0); latency from connect to the byte.
 *
 * N connections in a closed loop, one message in flight on each, spinning on epoll with a zero timeout. Every message is
 * another cut of one random pattern, and every byte that comes back is compared at its place. The certificate is not
 * verified: who the server is was settled by who started it. OpenSSL reads ahead, so what it holds already is asked for
 * before the descriptor is.
 * The warm-up begins when every connection has had its first reply ("until_all_served"; null if that took too long).
 * Then it rests, and measures for as many seconds as each line of its input says, until that ends; its clock stands
 * still meanwhile. The server's processor time is read at both ends of all of it. Prints lines of JSON, as
 * aionet/bench/load_process.py does.
 */
#define _GNU_SOURCE
#if !__has_include(<openssl/ssl.h>)
#error "OpenSSL's headers are missing: install libssl-dev (Debian, Ubuntu) or openssl-devel (Fedora)"
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 256, MOST_FILES = 1 << 17, PERIOD = 8191, LINEAR_BITS = 7, BUCKETS = 8192, MOST_ERRORS = 1000 };

#define SATURATED 0.97 /* busy share from which the load is taken for the limit */
#define SLOWEST_START INT64_C(10000000000) /* nanoseconds */

struct connection {
    SSL *ssl;
    const char *message; /* what was sent and must come back; null before the handshake is done */
    int received, connecting, unsent;
    int64_t started;
    long completed;
};

static struct connection connections[MOST_FILES]; /* by file descriptor */
static struct sockaddr_in address = {.sin_family = AF_INET};
static SSL_CTX *context;
static char *pattern, *incoming;
static int poller, accepting, size;
static int count, settling, closed; /* connections; none is opened any more; so many wait to be */
static uint32_t sequence;
static long completed, bytes_compared, errors, first_replies;
static long histogram[BUCKETS];
static int64_t idle, shortest, longest, total_latency;
static int64_t rested; /* nanoseconds that do not count */

static void die(const char *what)
{
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec - rested;
}

/* Seconds that another process has run, user and system together, ended threads included. */
static double cpu_seconds_of(int pid)
{
    clockid_t clock;
    struct timespec t;
    if ((errno = clock_getcpuclockid(pid, &clock)) != 0 || clock_gettime(clock, &t) != 0)
        die("the server process");
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double own_cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* -- latencies: 128 buckets to every power of two, as in aionet/bench/histogram.py ---------------------------- */

static void record(int64_t nanoseconds)
{
    int shift = nanoseconds < 1 ? 0 : 64 - __builtin_clzll(nanoseconds) - (LINEAR_BITS + 1);
    shortest = nanoseconds < shortest || completed == 0 ? nanoseconds : shortest;
    longest = nanoseconds > longest ? nanoseconds : longest;
    total_latency += nanoseconds;
    histogram[shift <= 0 ? nanoseconds : ((int64_t)shift << LINEAR_BITS) + (nanoseconds >> shift)]++;
}

static void print_histogram(void)
{
    const char *comma = "";
    printf("\"histogram\": {\"linear_bits\": %d, \"total\": %" PRId64 ", \"minimum\": %" PRId64
           ", \"maximum\": %" PRId64 ", \"counts\": {",
           LINEAR_BITS, total_latency, shortest, longest);
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if (histogram[bucket] > 0) {
            printf("%s\"%d\": %ld", comma, bucket, histogram[bucket]);
            comma = ", ";
        }
    printf("}}");
}

/* -- connections ---------------------------------------------------------------------------------------------- */

static void watch(int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event) != 0)
        die("epoll_ctl");
}

static void failed(int fd, const char *what);

/* After a call that did not succeed: wait for what it wants, or give the connection up. */
static void wait_or_fail(int fd, int result, const char *what)
{
    switch (SSL_get_error(connections[fd].ssl, result)) {
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_WANT_WRITE:
        connections[fd].unsent = 1;
        watch(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
        break;
    default:
        failed(fd, what);
    }
}

/* The whole message or nothing: OpenSSL keeps what it has encrypted, and is asked again with the same bytes. */
static void send_message(int fd)
{
    struct connection *c = &connections[fd];
    int sent = SSL_write(c->ssl, c->message, size);
    if (sent <= 0)
        wait_or_fail(fd, sent, "send");
}

static void send_next(int fd)
{
    sequence = (sequence + 61) % PERIOD;
    connections[fd].message = pattern + sequence;
    connections[fd].received = 0;
    send_message(fd);
}

static void wait_for_room_no_more(int fd)
{
    connections[fd].unsent = 0;
    watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void shake_hands(int fd)
{
    int result = SSL_do_handshake(connections[fd].ssl);
    if (result == 1)
        send_next(fd);
    else
        wait_or_fail(fd, result, "handshake");
}

/* accept may not wait for the connection, for connecting is what it measures. */
static void open_connection(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | (accepting ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0 || fd >= MOST_FILES)
        die("socket");
    struct connection *c = &connections[fd];
    *c = (struct connection){.connecting = accepting, .started = now()};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        die("connect");
    if (!accepting)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    watch(EPOLL_CTL_ADD, fd, accepting ? EPOLLOUT : EPOLLIN);
    c->ssl = SSL_new(context);
    if (c->ssl == NULL || !SSL_set_fd(c->ssl, fd))
        die("SSL_new");
    SSL_set_connect_state(c->ssl);
    if (!accepting)
        shake_hands(fd);
}

static void reset_connection(int fd)
{
    struct linger reset = {1, 0};
    SSL_free(connections[fd].ssl);
    connections[fd].ssl = NULL;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
}

static void open_next(void)
{
    if (settling)
        closed++;
    else
        open_connection();
}

static void failed(int fd, const char *what)
{
    fprintf(stderr, "connection %d: %s%s%s\n", fd, what, errno ? ": " : "", errno ? strerror(errno) : "");
    ERR_print_errors_fp(stderr);
    if (++errors >= MOST_ERRORS)
        exit(1);
    reset_connection(fd);
    open_next();
}

static void whole_reply(int fd)
{
    struct connection *c = &connections[fd];
    int64_t t = now();
    record(t - c->started);
    completed++;
    first_replies += c->completed++ == 0;
    c->started = t;
    if (accepting) {
        reset_connection(fd);
        open_next();
    } else {
        send_next(fd);
    }
}

/* Whether a part of the reply came, which may have left more of it in OpenSSL's hands. */
static int receive(int fd)
{
    struct connection *c = &connections[fd];
    errno = 0;
    int received = SSL_read(c->ssl, incoming, size - c->received + 1); /* one more, to see a surplus */
    if (received <= 0) {
        wait_or_fail(fd, received, "receive");
        return 0;
    }
    if (received > size - c->received || memcmp(incoming, c->message + c->received, received) != 0) {
        failed(fd, "mismatch");
        return 0;
    }
    bytes_compared += received;
    c->received += received;
    if (c->received == size) {
        whole_reply(fd);
        return 0;
    }
    return SSL_has_pending(c->ssl);
}

static void on_event(int fd, unsigned events)
{
    struct connection *c = &connections[fd];
    if (c->connecting) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
        if ((errno = error) != 0) {
            failed(fd, "connect");
            return;
        }
        c->connecting = 0;
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
        shake_hands(fd);
        return;
    }
    if (c->message == NULL) {
        if (c->unsent)
            wait_for_room_no_more(fd);
        shake_hands(fd);
        return;
    }
    if (c->unsent && events & EPOLLOUT) {
        wait_for_room_no_more(fd);
        send_message(fd);
    }
    if (events & ~EPOLLOUT)
        while (receive(fd)) {
        }
}

/* -- the run -------------------------------------------------------------------------------------------------- */

/* Until then, or until so many connections have had their first reply, or all have come to their end (`settle`). */
static void drive_until(int64_t end, long enough)
{
    struct epoll_event events[EVENTS];
    for (int64_t t = now(); t < end && first_replies < enough && closed < count;) {
        int ready = epoll_wait(poller, events, EVENTS, 0);
        for (int i = 0; i < ready; i++)
            on_event(events[i].data.fd, events[i].events);
        int64_t after = now();
        if (ready == 0)
            idle += after - t;
        t = after;
    }
}

static void begin_measuring(void)
{
    completed = bytes_compared = idle = 0;
    shortest = longest = total_latency = 0;
    memset(histogram, 0, sizeof histogram);
    for (int fd = 0; fd < MOST_FILES; fd++)
        connections[fd].completed = 0;
}

/* Connections that got less than a tenth of the mean service; connections of the accept workload do not stay. */
static int count_starved(void)
{
    int starved = 0;
    for (int fd = 0; fd < MOST_FILES; fd++)
        starved += connections[fd].started && connections[fd].completed < completed / (10.0 * count);
    return accepting ? 0 : starved;
}

/* Let what was begun come to its end: a server need not be patient with a handshake that rests in the middle. */
static void settle(void)
{
    if (!accepting)
        return;
    settling = 1;
    drive_until(now() + SLOWEST_START, LONG_MAX);
    settling = 0;
}

/* Seconds that were measured altogether. */
static double measure_as_told(void)
{
    char line[64];
    int64_t start = now(), end = start;
    printf("{\"event\": \"ready\"}\n");
    while (fflush(stdout) == 0 && fgets(line, sizeof line, stdin) != NULL) {
        rested += now() - end;
        for (; closed > 0; closed--)
            open_connection();
        drive_until(now() + (int64_t)(atof(line) * 1e9), LONG_MAX);
        settle();
        end = now();
        printf("{\"event\": \"rest\"}\n");
    }
    return (end - start) / 1e9;
}

int main(int argument_count, char **arguments)
{
    if (argument_count != 7 || (strcmp(arguments[1], "echo") && strcmp(arguments[1], "accept"))) {
        fprintf(stderr, "usage: tls_load_generator echo|accept PORT CONNECTIONS SIZE WARM_UP SERVER_PID\n");
        return 2;
    }
    accepting = !strcmp(arguments[1], "accept");
    address.sin_port = htons(atoi(arguments[2]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    count = atoi(arguments[3]);
    int pid = atoi(arguments[6]);
    size = accepting ? 1 : atoi(arguments[4]);
    double warm_up = atof(arguments[5]);
    if (count < 1 || size < 1 || warm_up < 0) {
        fprintf(stderr, "tls_load_generator: connections and size are above 0\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    context = SSL_CTX_new(TLS_client_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION))
        die("SSL_CTX_new");
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    poller = epoll_create1(EPOLL_CLOEXEC);
    pattern = malloc(size + PERIOD);
    incoming = malloc(size + 1);
    for (int i = 0; i < size + PERIOD; i++)
        pattern[i] = (char)random();
    for (int i = 0; i < count; i++)
        open_connection();
    int64_t opened = now();
    drive_until(opened + SLOWEST_START, count); /* a server may take thousands of connections up slowly */
    double until_all_served = first_replies < count ? -1 : (now() - opened) / 1e9;
    drive_until(now() + (int64_t)(warm_up * 1e9), LONG_MAX);
    settle();
    begin_measuring();
    double cpu = cpu_seconds_of(pid), own = own_cpu_seconds();
    double measured = measure_as_told();
    cpu = cpu_seconds_of(pid) - cpu;
    own = own_cpu_seconds() - own;
    double busy = 1 - idle / 1e9 / measured;
    printf("{\"event\": \"result\", \"generator\": \"openssl\", \"requests\": %ld, \"seconds\": %.6f, "
           "\"server_cpu_seconds\": %.6f, \"bytes_compared\": %ld, \"starved\": %d, \"load_cpu_share\": %.4f, "
           "\"busy_share\": %.4f, \"saturated\": %s, ",
           completed, measured, cpu, bytes_compared, count_starved(), own / measured, busy,
           busy > SATURATED ? "true" : "false");
    printf(until_all_served < 0 ? "\"until_all_served\": null, " : "\"until_all_served\": %.3f, ", until_all_served);
    printf(errors > 0 ? "\"errors\": {\"failed\": %ld}, " : "\"errors\": {}, ", errors);
    print_histogram();
    printf("}\n");
    return 0;
}
