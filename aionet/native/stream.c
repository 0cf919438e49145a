/* Stream: the hot half of a wire. The other half is wires/descriptor.py, whose class is mixed in.
 *
 * Theory of operation
 * -------------------
 * `readable` says whether recv(2) is worth trying: at the start, after an event, and after a read that filled its
 * buffer. A short read clears it, because edge-triggered events tell of whatever comes next; not so where it may be
 * short for another reason (`unsure`): the end of the stream or an error was announced, which comes with no further
 * event; or urgent data has come, at which recv(2) stops (tcp(7)). On Unix sockets it stops where descriptors were
 * attached, too; then the kernel says that it has discarded them (MSG_CTRUNC, recv(2)).
 *
 * Memory is taken for what came, not for what the caller named. Received bytes go through one buffer of the reactor's
 * (`scratch`) and are copied to an object of their size. After a read that brought a lot (`recent`) the next one goes to
 * an object of that size directly, which saves the copy; what exceeds the object comes through `scratch` in the same
 * system call. A large object of which less than half was filled is freed whole: malloc maps large blocks one by one,
 * and a mapped block that is cut to size keeps a page, and leaves malloc mapping the next one. After such a read the
 * kernel also says how much is left (TCP_INQ, Linux 4.18), which saves a second look after one that filled its buffer.
 *
 * The socket module's object is made when somebody asks for it: few connections ever do.
 */
#include "native.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#ifndef TCP_INQ /* the C library may be older than the kernel */
#define TCP_INQ 36
#define TCP_CM_INQ TCP_INQ
#endif

static const uint32_t ENDING = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

static int is_none(PyObject *object)
{
    return object == NULL || object == Py_None;
}

/* -- errors --------------------------------------------------------------------------------------------------- */

void raise_error_object(PyObject *error, PyObject *cause)
{
    if (cause != NULL)
        PyException_SetCause(error, cause);
    PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_DECREF(error);
}

/* (errno, strerror), kept: making the text of an error takes longer than all the rest of it. Borrowed. */
static PyObject *system_arguments(ModuleState *state, int number)
{
    PyObject *unkept = NULL, **place = number > 0 && number < MOST_ERRORS ? &state->system_arguments[number] : &unkept;
    if (*place == NULL) {
        errno = number;
        PyErr_SetFromErrno(PyExc_OSError);
        if (!PyErr_ExceptionMatches(PyExc_OSError)) /* there was no memory for it: the next time, perhaps */
            return NULL;
        PyObject *error = take_exception();
        *place = PyObject_GetAttrString(error, "args");
        Py_DECREF(error);
    }
    return *place;
}

/* What ConnectionLostError(*arguments, operation=operation, ends=stream) makes, less the detour through Python. */
static PyObject *connection_lost_error(ModuleState *state, PyObject *arguments, PyObject *operation, Stream *stream)
{
    PyTypeObject *class = (PyTypeObject *)state->connection_lost_error, *system = (PyTypeObject *)PyExc_OSError;
    PyObject *error = class->tp_new(class, arguments, NULL);
    if (error != NULL && (system->tp_init(error, arguments, NULL) < 0 ||
                          PyObject_SetAttr(error, state->str_operation, operation) < 0 ||
                          PyObject_SetAttr(error, state->str_ends, (PyObject *)stream) < 0))
        Py_CLEAR(error);
    return error;
}

/* As `DescriptorWire._error` does it. The cause is made here and raised nowhere, so it can be kept as it is. */
PyObject *stream_raise(Stream *stream, PyObject *operation, int number)
{
    ModuleState *state = stream->reactor->state;
    if (number == ENOMEM || number == ENOBUFS) { /* a shortage, and no loss */
        errno = number;
        PyErr_SetFromErrno(PyExc_OSError);
        stream_translate(stream, operation);
        return NULL;
    }
    PyObject *arguments = system_arguments(state, number);
    PyObject *cause = arguments == NULL ? NULL : PyObject_CallObject(PyExc_OSError, arguments);
    if (cause == NULL)
        return NULL;
    if (stream->lost == NULL || stream->lost == Py_None)
        Py_XSETREF(stream->lost, Py_NewRef(cause));
    PyObject *error = connection_lost_error(state, arguments, operation, stream);
    if (error == NULL)
        Py_DECREF(cause);
    else
        raise_error_object(error, cause);
    return NULL;
}

