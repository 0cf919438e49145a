/* The compiled engine: what its files share.
 *
 * Theory of operation
 * -------------------
 * One type to a file, from the bottom up:
 *
 *   wait.c       what stands for a task that waits: asyncio's future protocol, and nothing more of a future
 *   reactor.c    one epoll instance per event loop; wakes whoever waits for a descriptor
 *   allowance.c  how many bytes the connections of a spawner may hold, and how many are free
 *   stream.c     the hot half of a wire: a descriptor, what is known of its readiness, recv(2) and send(2)
 *   operation.c  what `await stream.receive(...)` awaits: tries, waits, tries again, in the task's own step
 *   driving.c    the parked task: its coroutine is resumed by the reactor itself, without a step of the Task
 *   tls.c        the hot half of a TLS wire over a stream, and its operations
 *   methods.c    what a socket's `read` and `write` are: a short cut to operations around a Python function
 *   connection.c the attributes of a connection that is being served
 *   beginning.c  what the coroutine of such a connection awaits first
 *   roster.c     the everyday beginning and end of such a connection
 *   selector.c   a selector whose select() waits on the reactor's epoll instance
 *   load.c       the load generator of `aionet bench`; load.h has its own theory
 *   module.c     the module, its state, and accept(2)
 *
 * Three rules keep it safe. (1) Nothing is taken from the kernel but in the step of the task that asked for it:
 * the reactor only wakes. (2) Whatever calls Python may find everything changed when it returns: other sockets
 * closed, tasks cancelled, the loop stopped; so the reactor first notes all events and then wakes from a list of
 * owned references, and a descriptor's number is always looked at together with its generation. (3) What is
 * rare stays in Python (wires/descriptor.py): errors, closing, pending writes, files, delivery.
 */
#ifndef AIONET_NATIVE_H
#define AIONET_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <structmember.h>

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 65536,         /* what a read asks for unless it is given a number */
    SCRATCH_BYTES = 256 * 1024, /* what a read receives into before it is known how much it will be */
    LARGE_READ_BYTES = 8192,    /* after a read of this size the next one goes to its object directly */
    GIL_BYTES = 256 * 1024,  /* above this a system call copies long enough to let other threads run */
    MOST_ERRORS = 160,       /* errno is below this */
    MOST_FREE = 256,         /* objects kept for the next use */
};

typedef struct Wait Wait;
typedef struct Reactor Reactor;
typedef struct Stream Stream;
typedef struct Operation Operation;
typedef struct Tls Tls;
typedef struct Allowance Allowance;

/* The socket's methods that have a short cut, and what only wires have. */
typedef enum { READ, NEXT_CHUNK, READ_INTO, WRITE, WRITE_VECTORED, METHODS, UNTIL_READABLE = METHODS, READER_TURN } Kind;

