/* The limit: a server on epoll with nothing else in it. Its requests per CPU second are the 1.00 that every other
 * server is compared with.
 *
 *     c_epoll echo|bulk        prints {"port": N} and serves until its standard input ends
 *
 * One thread, level-triggered, one recv of up to 64 KiB and one send per event: the fewest system calls that an
 * echo can do with. For the accept workload it echoes the one byte and waits for the reset. For bulk it sends a
 * stream of which byte n is n % 251, 65,511 bytes at a time, whenever there is room. TCP_NODELAY is set and the
 * backlog is 4096, as with all servers that it is compared with.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 65536, EVENTS = 256, BACKLOG = 4096, MOST_FILES = 1 << 17, STREAM_PERIOD = 251, STREAM_BYTES = 251 * 261 };

/* What a connection could not send yet; null for nearly all of them nearly all the time. */
struct unsent {
    size_t length, sent;
    char bytes[];
};

static struct unsent *unsent_of[MOST_FILES];
static char buffer[READ_BYTES], stream[STREAM_BYTES + STREAM_PERIOD];
static unsigned char stream_place[MOST_FILES]; /* where in the period the next byte is */
static int poller, bulk;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void watch(int operation, int fd, unsigned events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poller, operation, fd, &event) != 0)
        die("epoll_ctl");
}

static void end_connection(int fd)
{
    free(unsent_of[fd]);
    unsent_of[fd] = NULL;
    close(fd);
}

static int listen_anywhere(void)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 ||
        listen(listener, BACKLOG) != 0 || getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        die("listen");
    printf("{\"port\": %d}\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void accept_all(int listener)
{
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MOST_FILES) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        stream_place[fd] = 0;
        watch(EPOLL_CTL_ADD, fd, bulk ? EPOLLOUT : EPOLLIN);
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        die("accept");
}

static void keep_unsent(int fd, const char *bytes, size_t length)
{
    struct unsent *rest = malloc(sizeof *rest + length);
    if (rest == NULL)
        die("malloc");
    rest->length = length;
    rest->sent = 0;
    memcpy(rest->bytes, bytes, length);
    unsent_of[fd] = rest;
    watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
}

static void send_rest(int fd)
{
    struct unsent *rest = unsent_of[fd];
    ssize_t sent = send(fd, rest->bytes + rest->sent, rest->length - rest->sent, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            end_connection(fd);
        return;
    }
    rest->sent += sent;
    if (rest->sent == rest->length) {
        free(rest);
        unsent_of[fd] = NULL;
        watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    }
}

static void echo(int fd)
{
    ssize_t received = recv(fd, buffer, sizeof buffer, 0);
    if (received <= 0) {
        if (received == 0 || errno != EAGAIN)
            end_connection(fd);
        return;
    }
    ssize_t sent = send(fd, buffer, received, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN)
        end_connection(fd);
    else if (sent < received)
        keep_unsent(fd, buffer + (sent < 0 ? 0 : sent), received - (sent < 0 ? 0 : sent));
}

static void send_stream(int fd)
{
    ssize_t sent = send(fd, stream + stream_place[fd], STREAM_BYTES, MSG_NOSIGNAL);
    if (sent >= 0)
        stream_place[fd] = (stream_place[fd] + sent) % STREAM_PERIOD;
    else if (errno != EAGAIN)
        end_connection(fd);
}

int main(int argument_count, char **arguments)
{
    struct epoll_event events[EVENTS];
    if (argument_count != 2 || (strcmp(arguments[1], "echo") && strcmp(arguments[1], "bulk"))) {
        fprintf(stderr, "usage: c_epoll echo|bulk\n");
        return 2;
    }
    bulk = !strcmp(arguments[1], "bulk");
    for (int i = 0; i < STREAM_BYTES + STREAM_PERIOD; i++)
        stream[i] = (char)(i % STREAM_PERIOD);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_anywhere();
    watch(EPOLL_CTL_ADD, listener, EPOLLIN);
    watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN);
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == STDIN_FILENO)
                return 0;
            if (fd == listener)
                accept_all(listener);
            else if (bulk)
                send_stream(fd);
            else if (unsent_of[fd] != NULL)
                send_rest(fd);
            else
                echo(fd);
        }
    }
}