/* What is raised, if that is the system's: as `DescriptorWire._error` has it, because it is rare. */
void stream_translate(Stream *stream, PyObject *operation)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError))
        return;
    PyObject *cause = take_exception();
    PyObject *error =
        PyObject_CallMethodObjArgs((PyObject *)stream, stream->reactor->state->str_error, operation, cause, NULL);
    if (error == NULL)
        Py_DECREF(cause);
    else
        raise_error_object(error, cause);
}

PyObject *stream_raise_from_method(Stream *stream, PyObject *method, PyObject *argument)
{
    PyObject *error = PyObject_CallMethodObjArgs((PyObject *)stream, method, argument, NULL);
    if (error != NULL)
        raise_error_object(error, NULL);
    return NULL;
}

static void reset_on_close(int fd)
{
    struct linger none = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
}

void stream_reset(Stream *stream)
{
    reset_on_close(stream->fd);
    close(stream->fd);
    stream->fd = -1;
    stream->closed = 1;
}

/* A part of what was sent or received is gone. The peer is to see a reset, however the descriptor is closed: the kernel
 * knows of that from now on, because there may be no memory to remember it with. */
void stream_break_off(Stream *stream)
{
    if (is_none(stream->lost))
        Py_XSETREF(stream->lost, Py_NewRef(stream->reactor->state->broken_off));
    if (stream->fd >= 0 && stream->reactor->forks == forks)
        reset_on_close(stream->fd);
}

/* Bytes that were received are gone. */
void stream_note_gap(Stream *stream)
{
    stream->gap = 1;
    stream_break_off(stream);
}

/* -- receiving ------------------------------------------------------------------------------------------------ */

static int is_large(Stream *stream)
{
    return stream->recent >= LARGE_READ_BYTES;
}

/* What the kernel said about the rest beside the bytes. */
typedef enum { NOTHING_SAID, NONE_LEFT, SOME_LEFT } Rest;

/* recvmsg(2), and what TCP_INQ says. The end of a stream counts as a byte that is left (tcp_inq_hint). */
static ssize_t receive_message(int fd, struct iovec *parts, int count, Rest *rest)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr message = {
        .msg_iov = parts, .msg_iovlen = count, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t received = recvmsg(fd, &message, 0);
    struct cmsghdr *told = received < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (told != NULL && told->cmsg_level == IPPROTO_TCP && told->cmsg_type == TCP_CM_INQ)
        *rest = *(int *)CMSG_DATA(told) == 0 ? NONE_LEFT : SOME_LEFT;
    return received;
}

/* recvmsg(2) on a Unix socket. It stops after bytes with which descriptors came, and with SO_PASSCRED between writers. */
static ssize_t receive_from_unix(int fd, struct iovec *parts, int count, Rest *rest)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    ssize_t received = recvmsg(fd, &message, 0);
    if (received > 0 && (message.msg_flags & MSG_CTRUNC))
        *rest = SOME_LEFT;
    return received;
}

static inline ssize_t receive_some(Stream *stream, struct iovec *parts, int count, Py_ssize_t bytes, Rest *rest)
{
    if (stream->is_unix)
        return receive_from_unix(stream->fd, parts, count, rest);
    return count > 1 || (is_large(stream) && stream->tells_rest) ? receive_message(stream->fd, parts, count, rest)
                                                                 : recv(stream->fd, parts->iov_base, bytes, 0);
}

static ssize_t receive(Stream *stream, struct iovec *parts, int count, Py_ssize_t bytes, Rest *rest)
{
    if (bytes <= GIL_BYTES)
        return receive_some(stream, parts, count, bytes, rest);
    ssize_t received;
    Py_BEGIN_ALLOW_THREADS
    received = receive_some(stream, parts, count, bytes, rest);
    Py_END_ALLOW_THREADS
    return received;
}

static void note_size(Stream *stream, Py_ssize_t received)
{
    int on = 1;
    stream->recent = (int)Py_MIN(received, SCRATCH_BYTES);
    if (is_large(stream) && !stream->rest_asked) { /* no TCP, or an old kernel: then not */
        stream->rest_asked = 1;
        stream->tells_rest = setsockopt(stream->fd, IPPROTO_TCP, TCP_INQ, &on, sizeof on) == 0;
    }
}

