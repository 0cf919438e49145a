/* Operation: what is awaited when a stream is asked to receive or send.
 *
 * Theory of operation
 * -------------------
 * An operation is a coroutine in C: nothing happens before it is awaited, and what happens then happens in the
 * step of the task that awaits it. It tries at once; if that would block it makes itself the stream's reader and
 * yields a `Wait`; woken, it tries again. So a task that is cancelled while it waits has taken nothing.
 *
 * What is not simple goes on in Python: a `delegate` coroutine takes the operation over, for reads out of a buffer
 * above the wire, bad arguments, and writes that have to queue.
 *
 * Fairness: what completes at once takes from the loop's `budget`, by the operation and by the byte. When that is
 * used up, reads yield a turn before they take anything, so that a cancellation loses nothing; writes after, because
 * writes go in the order of their calls.
 *
 * A step may call Python: the delegate, a signal handler, a method of the stream. Such code may hold the operation and
 * call its `send`, `throw` or `close`. That raises ValueError while a step is made (`running`), as CPython's coroutines
 * do: otherwise the delegate would be freed while it runs.
 */
#include "native.h"

#include <sys/uio.h>

/* What tls.c uses, too, and is not to cost a call here for that. */
#define INLINED inline __attribute__((always_inline))

enum { MOST_BUFFERS = 64 }; /* sent by one system call here; a longer list goes the way of pending writes */

static const char *const names[] = {
    [READ] = "AsyncStreamSocket.read",           [NEXT_CHUNK] = "AsyncStreamSocket.__anext__",
    [READ_INTO] = "AsyncStreamSocket.read_into", [WRITE] = "AsyncStreamSocket.write",
    [WRITE_VECTORED] = "AsyncStreamSocket.write_vectored", [UNTIL_READABLE] = "Stream._until_readable",
    [READER_TURN] = "Stream.reader_turn",
};

PyObject *operation_new(ModuleState *state, Kind kind, PyObject *socket, Stream *stream, PyObject *argument,
                        Py_ssize_t max_bytes)
{
    Operation *operation = state->free_operations;
    if (operation != NULL) {
        state->free_operations = operation->next_ready;
        state->free_operation_count--;
        PyObject_Init((PyObject *)operation, state->operation_type);
    } else {
        operation = PyObject_GC_New(Operation, state->operation_type);
        if (operation == NULL)
            return NULL;
    }
    operation_init(operation, state, kind, socket, argument, max_bytes);
    operation->stream = (Stream *)Py_NewRef(stream);
    PyObject_GC_Track(operation);
    return (PyObject *)operation;
}

/* -- ends of a step ------------------------------------------------------------------------------------------- */

static void forget_wait(Operation *operation)
{
    if (operation->wait != NULL) {
        operation->wait->operation = NULL;
        Py_CLEAR(operation->wait);
    }
}

/* It does not wait any more. */
void operation_detach(Operation *operation)
{
    Py_INCREF(operation);
    forget_wait(operation);
    if (operation->stream != NULL)
        stream_clear_reader(operation->stream, operation);
    Py_DECREF(operation);
}

/* A Task keeps its coroutine when it is done: what is finished holds nothing, the socket least of all. */
static void finish(Operation *operation)
{
    operation->phase = FINISHED;
    forget_wait(operation);
    Py_CLEAR(operation->argument);
    Py_CLEAR(operation->result);
    Py_CLEAR(operation->delegate);
    Py_CLEAR(operation->socket);
    Py_CLEAR(operation->stream);
    if (Py_TYPE(operation) == operation->state->tls_operation_type)
        tls_operation_let_go(operation);
}

static PySendResult finish_with(Operation *operation, PyObject *value, PyObject **result)
{
    finish(operation);
    *result = value;
    return value == NULL ? PYGEN_ERROR : PYGEN_RETURN;
}

static PySendResult yield_turn(Operation *operation, Phase phase, PyObject **result)
{
    reactor_refill(operation->stream->reactor);
    operation->phase = phase;
    *result = Py_NewRef(Py_None);
    return PYGEN_NEXT;
}

static PySendResult go_on(Operation *operation, PyObject *value, PyObject **result)
{
    PyObject *delegate = Py_NewRef(operation->delegate);
    PySendResult status = PyIter_Send(delegate, value, result);
    Py_DECREF(delegate);
    if (status != PYGEN_NEXT)
        finish(operation);
    return status;
}

