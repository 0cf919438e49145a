/* Tls: the hot half of a TLS wire over a compiled stream. The other half is wires/tls/wire.py, a subclass of it.
 *
 * Theory of operation
 * -------------------
 * The standard library's TLS works on memory: ciphertext is written into one `MemoryBIO` and read out of another. What
 * a message needs of that is recv(2), `MemoryBIO.write` and `_SSLSocket.read` on its way in, `_SSLSocket.write`,
 * `MemoryBIO.read` and send(2) on its way out. Here they follow one another without a Python frame, in the step of the
 * task that asked, as with a plain stream.
 *
 * This short way is for an established connection whose lower wire is a compiled stream, and for what goes well. All
 * else is Python's: what turns out not to be simple is left as if nobody had tried, and a coroutine of the other half
 * goes on. Both halves share the attributes of this type, so that each finds what the other has left.
 *
 * *Knowing what is there.* Asking OpenSSL for plaintext that it has not got raises an exception, which is dearer than
 * all the rest. So it is asked only if something may be there (`more`). `held` says how much ciphertext that is at the
 * most, and so how much plaintext, and how large an object to make. Mostly it is one record (`single`), of which
 * nothing is left when it was read; else the BIO is asked.
 *
 * *Records.* One small record, or several large ones, are given to OpenSSL at once, and the rest waits in `unfed`:
 * wires/tls/records.py has the theory, the numbers, and the same in Python.
 *
 * *Answers.* A read may have made one (to a KeyUpdate, say), which is to go before the next record that this side sends
 * (RFC 8446, 4.6.3). A single record that had data in it made none. Answers to several records are sent together, once
 * there is data or nothing more is here.
 *
 * *Broken off.* Ciphertext or plaintext that was taken from one place and could not be brought to the next one, for want
 * of memory or because a signal's handler raised, is gone. Nothing that follows is understood then, so the connection is
 * lost (`break_off`).
 *
 * *One reader.* Whoever reads waits at the lower stream, which knows it; `reading` is for the times between.
 */
#include "native.h"

enum {
    RECORD_BYTES = 16384,       /* of plaintext, at the most, in one record */
    MOST_WRITTEN = 65536,       /* that are encrypted at once: `PIECE` of wires/tls/writes.py */
    UNKNOWN = RECORD_BYTES + 1, /* above a record: a read of so much leaves nothing of it */
    HEADER_BYTES = 5,           /* of a record: type, version, length (RFC 8446, 5.1) */
};

struct Tls {
    PyObject_HEAD
    ModuleState *state;
    Stream *stream; /* beneath, once that is the short way's; owned */
    PyObject *engine; /* of the SSLObject, what it calls itself */
    PyObject *lower, *object, *incoming, *encrypted, *ahead, *outgoing, *own_loss;
    PyObject *unfed; /* bytes of ciphertext that came, of which OpenSSL was given the first `unfed_at`; or NULL */
    Py_ssize_t unfed_at, record_left;
    long long bytes_read, bytes_sent;
    Py_ssize_t held;
    int unread_records, idle_records;
    int incoming_peak, encrypted_peak; /* of what the buffers had in them since their memory was given back */
    char partial, single, more, reading, established, truncated, eof_asked, closed, peer_ended;
    char unanswered; /* reading may have made answers that were not sent yet */
};

typedef struct {
    Operation base;
    Tls *tls;
} TlsOperation;

typedef enum { GOT, WANTS_MORE, RARE, FAILED, LOST } Outcome;

static inline Tls *tls_of(Operation *operation)
{
    return ((TlsOperation *)operation)->tls;
}

static inline int is_set(PyObject *object)
{
    return object != NULL && object != Py_None;
}

/* A part of what was sent or received is gone. Keeps an exception that is being raised. */
static void break_off(Tls *tls)
{
    if (!is_set(tls->own_loss))
        Py_XSETREF(tls->own_loss, Py_NewRef(tls->state->broken_off));
    tls->more = 0;
    if (tls->stream != NULL)
        stream_break_off(tls->stream);
}

/* -- Window: bytes of ours, for those who take a buffer --------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    const char *bytes;
    Py_ssize_t length;
} Window;

static int window_get_buffer(PyObject *self, Py_buffer *view, int flags)
{
    Window *window = (Window *)self;
    return PyBuffer_FillInfo(view, self, (void *)window->bytes, window->length, 1, flags);
}

static void window_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot window_slots[] = {
    {Py_tp_dealloc, window_dealloc},
    {Py_bf_getbuffer, window_get_buffer},
    {0, NULL},
};

PyType_Spec window_spec = {
    .name = "aionet.native._compiled.Window",
    .basicsize = sizeof(Window),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = window_slots,
};

/* `method(object, bytes)` of a method that keeps nothing of its argument. One window to a reactor is enough: nothing
 * else of this thread runs meanwhile. */
static PyObject *call_with_bytes(Reactor *reactor, PyObject *method, PyObject *object, const char *bytes,
                                 Py_ssize_t length)
{
    Window *window = (Window *)reactor->window;
    if (window == NULL) {
        window = PyObject_New(Window, reactor->state->window_type);
        if (window == NULL)
            return NULL;
        reactor->window = (PyObject *)window;
    }
    window->bytes = bytes;
    window->length = length;
    PyObject *arguments[] = {object, (PyObject *)window};
    return PyObject_Vectorcall(method, arguments, 2, NULL);
}

/* -- reading ---------------------------------------------------------------------------------------------------- */

static int may_read(Tls *tls)
{
    Stream *stream = tls->stream;
    return stream != NULL && !tls->closed && !tls->peer_ended && !tls->truncated && !is_set(tls->own_loss) &&
           !stream->closed && !is_inherited(stream->reactor) && !is_set(stream->lost) && (tls->ahead == NULL || PyBytes_GET_SIZE(tls->ahead) == 0);
}

