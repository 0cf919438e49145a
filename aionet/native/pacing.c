/* Pacing: large operations wait for their turn when a turn of the loop has moved enough.
 *
 * Theory of operation
 * -------------------
 * wires/pacing.py has the theory and the numbers; this is its form for operations of streams. The reactor counts the
 * bytes that large operations move (`room`). Below 0 the next large operation is put into a queue, and its task waits on
 * a `Wait`: a write after it has gone, a read before it takes anything. Once in each turn of the loop, as long as
 * operations are in the queue, there is room for `turn_bytes` again, and they are woken in the order in which they came,
 * until that room is used up.
 *
 * How much a read will bring is not known. Unless the last one of its stream was small, it may be much. If its event comes
 * when there is no room, its operation goes from the ready queue straight into this one, and its task makes no step for
 * that.
 *
 * The queue owns its operations. One that was cancelled stays in it, and waking it does nothing.
 */
#include "native.h"

static int put_in(Reactor *reactor, Operation *operation)
{
    if (reactor_ask_for_a_turn(reactor) < 0)
        return -1;
    ready_append(&reactor->paced, operation);
    return 0;
}

PySendResult operation_pace(Operation *operation, Phase phase, PyObject **result)
{
    Wait *wait = wait_new(operation->state, operation);
    if (wait == NULL || put_in(operation->stream->reactor, operation) < 0) { /* then one turn is what can be had */
        PyErr_Clear();
        Py_XDECREF(wait);
        return operation_yield_turn(operation, phase == WAITING ? YIELDED_BEFORE : phase, result);
    }
    operation->wait = wait;
    operation->phase = phase;
    *result = Py_NewRef(wait);
    return PYGEN_NEXT;
}

PySendResult operation_give_way(Operation *operation, Py_ssize_t bytes, PyObject **result)
{
    return reactor_paces(operation->stream->reactor, bytes) ? operation_pace(operation, YIELDED_AFTER, result)
                                                            : operation_yield_turn(operation, YIELDED_AFTER, result);
}

/* Asked where there is no room, or others are in the queue. */
int reactor_paces_reader(Reactor *reactor, Operation *operation)
{
    if (operation->phase != WAITING || operation->kind == UNTIL_READABLE ||
        stream_reads_little(operation->stream) || operation->stream->closed)
        return 0;
    if (put_in(reactor, operation) == 0)
        return 1;
    PyErr_Clear();
    return 0;
}

int reactor_wake_paced(Reactor *reactor)
{
    if (reactor->paced.first == NULL)
        return 0;
    reactor->room = reactor->state->turn_bytes;
    while (reactor->paced.first != NULL && reactor->room >= 0) {
        reactor_refill(reactor); /* the one that is woken has given the others their turn */
        if (reactor_wake(reactor, ready_take(&reactor->paced)) < 0)
            return -1;
    }
    if (reactor->paced.first != NULL && reactor_ask_for_a_turn(reactor) < 0) {
        reactor_leave(reactor);
        reactor_on_failure(reactor); /* the next operation that is put in asks again */
    }
    return 0;
}