typedef struct {
    PyTypeObject *wait_type, *reactor_type, *stream_type, *operation_type, *begin_type;
    PyTypeObject *socket_base_type, *method_type, *connection_base_type, *roster_type, *selector_type;
    PyTypeObject *tls_type, *tls_operation_type, *window_type, *load_type, *allowance_type;
    /* asyncio's hooks for tasks ("Extending asyncio"; NULL where they are gone), its exception and classes */
    PyObject *enter_task, *leave_task, *add_to_awaited_by, *cancelled_error, *task_class;
    PyObject *future_class, *future_set_result, *future_set_exception, *future_cancel; /* the class, and methods of it */
    PyObject *begin; /* what coroutines of connections await first: beginning.c */
    PyObject *woken; /* what its tasks are woken with: woken.py */
    PyObject *connection_lost_error, *inherited_error, *resource_exhausted_error; /* aionet's exceptions */
    PyObject *closed_descriptors; /* calls that wait for one to be closed: wires/descriptors.py */
    PyObject *broken_off; /* what a stream is lost by that is broken off; made beforehand */
    PyObject *swap_task, *current_tasks; /* the first from Python 3.12 on, the second before; NULL where it is gone */
    /* the ssl module's, which is imported when it is needed: exceptions, types, and methods of these */
    PyObject *want_read_error, *zero_return_error, *engine_read, *engine_write, *bio_read, *bio_write;
    PyTypeObject *engine_type, *bio_type;
    PyTypeObject *wire_class, *socket_class, *tls_class; /* subclasses that are in use: they spare a look at bases */
    PyObject *slow[METHODS]; /* the Python functions that the methods stand for */
    /* interned */
    PyObject *str_add_done_callback, *str_add_reader, *str_blocking, *str_busy_error, *str_call_soon, *str_cancel, *str_cancelling, *str_close,
        *str_closed_error, *str_context, *str_draining, *str_ends, *str_error, *str_finish_send, *str_get_coro,
        *str_is_closed, *str_linger, *str_note_end, *str_on_cold_events, *str_on_events, *str_operation,
        *str_note_growth, *str_offer_room, *str_on_unsent, *str_wait_for_room, *str_note_interruption, *str_pending, *str_read, *str_ready, *str_receive_into_slowly, *str_receive_slowly,
        *str_refuse_if_lost, *str_reply, *str_scheduled, *str_selector, *str_send_rest, *str_send_slowly, *str_sslobj,
        *str_stopping, *str_throw, *str_write;
    PyObject *context_keyword, *msg_keyword, *name_keyword; /* ("context",), ("msg",) and ("name",) */
    PyObject *system_arguments[MOST_ERRORS]; /* (errno, strerror) */
    int record_cost, cipher_cost, large_record, most_without_data; /* of TLS: wires/tls/records.py */
    /* of fairness: wires/budget.py has the numbers, wires/fairness.py the theory */
    int budget, unit_bits, turn_bytes, worth_noting;
    double slice_seconds;  /* the same of wires/slices.py */
    Operation *free_operations, *free_tls_operations;
    Wait *free_waits;
    int free_operation_count, free_tls_operation_count, free_wait_count;
} ModuleState;

/* -- wait.c -------------------------------------------------------------------------------------------------- */

struct Wait {
    PyObject_HEAD
    ModuleState *state;
    PyObject *loop;               /* once a task waits */
    PyObject *callback, *context; /* of that task */
    PyObject *message;            /* of its cancellation */
    Operation *operation;         /* that is waited for; borrowed: it owns this */
    PyObject *coroutine;          /* of the task, once it is known that the reactor makes its steps: driving.c */
    PyObject *foreign;            /* the future that the task waits for in place of an operation */
    PyObject *error;              /* that the task is to throw */
    char blocking, cancelled;
    char running; /* the reactor makes a step of the task */
    char tracked; /* by the collector of garbage */
};

Wait *wait_new(ModuleState *state, Operation *operation);
int wait_wake(Wait *wait);           /* let the task go on now; no other may be running */
int wait_wake_later(Wait *wait);     /* let the task go on in the loop's next turn */
void wait_let_go(Wait *wait);        /* of all that it knows of the task */

/* -- driving.c ----------------------------------------------------------------------------------------------- */

int wait_finds_coroutine(Wait *wait); /* whether its task is one that is driven, and then knows the coroutine */
int wait_drive(Wait *wait, Reactor *reactor); /* let the task make a step now; no other may be running */

/* Whether the reactor makes the steps of its task. */
static inline int wait_is_driven(Wait *wait)
{
    return wait->callback != NULL && (wait->coroutine != NULL || wait_finds_coroutine(wait));
}

/* -- reactor.c ----------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject *watcher; /* to which the slot belongs: a Stream (borrowed unless `anchored`), or another object (owned) */
    uint32_t generation;
    uint32_t writes; /* EPOLLOUT, where room to write is told of */
} Slot;

typedef struct {
    Operation *first, *last; /* linked by `next_ready`; owned */
    int length;
} ReadyQueue;