/* So many records have had no data. */
static void charge_records(Tls *tls, int records)
{
    tls->stream->reactor->budget -= records * tls->state->record_cost;
}

/* Something was read: what may be left. */
static int note_left(Tls *tls, Py_ssize_t asked, Py_ssize_t got)
{
    if (got == asked) { /* a part of a record, perhaps */
        tls->held = UNKNOWN;
        tls->single = 0;
        return 0;
    }
    if (tls->single) {
        tls->held = tls->more = tls->unread_records = 0;
        return 0;
    }
    PyObject *pending = PyObject_GetAttr(tls->incoming, tls->state->str_pending);
    tls->held = pending == NULL ? UNKNOWN : PyLong_AsSsize_t(pending);
    tls->more = tls->held != 0;
    Py_XDECREF(pending);
    tls->unread_records -= tls->unread_records > 0;
    if (!tls->more) { /* all are read, and those before this one had no data */
        charge_records(tls, tls->unread_records);
        tls->unread_records = 0;
    }
    return pending == NULL || tls->held < 0 ? -1 : 0;
}

/* Whether reading has made this side say something; -1 and an error is set. */
static int has_answers(Tls *tls)
{
    PyObject *pending = PyObject_GetAttr(tls->encrypted, tls->state->str_pending);
    int answers = pending == NULL ? -1 : PyObject_IsTrue(pending);
    Py_XDECREF(pending);
    return answers;
}

/* Whether a record, or its beginning, is here that OpenSSL was not given yet. */
static int has_next(Tls *tls)
{
    return tls->unfed != NULL && PyBytes_GET_SIZE(tls->unfed) - tls->unfed_at >= HEADER_BYTES;
}

/* Reading raised: there was not enough, or it was the end, or something is wrong. */
static Outcome note_refusal(Tls *tls)
{
    if (PyErr_ExceptionMatches(tls->state->zero_return_error)) {
        PyErr_Clear(); /* the end, where this side has ended, too */
        return RARE;
    }
    if (!PyErr_ExceptionMatches(tls->state->want_read_error)) {
        if (!PyErr_ExceptionMatches(PyExc_OSError)) /* none of OpenSSL's: it may have decrypted something */
            break_off(tls);
        return FAILED;
    }
    PyErr_Clear();
    int answers = 0;
    if (has_next(tls))
        tls->unanswered = 1; /* one system call for the answers to many records */
    else if ((answers = has_answers(tls)) < 0)
        return FAILED;
    /* The other half asks again where it has answers to send, or a flood to end. */
    tls->more = answers > 0 || tls->idle_records + tls->unread_records > tls->state->most_without_data;
    if (tls->more)
        return RARE;
    charge_records(tls, tls->unread_records);
    tls->idle_records += tls->unread_records;
    tls->unread_records = 0;
    if (tls->record_left == 0)
        tls->held = 0;
    return WANTS_MORE;
}

/* Send what reading has made this side say: somebody who only reads must not gather answers. */
static int answer(Tls *tls)
{
    tls->unanswered = 0;
    int answers = has_answers(tls);
    if (answers <= 0)
        return answers;
    PyObject *replied = PyObject_CallMethodNoArgs((PyObject *)tls, tls->state->str_reply);
    Py_XDECREF(replied);
    return replied == NULL ? -1 : 0;
}

/* The bytes cannot be returned. */
static Outcome drop(Tls *tls, PyObject *data, Outcome outcome)
{
    Py_DECREF(data);
    break_off(tls);
    return outcome;
}

static Outcome decrypt(Operation *operation, Tls *tls, PyObject **result)
{
    ModuleState *state = tls->state;
    Py_ssize_t asked = Py_MIN(tls->held, UNKNOWN), got;
    if (operation->kind != READ_INTO) {
        asked = Py_MIN(asked, operation->max_bytes);
    } else { /* as much as it has room for is a part of a record, perhaps */
        Py_buffer view;
        if (PyObject_GetBuffer(operation->argument, &view, PyBUF_SIMPLE) < 0)
            return FAILED;
        asked = Py_MIN(asked, view.len);
        PyBuffer_Release(&view);
    }
    PyObject *count = PyLong_FromSsize_t(asked), *data = NULL;
    if (count != NULL) {
        PyObject *arguments[] = {tls->engine, count, operation->argument};
        size_t given = operation->kind == READ_INTO ? 3 : 2;
        data = PyObject_Vectorcall(state->engine_read, arguments, given, NULL);
        Py_DECREF(count);
    }
    if (data == NULL)
        return note_refusal(tls);
    got = operation->kind == READ_INTO ? PyLong_AsSsize_t(data) : PyBytes_GET_SIZE(data);
    if (got <= 0) { /* the end of the stream */
        Py_DECREF(data);
        return got < 0 ? FAILED : RARE;
    }
    tls->bytes_read += got;
    tls->idle_records = 0;
    if (tls->stream->allowance != NULL && operation->kind != READ_INTO)
        stream_take_in_hand(tls->stream, got);
    if ((!tls->single || tls->unanswered) && answer(tls) < 0)
        return drop(tls, data, LOST);
    if (note_left(tls, asked, got) < 0)
        return drop(tls, data, FAILED);
    *result = data;
    return GOT;
}

/* Whether this is one record of data (RFC 8446, 5.1), no less and no more. */
static int is_a_record(const unsigned char *bytes, Py_ssize_t length)
{
    enum { APPLICATION_DATA = 23 };
    return length > HEADER_BYTES && bytes[0] == APPLICATION_DATA && HEADER_BYTES + (bytes[3] << 8 | bytes[4]) == length;
}