/* What a result of recv(2) means for the next one. */
static Py_ssize_t note_received(Stream *stream, Py_ssize_t received, Py_ssize_t asked, Rest rest)
{
    if (received < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            stream_raise(stream, stream->reactor->state->str_read, errno);
            return FAILED_CALL;
        }
        stream->readable = 0;
        return WOULD_BLOCK;
    }
    reactor_charge(stream->reactor, received);
    stream->reactor->reads++;
    stream->bytes_read += received;
    note_size(stream, received);
    if (stream->allowance != NULL && received == asked)
        stream_note_filled(stream);
    if (received == 0 || (received < asked && rest == NOTHING_SAID) || rest == NONE_LEFT) {
        if (received > 0) {
            stream->readable = stream->unsure;
        } else if (stream->lost == NULL || stream->lost == Py_None) {
            stream->end_seen = 1;
        } else { /* an end after a loss is no clean end */
            PyObject *noted = PyObject_CallMethodNoArgs((PyObject *)stream, stream->reactor->state->str_note_end);
            Py_XDECREF(noted);
            return noted == NULL ? FAILED_CALL : received;
        }
    }
    return received;
}

static Py_ssize_t receive_noting(Stream *stream, struct iovec *parts, int count, Py_ssize_t bytes)
{
    ssize_t received;
    Rest rest = NOTHING_SAID;
    while ((received = receive(stream, parts, count, bytes, &rest)) < 0 && errno == EINTR)
        if (PyErr_CheckSignals() < 0)
            return FAILED_CALL;
    return note_received(stream, received, bytes, rest);
}

/* Of `received` bytes as many as found room are in the object `data`, the rest in `scratch`: all as one. Steals `data`. */
static PyObject *fitted(Reactor *reactor, PyObject *data, char *scratch, Py_ssize_t received)
{
    Py_ssize_t room = PyBytes_GET_SIZE(data), first = Py_MIN(received, room);
    if (received <= room && (received >= room / 2 || room <= READ_BYTES))
        return received < room ? bytes_cut(data, received) : data;
    PyObject *whole = PyBytes_FromStringAndSize(NULL, received);
    if (whole != NULL) {
        memcpy(PyBytes_AS_STRING(whole), PyBytes_AS_STRING(data), first);
        memcpy(PyBytes_AS_STRING(whole) + first, scratch, received - first);
    } else { /* for want of memory; what was received must not be dropped */
        memmove(scratch + first, scratch, received - first);
        memcpy(scratch, PyBytes_AS_STRING(data), first);
        whole = reactor_give_scratch(reactor, received);
    }
    Py_DECREF(data);
    return whole;
}

static Py_ssize_t receive_large(Stream *stream, char *scratch, Py_ssize_t max_bytes, PyObject **data)
{
    Py_ssize_t room = Py_MIN(max_bytes, Py_MAX(stream->recent, READ_BYTES));
    PyObject *object = PyBytes_FromStringAndSize(NULL, room);
    if (object == NULL)
        return FAILED_CALL;
    struct iovec parts[] = {{PyBytes_AS_STRING(object), room}, {scratch, max_bytes - room}};
    Py_ssize_t received = receive_noting(stream, parts, max_bytes > room ? 2 : 1, max_bytes);
    if (received >= 0)
        *data = fitted(stream->reactor, object, scratch, received);
    else
        Py_DECREF(object);
    return received;
}

Py_ssize_t stream_receive(Stream *stream, Py_ssize_t max_bytes, PyObject **data)
{
    *data = NULL;
    char *scratch = reactor_scratch(stream->reactor);
    if (scratch == NULL)
        return FAILED_CALL;
    max_bytes = Py_MIN(max_bytes, SCRATCH_BYTES);
    if (is_large(stream))
        return receive_large(stream, scratch, max_bytes, data);
    struct iovec part = {scratch, max_bytes};
    Py_ssize_t received = receive_noting(stream, &part, 1, max_bytes);
    if (received < 0)
        return received;
    *data = reactor_give_scratch(stream->reactor, received);
    return received;
}

Py_ssize_t stream_receive_into(Stream *stream, char *buffer, Py_ssize_t bytes)
{
    struct iovec part = {buffer, bytes};
    return receive_noting(stream, &part, 1, bytes);
}

/* -- waiting -------------------------------------------------------------------------------------------------- */

void stream_settle_anchor(Stream *stream)
{
    char anchored = stream->watched && (stream->reader != NULL || stream->unsent), before = stream->anchored;
    stream->anchored = anchored;
    if (anchored > before)
        Py_INCREF(stream);
    else if (anchored < before)
        Py_DECREF(stream);
}

void stream_set_reader(Stream *stream, Operation *operation)
{
    Operation *before = stream->reader;
    stream->reader = (Operation *)Py_NewRef(operation);
    stream->reactor->readers += before == NULL;
    if (stream->watched && !stream->anchored)
        stream_settle_anchor(stream);
    Py_XDECREF(before);
}

