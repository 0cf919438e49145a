/* One connection of the load: what it sends, what must come back, and what happens when it does not.
 *
 * Every message is another cut of one random pattern, so a reply that belongs elsewhere differs; every byte that comes
 * back is compared at its place, and one more than is due is asked for, so that a surplus is noticed, too.
 *
 * Edge-triggered: an event may say several things at once, and says them once. What it said of the end is kept
 * (`ended`) until the input before it was taken.
 */
#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24 /* ip(7), Linux 4.2 */
#endif

/* -- opening and closing --------------------------------------------------------------------------------------- */

/* From another address of 127.0.0.0/8, and a port that is chosen when it is known where to. */
static int bind_source(const Load *load, int slot, int fd)
{
    int one = 1;
    struct sockaddr_in source = {.sin_family = AF_INET};
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(slot % load->sources));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    return bind(fd, (struct sockaddr *)&source, sizeof source);
}

static int connect_descriptor(const Load *load, int slot, int fd)
{
    int one = 1;
    struct linger reset = {1, 0};
    struct epoll_event event = {.data.u32 = (uint32_t)slot};
    event.events = load->workload == LOAD_BULK ? EPOLLIN : EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
    if (load->address.ss_family != AF_UNIX) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (load->workload != LOAD_CONNECT)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset); /* no TIME_WAIT, which would hold the port */
        if (load->sources > 0 && bind_source(load, slot, fd) != 0)
            return -1;
    }
    if (connect(fd, (const struct sockaddr *)&load->address, load->address_length) != 0 && errno != EINPROGRESS)
        return -1;
    return epoll_ctl(load->epoll, EPOLL_CTL_ADD, fd, &event);
}

void load_open(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    int fd = socket(load->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    c->fd = fd;
    c->phase = LOAD_CONNECTING;
    c->sent = c->received = c->ended = 0;
    c->offset = 0;
    if (load_stays(load) && !c->served)
        load->opening++;
    if (fd < 0 || connect_descriptor(load, slot, fd) != 0)
        load_failed(load, slot, errno);
}

void load_close_connection(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    if (load_stays(load) && !c->served && c->phase != LOAD_CLOSED)
        load->opening--;
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->phase = LOAD_CLOSED;
}

/* -- asking ------------------------------------------------------------------------------------------------------ */

static void send_some(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    ssize_t sent = send(c->fd, c->message + c->sent, load->size - c->sent, MSG_NOSIGNAL);
    if (sent >= 0)
        c->sent += (int)sent;
    else if (errno != EAGAIN)
        load_failed(load, slot, errno);
}

static void send_next(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    load->sequence = (load->sequence + 61) % LOAD_PERIOD;
    c->message = load->pattern + load->sequence;
    c->sent = c->received = 0;
    c->phase = LOAD_ASKING;
    send_some(load, slot);
}

void load_ask(Load *load, int slot, int64_t due)
{
    load->connections[slot].started = due;
    if (load_stays(load))
        send_next(load, slot);
    else
        load_open(load, slot);
}

static void finish_connecting(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    int error = 0;
    socklen_t length = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length);
    if (error != 0) {
        load_failed(load, slot, error);
        return;
    }
    c->phase = LOAD_ASKING;
    if (load->workload == LOAD_CONNECT)
        shutdown(c->fd, SHUT_WR);
    else if (load->workload != LOAD_BULK) {
        if (load_stays(load))
            c->started = load_now(load); /* only the other workloads count connecting */
        send_next(load, slot);
    }
}

/* -- answers ----------------------------------------------------------------------------------------------------- */

static void receive_reply(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    int missing = load->size - c->received;
    ssize_t received = recv(c->fd, load->incoming, (size_t)missing + 1, 0);
    if (received < 0) {
        if (errno != EAGAIN)
            load_failed(load, slot, errno);
        return;
    }
    if (received == 0)
        load_mistaken(load, slot, LOAD_EARLY_END);
    else if (received > missing || memcmp(load->incoming, c->message + c->received, (size_t)received) != 0)
        load_mistaken(load, slot, LOAD_MISMATCH);
    else {
        load->bytes_compared += (uint64_t)received;
        c->received += (int)received;
        if (c->received < load->size) {
            if (c->ended) /* the rest, or the end */
                receive_reply(load, slot);
        } else if (c->ended && load_stays(load))
            load_mistaken(load, slot, LOAD_EARLY_END);
        else
            load_completed(load, slot, load_now(load));
    }
}

static void receive_stream(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    ssize_t received = recv(c->fd, load->incoming, LOAD_READ_BYTES, 0);
    if (received < 0) {
        if (errno != EAGAIN)
            load_failed(load, slot, errno);
        return;
    }
    if (received == 0)
        load_mistaken(load, slot, LOAD_EARLY_END);
    else if (memcmp(load->incoming, load->pattern + c->offset % LOAD_STREAM_PERIOD, (size_t)received) != 0)
        load_mistaken(load, slot, LOAD_MISMATCH);
    else {
        uint64_t size = (uint64_t)load->size, before = c->offset / size;
        c->offset += (uint64_t)received;
        load->bytes_compared += (uint64_t)received;
        load->requests += c->offset / size - before;
        c->completed += c->offset / size - before;
        if (!c->served) {
            c->served = 1;
            load->served++;
            load->opening--;
        }
    }
}

/* The other side ends in answer to our end, and has nothing to say before. */
static void receive_end(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    ssize_t received = recv(c->fd, load->incoming, 1, 0);
    if (received < 0) {
        if (errno != EAGAIN)
            load_failed(load, slot, errno);
    } else if (received > 0)
        load_mistaken(load, slot, LOAD_MISMATCH);
    else
        load_completed(load, slot, load_now(load));
}

/* Nothing was asked: input is a surplus, and an end comes too early. */
static void receive_unasked(Load *load, int slot)
{
    ssize_t received = recv(load->connections[slot].fd, load->incoming, 1, 0);
    if (received > 0)
        load_mistaken(load, slot, LOAD_MISMATCH);
    else if (received == 0)
        load_mistaken(load, slot, LOAD_EARLY_END);
    else if (errno != EAGAIN)
        load_failed(load, slot, errno);
}

void load_on_event(Load *load, int slot, uint32_t events)
{
    LoadConnection *c = &load->connections[slot];
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->ended = 1;
    if (c->phase == LOAD_CONNECTING) {
        if (!(events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) && load->workload != LOAD_BULK)
            return;
        finish_connecting(load, slot);
        if (c->phase != LOAD_ASKING || !(events & EPOLLIN))
            return;
    }
    if (c->phase == LOAD_ASKING && c->sent < load->size && load_stays(load) && load->workload != LOAD_BULK)
        send_some(load, slot);
    if (!(events & ~(uint32_t)EPOLLOUT))
        return;
    if (c->phase == LOAD_FREE)
        receive_unasked(load, slot);
    else if (c->phase == LOAD_ASKING) {
        if (load->workload == LOAD_BULK)
            receive_stream(load, slot);
        else if (load->workload == LOAD_CONNECT)
            receive_end(load, slot);
        else
            receive_reply(load, slot);
    }
}