struct Reactor {
    PyObject_HEAD
    ModuleState *state;
    PyObject *loop;
    PyObject *selector; /* whose epoll instance is used, or NULL */
    PyObject *weak_references;
    Slot *slots; /* by descriptor */
    int slot_count, watched;
    int epoll;
    int budget;
    long long room; /* bytes that large operations may move before they are paced: pacing.c */
    PyObject *entered;  /* the task that is current because its step is made here, until `reactor_leave` */
    int turn_asked; /* whether the loop was asked to run `wake_ready` */
    unsigned long forks;
    uint32_t generation;
    ReadyQueue ready;   /* operations to be woken */
    ReadyQueue endings; /* the same, whose connections have ended */
    ReadyQueue paced;   /* large operations that wait for their turn: pacing.c */
    Stream *alone; /* that the last look at the instance found, and nothing else; borrowed while it is watched */
    int guesses;   /* turns since then */
    int readers;   /* streams that somebody waits for */
    unsigned long reads; /* how often something was read */
    unsigned long turns; /* how often somebody was to be woken */
    int debug;           /* whether the loop was in its debug mode at the last look */
    PyObject *scratch;   /* a bytes object that only this refers to */
    PyObject *window; /* over bytes that are passed on: tls.c */
    PyObject *newcomers; /* a list of streams that are to be looked at in the next turn, or NULL */
    PyObject *interrupt; /* KeyboardInterrupt or SystemExit, to be raised at the end of the turn; or NULL */
};

extern unsigned long forks; /* how often this process, or one before it, was born of a fork */

int reactor_watch(Reactor *reactor, int fd, PyObject *watcher);
void reactor_forget(Reactor *reactor, int fd, PyObject *watcher, int stays_open); /* nothing, if it is another's */
void reactor_note(Reactor *reactor, const struct epoll_event *events, int count); /* no code of the user's runs */
int reactor_wake_ready(Reactor *reactor);                                        /* runs tasks */
int reactor_wake(Reactor *reactor, Operation *operation); /* steals it; -1: the loop is going down */
void reactor_queue(Reactor *reactor, Operation *operation);
void reactor_queue_ending(Reactor *reactor, Operation *operation); /* behind those that `reactor_queue` queues */
int reactor_may_look_on(Reactor *reactor, double began); /* after a full batch: whether to look for more at once */
int reactor_wake_later(Reactor *reactor, Operation *operation);
int reactor_ask_for_a_turn(Reactor *reactor); /* for newcomers, and for whoever is to be woken later */
int reactor_enter(Reactor *reactor, PyObject *task);
void reactor_leave(Reactor *reactor); /* keeps an exception that is being raised */
char *reactor_scratch(Reactor *reactor); /* SCRATCH_BYTES, or NULL */
PyObject *reactor_give_scratch(Reactor *reactor, Py_ssize_t length); /* the beginning of it, as an object */
void reactor_on_failure(Reactor *reactor);           /* an exception is set that no caller can be given */
void reactor_on_lost_word(Reactor *reactor, int fd); /* the same, and it kept the word of an event from its watcher */

/* Whether this is a fork's child, and all that belongs to the loop is the parent's: wires/forks.py. */
static inline int is_inherited(Reactor *reactor)
{
    return reactor->forks != forks;
}

static inline double monotonic_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* An operation that moved so many bytes has completed at once. */
static inline void reactor_charge(Reactor *reactor, Py_ssize_t bytes)
{
    Py_ssize_t units = bytes >> reactor->state->unit_bits;
    reactor->budget -= 1 + (int)units;
    if (units > 0)
        reactor->room -= bytes;
}

/* Others have a turn, or have had one. */
static inline void reactor_refill(Reactor *reactor)
{
    reactor->budget = reactor->state->budget;
}

/* Whether an operation that moves so many bytes has to wait for its turn: pacing.c. */
static inline int reactor_paces(Reactor *reactor, Py_ssize_t bytes)
{
    return reactor->room < 0 && bytes >> reactor->state->unit_bits > 0;
}

/* -- allowance.c --------------------------------------------------------------------------------------------- */

struct Allowance {
    PyObject_HEAD
    long long free;  /* bytes; less than 0 while connections that are to make room have not ended yet */
    long long least; /* bytes for which it is worth while to read */
    long long reserve; /* bytes beyond what is free, for small reads */
    char crowded;    /* whether readers wait for room */
};