/* How many of these bytes are the records that OpenSSL is given next; notes how many records are among them. */
static Py_ssize_t next_records(Tls *tls, const unsigned char *bytes, Py_ssize_t length)
{
    Py_ssize_t at = 0, left = tls->record_left;
    int count = 0, small = 0;
    for (;;) {
        if (left == 0) {
            if (length - at < HEADER_BYTES)
                break;
            Py_ssize_t size = HEADER_BYTES + (bytes[at + 3] << 8 | bytes[at + 4]);
            if (size < tls->state->large_record && small++)
                break;
            left = size;
        }
        Py_ssize_t part = Py_MIN(left, length - at);
        at += part;
        left -= part;
        if (left > 0)
            break;
        count++;
    }
    tls->record_left = left;
    tls->unread_records = count;
    return at;
}

/* A buffer has more in it than before, and more memory: wires/tls/memory.py. -1: an error is set. */
static int note_growth(Tls *tls, int *peak, Py_ssize_t held)
{
    *peak = (int)held;
    PyObject *noted = PyObject_CallMethodNoArgs((PyObject *)tls, tls->state->str_note_growth);
    Py_XDECREF(noted);
    return noted == NULL ? -1 : 0;
}

/* OpenSSL was given so much, and has taken all that was there before. GOT, or FAILED. */
static Outcome note_fed(Tls *tls, Py_ssize_t bytes)
{
    char partial = tls->record_left > 0; /* OpenSSL holds a buffer for the record then, which counts */
    PyObject *done = NULL;
    if (tls->stream->allowance != NULL && partial != tls->partial &&
        (done = PyObject_CallMethodNoArgs((PyObject *)tls, tls->state->str_on_unsent)) == NULL)
        return FAILED;
    Py_XDECREF(done);
    tls->partial = partial;
    return bytes > tls->incoming_peak && note_growth(tls, &tls->incoming_peak, bytes) < 0 ? FAILED : GOT;
}

/* Give OpenSSL what is next of these bytes; how many that was, or -1 and an error is set. */
static Py_ssize_t feed(Tls *tls, const char *bytes, Py_ssize_t length)
{
    Py_ssize_t next = next_records(tls, (const unsigned char *)bytes, length);
    if (next == 0)
        return 0;
    PyObject *written = call_with_bytes(tls->stream->reactor, tls->state->bio_write, tls->incoming, bytes, next);
    if (written == NULL) {
        break_off(tls);
        return -1;
    }
    Py_DECREF(written);
    tls->single = tls->held == 0 && is_a_record((const unsigned char *)bytes, next);
    tls->held += next;
    tls->more = 1;
    return next;
}

/* Keep these bytes for later; 0, or -1 and an error is set. */
static int keep_unfed(Tls *tls, const char *bytes, Py_ssize_t length)
{
    PyObject *unfed = length == 0 ? NULL : PyBytes_FromStringAndSize(bytes, length);
    if (length > 0 && unfed == NULL) {
        break_off(tls);
        return -1;
    }
    int counts = tls->stream->allowance != NULL && (unfed != NULL || tls->unfed != NULL);
    Py_XSETREF(tls->unfed, unfed);
    tls->unfed_at = 0;
    PyObject *done = counts ? PyObject_CallMethodNoArgs((PyObject *)tls, tls->state->str_on_unsent) : NULL;
    Py_XDECREF(done);
    return counts && done == NULL ? -1 : 0;
}

/* GOT: OpenSSL was given what is next of what is here. */
static Outcome feed_next(Tls *tls)
{
    if (tls->unfed == NULL)
        return WANTS_MORE;
    const char *bytes = PyBytes_AS_STRING(tls->unfed) + tls->unfed_at;
    Py_ssize_t length = PyBytes_GET_SIZE(tls->unfed) - tls->unfed_at, next = feed(tls, bytes, length);
    if (next <= 0)
        return next < 0 ? FAILED : WANTS_MORE;
    tls->unfed_at += next;
    if (length - next < HEADER_BYTES && keep_unfed(tls, bytes + next, length - next) < 0)
        return FAILED;
    return note_fed(tls, next);
}

/* A large operation costs more than a plain one: wires/tls/records.py. */
static void charge_for_cipher(Tls *tls, Py_ssize_t bytes)
{
    if (bytes >> tls->state->unit_bits > 0)
        tls->stream->reactor->room -= tls->state->cipher_cost * bytes;
}

/* Take what the kernel has, up to `most` bytes. GOT: there was something. */
static Outcome take_in(Tls *tls, Py_ssize_t most)
{
    Stream *stream = tls->stream;
    char *scratch = reactor_scratch(stream->reactor);
    if (scratch == NULL)
        return FAILED;
    Py_ssize_t begun = tls->unfed == NULL ? 0 : PyBytes_GET_SIZE(tls->unfed) - tls->unfed_at; /* a part of a header */
    Py_ssize_t received = stream_receive_into(stream, scratch + begun, most);
    if (received == WOULD_BLOCK)
        return WANTS_MORE;
    if (received < 0)
        return LOST;
    if (received == 0) /* the end without close_notify: the stream tells it again */
        return RARE;
    charge_for_cipher(tls, received);
    if (begun > 0)
        memcpy(scratch, PyBytes_AS_STRING(tls->unfed) + tls->unfed_at, begun);
    Py_ssize_t length = begun + received, next = feed(tls, scratch, length);
    if (next < 0 || ((begun > 0 || next < length) && keep_unfed(tls, scratch + next, length - next) < 0))
        return FAILED;
    return note_fed(tls, next);
}