static PySendResult go_on_in(Operation *operation, PyObject *coroutine, PyObject **result)
{
    if (coroutine == NULL)
        return finish_with(operation, NULL, result);
    operation->delegate = coroutine;
    operation->phase = DELEGATED;
    return go_on(operation, Py_None, result);
}

/* -- reading -------------------------------------------------------------------------------------------------- */

static PySendResult wait_for_input(Operation *operation, PyObject **result)
{
    Stream *stream = operation->stream;
    if (!stream->watched && stream_watch(stream) < 0) {
        stream_translate(stream, operation->state->str_read);
        return finish_with(operation, NULL, result);
    }
    Wait *wait = wait_new(operation->state, operation);
    if (wait == NULL)
        return finish_with(operation, NULL, result);
    operation->wait = wait;
    operation->phase = WAITING;
    stream_set_reader(stream, operation);
    *result = Py_NewRef(wait);
    return PYGEN_NEXT;
}

static Py_ssize_t try_receive_into(Operation *operation, PyObject **count)
{
    Py_buffer view;
    *count = NULL;
    if (PyObject_GetBuffer(operation->argument, &view, PyBUF_WRITABLE) < 0)
        return FAILED_CALL;
    Py_ssize_t received = FAILED_CALL;
    if (view.len == 0) /* it had room when the read began */
        PyErr_SetString(PyExc_ValueError, "read_into() needs room for at least one byte");
    else
        received = stream_receive_into(operation->stream, view.buf, view.len);
    PyBuffer_Release(&view);
    if (received >= 0 && (*count = PyLong_FromSsize_t(received)) == NULL) {
        stream_note_gap(operation->stream); /* the caller does not learn that they are in its buffer */
        return FAILED_CALL;
    }
    return received;
}

static PySendResult end_of_iteration(Operation *operation, PyObject *data, PyObject **result)
{
    Py_DECREF(data);
    PyErr_SetNone(PyExc_StopAsyncIteration);
    return finish_with(operation, NULL, result);
}

/* How many bytes may be read into an object of ours; 0: it has to wait; FAILED_CALL: an error is set. */
static INLINED Py_ssize_t admitted(Operation *operation)
{
    Py_ssize_t max_bytes = operation->max_bytes;
    return operation->stream->allowance == NULL ? max_bytes : stream_admit(operation->stream, max_bytes);
}

/* The same as `stream_receive`, with what limits know of. */
static INLINED Py_ssize_t receive_counted(Operation *operation, Py_ssize_t max_bytes, PyObject **data)
{
    Stream *stream = operation->stream;
    Py_ssize_t received = stream_receive(stream, max_bytes, data);
    if (stream->allowance != NULL)
        stream_take_in_hand(stream, Py_MAX(received, 0));
    return received;
}

static PySendResult try_to_read(Operation *operation, PyObject **result)
{
    Stream *stream = operation->stream;
    for (;;) {
        if (stream->closed || is_inherited(stream->reactor)) {
            stream_raise_from_method(stream, operation->state->str_busy_error, NULL);
            return finish_with(operation, NULL, result);
        }
        if (operation->kind == READER_TURN) {
            reactor_charge(stream->reactor, 0);
            return finish_with(operation, Py_NewRef(Py_None), result);
        }
        if (!stream->readable)
            return wait_for_input(operation, result);
        PyObject *data;
        Py_ssize_t received, most = operation->kind == READ_INTO ? READ_BYTES : admitted(operation);
        if (most < 0)
            return finish_with(operation, NULL, result);
        if (most == 0 && stream->closed) /* it was this one that had to make room */
            continue;
        if (most == 0)
            return wait_for_input(operation, result);
        received = operation->kind == READ_INTO ? try_receive_into(operation, &data)
                                                : receive_counted(operation, most, &data);
        if (received == 0 && operation->kind == NEXT_CHUNK)
            return end_of_iteration(operation, data, result);
        if (received != WOULD_BLOCK)
            return finish_with(operation, data, result);
    }
}