void stream_clear_reader(Stream *stream, Operation *operation)
{
    if (stream->reader != operation) /* closing took its place */
        return;
    stream->reader = NULL;
    stream->reactor->readers--;
    int released = stream->anchored && !stream->unsent; /* last: the operation may hold the stream, too */
    if (released)
        stream->anchored = 0;
    Py_DECREF(operation);
    if (released)
        Py_DECREF(stream);
}

/* The rare kinds: an acknowledgement, which looks like an error and is none, room for a write that waits, and an end
 * that somebody wants to know of. */
static uint32_t tell_cold_half(Stream *stream, uint32_t events)
{
    PyObject *number = PyLong_FromUnsignedLong(events), *left = NULL;
    long long rest = -1;
    if (number != NULL)
        left = PyObject_CallMethodOneArg((PyObject *)stream, stream->reactor->state->str_on_cold_events, number);
    if (left != NULL)
        rest = PyLong_AsLongLong(left);
    if (rest < 0)
        reactor_on_lost_word(stream->reactor, stream->fd);
    else
        events = (uint32_t)rest;
    Py_XDECREF(number);
    Py_XDECREF(left);
    return events;
}

static inline void note_events(Stream *stream, uint32_t events)
{
    if (events & (ENDING | EPOLLPRI))
        stream->unsure = 1;
    if (events & (EPOLLIN | ENDING)) {
        stream->readable = 1;
        if (stream->reader != NULL && (events & ENDING))
            reactor_queue_ending(stream->reactor, stream->reader);
        else if (stream->reader != NULL)
            reactor_queue(stream->reactor, stream->reader);
    }
}

void stream_on_events(Stream *stream, uint32_t events)
{
    if (stream->timestamps || stream->unsent || (stream->peer_watched && (events & ENDING))) {
        Py_INCREF(stream); /* this may be the end of all that holds it */
        note_events(stream, tell_cold_half(stream, events));
        Py_DECREF(stream);
    } else {
        note_events(stream, events);
    }
}

/* -- accepting ------------------------------------------------------------------------------------------------ */

static Stream *stream_make(PyTypeObject *type, Reactor *reactor, int fd, PyObject *local)
{
    Stream *stream = (Stream *)type->tp_alloc(type, 0);
    if (stream == NULL)
        return NULL;
    if (reactor->state->wire_class == NULL)
        reactor->state->wire_class = (PyTypeObject *)Py_NewRef(type);
    stream->reactor = (Reactor *)Py_NewRef(reactor);
    stream->fd = fd;
    stream->readable = 1;
    stream->local = local == Py_None ? NULL : Py_NewRef(local);
    return stream;
}

/* As the socket module has it: a path, b"\0name" of the abstract name space, or "". */
static PyObject *unix_name(struct sockaddr_un *name, socklen_t length)
{
    Py_ssize_t bytes = (Py_ssize_t)length - (Py_ssize_t)offsetof(struct sockaddr_un, sun_path);
    if (bytes > 0 && name->sun_path[0] == '\0')
        return PyBytes_FromStringAndSize(name->sun_path, bytes);
    return PyUnicode_DecodeFSDefaultAndSize(name->sun_path, bytes > 0 ? strnlen(name->sun_path, bytes) : 0);
}

