/* All connections of the load: opening them, the open or closed loop, and epoll. */
#include "load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { EVENTS = 256, WAIT_MS = 1 };

/* -- queues ------------------------------------------------------------------------------------------------------ */

static void push(LoadQueue *queue, int slot)
{
    queue->slots[(queue->first + queue->length++) % queue->room] = slot;
}

static int pop(LoadQueue *queue)
{
    int slot = queue->slots[queue->first];
    queue->first = (queue->first + 1) % queue->room;
    queue->length--;
    return slot;
}

static int prepare_queue(LoadQueue *queue, int room)
{
    queue->room = room;
    queue->slots = calloc((size_t)room, sizeof *queue->slots);
    return queue->slots == NULL ? -1 : 0;
}

/* A free connection that breaks stays in this queue; who takes it from there sees that. */
static void offer(Load *load, int slot)
{
    if (!load->connections[slot].queued)
        push(&load->free, slot);
    load->connections[slot].queued = 1;
}

/* -- what follows an exchange -------------------------------------------------------------------------------------- */

void load_completed(Load *load, int slot, int64_t now)
{
    LoadConnection *c = &load->connections[slot];
    load_record(&load->histogram, now - c->started);
    load->requests++;
    c->completed++;
    if (!c->served) {
        if (load_stays(load))
            load->opening--;
        c->served = 1;
        load->served++;
    }
    if (!load_stays(load))
        load_close_connection(load, slot);
    if (load->workload == LOAD_IDLE)
        c->phase = LOAD_FREE;
    else if (load->interval == 0 && !(load->resting && load_stays(load)))
        load_ask(load, slot, load_stays(load) ? now : load_now(load));
    else {
        c->phase = load_stays(load) ? LOAD_FREE : LOAD_CLOSED;
        offer(load, slot);
    }
}

static void close_and_reopen(Load *load, int slot)
{
    LoadConnection *c = &load->connections[slot];
    load_close_connection(load, slot);
    c->started = load_now(load) + LOAD_REOPEN_AFTER;
    push(&load->closed, slot);
}

void load_failed(Load *load, int slot, int number)
{
    load->errnos[number > 0 && number < LOAD_ERRNOS ? number : 0]++;
    close_and_reopen(load, slot);
}

void load_mistaken(Load *load, int slot, LoadMistake mistake)
{
    load->mistakes[mistake]++;
    close_and_reopen(load, slot);
}

/* -- what falls due ------------------------------------------------------------------------------------------------ */

/* Open what may be opened by now; whether there was anything. */
static int open_due(Load *load, int64_t now)
{
    int opened = 0;
    for (int left = LOAD_OPENING; left > 0 && load->closed.length > 0 && load->opening < LOAD_OPENING; left--) {
        LoadConnection *next = &load->connections[load->closed.slots[load->closed.first]];
        if (next->started > now)
            break;
        int slot = pop(&load->closed);
        opened = 1;
        if (load_stays(load))
            load_open(load, slot);
        else if (load->interval == 0)
            load_ask(load, slot, load_now(load));
        else
            offer(load, slot);
    }
    return opened;
}

/* Give the requests of an open loop that are due to the connections that are free; whether there were any. */
static int ask_due(Load *load, int64_t now)
{
    int asked = 0;
    while (load->next_due <= now && load->free.length > 0) {
        int slot = pop(&load->free);
        LoadConnection *c = &load->connections[slot];
        c->queued = 0;
        if (load_stays(load) && c->phase != LOAD_FREE)
            continue; /* it broke, and comes back when it was opened again */
        load_ask(load, slot, load->next_due);
        load->next_due += load->interval;
        asked = 1;
    }
    return asked;
}

/* End the rest of a closed loop. */
static void ask_all(Load *load)
{
    while (load->free.length > 0) {
        int slot = pop(&load->free);
        load->connections[slot].queued = 0;
        if (load->connections[slot].phase == LOAD_FREE)
            load_ask(load, slot, load_now(load));
    }
}

static int timeout(const Load *load, int64_t now)
{
    if (!load->wait || (load->interval > 0 && load->next_due - now < WAIT_MS * 1000000))
        return 0;
    return WAIT_MS;
}