static PySendResult begin_reading(Operation *operation, PyObject **result)
{
    Stream *stream = operation->stream;
    if (stream->reader == NULL) /* else it is that one's */
        stream_let_go(stream);
    if (stream->gap && !stream->closed) {
        PyObject *refused = PyObject_CallMethodOneArg((PyObject *)stream, operation->state->str_refuse_if_lost,
                                                      operation->state->str_read);
        return finish_with(operation, refused, result); /* which is NULL */
    }
    if (stream->reader != NULL || stream->closed || is_inherited(stream->reactor)) {
        stream_raise_from_method(stream, operation->state->str_busy_error, NULL);
        return finish_with(operation, NULL, result);
    }
    if (operation->kind != READER_TURN && stream_paces_reads(stream)) {
        stream_set_reader(stream, operation);
        return operation_pace(operation, WAITING, result);
    }
    if (stream->reactor->budget <= 0) {
        stream_set_reader(stream, operation);
        return yield_turn(operation, YIELDED_BEFORE, result);
    }
    return try_to_read(operation, result);
}

/* -- writing -------------------------------------------------------------------------------------------------- */

static PySendResult send_the_rest(Operation *operation, Py_ssize_t sent, PyObject **result)
{
    PyObject *buffers = operation->kind == WRITE_VECTORED ? Py_NewRef(operation->argument)
                                                          : PyTuple_Pack(1, operation->argument);
    PyObject *count = PyLong_FromSsize_t(sent), *coroutine = NULL;
    Stream *stream = (Stream *)Py_NewRef(operation->stream); /* a finished operation has let go of it */
    if (stream->reader == NULL) /* what waits in the queue counts there */
        stream_let_go(stream);
    if (buffers != NULL && count != NULL)
        coroutine =
            PyObject_CallMethodObjArgs((PyObject *)stream, operation->state->str_send_rest, buffers, count, NULL);
    Py_XDECREF(buffers);
    Py_XDECREF(count);
    PySendResult status = go_on_in(operation, coroutine, result);
    if (status == PYGEN_ERROR && sent > 0 && !stream->unsent)
        stream_break_off(stream); /* a part of it has gone, and the rest is not in the queue */
    Py_DECREF(stream);
    return status;
}

static ssize_t send_message(int fd, struct msghdr *message, Py_ssize_t bytes)
{
    if (bytes <= GIL_BYTES)
        return sendmsg(fd, message, MSG_NOSIGNAL);
    ssize_t sent;
    Py_BEGIN_ALLOW_THREADS
    sent = sendmsg(fd, message, MSG_NOSIGNAL);
    Py_END_ALLOW_THREADS
    return sent;
}

/* How much the kernel has taken, or FAILED_CALL. */
static INLINED ssize_t send_parts(Stream *stream, struct iovec *parts, int count, Py_ssize_t bytes)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    for (;;) {
        ssize_t sent = count == 1 && bytes <= GIL_BYTES ? send(stream->fd, parts[0].iov_base, bytes, MSG_NOSIGNAL)
                                                        : send_message(stream->fd, &message, bytes);
        if (sent >= 0)
            return sent;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        if (errno != EINTR) {
            stream_raise(stream, stream->reactor->state->str_write, errno);
            return FAILED_CALL;
        }
        if (PyErr_CheckSignals() < 0)
            return FAILED_CALL;
    }
}

ssize_t stream_send(Stream *stream, const char *bytes, Py_ssize_t length)
{
    struct iovec part = {(char *)bytes, length};
    return send_parts(stream, &part, 1, length);
}

/* Whether what was raised is about the buffer itself; then the Python half says so, in one way for all engines. */
int operation_refuses_buffer(void)
{
    if (!PyErr_ExceptionMatches(PyExc_BufferError) && !PyErr_ExceptionMatches(PyExc_TypeError) &&
        !PyErr_ExceptionMatches(PyExc_ValueError))
        return 0;
    PyErr_Clear();
    return 1;
}

/* What was sent; FAILED_CALL; or -3: one of the buffers is none that can be sent. `count_object` is `bytes`, to be
 * returned if all of them go. It is made beforehand: then that cannot fail any more. */