Stream *stream_accept(ModuleState *state, int listener, PyObject *wire_type, Reactor *reactor, PyObject *local,
                      int *empty)
{
    union {
        struct sockaddr any;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
    } name;
    socklen_t length = sizeof name;
    int fd = accept4(listener, &name.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    *empty = fd < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    if (fd < 0) {
        if (!*empty)
            PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    Stream *stream = stream_make((PyTypeObject *)wire_type, reactor, fd, local);
    if (stream == NULL) {
        reset_on_close(fd);
        close(fd);
    } else if (name.any.sa_family == AF_INET || name.any.sa_family == AF_INET6)
        memcpy(&stream->peer_name, &name, sizeof stream->peer_name);
    else if (name.any.sa_family == AF_UNIX) {
        stream->is_unix = 1;
        if ((stream->peer = unix_name(&name.un, length)) == NULL) {
            stream_reset(stream);
            Py_CLEAR(stream);
        }
    }
    return stream;
}

static PyObject *peer_as_tuple(Stream *stream)
{
    char text[INET6_ADDRSTRLEN];
    if (stream->peer_name.any.sa_family == AF_INET) {
        struct sockaddr_in *name = &stream->peer_name.in;
        inet_ntop(AF_INET, &name->sin_addr, text, sizeof text);
        return Py_BuildValue("(si)", text, ntohs(name->sin_port));
    }
    struct sockaddr_in6 *name = &stream->peer_name.in6;
    inet_ntop(AF_INET6, &name->sin6_addr, text, sizeof text);
    return Py_BuildValue("(siII)", text, ntohs(name->sin6_port), ntohl(name->sin6_flowinfo), name->sin6_scope_id);
}

static PyObject *stream_get_peer(PyObject *self, void *unused)
{
    Stream *stream = (Stream *)self;
    if (stream->peer == NULL && stream->peer_name.any.sa_family != AF_UNSPEC &&
        (stream->peer = peer_as_tuple(stream)) == NULL)
        return NULL;
    return Py_NewRef(stream->peer ? stream->peer : Py_None);
}

static int stream_set_peer(PyObject *self, PyObject *value, void *unused)
{
    Py_XSETREF(((Stream *)self)->peer, Py_XNewRef(value));
    return 0;
}

/* -- for Python ----------------------------------------------------------------------------------------------- */

static PyObject *stream_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *words[] = {"sock", "state", "peer", "local", NULL};
    PyObject *raw, *reactor, *peer = Py_None, *local = Py_None;
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "OO|OO:Stream", words, &raw, &reactor, &peer, &local))
        return NULL;
    PyTypeObject *base = type; /* whose module has the state */
    ModuleState *state = NULL;
    PyObject *module = PyType_GetModuleByDef(base, &native_module);
    if (module == NULL)
        return NULL;
    state = module_state(module);
    if (!PyObject_TypeCheck(reactor, state->reactor_type)) {
        PyErr_Format(PyExc_TypeError, "a compiled wire needs a compiled reactor, not %R", reactor);
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(raw);
    if (fd < 0)
        return NULL;
    Stream *stream = stream_make(type, (Reactor *)reactor, fd, local);
    if (stream == NULL)
        return NULL;
    int family = AF_UNSPEC;
    socklen_t length = sizeof family;
    stream->is_unix = getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0 && family == AF_UNIX;
    stream->raw = Py_NewRef(raw);
    stream->peer = Py_NewRef(peer);
    return (PyObject *)stream;
}

static PyObject *stream_receive_method(PyObject *self, PyObject *argument)
{
    Py_ssize_t max_bytes = PyNumber_AsSsize_t(argument, NULL); /* more than there can be is as much as there is */
    if (max_bytes == -1 && PyErr_Occurred())
        return NULL;
    if (max_bytes < 1)
        return PyErr_Format(PyExc_ValueError, "max_bytes must be at least 1, not %zd", max_bytes);
    Stream *stream = (Stream *)self;
    return operation_new(stream->reactor->state, READ, NULL, stream, NULL, max_bytes);
}

static PyObject *stream_receive_into_method(PyObject *self, PyObject *buffer)
{
    Stream *stream = (Stream *)self;
    return operation_new(stream->reactor->state, READ_INTO, NULL, stream, buffer, 0);
}

static PyObject *stream_send_method(PyObject *self, PyObject *data)
{
    Stream *stream = (Stream *)self;
    return operation_new(stream->reactor->state, WRITE, NULL, stream, data, 0);
}

static PyObject *stream_send_vectored_method(PyObject *self, PyObject *buffers)
{
    Stream *stream = (Stream *)self;
    PyObject *kept = PySequence_Tuple(buffers);
    if (kept == NULL)
        return NULL;
    PyObject *operation = operation_new(stream->reactor->state, WRITE_VECTORED, NULL, stream, kept, 0);
    Py_DECREF(kept);
    return operation;
}

/* What fits now, for a wire above that has to send it whatever happens; errors are the system's. */
static PyObject *stream_send_some(PyObject *self, PyObject *data)
{
    Stream *stream = (Stream *)self;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    ssize_t sent;
    int handled = 0; /* by the handlers of signals */
    do {
        if (view.len <= GIL_BYTES) {
            sent = send(stream->fd, view.buf, view.len, MSG_NOSIGNAL);
        } else {
            Py_BEGIN_ALLOW_THREADS
            sent = send(stream->fd, view.buf, view.len, MSG_NOSIGNAL);
            Py_END_ALLOW_THREADS
        }
    } while (sent < 0 && errno == EINTR && (handled = PyErr_CheckSignals()) == 0);
    if (sent < 0 && handled == 0)
        PyErr_SetFromErrno(PyExc_OSError);
    PyBuffer_Release(&view);
    return sent < 0 ? NULL : PyLong_FromSsize_t(sent);
}