void stream_let_go_of(Stream *stream); /* keeps an exception that is being raised */
void stream_take_in_hand(Stream *stream, Py_ssize_t bytes);
int stream_reads_little(Stream *stream); /* whether its last read was small */
void stream_note_filled(Stream *stream); /* a read has filled what it was given: it may be one of many */
Py_ssize_t stream_admit(Stream *stream, Py_ssize_t max_bytes); /* how many a read may take; 0: none; or FAILED_CALL */

/* -- stream.c ------------------------------------------------------------------------------------------------ */

struct Stream {
    PyObject_HEAD
    Reactor *reactor;
    Operation *reader; /* that waits for input, or stands in the way of another; owned */
    PyObject *raw;     /* the socket module's object, once somebody asked for it */
    PyObject *local, *peer, *outgoing, *lost, *waits, *closing, *observer; /* for the half in Python */
    Allowance *allowance; /* whose bytes its reads take, or NULL */
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } peer_name; /* until somebody asks for `peer` */
    long long bytes_read, bytes_written; /* the latter without what went through `outgoing` */
    int fd;
    int in_hand; /* bytes of its last read that count */
    int recent; /* bytes that the last read brought, up to SCRATCH_BYTES */
    char readable, watched, anchored, rest_asked, tells_rest, closed, end_seen, eof_asked, eof_sent;
    char timestamps, peer_watched;
    char unsure;   /* a short read does not show that nothing is left, see `receive` */
    char is_unix;
    char unsent;   /* bytes wait to be sent, here or in a wire above */
    char newcomer; /* came with several others, and has not waited yet */
    char gap;      /* bytes that were received are gone: later reads are refused */
};

/* What receives and sends in place of a count. FAILED_CALL: an error is set. */
enum { WOULD_BLOCK = -1, FAILED_CALL = -2 };

/* Its caller reads or writes again: what the last read has brought counts no longer. */
static inline void stream_let_go(Stream *stream)
{
    if (stream->in_hand != 0)
        stream_let_go_of(stream);
}

Stream *stream_accept(ModuleState *state, int listener, PyObject *wire_type, Reactor *reactor,
                      PyObject *local, int *empty); /* NULL and `empty`: no connection is there, and no error is set */
int stream_close_at_once(Stream *stream, double linger); /* whether that was possible */
void stream_on_events(Stream *stream, uint32_t events);
Py_ssize_t stream_receive(Stream *stream, Py_ssize_t max_bytes, PyObject **data); /* `data` only if bytes came */
Py_ssize_t stream_receive_into(Stream *stream, char *buffer, Py_ssize_t bytes);
PyObject *stream_raise(Stream *stream, PyObject *operation, int number);        /* NULL */
PyObject *stream_raise_from_method(Stream *stream, PyObject *method, PyObject *argument); /* NULL */
void stream_translate(Stream *stream, PyObject *operation); /* an error of the system's that is set */
ssize_t stream_send(Stream *stream, const char *bytes, Py_ssize_t length); /* what went, or FAILED_CALL */
void raise_error_object(PyObject *error, PyObject *cause); /* steals both; `cause` may be NULL */
void stream_reset(Stream *stream);         /* one without a reader, that no slot knows */
void stream_note_gap(Stream *stream);
void stream_break_off(Stream *stream);     /* keeps an exception that is being raised */
void stream_settle_anchor(Stream *stream); /* after `watched`, `reader` or `unsent` has changed */
void stream_set_reader(Stream *stream, Operation *operation);
void stream_clear_reader(Stream *stream, Operation *operation);

/* -- newcomers.c --------------------------------------------------------------------------------------------- */

int stream_watch(Stream *stream);
void newcomers_settle(Reactor *reactor);
void newcomers_clear(Reactor *reactor);

/* -- operation.c --------------------------------------------------------------------------------------------- */

typedef enum { FRESH, WAITING, YIELDED_BEFORE, YIELDED_AFTER, DELEGATED, FINISHED } Phase;