static ssize_t send_argument(Operation *operation, Py_ssize_t *bytes, PyObject **count_object)
{
    int several = operation->kind == WRITE_VECTORED, count = 0;
    Py_ssize_t given = several ? PyTuple_GET_SIZE(operation->argument) : 1;
    Py_buffer views[MOST_BUFFERS];
    struct iovec parts[MOST_BUFFERS];
    ssize_t sent = FAILED_CALL;
    *bytes = 0;
    for (; count < given; count++) {
        PyObject *buffer = several ? PyTuple_GET_ITEM(operation->argument, count) : operation->argument;
        if (PyObject_GetBuffer(buffer, &views[count], PyBUF_SIMPLE) < 0) {
            sent = operation_refuses_buffer() ? -3 : -2;
            goto release;
        }
        parts[count] = (struct iovec){views[count].buf, views[count].len};
        *bytes += views[count].len;
    }
    if ((*count_object = PyLong_FromSsize_t(*bytes)) == NULL)
        goto release;
    sent = *bytes == 0 && several ? 0 : send_parts(operation->stream, parts, count, *bytes);
    if (sent == FAILED_CALL)
        Py_CLEAR(*count_object);
release:
    while (count > 0)
        PyBuffer_Release(&views[--count]);
    return sent;
}

static PySendResult begin_writing(Operation *operation, PyObject **result)
{
    Stream *stream = operation->stream;
    int lost = stream->lost != NULL && stream->lost != Py_None;
    if (stream->closed || is_inherited(stream->reactor) || stream->eof_asked || lost || stream->unsent ||
        (operation->kind == WRITE_VECTORED && PyTuple_GET_SIZE(operation->argument) > MOST_BUFFERS))
        return send_the_rest(operation, 0, result);
    PyObject *count;
    Py_ssize_t bytes;
    ssize_t sent = send_argument(operation, &bytes, &count);
    if (sent == FAILED_CALL)
        return finish_with(operation, NULL, result);
    if (sent == -3)
        return send_the_rest(operation, 0, result);
    stream->bytes_written += sent;
    if (sent < bytes) {
        Py_DECREF(count);
        return send_the_rest(operation, sent, result);
    }
    reactor_charge(stream->reactor, bytes);
    if (stream->reactor->budget >= 0 && !reactor_paces(stream->reactor, bytes)) {
        if (stream->reader == NULL)
            stream_let_go(stream);
        return finish_with(operation, count, result);
    }
    operation->result = count; /* and its caller holds the bytes for another turn */
    return operation_give_way(operation, bytes, result);
}

/* -- the coroutine -------------------------------------------------------------------------------------------- */

/* The Python function that the method stands for: it knows of buffers and of bad arguments. */
static PySendResult go_the_long_way(Operation *operation, PyObject **result)
{
    PyObject *function = operation->state->slow[(int)operation->kind], *argument = Py_XNewRef(operation->argument);
    if (operation->kind == READ && (argument = PyLong_FromSsize_t(operation->max_bytes)) == NULL)
        return finish_with(operation, NULL, result);
    PyObject *coroutine = PyObject_CallFunctionObjArgs(function, operation->socket, argument, NULL);
    Py_XDECREF(argument);
    return go_on_in(operation, coroutine, result);
}

static PySendResult begin(Operation *operation, PyObject **result)
{
    int long_way = operation_has_to_go_the_long_way(operation, (PyObject *)operation->stream);
    if (long_way < 0)
        return finish_with(operation, NULL, result);
    if (long_way)
        return go_the_long_way(operation, result);
    switch (operation->kind) {
    case UNTIL_READABLE:
        return wait_for_input(operation, result);
    case WRITE:
    case WRITE_VECTORED:
        return begin_writing(operation, result);
    default:
        return begin_reading(operation, result);
    }
}

static PySendResult refuse(PyObject *error, const char *why, PyObject **result)
{
    PyErr_SetString(error, why);
    *result = NULL;
    return PYGEN_ERROR;
}

static INLINED PySendResult step(Operation *operation, PyObject *value, PyObject **result)
{
    switch ((Phase)operation->phase) {
    case FRESH:
        if (value != Py_None)
            return refuse(PyExc_TypeError, "can't send non-None value to a just-started coroutine", result);
        return begin(operation, result);
    case WAITING:
        if (operation->wait != NULL && operation->wait->callback != NULL)
            return refuse(PyExc_RuntimeError, "coroutine is being awaited already", result);
        reactor_refill(operation->stream->reactor); /* everybody else has had a turn */
        /* fall through */
    case YIELDED_BEFORE:
        operation_detach(operation);
        if (operation->kind == UNTIL_READABLE)
            return finish_with(operation, Py_NewRef(Py_None), result);
        return try_to_read(operation, result);
    case YIELDED_AFTER:
        if (operation->wait != NULL && operation->wait->callback != NULL)
            return refuse(PyExc_RuntimeError, "coroutine is being awaited already", result);
        if (operation->stream->reader == NULL)
            stream_let_go(operation->stream);
        return finish_with(operation, Py_NewRef(operation->result), result);
    case DELEGATED:
        return go_on(operation, value, result);
    case FINISHED:
        break;
    }
    return refuse(PyExc_RuntimeError, "cannot reuse already awaited coroutine", result);
}

