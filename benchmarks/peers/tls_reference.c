/* The limit for TLS: an echo server on epoll and OpenSSL with nothing else in it. Its requests per CPU second are the
 * 1.00 that every other TLS server is compared with.
 *
 *     tls_reference echo CERTIFICATE KEY     PEM files; prints {"port": N} and serves until its standard input ends
 *     cc -O2 -o tls_reference tls_reference.c -lssl -lcrypto
 *
 * One thread, level-triggered. OpenSSL works on the descriptor itself and reads ahead, so a record costs one recv and
 * one send (without reading ahead it is two recv; through memory BIOs each byte is copied twice more). TLS 1.3, two
 * tickets, buffers released while idle: what Python's `ssl.create_default_context` gives its servers, so that only the
 * program differs. TCP_NODELAY is set and the backlog is 4096, as with all servers that it is compared with.
 */
#define _GNU_SOURCE
#if !__has_include(<openssl/ssl.h>)
#error "OpenSSL's headers are missing: install libssl-dev (Debian, Ubuntu) or openssl-devel (Fedora)"
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 65536, EVENTS = 256, BACKLOG = 4096, MOST_FILES = 1 << 17 };

/* One record at most is in hand, for nothing is read while a reply waits for room. */
struct connection {
    SSL *ssl;
    char *unsent; /* null for nearly all of them nearly all the time */
    int unsent_length, writing;
};

static struct connection connections[MOST_FILES]; /* by file descriptor */
static char buffer[READ_BYTES];
static SSL_CTX *context;
static int poller;

static void die(const char *what)
{
    perror(what);
    ERR_print_errors_fp(stderr);
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
    SSL_free(connections[fd].ssl);
    free(connections[fd].unsent);
    connections[fd] = (struct connection){0};
    close(fd);
}

static void make_context(const char *certificate, const char *key)
{
    context = SSL_CTX_new(TLS_server_method());
    if (context == NULL || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        die("the certificate or its key");
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
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
        SSL *ssl = connections[fd].ssl = SSL_new(context);
        if (ssl == NULL || !SSL_set_fd(ssl, fd))
            die("SSL_new");
        SSL_set_accept_state(ssl);
        watch(EPOLL_CTL_ADD, fd, EPOLLIN);
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        die("accept");
}

/* After a call that did not succeed: whether the connection goes on. It waits for room if that is what is missing. */
static int goes_on(int fd, int result)
{
    struct connection *c = &connections[fd];
    int error = SSL_get_error(c->ssl, result);
    if (error == SSL_ERROR_WANT_READ)
        return 1;
    if (error == SSL_ERROR_WANT_WRITE) {
        if (!c->writing)
            watch(EPOLL_CTL_MOD, fd, EPOLLOUT);
        c->writing = 1;
        return 1;
    }
    ERR_clear_error();
    end_connection(fd);
    return 0;
}

static int reply(int fd, const char *bytes, int length)
{
    struct connection *c = &connections[fd];
    int sent = SSL_write(c->ssl, bytes, length);
    if (sent > 0)
        return 1;
    if (goes_on(fd, sent) && c->unsent == NULL) {
        c->unsent = malloc(length);
        if (c->unsent == NULL)
            die("malloc");
        memcpy(c->unsent, bytes, c->unsent_length = length);
    }
    return 0;
}

/* Whether what was begun is finished now. */
static int finish_writing(int fd)
{
    struct connection *c = &connections[fd];
    if (c->unsent != NULL) {
        if (!reply(fd, c->unsent, c->unsent_length))
            return 0;
        free(c->unsent);
        c->unsent = NULL;
    }
    watch(EPOLL_CTL_MOD, fd, EPOLLIN);
    c->writing = 0;
    return 1;
}

static void on_event(int fd)
{
    struct connection *c = &connections[fd];
    if (c->writing && !finish_writing(fd))
        return;
    if (!SSL_is_init_finished(c->ssl)) {
        int result = SSL_do_handshake(c->ssl);
        if (result <= 0) {
            goes_on(fd, result);
            return;
        }
        if (!SSL_has_pending(c->ssl))
            return; /* level-triggered: what the kernel has is told again */
    }
    do {
        int received = SSL_read(c->ssl, buffer, sizeof buffer);
        if (received <= 0) {
            goes_on(fd, received);
            return;
        }
        if (!reply(fd, buffer, received))
            return;
    } while (SSL_has_pending(c->ssl));
}

int main(int argument_count, char **arguments)
{
    struct epoll_event events[EVENTS];
    if (argument_count != 4 || strcmp(arguments[1], "echo")) {
        fprintf(stderr, "usage: tls_reference echo CERTIFICATE KEY\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    make_context(arguments[2], arguments[3]);
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
            else
                on_event(fd);
        }
    }
}