struct Operation {
    PyObject_HEAD
    ModuleState *state;
    PyObject *socket; /* or NULL, where the wire was asked directly */
    Stream *stream;
    PyObject *argument; /* what to write or to read into */
    Py_ssize_t max_bytes;
    PyObject *result;
    PyObject *delegate; /* a coroutine that goes on instead */
    Wait *wait;         /* what its task waits on */
    Operation *next_ready;
    char kind, phase, queued;
    char running; /* a step of it is being made: see operation.c */
};

PyObject *operation_new(ModuleState *state, Kind kind, PyObject *socket, Stream *stream, PyObject *argument,
                        Py_ssize_t max_bytes);
int operation_wake(Operation *operation);

/* For operations of other wires (tls.c), which begin like one. */
void operation_let_go(Operation *operation);
PySendResult operation_finish_with(Operation *operation, PyObject *value, PyObject **result);
PySendResult operation_yield_turn(Operation *operation, Phase phase, PyObject **result);
PySendResult operation_go_on_in(Operation *operation, PyObject *coroutine, PyObject **result); /* steals `coroutine` */
PySendResult operation_go_on(Operation *operation, PyObject *value, PyObject **result);        /* in the same */
PySendResult operation_go_the_long_way(Operation *operation, PyObject **result);
PySendResult operation_wait_for_input(Operation *operation, PyObject **result);
PySendResult operation_refuse(PyObject *error, const char *why, PyObject **result);
int operation_refuses_buffer(void);
PyObject *operation_throw(PyObject *self, PyObject *const *arguments, Py_ssize_t count);
PyObject *operation_close(PyObject *self, PyObject *unused);
void operation_note_interruption(Operation *operation, PyObject *wire);
int operation_traverse(PyObject *self, visitproc visit, void *arg);
int operation_clear(PyObject *self);
extern PyGetSetDef operation_getset[];

static inline void operation_init(Operation *operation, ModuleState *state, Kind kind, PyObject *socket,
                                  PyObject *argument, Py_ssize_t max_bytes)
{
    operation->state = state;
    operation->socket = Py_XNewRef(socket);
    operation->stream = NULL;
    operation->argument = Py_XNewRef(argument);
    operation->max_bytes = max_bytes;
    operation->result = operation->delegate = NULL;
    operation->wait = NULL;
    operation->next_ready = NULL;
    operation->kind = kind;
    operation->phase = FRESH;
    operation->queued = operation->running = 0;
}

void operation_detach(Operation *operation);

static inline void ready_append(ReadyQueue *queue, Operation *operation)
{
    if (operation->queued)
        return;
    operation->queued = 1;
    operation->next_ready = NULL;
    if (queue->last != NULL)
        queue->last->next_ready = operation;
    else
        queue->first = operation;
    queue->last = (Operation *)Py_NewRef(operation);
    queue->length++;
}

static inline Operation *ready_take(ReadyQueue *queue)
{
    Operation *operation = queue->first;
    if (operation != NULL) {
        queue->first = operation->next_ready;
        if (queue->first == NULL)
            queue->last = NULL;
        operation->next_ready = NULL;
        operation->queued = 0;
        queue->length--;
    }
    return operation;
}

/* Whether a step of it is being made, and the code that this has called tries to make another: ValueError is set. */
static inline int operation_refuses_step(Operation *operation)
{
    if (operation->running)
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    return operation->running;
}

typedef PySendResult (*Step)(Operation *operation, PyObject *value, PyObject **result);

/* What `am_send` of an operation is; inlined with its step, because each message comes through here. */
static inline __attribute__((always_inline)) PySendResult operation_make_step(Operation *operation, Step step,
                                                                              PyObject *value, PyObject **result)
{
    *result = NULL;
    if (operation_refuses_step(operation))
        return PYGEN_ERROR;
    operation->running = 1;
    PySendResult status = step(operation, value, result);
    operation->running = 0;
    return status;
}

/* -- pacing.c ------------------------------------------------------------------------------------------------ */