static PyObject *stream_until_readable(PyObject *self, PyObject *unused)
{
    Stream *stream = (Stream *)self;
    return operation_new(stream->reactor->state, UNTIL_READABLE, NULL, stream, NULL, 0);
}

static PyObject *stream_reader_turn(PyObject *self, PyObject *unused)
{
    Stream *stream = (Stream *)self;
    return operation_new(stream->reactor->state, READER_TURN, NULL, stream, NULL, 0);
}

static PyObject *stream_wake_reader(PyObject *self, PyObject *unused)
{
    Stream *stream = (Stream *)self;
    stream->readable = 1;
    if (stream->reader != NULL && reactor_wake_later(stream->reactor, stream->reader) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *stream_break_off_method(PyObject *self, PyObject *unused)
{
    stream_break_off((Stream *)self);
    Py_RETURN_NONE;
}

static PyObject *stream_note_gap_method(PyObject *self, PyObject *unused)
{
    stream_note_gap((Stream *)self);
    Py_RETURN_NONE;
}

/* The descriptor is not the stream's any more, nor the slot. */
static int part_with_descriptor(Stream *stream, int stays_open)
{
    int fd = stream->fd;
    if (stream->watched)
        reactor_forget(stream->reactor, fd, (PyObject *)stream, stays_open);
    stream->fd = -1;
    stream->readable = 1; /* whoever waits is to look again, and to be refused */
    return fd;
}

/* Leave the descriptor, which stays open, to whoever has it. */
static PyObject *stream_leave_descriptor(PyObject *self, PyObject *unused)
{
    part_with_descriptor((Stream *)self, 1);
    Py_CLEAR(((Stream *)self)->raw);
    Py_RETURN_NONE;
}

static PyObject *stream_close_descriptor(PyObject *self, PyObject *unused)
{
    Stream *stream = (Stream *)self;
    int fd = part_with_descriptor(stream, 0);
    if (stream->raw != NULL) {
        PyObject *closed = PyObject_CallMethodNoArgs(stream->raw, stream->reactor->state->str_close);
        Py_CLEAR(stream->raw);
        return closed;
    }
    if (fd >= 0)
        close(fd);
    Py_RETURN_NONE;
}

/* Close, if nothing stands in the way: the connection is lost or ended, and nobody waits for anything. */
int stream_close_at_once(Stream *stream, double linger)
{
    if (stream->closed || stream->raw != NULL || stream->local == NULL || stream->reader != NULL ||
        !is_none(stream->outgoing) || !is_none(stream->waits) ||
        PySet_GET_SIZE(stream->reactor->state->closed_descriptors) > 0 ||
        (is_none(stream->lost) && (!stream->end_seen || linger <= 0)))
        return 0;
    stream->closed = 1;
    close(part_with_descriptor(stream, 0));
    return 1;
}

/* Something waits to be sent, or nothing does any more. */
static PyObject *stream_keep_alive(PyObject *self, PyObject *needed)
{
    int unsent = PyObject_IsTrue(needed);
    if (unsent < 0)
        return NULL;
    ((Stream *)self)->unsent = (char)unsent;
    stream_settle_anchor((Stream *)self);
    Py_RETURN_NONE;
}

static PyObject *stream_get_raw(PyObject *self, void *unused)
{
    PyObject *raw = ((Stream *)self)->raw;
    return Py_NewRef(raw ? raw : Py_None);
}

static int stream_set_raw(PyObject *self, PyObject *raw, void *unused)
{
    Stream *stream = (Stream *)self;
    int fd = raw == NULL ? -1 : PyObject_AsFileDescriptor(raw);
    if (PyErr_Occurred())
        return -1;
    if (fd < 0 || fd != stream->fd) {
        PyErr_SetString(PyExc_ValueError, "the raw socket of a stream has the stream's descriptor");
        return -1;
    }
    Py_XSETREF(stream->raw, Py_NewRef(raw));
    return 0;
}

static PyObject *stream_get_reads_little(PyObject *self, void *unused)
{
    return PyBool_FromLong(stream_reads_little((Stream *)self));
}

static PyObject *stream_get_reader(PyObject *self, void *unused)
{
    Stream *stream = (Stream *)self;
    return Py_NewRef(stream->reader ? (PyObject *)stream->reader : Py_None);
}

static PyObject *stream_get_loop(PyObject *self, void *unused)
{
    return Py_NewRef(((Stream *)self)->reactor->loop);
}

static PyObject *stream_get_state(PyObject *self, void *unused)
{
    return Py_NewRef(((Stream *)self)->reactor);
}

static PyObject *unacknowledged(Stream *stream)
{
    int queued;
    if (!is_none(stream->outgoing))
        return PyObject_CallMethod((PyObject *)stream, "_unacknowledged", NULL);
    if (ioctl(stream->fd, SIOCOUTQ, &queued) != 0)
        Py_RETURN_NONE;
    return PyLong_FromLong(queued > stream->eof_sent ? queued - stream->eof_sent : 0); /* a FIN counts as a byte */
}

/* Words of struct tcp_info as the kernel has it (linux/tcp.h); that of the C library may end earlier. */
enum { UNACKED = 6, LAST_DATA_SENT = 11, LAST_DATA_RECV = 13, NOTSENT_BYTES = 36, INFO_WORDS };

/* What only the kernel knows, and only as long as the descriptor is open. */
static PyObject *stream_facts(PyObject *self, PyObject *unused)
{
    Stream *stream = (Stream *)self;
    if (stream->fd < 0)
        return PyTuple_Pack(2, Py_None, Py_None);
    uint32_t info[INFO_WORDS];
    socklen_t length = sizeof(info);
    PyObject *bytes, *seconds = NULL;
    if (getsockopt(stream->fd, IPPROTO_TCP, TCP_INFO, info, &length) != 0)
        length = 0;
    /* Mostly nothing is under way, which needs no further question: it is asked of every connection. */
    if (length == sizeof(info) && info[UNACKED] == 0 && info[NOTSENT_BYTES] == 0 && is_none(stream->outgoing))
        bytes = PyLong_FromLong(0);
    else
        bytes = unacknowledged(stream);
    if (bytes != NULL && length < (LAST_DATA_RECV + 1) * sizeof(info[0]))
        seconds = Py_NewRef(Py_None);
    else if (bytes != NULL)
        seconds = PyFloat_FromDouble(Py_MIN(info[LAST_DATA_SENT], info[LAST_DATA_RECV]) / 1e3);
    PyObject *facts = seconds == NULL ? NULL : PyTuple_Pack(2, bytes, seconds);
    Py_XDECREF(bytes);
    Py_XDECREF(seconds);
    return facts;
}

static PyObject *stream_get_allowance(PyObject *self, void *unused)
{
    PyObject *allowance = (PyObject *)((Stream *)self)->allowance;
    return Py_NewRef(allowance ? allowance : Py_None);
}

static int stream_set_allowance(PyObject *self, PyObject *value, void *unused)
{
    Stream *stream = (Stream *)self;
    if (value == NULL || (value != Py_None && !PyObject_TypeCheck(value, stream->reactor->state->allowance_type))) {
        PyErr_SetString(PyExc_TypeError, "an allowance of the compiled engine, or None");
        return -1;
    }
    Py_XSETREF(stream->allowance, value == Py_None ? NULL : (Allowance *)Py_NewRef(value));
    return 0;
}

static int stream_traverse(PyObject *self, visitproc visit, void *arg)
{
    Stream *stream = (Stream *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(stream->allowance);
    Py_VISIT(stream->reactor);
    Py_VISIT(stream->reader);
    Py_VISIT(stream->raw);
    Py_VISIT(stream->local);
    Py_VISIT(stream->peer);
    Py_VISIT(stream->outgoing);
    Py_VISIT(stream->lost);
    Py_VISIT(stream->waits);
    Py_VISIT(stream->closing);
    Py_VISIT(stream->observer);
    return 0;
}

static int stream_clear(PyObject *self)
{
    Stream *stream = (Stream *)self;
    if (stream->reader != NULL) {
        Py_INCREF(stream);
        stream_clear_reader(stream, stream->reader);
        Py_DECREF(stream);
    }
    Py_CLEAR(stream->local);
    Py_CLEAR(stream->peer);
    Py_CLEAR(stream->outgoing);
    Py_CLEAR(stream->lost);
    Py_CLEAR(stream->waits);
    Py_CLEAR(stream->closing);
    Py_CLEAR(stream->observer);
    Py_CLEAR(stream->allowance);
    return 0;
}

/* A stream that nobody closed: close it, and say so, as the socket module does. */
static void stream_finalize(PyObject *self)
{
    Stream *stream = (Stream *)self;
    if (stream->fd < 0)
        return;
    PyObject *raised = take_exception();
    int fd = part_with_descriptor(stream, 0);
    stream->closed = 1;
    if (stream->raw == NULL) { /* else that object warns and closes */
        if (!is_inherited(stream->reactor) && /* else it is for the parent to close the connection */
            PyErr_ResourceWarning(self, 1, "unclosed %R with descriptor %d", (PyObject *)Py_TYPE(self), fd) < 0)
            PyErr_WriteUnraisable(self);
        close(fd);
    }
    if (raised != NULL)
        raise_taken(raised);
}

static void stream_dealloc(PyObject *self)
{
    Stream *stream = (Stream *)self;
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    stream_clear(self);
    Py_CLEAR(stream->raw);
    Py_CLEAR(stream->reactor);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef stream_methods[] = {
    {"receive", stream_receive_method, METH_O, NULL},
    {"receive_into", stream_receive_into_method, METH_O, NULL},
    {"send", stream_send_method, METH_O, NULL},
    {"send_vectored", stream_send_vectored_method, METH_O, NULL},
    {"_send_some", stream_send_some, METH_O, NULL},
    {"_until_readable", stream_until_readable, METH_NOARGS, NULL},
    {"reader_turn", stream_reader_turn, METH_NOARGS, NULL},
    {"_wake_reader", stream_wake_reader, METH_NOARGS, NULL},
    {"facts", stream_facts, METH_NOARGS, NULL},
    {"break_off", stream_break_off_method, METH_NOARGS, NULL},
    {"note_gap", stream_note_gap_method, METH_NOARGS, NULL},
    {"_close_descriptor", stream_close_descriptor, METH_NOARGS, NULL},
    {"_leave_descriptor", stream_leave_descriptor, METH_NOARGS, NULL},
    {"_keep_alive", stream_keep_alive, METH_O, NULL},
    {NULL},
};

static PyMemberDef stream_members[] = {
    {"_recent", T_INT, offsetof(Stream, recent), 0, NULL},
    {"_fd", T_INT, offsetof(Stream, fd), READONLY, NULL},
    {"_local", T_OBJECT, offsetof(Stream, local), 0, NULL},
    {"_outgoing", T_OBJECT, offsetof(Stream, outgoing), 0, NULL},
    {"_acknowledgement_waits", T_OBJECT, offsetof(Stream, waits), 0, NULL},
    {"_closing", T_OBJECT, offsetof(Stream, closing), 0, NULL},
    {"_observer", T_OBJECT, offsetof(Stream, observer), 0, NULL},
    {"lost", T_OBJECT, offsetof(Stream, lost), 0, NULL},
    {"in_hand", T_INT, offsetof(Stream, in_hand), 0, NULL},
    {"bytes_read", T_LONGLONG, offsetof(Stream, bytes_read), 0, NULL},
    {"_bytes_sent", T_LONGLONG, offsetof(Stream, bytes_written), 0, NULL},
    {"closed", T_BOOL, offsetof(Stream, closed), 0, NULL},
    {"_readable", T_BOOL, offsetof(Stream, readable), 0, NULL},
    {"_watched", T_BOOL, offsetof(Stream, watched), READONLY, NULL},
    {"peer_ended", T_BOOL, offsetof(Stream, end_seen), 0, NULL},
    {"_eof_asked", T_BOOL, offsetof(Stream, eof_asked), 0, NULL},
    {"_eof_sent", T_BOOL, offsetof(Stream, eof_sent), 0, NULL},
    {"_timestamps", T_BOOL, offsetof(Stream, timestamps), 0, NULL},
    {"_peer_watched", T_BOOL, offsetof(Stream, peer_watched), 0, NULL},
    {NULL},
};

static PyGetSetDef stream_getset[] = {
    {"_raw", stream_get_raw, stream_set_raw, NULL, NULL},
    {"allowance", stream_get_allowance, stream_set_allowance, NULL, NULL},
    {"_peer", stream_get_peer, stream_set_peer, NULL, NULL},
    {"_read_waiter", stream_get_reader, NULL, NULL, NULL},
    {"_reads_little", stream_get_reads_little, NULL, NULL, NULL},
    {"_loop", stream_get_loop, NULL, NULL, NULL},
    {"_state", stream_get_state, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "A descriptor, what is known of its readiness, and how to move bytes."},
    {Py_tp_new, stream_new},
    {Py_tp_finalize, stream_finalize},
    {Py_tp_dealloc, stream_dealloc},
    {Py_tp_traverse, stream_traverse},
    {Py_tp_clear, stream_clear},
    {Py_tp_methods, stream_methods},
    {Py_tp_members, stream_members},
    {Py_tp_getset, stream_getset},
    {0, NULL},
};

PyType_Spec stream_spec = {
    .name = "aionet.native._compiled.Stream",
    .basicsize = sizeof(Stream),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = stream_slots,
};
