/* Newcomers: accepted streams that wait for the first time.
 *
 * Theory of operation
 * -------------------
 * To register a descriptor with epoll, and to have the kernel drop that at the close, is a tenth of what a short
 * connection costs in the kernel; and many a peer has said its last word by the time that the tasks of its batch have
 * had their first steps. So whoever came with several others and waits for the first time is not registered at once,
 * but put on a list that is gone through in the loop's next turn. One poll(2) looks at all of them: who is ready is
 * woken, and registered only if it comes to wait again; the others are registered then. Nothing is lost in between,
 * because a registration begins with an event if there is something already.
 *
 * A stream on the list is not watched, and everybody may treat it so: who has it watched meanwhile for a reason of his
 * own, or closes it, takes it off. The list keeps the streams alive.
 */
#include "native.h"

#include <poll.h>

enum { AT_A_TIME = 64 };

/* -- coming ------------------------------------------------------------------------------------------------------- */

static int make_room(Reactor *reactor)
{
    if (reactor->newcomer_count < reactor->newcomer_room)
        return 0;
    int room = reactor->newcomer_room ? 2 * reactor->newcomer_room : AT_A_TIME;
    Stream **newcomers = PyMem_Realloc(reactor->newcomers, room * sizeof(Stream *));
    if (newcomers == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    reactor->newcomers = newcomers;
    reactor->newcomer_room = room;
    return 0;
}

/* Have whoever waits for input of `stream` woken: at once by the reactor, or as a newcomer. */
int stream_watch(Stream *stream)
{
    Reactor *reactor = stream->reactor;
    if (stream->newcomer && reactor->forks == forks) {
        stream->newcomer = 0;
        if (make_room(reactor) < 0 || reactor_ask_for_a_turn(reactor) < 0)
            return -1;
        reactor->newcomers[reactor->newcomer_count++] = (Stream *)Py_NewRef(stream);
        return 0;
    }
    if (reactor_watch(reactor, stream->fd, (PyObject *)stream) < 0)
        return -1;
    stream->watched = 1;
    return 0;
}

/* -- the next turn ------------------------------------------------------------------------------------------------ */

static int waits(Stream *stream)
{
    return stream->reader != NULL && !stream->readable && !stream->watched && stream->fd >= 0;
}

static void settle(Stream *stream, uint32_t events)
{
    if (events != 0)
        stream_on_events(stream, events);
    if (!waits(stream))
        return;
    if (stream_watch(stream) == 0) {
        stream_anchor(stream);
    } else { /* the one who waits tries again, and is told why that fails */
        PyErr_Clear();
        stream->readable = 1;
        reactor_queue(stream->reactor, stream->reader);
    }
}

static void settle_all(Stream **newcomers, int count)
{
    struct pollfd polls[AT_A_TIME]; /* whose events have epoll's numbers */
    for (int i = 0; i < count; i++)
        polls[i] = (struct pollfd){.fd = waits(newcomers[i]) ? newcomers[i]->fd : -1, .events = POLLIN | POLLRDHUP};
    int found = poll(polls, count, 0);
    for (int i = 0; i < count; i++)
        settle(newcomers[i], found > 0 ? polls[i].revents : 0);
}

/* Before tasks are woken. */
void newcomers_settle(Reactor *reactor)
{
    Stream **newcomers = reactor->newcomers;
    int count = reactor->newcomer_count;
    reactor->newcomers = NULL; /* what runs meanwhile may bring others */
    reactor->newcomer_count = reactor->newcomer_room = 0;
    for (int i = 0; i < count && reactor->forks == forks; i += AT_A_TIME)
        settle_all(newcomers + i, count - i < AT_A_TIME ? count - i : AT_A_TIME);
    for (int i = 0; i < count; i++)
        Py_DECREF(newcomers[i]);
    PyMem_Free(newcomers);
}

/* -- for the collector of garbage --------------------------------------------------------------------------------- */

int newcomers_traverse(Reactor *reactor, visitproc visit, void *arg)
{
    for (int i = 0; i < reactor->newcomer_count; i++)
        Py_VISIT(reactor->newcomers[i]);
    return 0;
}

void newcomers_clear(Reactor *reactor)
{
    while (reactor->newcomer_count > 0) {
        Stream *stream = reactor->newcomers[--reactor->newcomer_count];
        if (stream->reader != NULL)
            stream_clear_reader(stream, stream->reader);
        Py_DECREF(stream);
    }
    PyMem_Free(reactor->newcomers);
    reactor->newcomers = NULL;
    reactor->newcomer_room = 0;
}