/* The Python function that the socket's method stands for, or the wire's own slow way. */
static PySendResult go_slowly(Operation *operation, PyObject **result)
{
    ModuleState *state = operation->state;
    if (operation->socket != NULL)
        return operation_go_the_long_way(operation, result);
    PyObject *name = operation->kind == READ        ? state->str_receive_slowly
                     : operation->kind == READ_INTO ? state->str_receive_into_slowly
                                                    : state->str_send_slowly;
    PyObject *argument = operation->kind == READ ? PyLong_FromSsize_t(operation->max_bytes)
                                                 : Py_NewRef(operation->argument);
    PyObject *wire = (PyObject *)tls_of(operation);
    PyObject *coroutine = argument == NULL ? NULL : PyObject_CallMethodOneArg(wire, name, argument);
    Py_XDECREF(argument);
    return operation_go_on_in(operation, coroutine, result);
}

/* Raise what the other half makes of an error of OpenSSL's. */
static PySendResult fail(Operation *operation, PyObject *name, PyObject **result)
{
    PyObject *wire = (PyObject *)tls_of(operation), *raised, *error;
    if (PyErr_ExceptionMatches(PyExc_OSError)) {
        raised = take_exception();
        error = PyObject_CallMethodObjArgs(wire, operation->state->str_error, name, raised, NULL);
        if (error == NULL)
            Py_DECREF(raised);
        else
            raise_error_object(error, raised);
    }
    return operation_finish_with(operation, NULL, result);
}

static PySendResult fail_reading(Operation *operation, PyObject **result)
{
    if (!PyErr_ExceptionMatches(PyExc_OSError)) /* none of OpenSSL's */
        return operation_finish_with(operation, NULL, result);
    PyObject *raised = take_exception();
    PyObject *replied = PyObject_CallMethodNoArgs((PyObject *)tls_of(operation), operation->state->str_reply);
    tls_of(operation)->more = 0;
    if (replied == NULL) {
        Py_XDECREF(raised);
        return operation_finish_with(operation, NULL, result);
    }
    Py_DECREF(replied);
    raise_taken(raised);
    return fail(operation, operation->state->str_read, result);
}

/* Pass on what the stream has raised, as this wire's. */
static PySendResult lose(Operation *operation, PyObject **result)
{
    ModuleState *state = operation->state;
    if (PyErr_ExceptionMatches(state->connection_lost_error) ||
        PyErr_ExceptionMatches(state->resource_exhausted_error)) {
        PyObject *error = take_exception();
        if (PyObject_SetAttr(error, state->str_ends, (PyObject *)tls_of(operation)) < 0)
            Py_DECREF(error);
        else
            raise_taken(error);
    }
    return operation_finish_with(operation, NULL, result);
}

/* How much ciphertext may be taken in; 0: it has to wait for room; FAILED_CALL: an error is set. The plaintext of it
 * counts, too, and the buffer is larger by a third. */
static Py_ssize_t admitted(Tls *tls)
{
    Py_ssize_t most = stream_admit(tls->stream, 3 * READ_BYTES);
    return most > 0 ? Py_MAX(most / 3, 1) : most;
}

static PySendResult try_to_read(Operation *operation, PyObject **result)
{
    Tls *tls = tls_of(operation);
    Py_ssize_t most = READ_BYTES;
    for (int taken = 0;;) {
        if (!may_read(tls))
            return go_slowly(operation, result);
        if (tls->stream->allowance != NULL && (tls->more || tls->stream->readable) && !taken) {
            most = admitted(tls);
            if (most < 0)
                return operation_finish_with(operation, NULL, result);
            if (most == 0 && !tls->stream->closed)
                return operation_wait_for_input(operation, result);
            if (most == 0)
                continue;
        }
        PyObject *data = NULL;
        Outcome outcome = tls->more ? decrypt(operation, tls, &data) : WANTS_MORE;
        if (outcome == GOT) {
            if (!taken) /* what was taken in was charged for */
                reactor_charge(tls->stream->reactor, 0);
            return operation_finish_with(operation, data, result);
        }
        int is_more_there = tls->unfed != NULL || tls->stream->readable;
        if (outcome == WANTS_MORE && is_more_there && tls->stream->reactor->budget <= 0) {
            stream_set_reader(tls->stream, operation);
            return operation_yield_turn(operation, YIELDED_BEFORE, result);
        }
        if (outcome == WANTS_MORE)
            outcome = feed_next(tls);
        if (outcome == WANTS_MORE) {
            if (!tls->stream->readable) {
                PySendResult status = operation_wait_for_input(operation, result);
                return status == PYGEN_ERROR ? lose(operation, result) : status;
            }
            outcome = take_in(tls, most);
            taken = 1;
        }
        if (outcome == LOST)
            return lose(operation, result);
        if (outcome == FAILED)
            return fail_reading(operation, result);
        if (outcome == RARE)
            return go_slowly(operation, result);
    }
}

static PySendResult begin_reading(Operation *operation, PyObject **result)
{
    Tls *tls = tls_of(operation);
    if (!may_read(tls))
        return go_slowly(operation, result);
    Stream *stream = tls->stream;
    if (stream->reader == NULL)
        stream_let_go(stream);
    if (tls->reading || stream->reader != NULL) {
        PyObject *error = PyObject_CallMethodNoArgs((PyObject *)tls, operation->state->str_busy_error);
        if (error != NULL)
            raise_error_object(error, NULL);
        return operation_finish_with(operation, NULL, result);
    }
    if (stream_paces_reads(stream)) {
        stream_set_reader(stream, operation);
        return operation_pace(operation, WAITING, result);
    }
    if (stream->reactor->budget <= 0) {
        stream_set_reader(stream, operation);
        return operation_yield_turn(operation, YIELDED_BEFORE, result);
    }
    return try_to_read(operation, result);
}

/* -- writing ---------------------------------------------------------------------------------------------------- */