static PySendResult operation_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    return operation_make_step((Operation *)self, step, value, result);
}

static PyObject *operation_iternext(PyObject *self)
{
    PyObject *result;
    PySendResult status = operation_am_send(self, Py_None, &result);
    return returned_of(status, result);
}

static PyObject *operation_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = operation_am_send(self, value, &result);
    return returned_by_method(status, result);
}

static PyObject *throw_into_delegate(Operation *operation, PyObject *const *arguments, Py_ssize_t count)
{
    operation->running = 1;
    PyObject *method = PyObject_GetAttr(operation->delegate, operation->state->str_throw), *result = NULL;
    if (method != NULL) /* it holds the delegate */
        result = PyObject_Vectorcall(method, arguments, count, NULL);
    Py_XDECREF(method);
    operation->running = 0;
    if (result == NULL)
        finish(operation);
    return result;
}

PyObject *operation_throw(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Operation *operation = (Operation *)self;
    if (operation_refuses_step(operation))
        return NULL;
    if (operation->phase == DELEGATED)
        return throw_into_delegate(operation, arguments, count);
    PyObject *exception = exception_of_throw(arguments, count);
    if (exception == NULL)
        return NULL;
    if (operation->phase == FINISHED) {
        Py_DECREF(exception);
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return NULL;
    }
    operation_detach(operation);
    finish(operation);
    raise_taken(exception);
    return NULL;
}

/* A write that has gone, and gives the others their turn, is cancelled: its message may be unfinished. */
void operation_note_interruption(Operation *operation, PyObject *wire)
{
    if (operation->phase != YIELDED_AFTER)
        return;
    PyObject *noted = PyObject_CallMethodNoArgs(wire, operation->state->str_note_interruption);
    if (noted == NULL)
        PyErr_WriteUnraisable(wire);
    Py_XDECREF(noted);
}

static PyObject *operation_throw_method(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    operation_note_interruption((Operation *)self, (PyObject *)((Operation *)self)->stream);
    return operation_throw(self, arguments, count);
}

PyObject *operation_close(PyObject *self, PyObject *unused)
{
    Operation *operation = (Operation *)self;
    if (operation_refuses_step(operation))
        return NULL;
    PyObject *delegate = operation->phase == DELEGATED ? Py_NewRef(operation->delegate) : NULL;
    operation_detach(operation);
    finish(operation);
    if (delegate == NULL)
        Py_RETURN_NONE;
    operation->running = 1;
    PyObject *closed = PyObject_CallMethodNoArgs(delegate, operation->state->str_close);
    operation->running = 0;
    Py_DECREF(delegate);
    return closed;
}

static PyObject *operation_get_name(PyObject *self, void *qualified)
{
    const char *name = names[(int)((Operation *)self)->kind];
    return PyUnicode_FromString(qualified ? name : strrchr(name, '.') + 1);
}

/* What debuggers and asyncio's call graphs follow. An operation has no frame: the chain of frames ends above it, unless
 * a coroutine in Python has taken over, which answers then. */
static PyObject *operation_get_of_delegate(PyObject *self, void *name)
{
    PyObject *delegate = ((Operation *)self)->delegate;
    if (delegate != NULL)
        return PyObject_GetAttrString(delegate, name);
    PyErr_Format(PyExc_AttributeError, "'%.100s' object has no attribute '%s'", Py_TYPE(self)->tp_name, name);
    return NULL;
}

