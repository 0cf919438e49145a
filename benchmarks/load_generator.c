/* The load: N connections in a closed loop, one message in flight on each, spinning on epoll with a zero timeout
 * (a generator that sleeps makes the server pay for waking it, and slower servers pay more often).
 *
 *     load_generator echo|accept PORT CONNECTIONS SIZE SECONDS WARM_UP SERVER_PID
 *
 * echo:   messages of SIZE bytes on connections that stay; latency from send to the whole reply.
 * accept: connect, one byte out, one byte back, reset (SO_LINGER 0); latency from connect to the byte.
 *
 * Every message is another cut of one random pattern, and every byte that comes back is compared at its place.
 * The warm-up begins when every connection has had its first reply ("until_all_served"; -1 if that took too long).
 * The server's processor time is read from /proc at both ends of the measured time. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
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

#define SLOWEST_START INT64_C(10000000000) /* nanoseconds */

struct connection {
    const char *message; /* what was sent and must come back */
    int sent, received, connecting;
    int64_t started;
    long completed;
};

static struct connection connections[MOST_FILES]; /* by file descriptor */
static struct sockaddr_in address = {.sin_family = AF_INET};
static char *pattern, *incoming;
static int poller, accepting, size;
static uint32_t sequence;
static long completed, bytes_compared, errors, first_replies;
static long histogram[BUCKETS];
static int64_t idle;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* Seconds that another process has run, user and system together: its threads' nanoseconds (schedstat; the ticks of
 * /proc/PID/stat are a hundredth of a second, which is too coarse for a short run). */
static double cpu_seconds_of(int pid)
{
    char path[PATH_MAX];
    unsigned long long nanoseconds, sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *threads = opendir(path);
    if (threads == NULL)
        die("the server process");
    for (struct dirent *thread; (thread = readdir(threads)) != NULL;) {
        if (thread->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, thread->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL || fscanf(file, "%llu", &nanoseconds) != 1)
            die(path);
        fclose(file);
        sum += nanoseconds;
    }
    closedir(threads);
    return sum / 1e9;
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
    histogram[shift <= 0 ? nanoseconds : ((int64_t)shift << LINEAR_BITS) + (nanoseconds >> shift)]++;
}

static double percentile_seconds(double percent)
{
    long seen = 0, rank = (long)(percent * completed / 100 + 0.999999);
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[bucket];
        if (seen >= rank && seen > 0) {
            int shift = (bucket >> LINEAR_BITS) - 1;
            if (shift <= 0)
                return bucket / 1e9;
            int64_t lowest = (bucket - ((int64_t)shift << LINEAR_BITS)) << shift;
            return (lowest + ((INT64_C(1) << shift) - 1) / 2.0) / 1e9;
        }
    }
    return 0;
}

/* -- connections ---------------------------------------------------------------------------------------------- */

static void watch(int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event) != 0)
        die("epoll_ctl");
}

static void send_some(int fd)
{
    struct connection *c = &connections[fd];
    int whole_before = c->sent == 0;
    ssize_t sent = send(fd, c->message + c->sent, size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN)
        return; /* the receiving side will tell */
    c->sent += sent < 0 ? 0 : sent;
    if (c->sent < size)
        watch(EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT);
    else if (!whole_before)
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
}

static void send_next(int fd)
{
    struct connection *c = &connections[fd];
    sequence = (sequence + 61) % PERIOD;
    c->message = pattern + sequence;
    c->sent = c->received = 0;
    send_some(fd);
}

/* echo connects in peace before it begins; accept may not wait, for connecting is what it measures. */
static int open_connection(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | (accepting ? SOCK_NONBLOCK : 0), 0);
    if (fd < 0 || fd >= MOST_FILES)
        die("socket");
    struct connection *c = &connections[fd];
    *c = (struct connection){.connecting = accepting, .started = now()};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        die("connect");
    watch(EPOLL_CTL_ADD, fd, accepting ? EPOLLOUT : EPOLLIN);
    return fd;
}

static void reset_connection(int fd)
{
    struct linger reset = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
}

static void failed(int fd, const char *what)
{
    fprintf(stderr, "connection %d: %s%s%s\n", fd, what, errno ? ": " : "", errno ? strerror(errno) : "");
    if (++errors >= MOST_ERRORS)
        exit(1);
    reset_connection(fd);
    fd = open_connection();
    if (!accepting)
        send_next(fd);
}