/* -1: an error is set. */
static int may_write(Tls *tls)
{
    Stream *stream = tls->stream;
    if (stream == NULL || tls->closed || tls->eof_asked || is_set(tls->own_loss) || stream->closed ||
        is_inherited(stream->reactor) || stream->eof_asked || is_set(stream->lost) || stream->unsent)
        return 0;
    int pending = is_set(tls->outgoing) ? PyObject_IsTrue(tls->outgoing) : 0;
    return pending < 0 ? -1 : !pending;
}

/* The records of some bytes stand in the outgoing BIO then; 0, or -1 and an error is set. */
static int encrypt(Tls *tls, const char *bytes, Py_ssize_t length)
{
    while (length > 0) {
        PyObject *written = call_with_bytes(tls->stream->reactor, tls->state->engine_write, tls->engine, bytes,
                                            Py_MIN(length, RECORD_BYTES));
        Py_ssize_t count = written == NULL ? -1 : PyLong_AsSsize_t(written);
        Py_XDECREF(written);
        if (count == 0) /* which OpenSSL does not return here */
            PyErr_SetString(PyExc_RuntimeError, "OpenSSL has encrypted nothing");
        if (count <= 0)
            return -1;
        bytes += count;
        length -= count;
    }
    return 0;
}

/* What found no room is put back, and goes on as what the other half has encrypted does. */
static PySendResult send_the_rest(Operation *operation, const char *rest, Py_ssize_t length, PyObject **result)
{
    Tls *tls = tls_of(operation);
    PyObject *written = call_with_bytes(tls->stream->reactor, tls->state->bio_write, tls->encrypted, rest, length);
    PyObject *coroutine = NULL;
    if (written != NULL)
        coroutine = PyObject_CallMethodOneArg((PyObject *)tls, tls->state->str_finish_send, operation->argument);
    Py_XDECREF(written);
    Py_INCREF(tls); /* a finished operation has let go of it */
    PySendResult status = operation_go_on_in(operation, coroutine, result);
    if (status == PYGEN_ERROR && !PyErr_ExceptionMatches(PyExc_OSError))
        break_off(tls);
    Py_DECREF(tls);
    return status;
}

/* What is encrypted has its place in the stream, and must go. */
static PySendResult give_up(Operation *operation, PyObject **result)
{
    break_off(tls_of(operation));
    return operation_finish_with(operation, NULL, result);
}

/* `count` is that of the bytes that were encrypted. */
static PySendResult send_ciphertext(Operation *operation, PyObject *ciphertext, Py_ssize_t bytes, PyObject *count,
                                    PyObject **result)
{
    Tls *tls = tls_of(operation);
    Stream *stream = tls->stream;
    Py_ssize_t length = PyBytes_GET_SIZE(ciphertext);
    ssize_t sent = stream_send(stream, PyBytes_AS_STRING(ciphertext), length);
    if (sent < 0) { /* the stream will say so again */
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return give_up(operation, result);
        PyErr_Clear();
        sent = 0;
    } else {
        stream->bytes_written += sent;
        tls->bytes_sent += bytes;
    }
    if (sent < length)
        return send_the_rest(operation, PyBytes_AS_STRING(ciphertext) + sent, length - sent, result);
    reactor_charge(stream->reactor, bytes);
    charge_for_cipher(tls, bytes);
    if (stream->reactor->budget >= 0 && !reactor_paces(stream->reactor, bytes))
        return operation_finish_with(operation, Py_NewRef(count), result);
    operation->result = Py_NewRef(count);
    return operation_give_way(operation, bytes, result);
}

static PySendResult not_encrypted(Operation *operation, PyObject **result)
{
    if (PyErr_ExceptionMatches(operation->state->want_read_error)) {
        PyErr_Clear(); /* a renegotiation: nothing was encrypted */
        return go_slowly(operation, result);
    }
    if (!PyErr_ExceptionMatches(PyExc_OSError)) /* none of OpenSSL's: it may have encrypted something */
        return give_up(operation, result);
    return fail(operation, operation->state->str_write, result);
}

static PySendResult send_encrypted(Operation *operation, Py_ssize_t bytes, PyObject *count, PyObject **result)
{
    PyObject *ciphertext = PyObject_Vectorcall(operation->state->bio_read, &tls_of(operation)->encrypted, 1, NULL);
    if (ciphertext == NULL)
        return give_up(operation, result);
    PySendResult status = send_ciphertext(operation, ciphertext, bytes, count, result);
    Py_DECREF(ciphertext);
    return status;
}

static PySendResult begin_writing(Operation *operation, PyObject **result)
{
    Tls *tls = tls_of(operation);
    int may = may_write(tls);
    if (tls->stream != NULL && tls->stream->reader == NULL)
        stream_let_go(tls->stream);
    if (may < 0)
        return operation_finish_with(operation, NULL, result);
    if (!may)
        return go_slowly(operation, result);
    Py_buffer view;
    if (PyObject_GetBuffer(operation->argument, &view, PyBUF_SIMPLE) < 0)
        return operation_refuses_buffer() ? go_slowly(operation, result) : operation_finish_with(operation, NULL, result);
    Py_ssize_t bytes = view.len;
    int simple = bytes > 0 && bytes <= MOST_WRITTEN;
    PyObject *count = simple ? PyLong_FromSsize_t(bytes) : NULL; /* beforehand: later it must not fail */
    int failed = count != NULL && (encrypt(tls, view.buf, bytes) < 0 ||
                                   (bytes > tls->encrypted_peak && note_growth(tls, &tls->encrypted_peak, bytes) < 0));
    PyBuffer_Release(&view);
    if (!simple)
        return go_slowly(operation, result);
    if (count == NULL)
        return operation_finish_with(operation, NULL, result);
    PySendResult status = failed ? not_encrypted(operation, result)
                                 : send_encrypted(operation, bytes, count, result);
    Py_DECREF(count);
    return status;
}

