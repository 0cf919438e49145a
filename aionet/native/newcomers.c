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

/* Have whoever waits for input of `stream` woken: at once by the reactor, or as a newcomer. */
int stream_watch(Stream *stream)
{
    Reactor *reactor = stream->reactor;
    if (stream->newcomer && !is_inherited(reactor)) {
        stream->newcomer = 0;
        if ((reactor->newcomers == NULL && (reactor->newcomers = PyList_New(0)) == NULL) ||
            reactor_ask_for_a_turn(reactor) < 0)
            return -1;
        return PyList_Append(reactor->newcomers, (PyObject *)stream);
    }
    return reactor_watch(reactor, stream->fd, (PyObject *)stream);
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
    if (stream_watch(stream) < 0) { /* the one who waits tries again, and is told why that fails */
        PyErr_Clear();
        stream->readable = 1;
        reactor_queue(stream->reactor, stream->reader);
    }
}

static Stream *newcomer(PyObject *newcomers, Py_ssize_t index)
{
    return (Stream *)PyList_GET_ITEM(newcomers, index);
}

static void settle_some(PyObject *newcomers, Py_ssize_t first)
{
    struct pollfd polls[AT_A_TIME]; /* whose events have epoll's numbers */
    int count = 0;
    for (Py_ssize_t i = first; i < PyList_GET_SIZE(newcomers) && count < AT_A_TIME; i++) {
        int fd = waits(newcomer(newcomers, i)) ? newcomer(newcomers, i)->fd : -1;
        polls[count++] = (struct pollfd){.fd = fd, .events = POLLIN | POLLRDHUP};
    }
    int found = poll(polls, count, 0);
    for (int i = 0; i < count; i++)
        settle(newcomer(newcomers, first + i), found > 0 ? polls[i].revents : 0);
}

/* Before tasks are woken. */
void newcomers_settle(Reactor *reactor)
{
    PyObject *newcomers = reactor->newcomers;
    reactor->newcomers = NULL; /* what runs meanwhile may bring others */
    if (newcomers == NULL)
        return;
    for (Py_ssize_t first = 0; first < PyList_GET_SIZE(newcomers) && !is_inherited(reactor); first += AT_A_TIME)
        settle_some(newcomers, first);
    Py_DECREF(newcomers);
}

/* For the collector of garbage: nobody waits any more. */
void newcomers_clear(Reactor *reactor)
{
    for (Py_ssize_t i = 0; reactor->newcomers != NULL && i < PyList_GET_SIZE(reactor->newcomers); i++) {
        Stream *stream = newcomer(reactor->newcomers, i);
        if (stream->reader != NULL)
            stream_clear_reader(stream, stream->reader);
    }
    Py_CLEAR(reactor->newcomers);
}