static void receive(int fd)
{
    struct connection *c = &connections[fd];
    errno = 0;
    ssize_t received = recv(fd, incoming, size - c->received + 1, MSG_DONTWAIT); /* one more, to see a surplus */
    if (received <= 0) {
        if (received == 0 || errno != EAGAIN)
            failed(fd, received == 0 ? "early end" : "recv");
        return;
    }
    if (received > size - c->received || memcmp(incoming, c->message + c->received, received) != 0) {
        failed(fd, "mismatch");
        return;
    }
    bytes_compared += received;
    c->received += received;
    if (c->received < size)
        return;
    int64_t t = now();
    record(t - c->started);
    completed++;
    first_replies += c->completed++ == 0;
    c->started = t;
    if (accepting) {
        reset_connection(fd);
        open_connection();
    } else {
        send_next(fd);
    }
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
        send_next(fd);
        return;
    }
    if (events & EPOLLOUT)
        send_some(fd);
    if (events & ~EPOLLOUT)
        receive(fd);
}

/* -- the run -------------------------------------------------------------------------------------------------- */

/* Until then, or until so many connections have had their first reply. */
static void drive_until(int64_t end, long enough)
{
    struct epoll_event events[EVENTS];
    for (int64_t t = now(); t < end && first_replies < enough;) {
        int count = epoll_wait(poller, events, EVENTS, 0);
        for (int i = 0; i < count; i++)
            on_event(events[i].data.fd, events[i].events);
        int64_t after = now();
        if (count == 0)
            idle += after - t;
        t = after;
    }
}

static void begin_measuring(void)
{
    completed = bytes_compared = idle = 0;
    memset(histogram, 0, sizeof histogram);
    for (int fd = 0; fd < MOST_FILES; fd++)
        connections[fd].completed = 0;
}

/* Connections that got less than a tenth of the mean service; connections of the accept workload do not stay. */
static int count_starved(int count)
{
    int starved = 0;
    for (int fd = 0; fd < MOST_FILES; fd++)
        starved += connections[fd].message != NULL && connections[fd].completed < completed / (10.0 * count);
    return accepting ? 0 : starved;
}

int main(int argument_count, char **arguments)
{
    if (argument_count != 8 || (strcmp(arguments[1], "echo") && strcmp(arguments[1], "accept"))) {
        fprintf(stderr, "usage: load_generator echo|accept PORT CONNECTIONS SIZE SECONDS WARM_UP SERVER_PID\n");
        return 2;
    }
    accepting = !strcmp(arguments[1], "accept");
    address.sin_port = htons(atoi(arguments[2]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int count = atoi(arguments[3]), pid = atoi(arguments[7]);
    size = accepting ? 1 : atoi(arguments[4]);
    double seconds = atof(arguments[5]), warm_up = atof(arguments[6]);
    if (count < 1 || size < 1 || seconds <= 0 || warm_up < 0) {
        fprintf(stderr, "load_generator: connections, size and seconds are above 0\n");
        return 2;
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    pattern = malloc(size + PERIOD);
    incoming = malloc(size + 1);
    for (int i = 0; i < size + PERIOD; i++)
        pattern[i] = (char)random();
    for (int i = 0; i < count; i++)
        open_connection();
    if (!accepting)
        for (int fd = 0; fd < MOST_FILES; fd++)
            if (connections[fd].started) {
                connections[fd].started = now();
                send_next(fd);
            }
    int64_t opened = now();
    drive_until(opened + SLOWEST_START, count); /* a server may take thousands of connections up slowly */
    double until_all_served = first_replies < count ? -1 : (now() - opened) / 1e9;
    drive_until(now() + (int64_t)(warm_up * 1e9), LONG_MAX);
    begin_measuring();
    int64_t start = now();
    double cpu = cpu_seconds_of(pid), own = own_cpu_seconds();
    drive_until(start + (int64_t)(seconds * 1e9), LONG_MAX);
    double measured = (now() - start) / 1e9;
    cpu = cpu_seconds_of(pid) - cpu;
    own = own_cpu_seconds() - own;
    printf("{\"completed\": %ld, \"seconds\": %.6f, \"server_cpu_seconds\": %.6f, \"p50\": %.9f, \"p99\": %.9f, "
           "\"p99_9\": %.9f, \"bytes_compared\": %ld, \"errors\": %ld, \"starved\": %d, \"load_cpu_share\": %.4f, "
           "\"load_busy_share\": %.4f, \"until_all_served\": %.3f}\n",
           completed, measured, cpu, percentile_seconds(50), percentile_seconds(99), percentile_seconds(99.9),
           bytes_compared, errors, count_starved(count), own / measured, 1 - idle / 1e9 / measured,
           until_all_served);
    return 0;
}