/* -- the operation ---------------------------------------------------------------------------------------------- */

PyObject *tls_operation_new(ModuleState *state, Kind kind, PyObject *socket, Tls *tls, PyObject *argument,
                            Py_ssize_t max_bytes)
{
    TlsOperation *operation = (TlsOperation *)state->free_tls_operations;
    if (operation != NULL) {
        state->free_tls_operations = operation->base.next_ready;
        state->free_tls_operation_count--;
        PyObject_Init((PyObject *)operation, state->tls_operation_type);
    } else {
        operation = PyObject_GC_New(TlsOperation, state->tls_operation_type);
        if (operation == NULL)
            return NULL;
    }
    operation_init(&operation->base, state, kind, socket, argument, max_bytes);
    operation->base.stream = (Stream *)Py_XNewRef(tls->stream);
    operation->tls = (Tls *)Py_NewRef(tls);
    PyObject_GC_Track(operation);
    return (PyObject *)operation;
}

static PySendResult begin(Operation *operation, PyObject **result)
{
    Tls *tls = tls_of(operation);
    int long_way = operation_has_to_go_the_long_way(operation, (PyObject *)tls);
    if (long_way < 0)
        return operation_finish_with(operation, NULL, result);
    if (long_way)
        return operation_go_the_long_way(operation, result);
    if (operation->stream == NULL) /* it was made before the handshake was over */
        operation->stream = (Stream *)Py_XNewRef(tls->stream);
    return operation->kind <= READ_INTO ? begin_reading(operation, result) : begin_writing(operation, result);
}

static PySendResult step(Operation *operation, PyObject *value, PyObject **result)
{
    switch ((Phase)operation->phase) {
    case FRESH:
        if (value != Py_None)
            return operation_refuse(PyExc_TypeError, "can't send non-None value to a just-started coroutine", result);
        return begin(operation, result);
    case WAITING:
        if (operation->wait != NULL && operation->wait->callback != NULL)
            return operation_refuse(PyExc_RuntimeError, "coroutine is being awaited already", result);
        reactor_refill(operation->stream->reactor); /* everybody else has had a turn */
        /* fall through */
    case YIELDED_BEFORE:
        operation_detach(operation);
        return try_to_read(operation, result);
    case YIELDED_AFTER:
        if (operation->wait != NULL && operation->wait->callback != NULL)
            return operation_refuse(PyExc_RuntimeError, "coroutine is being awaited already", result);
        return operation_finish_with(operation, Py_NewRef(operation->result), result);
    case DELEGATED:
        return operation_go_on(operation, value, result);
    case FINISHED:
        break;
    }
    return operation_refuse(PyExc_RuntimeError, "cannot reuse already awaited coroutine", result);
}

static PySendResult tls_operation_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    return operation_make_step((Operation *)self, step, value, result);
}

void tls_operation_let_go(Operation *operation)
{
    Py_CLEAR(((TlsOperation *)operation)->tls);
}

static PyObject *tls_operation_iternext(PyObject *self)
{
    PyObject *result;
    PySendResult status = tls_operation_am_send(self, Py_None, &result);
    return returned_of(status, result);
}

static PyObject *tls_operation_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = tls_operation_am_send(self, value, &result);
    return returned_by_method(status, result);
}

static PyObject *tls_operation_throw(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    operation_note_interruption((Operation *)self, (PyObject *)tls_of((Operation *)self));
    return operation_throw(self, arguments, count);
}

static int tls_operation_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(tls_of((Operation *)self));
    return operation_traverse(self, visit, arg);
}

static void tls_operation_dealloc(PyObject *self)
{
    TlsOperation *operation = (TlsOperation *)self;
    PyTypeObject *type = Py_TYPE(self);
    ModuleState *state = operation->base.state;
    PyObject_GC_UnTrack(self);
    operation_let_go(&operation->base);
    Py_CLEAR(operation->tls);
    if (state->free_tls_operation_count < MOST_FREE) {
        operation->base.next_ready = state->free_tls_operations;
        state->free_tls_operations = &operation->base;
        state->free_tls_operation_count++;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

static PyMethodDef tls_operation_methods[] = {
    {"send", tls_operation_send, METH_O, "Run until it waits."},
    {"throw", (PyCFunction)(void (*)(void))tls_operation_throw, METH_FASTCALL, "Raise an exception where it waits."},
    {"close", operation_close, METH_NOARGS, "End it where it waits."},
    {NULL},
};

static PyType_Slot tls_operation_slots[] = {
    {Py_tp_doc, "What is awaited when a TLS wire is asked to receive or send."},
    {Py_tp_dealloc, tls_operation_dealloc},
    {Py_tp_traverse, tls_operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_methods, tls_operation_methods},
    {Py_tp_getset, operation_getset},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, tls_operation_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, tls_operation_am_send},
    {0, NULL},
};

PyType_Spec tls_operation_spec = {
    .name = "aionet.native._compiled.TlsOperation",
    .basicsize = sizeof(TlsOperation),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = tls_operation_slots,
};

/* -- the short cut around a socket's methods (methods.c) -------------------------------------------------------- */

Tls *tls_beneath(ModuleState *state, PyObject *socket, Kind kind)
{
    if (Py_TYPE(socket) != state->socket_class && !PyObject_TypeCheck(socket, state->socket_base_type))
        return NULL;
    PyObject *wire = ((SocketBase *)socket)->wire;
    if (wire == NULL || (Py_TYPE(wire) != state->tls_class && !PyObject_TypeCheck(wire, state->tls_type)))
        return NULL;
    return ((Tls *)wire)->stream == NULL || kind == WRITE_VECTORED ? NULL : (Tls *)wire;
}

/* -- the wire --------------------------------------------------------------------------------------------------- */

static PyObject *tls_receive(PyObject *self, PyObject *argument)
{
    Py_ssize_t max_bytes = PyNumber_AsSsize_t(argument, NULL); /* more than there can be is as much as there is */
    if (max_bytes == -1 && PyErr_Occurred())
        return NULL;
    if (max_bytes < 1)
        return PyErr_Format(PyExc_ValueError, "max_bytes must be at least 1, not %zd", max_bytes);
    return tls_operation_new(((Tls *)self)->state, READ, NULL, (Tls *)self, NULL, max_bytes);
}

static PyObject *tls_receive_into(PyObject *self, PyObject *buffer)
{
    return tls_operation_new(((Tls *)self)->state, READ_INTO, NULL, (Tls *)self, buffer, 0);
}

static PyObject *tls_send(PyObject *self, PyObject *data)
{
    return tls_operation_new(((Tls *)self)->state, WRITE, NULL, (Tls *)self, data, 0);
}

static PyObject *tls_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    PyObject *module = PyType_GetModuleByDef(type, &native_module);
    Tls *tls = module == NULL ? NULL : (Tls *)type->tp_alloc(type, 0);
    if (tls != NULL)
        tls->state = module_state(module);
    return (PyObject *)tls;
}