void load_drive(Load *load, int64_t nanoseconds, int until_served)
{
    struct epoll_event events[EVENTS];
    if (load->driven_until > 0)
        load->rested += load_now(load) - load->driven_until;
    int64_t now = load_now(load), end = now + nanoseconds;
    if (until_served && load->interval > 0 && !load_stays(load))
        return; /* its connections are requests, and not due yet */
    load->resting = until_served;
    if (!until_served && load->next_due == 0)
        load->next_due = now;
    if (!until_served && load->interval == 0)
        ask_all(load);
    while (now < end && !(until_served && load->served >= load->count)) {
        int busy = load->closed.length > 0 && open_due(load, now);
        if (load->interval > 0 && !until_served)
            busy |= ask_due(load, now);
        int count = epoll_wait(load->epoll, events, EVENTS, busy ? 0 : timeout(load, now));
        for (int i = 0; i < count; i++)
            load_on_event(load, (int)events[i].data.u32, events[i].events);
        int64_t after = load_now(load);
        if (count <= 0 && !busy)
            load->idle += after - now;
        now = after;
    }
    load->driven_until = now;
}

/* -- the life of a run --------------------------------------------------------------------------------------------- */

int load_prepare(Load *load)
{
    size_t length = (size_t)LOAD_PERIOD + (size_t)load->size;
    size_t incoming = (size_t)load->size + 1;
    if (load->workload == LOAD_BULK)
        length = LOAD_STREAM_PERIOD + LOAD_READ_BYTES;
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    load->connections = calloc((size_t)load->count, sizeof *load->connections);
    load->pattern = malloc(length);
    load->incoming = malloc(incoming < LOAD_READ_BYTES ? LOAD_READ_BYTES : incoming);
    if (load->epoll < 0)
        return -1;
    if (!load->connections || !load->pattern || !load->incoming || prepare_queue(&load->closed, load->count) != 0 ||
        prepare_queue(&load->free, load->count) != 0) {
        errno = ENOMEM;
        return -1;
    }
    uint64_t random = UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
    for (size_t i = 0; i < length; i++) {
        uint64_t mixed = random += UINT64_C(0x9e3779b97f4a7c15);
        mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        load->pattern[i] = (char)(load->workload == LOAD_BULK ? i % LOAD_STREAM_PERIOD : mixed >> 56);
    }
    for (int slot = 0; slot < load->count; slot++) {
        load->connections[slot].fd = -1;
        push(&load->closed, slot);
    }
    return 0;
}

void load_begin(Load *load)
{
    memset(&load->histogram, 0, sizeof load->histogram);
    load->requests = load->bytes_compared = 0;
    load->idle = 0;
    for (int slot = 0; slot < load->count; slot++)
        load->connections[slot].completed = 0;
}

void load_finish(Load *load, int64_t patience)
{
    int64_t now = load->driven_until; /* where its clock stands */
    for (int slot = 0; slot < load->count; slot++) {
        LoadConnection *c = &load->connections[slot];
        int asked = c->phase == LOAD_ASKING || c->phase == LOAD_CONNECTING;
        if (asked && load->interval > 0) {
            load_record(&load->histogram, now - c->started);
            load->overdue++;
        } else if (asked && load->workload != LOAD_BULK && now - c->started >= patience)
            load->mistakes[LOAD_NO_ANSWER]++;
        load_close_connection(load, slot);
    }
    for (; load->next_due > 0 && load->interval > 0 && load->next_due <= now; load->next_due += load->interval) {
        load_record(&load->histogram, now - load->next_due);
        load->overdue++;
    }
}

void load_release(Load *load)
{
    for (int slot = 0; load->connections != NULL && slot < load->count; slot++)
        if (load->connections[slot].fd >= 0)
            close(load->connections[slot].fd);
    if (load->epoll >= 0)
        close(load->epoll);
    load->epoll = -1;
    free(load->connections);
    free(load->pattern);
    free(load->incoming);
    free(load->closed.slots);
    free(load->free.slots);
    load->connections = NULL;
    load->pattern = load->incoming = NULL;
    load->closed.slots = load->free.slots = NULL;
}