/* Whether a read has to wait for its turn, because it may be a large one. */
static inline int stream_paces_reads(Stream *stream)
{
    return stream->reactor->room < 0 && !stream_reads_little(stream);
}

PySendResult operation_pace(Operation *operation, Phase phase, PyObject **result); /* WAITING or YIELDED_AFTER */
PySendResult operation_give_way(Operation *operation, Py_ssize_t bytes, PyObject **result); /* after a write of so many */
int reactor_paces_reader(Reactor *reactor, Operation *operation); /* whether it waits further, though it is ready */
int reactor_wake_paced(Reactor *reactor);                         /* runs tasks; -1: the loop is going down */

/* -- tls.c --------------------------------------------------------------------------------------------------- */

Tls *tls_beneath(ModuleState *state, PyObject *socket, Kind kind); /* NULL: there is no short cut; no error is set */
PyObject *tls_operation_new(ModuleState *state, Kind kind, PyObject *socket, Tls *tls, PyObject *argument,
                            Py_ssize_t max_bytes);
void tls_operation_let_go(Operation *operation); /* of its wire */

/* -- beginning.c --------------------------------------------------------------------------------------------- */

int coroutine_prime(ModuleState *state, PyObject *coroutine); /* let it run until it awaits `begin` */
PyObject *coroutine_prime_function(PyObject *module, PyObject *coroutine);

/* -- connection.c, methods.c, roster.c, selector.c, module.c ----------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *wire;     /* what moves its bytes */
    PyObject *received; /* bytes read ahead, or None */
    PyObject *options, *ledger, *dialing;
} SocketBase;

Stream *stream_of(ModuleState *state, PyObject *socket); /* beneath it; NULL without an error: there is none */
int socket_close_at_once(ModuleState *state, PyObject *socket); /* whether that was possible; -1: an error */

/* Whether the socket has another wire by now, or bytes in a buffer above it; -1: an error is set. */
static inline int operation_has_to_go_the_long_way(Operation *operation, PyObject *wire)
{
    SocketBase *socket = (SocketBase *)operation->socket;
    if (socket == NULL)
        return 0;
    if (socket->wire != wire)
        return 1;
    PyObject *received = operation->kind <= READ_INTO ? socket->received : NULL;
    return received == NULL || received == Py_None ? 0 : PyObject_IsTrue(received);
}

typedef struct {
    PyObject_HEAD
    PyObject *socket, *started;
    PyObject *reason, *task, *cause; /* NULL for None */
} ConnectionBase;

int selector_attach(PyObject *selector, Reactor *reactor); /* the descriptor of its epoll instance, or -1 */
void selector_detach(PyObject *selector);

extern PyType_Spec wait_spec, reactor_spec, stream_spec, operation_spec, begin_spec, socket_base_spec, method_spec,
    connection_base_spec, roster_spec,
    allowance_spec, selector_spec, tls_spec, tls_operation_spec, window_spec, load_spec;

extern struct PyModuleDef native_module;

ModuleState *module_state(PyObject *module);
ModuleState *state_of(PyObject *self); /* of an instance of one of our types, or of a subclass */

/* One exception, as Python 3.12 sees it. */
static inline PyObject *take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (type == NULL)
        return NULL;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(value, traceback);
    Py_DECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static inline void raise_taken(PyObject *exception) /* steals it */
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(exception);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(exception)), exception, PyException_GetTraceback(exception));
#endif
}

int find_attribute(PyObject *object, PyObject *name, PyObject **found); /* 1: found, 0: it has none, -1: an error */
PyObject *bytes_cut(PyObject *data, Py_ssize_t length); /* steals `data`, and cannot fail */
PyObject *exception_of_throw(PyObject *const *arguments, Py_ssize_t count);  /* of throw(type[, value[, tb]]) */
PySendResult send_result_of(PyObject *returned, PyObject **result);          /* of a call of send() or throw() */
PyObject *returned_of(PySendResult status, PyObject *result);                /* for tp_iternext */
PyObject *returned_by_method(PySendResult status, PyObject *result);         /* for send() and throw() */

#endif