static int import_ssl(ModuleState *state, PyObject *engine, PyObject *bio)
{
    PyObject *module = PyImport_ImportModule("ssl");
    if (module == NULL)
        return -1;
    PyObject *engine_type = (PyObject *)Py_TYPE(engine), *bio_type = (PyObject *)Py_TYPE(bio);
    struct {
        PyObject *owner, **place;
        const char *name;
    } wanted[] = {
        {module, &state->want_read_error, "SSLWantReadError"},
        {module, &state->zero_return_error, "SSLZeroReturnError"},
        {engine_type, &state->engine_read, "read"},
        {engine_type, &state->engine_write, "write"},
        {bio_type, &state->bio_read, "read"},
        {bio_type, &state->bio_write, "write"},
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && !failed; i++) {
        Py_XSETREF(*wanted[i].place, PyObject_GetAttrString(wanted[i].owner, wanted[i].name));
        failed = *wanted[i].place == NULL;
    }
    Py_DECREF(module);
    if (failed)
        return -1;
    state->bio_type = (PyTypeObject *)Py_NewRef(bio_type);
    state->engine_type = (PyTypeObject *)Py_NewRef(engine_type);
    return 0;
}

/* The handshake is over: find the short way, if there is one. */
static int open_short_way(Tls *tls)
{
    ModuleState *state = tls->state;
    if (tls->lower == NULL || tls->object == NULL || tls->incoming == NULL || tls->encrypted == NULL ||
        !PyObject_TypeCheck(tls->lower, state->stream_type))
        return 0;
    PyObject *engine;
    int found = find_attribute(tls->object, state->str_sslobj, &engine);
    if (found < 0)
        return -1;
    if (!found) /* what it is called is the standard library's affair */
        engine = Py_NewRef(tls->object);
    Py_XSETREF(tls->engine, engine);
    if (state->engine_type == NULL && import_ssl(state, engine, tls->incoming) < 0)
        return -1;
    if (Py_TYPE(engine) != state->engine_type || Py_TYPE(tls->incoming) != state->bio_type ||
        Py_TYPE(tls->encrypted) != state->bio_type)
        return 0;
    Py_XSETREF(tls->stream, (Stream *)Py_NewRef(tls->lower));
    if (state->tls_class == NULL)
        state->tls_class = (PyTypeObject *)Py_NewRef(Py_TYPE(tls));
    return 0;
}

static int flag_of(PyObject *value)
{
    if (value != NULL)
        return PyObject_IsTrue(value);
    PyErr_SetString(PyExc_AttributeError, "it cannot be deleted");
    return -1;
}

static PyObject *tls_get_established(PyObject *self, void *unused)
{
    return PyBool_FromLong(((Tls *)self)->established);
}

static int tls_set_established(PyObject *self, PyObject *value, void *unused)
{
    int flag = flag_of(value);
    if (flag < 0)
        return -1;
    ((Tls *)self)->established = (char)flag;
    return flag ? open_short_way((Tls *)self) : 0;
}

static PyObject *tls_get_more(PyObject *self, void *unused)
{
    return PyBool_FromLong(((Tls *)self)->more);
}

static int tls_set_more(PyObject *self, PyObject *value, void *unused)
{
    int flag = flag_of(value);
    if (flag < 0)
        return -1;
    ((Tls *)self)->more = (char)flag;
    ((Tls *)self)->held = UNKNOWN;
    ((Tls *)self)->single = 0;
    return 0;
}

static PyObject *tls_get_reading(PyObject *self, void *unused)
{
    Tls *tls = (Tls *)self;
    return PyBool_FromLong(tls->reading || (tls->stream != NULL && tls->stream->reader != NULL));
}

static int tls_set_reading(PyObject *self, PyObject *value, void *unused)
{
    int flag = flag_of(value);
    if (flag >= 0)
        ((Tls *)self)->reading = (char)flag;
    return flag < 0 ? -1 : 0;
}

/* What the short way takes for granted once it is open: set, but never deleted. */
static PyObject *tls_get_part(PyObject *self, void *offset)
{
    PyObject *part = *(PyObject **)((char *)self + (size_t)offset);
    if (part == NULL)
        PyErr_SetString(PyExc_AttributeError, "it was not set yet");
    return Py_XNewRef(part);
}