int operation_traverse(PyObject *self, visitproc visit, void *arg)
{
    Operation *operation = (Operation *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(operation->socket);
    Py_VISIT(operation->stream);
    Py_VISIT(operation->argument);
    Py_VISIT(operation->result);
    Py_VISIT(operation->delegate);
    Py_VISIT(operation->wait);
    return 0;
}

int operation_clear(PyObject *self)
{
    Operation *operation = (Operation *)self;
    operation_detach(operation);
    Py_CLEAR(operation->argument);
    Py_CLEAR(operation->result);
    Py_CLEAR(operation->delegate);
    Py_CLEAR(operation->socket);
    return 0;
}

static void warn_of_a_forgotten_await(Operation *operation)
{
    PyObject *raised = take_exception();
    const char *name = names[(int)operation->kind];
    if (PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%s' was never awaited", name) < 0) {
        PyObject *where = PyUnicode_FromString(name);
        PyErr_WriteUnraisable(where);
        Py_XDECREF(where);
    }
    if (raised != NULL)
        raise_taken(raised);
}

static INLINED void let_go(Operation *operation)
{
    if (operation->phase == FINISHED) /* and holds nothing: `finish` */
        return;
    if (operation->phase == FRESH)
        warn_of_a_forgotten_await(operation);
    forget_wait(operation);
    Py_CLEAR(operation->argument);
    Py_CLEAR(operation->result);
    Py_CLEAR(operation->delegate);
    Py_CLEAR(operation->socket);
    Py_CLEAR(operation->stream);
}

static void operation_dealloc(PyObject *self)
{
    Operation *operation = (Operation *)self;
    PyTypeObject *type = Py_TYPE(self);
    ModuleState *state = operation->state;
    PyObject_GC_UnTrack(self);
    let_go(operation);
    if (state->free_operation_count < MOST_FREE) {
        operation->next_ready = state->free_operations;
        state->free_operations = operation;
        state->free_operation_count++;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

static PyMethodDef operation_methods[] = {
    {"send", operation_send, METH_O, "Run until it waits."},
    {"throw", (PyCFunction)(void (*)(void))operation_throw_method, METH_FASTCALL,
     "Raise an exception where it waits."},
    {"close", operation_close, METH_NOARGS, "End it where it waits."},
    {NULL},
};

PyGetSetDef operation_getset[] = {
    {"__name__", operation_get_name, NULL, NULL, NULL},
    {"__qualname__", operation_get_name, NULL, NULL, "qualified"},
    {"cr_await", operation_get_of_delegate, NULL, NULL, "cr_await"},
    {"cr_code", operation_get_of_delegate, NULL, NULL, "cr_code"},
    {"cr_frame", operation_get_of_delegate, NULL, NULL, "cr_frame"},
    {NULL},
};

static PyType_Slot operation_slots[] = {
    {Py_tp_doc, "What is awaited when a stream is asked to receive or send."},
    {Py_tp_dealloc, operation_dealloc},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_methods, operation_methods},
    {Py_tp_getset, operation_getset},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, operation_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, operation_am_send},
    {0, NULL},
};

PyType_Spec operation_spec = {
    .name = "aionet.native._compiled.Operation",
    .basicsize = sizeof(Operation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = operation_slots,
};

/* Waking, for the reactor. */
int operation_wake(Operation *operation)
{
    Wait *wait = operation->wait;
    if (wait == NULL) /* it does not wait, or is over */
        return 0;
    Reactor *reactor = operation->stream->reactor;
    if (!reactor->debug && wait_is_driven(wait))
        return wait_drive(wait, reactor);
    reactor_leave(reactor);
    return reactor->debug ? wait_wake_later(wait) : wait_wake(wait);
}

/* -- for operations of other wires (tls.c) ---------------------------------------------------------------------- */

PySendResult operation_finish_with(Operation *operation, PyObject *value, PyObject **result)
{
    return finish_with(operation, value, result);
}

PySendResult operation_yield_turn(Operation *operation, Phase phase, PyObject **result)
{
    return yield_turn(operation, phase, result);
}

PySendResult operation_go_on_in(Operation *operation, PyObject *coroutine, PyObject **result)
{
    return go_on_in(operation, coroutine, result);
}

PySendResult operation_go_on(Operation *operation, PyObject *value, PyObject **result)
{
    return go_on(operation, value, result);
}

PySendResult operation_go_the_long_way(Operation *operation, PyObject **result)
{
    return go_the_long_way(operation, result);
}

PySendResult operation_wait_for_input(Operation *operation, PyObject **result)
{
    return wait_for_input(operation, result);
}

PySendResult operation_refuse(PyObject *error, const char *why, PyObject **result)
{
    return refuse(error, why, result);
}

void operation_let_go(Operation *operation)
{
    let_go(operation);
}