static int tls_set_part(PyObject *self, PyObject *value, void *offset)
{
    if (value == NULL) {
        PyErr_SetString(PyExc_AttributeError, "it cannot be deleted");
        return -1;
    }
    PyObject **place = (PyObject **)((char *)self + (size_t)offset);
    Py_XSETREF(*place, Py_NewRef(value));
    return 0;
}

static PyObject *tls_get_unfed(PyObject *self, void *unused)
{
    PyObject *unfed = ((Tls *)self)->unfed;
    return unfed == NULL ? PyBytes_FromStringAndSize(NULL, 0) : Py_NewRef(unfed);
}

static int tls_set_unfed(PyObject *self, PyObject *value, void *unused)
{
    if (value == NULL || !PyBytes_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "ciphertext is bytes");
        return -1;
    }
    Py_XSETREF(((Tls *)self)->unfed, PyBytes_GET_SIZE(value) == 0 ? NULL : Py_NewRef(value));
    return 0;
}

static PyObject *tls_get_ahead(PyObject *self, void *unused)
{
    PyObject *ahead = ((Tls *)self)->ahead;
    return ahead == NULL ? PyBytes_FromStringAndSize(NULL, 0) : Py_NewRef(ahead);
}

static int tls_set_ahead(PyObject *self, PyObject *value, void *unused)
{
    if (value == NULL || !PyBytes_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "what was decrypted ahead is bytes");
        return -1;
    }
    Py_XSETREF(((Tls *)self)->ahead, Py_NewRef(value));
    return 0;
}

static int tls_traverse(PyObject *self, visitproc visit, void *arg)
{
    Tls *tls = (Tls *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(tls->stream);
    Py_VISIT(tls->engine);
    Py_VISIT(tls->lower);
    Py_VISIT(tls->object);
    Py_VISIT(tls->incoming);
    Py_VISIT(tls->encrypted);
    Py_VISIT(tls->ahead);
    Py_VISIT(tls->unfed);
    Py_VISIT(tls->outgoing);
    Py_VISIT(tls->own_loss);
    return 0;
}

static int tls_clear(PyObject *self)
{
    Tls *tls = (Tls *)self;
    Py_CLEAR(tls->stream);
    Py_CLEAR(tls->engine);
    Py_CLEAR(tls->lower);
    Py_CLEAR(tls->object);
    Py_CLEAR(tls->incoming);
    Py_CLEAR(tls->encrypted);
    Py_CLEAR(tls->ahead);
    Py_CLEAR(tls->unfed);
    Py_CLEAR(tls->outgoing);
    Py_CLEAR(tls->own_loss);
    return 0;
}

static void tls_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    tls_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef tls_methods[] = {
    {"receive", tls_receive, METH_O, NULL},
    {"receive_into", tls_receive_into, METH_O, NULL},
    {"send", tls_send, METH_O, NULL},
    {NULL},
};

static PyMemberDef tls_members[] = {
    {"_outgoing", T_OBJECT, offsetof(Tls, outgoing), 0, NULL},
    {"_own_loss", T_OBJECT, offsetof(Tls, own_loss), 0, NULL},
    {"_truncated", T_BOOL, offsetof(Tls, truncated), 0, NULL},
    {"_eof_asked", T_BOOL, offsetof(Tls, eof_asked), 0, NULL},
    {"_bytes_sent", T_LONGLONG, offsetof(Tls, bytes_sent), 0, NULL},
    {"_idle_records", T_INT, offsetof(Tls, idle_records), 0, NULL},
    {"_record_left", T_PYSSIZET, offsetof(Tls, record_left), 0, NULL},
    {"_unfed_at", T_PYSSIZET, offsetof(Tls, unfed_at), 0, NULL},
    {"_unread_records", T_INT, offsetof(Tls, unread_records), 0, NULL},
    {"_incoming_peak", T_INT, offsetof(Tls, incoming_peak), 0, NULL},
    {"_encrypted_peak", T_INT, offsetof(Tls, encrypted_peak), 0, NULL},
    {"bytes_read", T_LONGLONG, offsetof(Tls, bytes_read), 0, NULL},
    {"closed", T_BOOL, offsetof(Tls, closed), 0, NULL},
    {"peer_ended", T_BOOL, offsetof(Tls, peer_ended), 0, NULL},
    {NULL},
};

#define PART(name) (void *)offsetof(Tls, name)

static PyGetSetDef tls_getset[] = {
    {"_lower", tls_get_part, tls_set_part, NULL, PART(lower)},
    {"_tls", tls_get_part, tls_set_part, NULL, PART(object)},
    {"_incoming", tls_get_part, tls_set_part, NULL, PART(incoming)},
    {"_encrypted", tls_get_part, tls_set_part, NULL, PART(encrypted)},
    {"_ahead", tls_get_ahead, tls_set_ahead, NULL, NULL},
    {"_unfed", tls_get_unfed, tls_set_unfed, NULL, NULL},
    {"_established", tls_get_established, tls_set_established, NULL, NULL},
    {"_more", tls_get_more, tls_set_more, NULL, NULL},
    {"_reading", tls_get_reading, tls_set_reading, NULL, NULL},
    {NULL},
};

static PyType_Slot tls_slots[] = {
    {Py_tp_doc, "What of a TLS wire is needed for each message, and how to move it over a compiled stream."},
    {Py_tp_new, tls_new},
    {Py_tp_dealloc, tls_dealloc},
    {Py_tp_traverse, tls_traverse},
    {Py_tp_clear, tls_clear},
    {Py_tp_methods, tls_methods},
    {Py_tp_members, tls_members},
    {Py_tp_getset, tls_getset},
    {0, NULL},
};

PyType_Spec tls_spec = {
    .name = "aionet.native._compiled.Tls",
    .basicsize = sizeof(Tls),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = tls_slots,
};
