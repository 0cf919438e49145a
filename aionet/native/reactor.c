/* Reactor: word from the kernel that a descriptor is ready, brought into the loop that people already run.
 *
 * Theory of operation
 * -------------------
 * One epoll instance per event loop, itself registered with `loop.add_reader`, so that any loop which has that
 * drives it; under a selector of our own (selector.c) that selector's instance is used instead, and a turn costs
 * one epoll_wait(2) in place of two. Descriptors are registered once, edge-triggered; streams, when they wait for the
 * first time, or a turn later where many come together (newcomers.c). A stream's is registered for
 * input only, until a write has to wait for the first time: a fresh connection has room to write, and would at once
 * cause an event that nobody needs.
 *
 * A turn has two halves. First all events are noted, which runs no code of the user's. Then whoever waited for
 * them is woken, one after the other, from a list of owned references: what runs then may close, cancel and
 * open what it likes. If it raises KeyboardInterrupt the rest of the list is woken in another turn.
 *
 * *Ends of connections* are woken after all other events of the turn, and in slices (wires/slices.py): the last step of
 * a connection's task costs several times what a message costs, and thousands of peers may leave at the same moment. A
 * full batch of events is followed by further looks, so that a message does not wait behind the ends.
 *
 * *What Python raises in the first half* has no caller that could be given it. As in any callback of a loop,
 * KeyboardInterrupt and SystemExit end the run, once the turn is over and all that were noted are woken; anything else
 * is for the loop's exception handler. If an interrupt or a lack of memory kept the word of an event from its watcher,
 * the kernel is asked to repeat it: the word comes once, and a write that waits for it would wait for ever.
 *
 * *Guessing.* Where the loop polls our instance, and the last look at it found one stream that alone waits for input
 * now, the next word is of the same stream: it is woken without a look. If it reads nothing the guess was wrong, and
 * the look is made up for; after some turns there is one in any case, for the sake of everybody else. What is not
 * looked at stays ready, and the loop is told again. A conversation with one peer is a system call a turn cheaper.
 *
 * *In the loop's debug mode*, which is looked at now and then, each task is woken by a callback of its own, as a future
 * wakes it: the loop measures callbacks, and names the task whose step was slow.
 *
 * An event carries the descriptor and a generation. A close leaves it to the kernel to drop the registration; if
 * the open file lives on in another process its events still come, find another generation, and are dropped.
 *
 * *Ownership.* A slot belongs to the watcher that was named when its descriptor was registered, and only that watcher
 * can give it up. The number alone decides nothing: it may have been closed elsewhere and be another's by now. Then the
 * watcher before loses the slot, and its stream the descriptor (`displaced`). Whatever way a slot changes its watcher,
 * `vacate` clears what points at that. A stream is held by its slot (`anchored`) as long as a reader waits or bytes are
 * unsent; otherwise the slot only borrows it, so a socket that is dropped without being closed is collected and warns.
 *
 * After a fork the child shares the instance with its parent: it closes its descriptor and does nothing else
 * (wires/forks.py, wires/reactor.py).
 */
#include "native.h"

enum { EVENTS_PER_TURN = 256, MOST_GUESSES = 16, TURNS_PER_LOOK = 64, MOST_DESCRIPTORS = 1 << 24 };

static const uint32_t INPUT = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET;

static uint64_t tag_of(int fd, uint32_t generation)
{
    return (uint64_t)generation << 32 | (uint32_t)fd;
}

static int is_stream(Reactor *reactor, PyObject *watcher)
{
    return Py_TYPE(watcher) == reactor->state->wire_class || PyObject_TypeCheck(watcher, reactor->state->stream_type);
}

/* -- failures ------------------------------------------------------------------------------------------------- */

/* What asyncio lets out of every callback. */
static int is_interrupt(void)
{
    return PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) || PyErr_ExceptionMatches(PyExc_SystemExit);
}

/* Keep an interrupt until the end of the turn; whether it was one. */
static int keep_interrupt(Reactor *reactor)
{
    if (!is_interrupt())
        return 0;
    PyObject *raised = take_exception();
    if (reactor->interrupt == NULL)
        reactor->interrupt = raised;
    else
        Py_DECREF(raised);
    return 1;
}

static int raise_interrupt(Reactor *reactor)
{
    PyObject *interrupt = reactor->interrupt;
    if (interrupt == NULL)
        return 0;
    reactor->interrupt = NULL;
    raise_taken(interrupt);
    return -1;
}

void reactor_on_failure(Reactor *reactor)
{
    if (keep_interrupt(reactor))
        return;
    PyObject *raised = take_exception(), *done = NULL;
    PyObject *context = Py_BuildValue("{sssO}", "message", "Exception in a callback of a wait", "exception", raised);
    if (context != NULL)
        done = PyObject_CallMethod(reactor->loop, "call_exception_handler", "O", context);
    if (done == NULL && !keep_interrupt(reactor))
        PyErr_WriteUnraisable((PyObject *)reactor);
    Py_XDECREF(raised);
    Py_XDECREF(context);
    Py_XDECREF(done);
}

/* Outside of a turn: have an interrupt raised in the next one; whether it was one. */
static int raise_later(Reactor *reactor)
{
    if (!keep_interrupt(reactor))
        return 0;
    if (reactor_ask_for_a_turn(reactor) < 0)
        PyErr_WriteUnraisable(reactor->loop);
    return 1;
}

/* -- opening and closing -------------------------------------------------------------------------------------- */

static int use_selector(Reactor *reactor)
{
    PyObject *selector;
    int found = find_attribute(reactor->loop, reactor->state->str_selector, &selector);
    if (found <= 0)
        return found;
    found = 0;
    if (PyObject_TypeCheck(selector, reactor->state->selector_type)) {
        reactor->epoll = selector_attach(selector, reactor);
        found = reactor->epoll < 0 ? -1 : 1;
        if (found > 0)
            reactor->selector = Py_NewRef(selector);
    }
    Py_DECREF(selector);
    return found;
}

static int open_epoll(Reactor *reactor)
{
    int found = use_selector(reactor);
    if (found != 0)
        return found < 0 ? -1 : 0;
    reactor->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (reactor->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    PyObject *turn = PyObject_GetAttrString((PyObject *)reactor, "turn");
    PyObject *number = PyLong_FromLong(reactor->epoll), *done = NULL;
    PyObject *context = PyContext_New(); /* the loop keeps it, and is not to keep alive what is in the caller's */
    if (turn != NULL && number != NULL && context != NULL && PyContext_Enter(context) == 0) {
        done = PyObject_CallMethodObjArgs(reactor->loop, reactor->state->str_add_reader, number, turn, NULL);
        PyObject *raised = take_exception();
        if (PyContext_Exit(context) < 0)
            Py_CLEAR(done);
        if (raised != NULL)
            raise_taken(raised);
    }
    Py_XDECREF(context);
    Py_XDECREF(turn);
    Py_XDECREF(number);
    if (done == NULL) {
        close(reactor->epoll);
        reactor->epoll = -1;
        return -1;
    }
    Py_DECREF(done);
    return 0;
}

/* Leaves an exception that is being raised as it is. */
static void close_epoll(Reactor *reactor)
{
    PyObject *raised = take_exception();
    int epoll = reactor->epoll;
    reactor->epoll = -1;
    if (reactor->selector != NULL) {
        selector_detach(reactor->selector);
        Py_CLEAR(reactor->selector);
    } else if (epoll >= 0) {
        PyObject *closed = NULL, *done = NULL;
        if (!is_inherited(reactor)) { /* else the loop's own instance is the parent's, too */
            closed = PyObject_CallMethodNoArgs(reactor->loop, reactor->state->str_is_closed);
            if (closed == Py_False)
                done = PyObject_CallMethod(reactor->loop, "remove_reader", "i", epoll);
            if (closed == NULL) /* a loop that cannot say is half collected */
                raise_later(reactor);
            else if (closed == Py_False && done == NULL && !raise_later(reactor))
                PyErr_WriteUnraisable(reactor->loop); /* not the reactor, which may be on its way out */
            PyErr_Clear();
        }
        Py_XDECREF(closed);
        Py_XDECREF(done);
        close(epoll);
    }
    if (raised != NULL)
        raise_taken(raised);
}

/* -- watching ------------------------------------------------------------------------------------------------- */

static int make_room(Reactor *reactor, int fd)
{
    if (fd < reactor->slot_count)
        return 0;
    if (fcntl(fd, F_GETFD) < 0) { /* not open: no memory is taken for it */
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (fd >= MOST_DESCRIPTORS) {
        PyErr_Format(PyExc_OverflowError, "descriptor %d is above %d, the highest that is watched", fd,
                     MOST_DESCRIPTORS - 1);
        return -1;
    }
    int count = reactor->slot_count ? reactor->slot_count : 64;
    while (count <= fd)
        count *= 2;
    Slot *slots = PyMem_Realloc(reactor->slots, count * sizeof(Slot));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(slots + reactor->slot_count, 0, (count - reactor->slot_count) * sizeof(Slot));
    reactor->slots = slots;
    reactor->slot_count = count;
    return 0;
}

static int register_with_epoll(Reactor *reactor, int fd, uint32_t writes)
{
    uint32_t generation = ++reactor->generation ? reactor->generation : ++reactor->generation; /* never 0 */
    struct epoll_event event = {.events = INPUT | writes, .data.u64 = tag_of(fd, generation)};
    int failed = epoll_ctl(reactor->epoll, EPOLL_CTL_ADD, fd, &event);
    if (failed && errno == EEXIST) /* the same open file under the same number: its registration outlived a close */
        failed = epoll_ctl(reactor->epoll, EPOLL_CTL_MOD, fd, &event);
    if (failed) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    reactor->slots[fd].generation = generation;
    reactor->slots[fd].writes = writes;
    return 0;
}

/* The slot has no watcher any more, and nothing points at the one that it had. The last reference may go. */
static void vacate(Reactor *reactor, int fd)
{
    PyObject *watcher = reactor->slots[fd].watcher;
    int owned = 1;
    reactor->slots[fd].watcher = NULL;
    reactor->watched--;
    if ((PyObject *)reactor->alone == watcher)
        reactor->alone = NULL;
    if (is_stream(reactor, watcher)) { /* whoever waits is woken by other means */
        owned = ((Stream *)watcher)->anchored;
        ((Stream *)watcher)->watched = ((Stream *)watcher)->anchored = 0;
    }
    if (owned)
        Py_DECREF(watcher);
}

/* The number has come to another descriptor: the watcher's own was closed without its knowledge. */
static void displaced(Reactor *reactor, PyObject *watcher) /* steals it */
{
    if (is_stream(reactor, watcher)) {
        ((Stream *)watcher)->fd = -1;
        PyObject *done = PyObject_CallMethod(watcher, "on_displaced", NULL);
        if (done == NULL)
            PyErr_WriteUnraisable(watcher);
        Py_XDECREF(done);
    }
    Py_DECREF(watcher);
}

static int may_be_watched(Reactor *reactor, int fd, PyObject *watcher)
{
    if (is_inherited(reactor))
        PyErr_SetNone(reactor->state->inherited_error);
    else if (fd < 0)
        PyErr_Format(PyExc_ValueError, "a descriptor is 0 or more, not %d", fd);
    else if (is_stream(reactor, watcher) &&
             (((Stream *)watcher)->fd != fd || ((Stream *)watcher)->reactor != reactor))
        PyErr_SetString(PyExc_ValueError, "a stream is watched by its own reactor, at its own descriptor");
    else
        return 1;
    return 0;
}

int reactor_watch(Reactor *reactor, int fd, PyObject *watcher)
{
    if (!may_be_watched(reactor, fd, watcher) || make_room(reactor, fd) < 0)
        return -1;
    if (reactor->watched == 0 && open_epoll(reactor) < 0)
        return -1;
    PyObject *before = reactor->slots[fd].watcher;
    uint32_t writes = before == watcher ? reactor->slots[fd].writes : is_stream(reactor, watcher) ? 0 : EPOLLOUT;
    if (register_with_epoll(reactor, fd, writes) < 0) {
        if (reactor->watched == 0)
            close_epoll(reactor);
        return -1;
    }
    if (before == watcher)
        return 0;
    if (before != NULL) {
        Py_INCREF(before);
        vacate(reactor, fd);
    }
    reactor->slots[fd].watcher = watcher;
    reactor->watched++;
    if (is_stream(reactor, watcher)) {
        ((Stream *)watcher)->watched = 1;
        stream_settle_anchor((Stream *)watcher);
    } else {
        Py_INCREF(watcher);
    }
    if (before != NULL)
        displaced(reactor, before);
    return 0;
}

void reactor_forget(Reactor *reactor, int fd, PyObject *watcher, int stays_open)
{
    if (fd < 0 || fd >= reactor->slot_count || watcher == NULL || reactor->slots[fd].watcher != watcher)
        return;
    if ((stays_open || !is_stream(reactor, watcher)) && !is_inherited(reactor) && reactor->epoll >= 0)
        epoll_ctl(reactor->epoll, EPOLL_CTL_DEL, fd, NULL); /* else its close is enough for the kernel */
    Py_INCREF(watcher);
    vacate(reactor, fd);
    if (reactor->watched == 0)
        close_epoll(reactor);
    Py_DECREF(watcher);
}

/* From now on tell when there is room to write, too. */
static int arm_writes(Reactor *reactor, int fd)
{
    if (fd < 0 || fd >= reactor->slot_count || reactor->slots[fd].watcher == NULL || reactor->slots[fd].writes ||
        is_inherited(reactor))
        return 0;
    struct epoll_event event = {.events = INPUT | EPOLLOUT, .data.u64 = tag_of(fd, reactor->slots[fd].generation)};
    if (epoll_ctl(reactor->epoll, EPOLL_CTL_MOD, fd, &event) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    reactor->slots[fd].writes = EPOLLOUT;
    return 0;
}

/* -- a turn --------------------------------------------------------------------------------------------------- */

/* Have the kernel report what is there on the descriptor once more. */
static void ask_again(Reactor *reactor, int fd)
{
    if (fd < 0 || fd >= reactor->slot_count || reactor->slots[fd].watcher == NULL || reactor->forks != forks)
        return;
    Slot *slot = &reactor->slots[fd];
    struct epoll_event event = {.events = INPUT | slot->writes, .data.u64 = tag_of(fd, slot->generation)};
    epoll_ctl(reactor->epoll, EPOLL_CTL_MOD, fd, &event);
}

void reactor_on_lost_word(Reactor *reactor, int fd)
{
    if (is_interrupt() || PyErr_ExceptionMatches(PyExc_MemoryError))
        ask_again(reactor, fd);
    reactor_on_failure(reactor);
}

static void tell_python(Reactor *reactor, int fd, PyObject *watcher, uint32_t events)
{
    Py_INCREF(watcher);
    PyObject *number = PyLong_FromUnsignedLong(events);
    PyObject *done =
        number == NULL ? NULL : PyObject_CallMethodOneArg(watcher, reactor->state->str_on_events, number);
    if (done == NULL)
        reactor_on_lost_word(reactor, fd);
    Py_XDECREF(number);
    Py_XDECREF(done);
    Py_DECREF(watcher);
}

/* Whose event this is, borrowed; NULL if it is of what had the number before. */
static inline PyObject *watcher_of(Reactor *reactor, const struct epoll_event *event)
{
    int fd = (int)(uint32_t)event->data.u64;
    uint32_t generation = (uint32_t)(event->data.u64 >> 32);
    return fd < reactor->slot_count && reactor->slots[fd].generation == generation ? reactor->slots[fd].watcher : NULL;
}

void reactor_note(Reactor *reactor, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        PyObject *watcher = watcher_of(reactor, &events[i]);
        if (watcher == NULL)
            continue;
        if (is_stream(reactor, watcher))
            stream_on_events((Stream *)watcher, events[i].events);
        else
            tell_python(reactor, (int)(uint32_t)events[i].data.u64, watcher, events[i].events);
    }
}

void reactor_queue(Reactor *reactor, Operation *operation)
{
    ready_append(&reactor->ready, operation);
}

void reactor_queue_ending(Reactor *reactor, Operation *operation)
{
    ready_append(&reactor->endings, operation);
}

/* Whether the loop is; then the exception that says so is cleared. */
static int is_closed(Reactor *reactor)
{
    PyObject *raised = take_exception();
    PyObject *closed = PyObject_CallMethodNoArgs(reactor->loop, reactor->state->str_is_closed);
    if (closed == NULL && is_interrupt()) { /* which is raised in its place */
        Py_XDECREF(raised);
        return 0;
    }
    if (closed == NULL || closed == Py_True) { /* a loop that cannot say is half collected */
        PyErr_Clear();
        Py_XDECREF(closed);
        Py_XDECREF(raised);
        return 1;
    }
    Py_DECREF(closed);
    raise_taken(raised);
    return 0;
}

int reactor_ask_for_a_turn(Reactor *reactor)
{
    if (reactor->turn_asked)
        return 0;
    PyObject *method = PyObject_GetAttrString((PyObject *)reactor, "wake_ready");
    PyObject *handle =
        method == NULL ? NULL : PyObject_CallMethodOneArg(reactor->loop, reactor->state->str_call_soon, method);
    Py_XDECREF(method);
    if (handle == NULL)
        return is_closed(reactor) ? 0 : -1; /* a closed loop wakes nobody any more */
    Py_DECREF(handle);
    reactor->turn_asked = 1;
    return 0;
}

/* From one current task to the next, in one step where this Python has one. */
static int enter_next(Reactor *reactor, PyObject *task)
{
    ModuleState *state = reactor->state;
    PyObject *arguments[] = {reactor->loop, task};
    if (reactor->entered != NULL && state->current_tasks != NULL)
        return PyDict_SetItem(state->current_tasks, reactor->loop, task);
    int swaps = reactor->entered != NULL && state->swap_task != NULL;
    if (!swaps)
        reactor_leave(reactor);
    PyObject *done = PyObject_Vectorcall(swaps ? state->swap_task : state->enter_task, arguments, 2, NULL);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Make `task` current. Leaving is put off, so that a batch of resumed tasks costs one change a task. */
int reactor_enter(Reactor *reactor, PyObject *task)
{
    if (reactor->entered == task)
        return 0;
    if (enter_next(reactor, task) < 0)
        return -1;
    Py_XSETREF(reactor->entered, Py_NewRef(task));
    return 0;
}

void reactor_leave(Reactor *reactor)
{
    PyObject *task = reactor->entered;
    if (task == NULL)
        return;
    PyObject *raised = take_exception();
    PyObject *arguments[] = {reactor->loop, task};
    reactor->entered = NULL;
    PyObject *done = PyObject_Vectorcall(reactor->state->leave_task, arguments, 2, NULL);
    if (done == NULL)
        reactor_on_failure(reactor);
    Py_XDECREF(done);
    Py_DECREF(task);
    if (raised != NULL)
        raise_taken(raised);
}

static void look_at_debug_mode(Reactor *reactor)
{
    PyObject *debug = PyObject_CallMethod(reactor->loop, "get_debug", NULL);
    if (debug == NULL) /* a loop that cannot say is half collected */
        raise_later(reactor);
    PyErr_Clear();
    reactor->debug = debug == Py_True;
    Py_XDECREF(debug);
}

int reactor_wake(Reactor *reactor, Operation *operation)
{
    int failed = operation_wake(operation) < 0;
    Py_DECREF(operation);
    if (!failed)
        return 0;
    if (!is_interrupt()) {
        reactor_leave(reactor);
        reactor_on_failure(reactor);
        return 0;
    }
    PyObject *raised = take_exception();
    reactor_leave(reactor);
    int left = reactor->ready.first != NULL || reactor->endings.first != NULL || reactor->paced.first != NULL ||
               reactor->interrupt != NULL;
    if (left && reactor_ask_for_a_turn(reactor) < 0 && !keep_interrupt(reactor))
        PyErr_WriteUnraisable((PyObject *)reactor);
    raise_taken(raised);
    return -1;
}

/* A slice of them; the others follow in the loop's next turn. -1: the loop is going down. */
static int wake_endings(Reactor *reactor)
{
    if (reactor->endings.first == NULL || reactor->turn_asked) /* that turn has a slice of its own */
        return 0;
    double over = monotonic_seconds() + reactor->state->slice_seconds;
    do {
        if (reactor_wake(reactor, ready_take(&reactor->endings)) < 0)
            return -1;
    } while (reactor->endings.first != NULL && monotonic_seconds() < over);
    if (reactor->endings.first != NULL && reactor_ask_for_a_turn(reactor) < 0) {
        reactor_leave(reactor);
        reactor_on_failure(reactor); /* the next turn with an event takes a slice as well */
    }
    return 0;
}

int reactor_wake_ready(Reactor *reactor)
{
    Operation *operation;
    if (reactor->turns++ % TURNS_PER_LOOK == 0)
        look_at_debug_mode(reactor);
    while ((operation = ready_take(&reactor->ready)) != NULL) {
        if ((reactor->room < 0 || reactor->paced.first != NULL) && reactor_paces_reader(reactor, operation))
            Py_DECREF(operation);
        else if (reactor_wake(reactor, operation) < 0)
            return -1;
    }
    if (wake_endings(reactor) < 0)
        return -1;
    reactor_leave(reactor);
    return raise_interrupt(reactor);
}

int reactor_wake_later(Reactor *reactor, Operation *operation)
{
    reactor_queue(reactor, operation);
    return reactor_ask_for_a_turn(reactor);
}

char *reactor_scratch(Reactor *reactor)
{
    if (reactor->scratch == NULL && (reactor->scratch = PyBytes_FromStringAndSize(NULL, SCRATCH_BYTES)) == NULL)
        return NULL;
    return PyBytes_AS_STRING(reactor->scratch);
}

/* A copy where there is memory for it, else the buffer itself: what was received must not be dropped. */
PyObject *reactor_give_scratch(Reactor *reactor, Py_ssize_t length)
{
    PyObject *data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(reactor->scratch), length);
    if (data != NULL)
        return data;
    PyErr_Clear();
    data = reactor->scratch;
    reactor->scratch = NULL;
    return bytes_cut(data, length);
}

/* -- for Python ----------------------------------------------------------------------------------------------- */

/* Wake the stream that the word is probably of; 1 if it was. */
static int guess(Reactor *reactor)
{
    Stream *stream = reactor->alone;
    if (stream == NULL || reactor->debug || reactor->readers != 1 || reactor->guesses == MOST_GUESSES || stream->reader == NULL ||
        stream->reader->kind >= METHODS)
        return 0;
    unsigned long reads = reactor->reads;
    reactor->guesses++;
    stream->readable = 1;
    reactor_queue(reactor, stream->reader);
    if (reactor_wake_ready(reactor) < 0)
        return -1;
    return reactor->reads != reads;
}

static void note_whether_alone(Reactor *reactor, const struct epoll_event *events, int count)
{
    PyObject *watcher = count == 1 ? watcher_of(reactor, &events[0]) : NULL;
    reactor->alone = watcher != NULL && is_stream(reactor, watcher) ? (Stream *)watcher : NULL;
    reactor->guesses = 0;
}

/* A batch of ends leaves nearly all of the turn to the messages behind it. */
int reactor_may_look_on(Reactor *reactor, double began)
{
    return reactor->ready.length < EVENTS_PER_TURN &&
           monotonic_seconds() < began + reactor->state->slice_seconds;
}

static void look_on(Reactor *reactor, struct epoll_event *events)
{
    double began = monotonic_seconds();
    int count = EVENTS_PER_TURN;
    while (count == EVENTS_PER_TURN && reactor_may_look_on(reactor, began)) {
        count = epoll_wait(reactor->epoll, events, EVENTS_PER_TURN, 0);
        reactor_note(reactor, events, count);
    }
}

static int look(Reactor *reactor)
{
    struct epoll_event events[EVENTS_PER_TURN];
    if (reactor->epoll < 0)
        return 0;
    int count = epoll_wait(reactor->epoll, events, EVENTS_PER_TURN, 0);
    if (count < 0 && errno != EINTR) { /* after which it stays readable */
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    note_whether_alone(reactor, events, count);
    reactor_note(reactor, events, count);
    if (count == EVENTS_PER_TURN)
        look_on(reactor, events);
    return reactor_wake_ready(reactor);
}

static PyObject *reactor_turn(PyObject *self, PyObject *unused)
{
    Reactor *reactor = (Reactor *)self;
    if (is_inherited(reactor)) /* an event that the child takes is missing in the parent */
        Py_RETURN_NONE;
    int guessed = guess(reactor);
    if (guessed < 0 || (guessed == 0 && look(reactor) < 0))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *reactor_wake_ready_method(PyObject *self, PyObject *unused)
{
    ((Reactor *)self)->turn_asked = 0;
    newcomers_settle((Reactor *)self);
    if (reactor_wake_paced((Reactor *)self) < 0 || reactor_wake_ready((Reactor *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *reactor_watch_method(PyObject *self, PyObject *arguments)
{
    int fd;
    PyObject *watcher;
    if (!PyArg_ParseTuple(arguments, "iO:watch", &fd, &watcher) || reactor_watch((Reactor *)self, fd, watcher) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *reactor_forget_method(PyObject *self, PyObject *arguments)
{
    int fd;
    PyObject *watcher;
    if (!PyArg_ParseTuple(arguments, "iO:forget", &fd, &watcher))
        return NULL;
    reactor_forget((Reactor *)self, fd, watcher, 0);
    Py_RETURN_NONE;
}

static PyObject *reactor_arm_reads(PyObject *self, PyObject *unused)
{
    Py_RETURN_NONE; /* input is always told of */
}

static PyObject *reactor_arm_writes(PyObject *self, PyObject *argument)
{
    long fd = PyLong_AsLong(argument);
    if ((fd == -1 && PyErr_Occurred()) || arm_writes((Reactor *)self, (int)fd) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *reactor_ask_again(PyObject *self, PyObject *argument)
{
    long fd = PyLong_AsLong(argument);
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    ask_again((Reactor *)self, (int)fd);
    Py_RETURN_NONE;
}

static PyObject *reactor_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    PyObject *loop;
    if (!PyArg_ParseTuple(arguments, "O:Reactor", &loop))
        return NULL;
    Reactor *reactor = (Reactor *)type->tp_alloc(type, 0);
    if (reactor == NULL)
        return NULL;
    reactor->epoll = -1;
    reactor->forks = forks;
    reactor->loop = Py_NewRef(loop);
    reactor->state = state_of((PyObject *)reactor);
    if (reactor->state == NULL) {
        Py_DECREF(reactor);
        return NULL;
    }
    reactor_refill(reactor);
    reactor->room = reactor->state->turn_bytes;
    return (PyObject *)reactor;
}

static int reactor_traverse(PyObject *self, visitproc visit, void *arg)
{
    Reactor *reactor = (Reactor *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(reactor->loop);
    Py_VISIT(reactor->selector);
    Py_VISIT(reactor->entered);
    Py_VISIT(reactor->newcomers);
    Py_VISIT(reactor->interrupt);
    for (int fd = 0; reactor->state != NULL && fd < reactor->slot_count; fd++) {
        PyObject *watcher = reactor->slots[fd].watcher;
        if (watcher != NULL && (!is_stream(reactor, watcher) || ((Stream *)watcher)->anchored))
            Py_VISIT(watcher);
    }
    for (Operation *operation = reactor->ready.first; operation != NULL; operation = operation->next_ready)
        Py_VISIT(operation);
    for (Operation *operation = reactor->endings.first; operation != NULL; operation = operation->next_ready)
        Py_VISIT(operation);
    for (Operation *operation = reactor->paced.first; operation != NULL; operation = operation->next_ready)
        Py_VISIT(operation);
    return 0;
}

static int reactor_clear(PyObject *self)
{
    Reactor *reactor = (Reactor *)self;
    Operation *operation;
    while ((operation = ready_take(&reactor->ready)) != NULL || (operation = ready_take(&reactor->endings)) != NULL ||
           (operation = ready_take(&reactor->paced)) != NULL)
        Py_DECREF(operation);
    newcomers_clear(reactor);
    for (int fd = 0; fd < reactor->slot_count && reactor->watched > 0; fd++) {
        PyObject *watcher = reactor->slots[fd].watcher;
        if (watcher == NULL)
            continue;
        if (is_stream(reactor, watcher)) {
            Stream *stream = (Stream *)watcher;
            Py_INCREF(stream);
            stream->unsent = 0;
            stream_settle_anchor(stream);
            if (stream->reader != NULL)
                stream_clear_reader(stream, stream->reader);
            Py_DECREF(stream);
        } else {
            reactor_forget(reactor, fd, watcher, 0);
        }
    }
    Py_CLEAR(reactor->selector);
    Py_CLEAR(reactor->entered);
    Py_CLEAR(reactor->interrupt);
    return 0;
}

static void reactor_dealloc(PyObject *self)
{
    Reactor *reactor = (Reactor *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (reactor->weak_references != NULL)
        PyObject_ClearWeakRefs(self);
    reactor_clear(self);
    if (reactor->epoll >= 0)
        close(reactor->epoll);
    PyMem_Free(reactor->slots);
    Py_CLEAR(reactor->scratch);
    Py_CLEAR(reactor->window);
    Py_CLEAR(reactor->loop);
    type->tp_free(self);
    Py_DECREF(type);
}

/* An instance under a selector is the selector's. */
static PyObject *reactor_abandon(PyObject *self, PyObject *unused)
{
    Reactor *reactor = (Reactor *)self;
    if (is_inherited(reactor) && reactor->selector == NULL && reactor->epoll >= 0) {
        close(reactor->epoll);
        reactor->epoll = -1;
    }
    Py_RETURN_NONE;
}

static PyMethodDef reactor_methods[] = {
    {"watch", reactor_watch_method, METH_VARARGS, "Tell the watcher of events on a descriptor."},
    {"forget", reactor_forget_method, METH_VARARGS, "Report nothing more to the watcher, before it closes."},
    {"arm_reads", reactor_arm_reads, METH_O, "Nothing: input is always told of."},
    {"arm_writes", reactor_arm_writes, METH_O, "From now on tell when there is room to write, too."},
    {"ask_again", reactor_ask_again, METH_O, "Report what is there on a descriptor once more."},
    {"abandon", reactor_abandon, METH_NOARGS, "In a fork's child: close the instance, and change nothing of it."},
    {"turn", reactor_turn, METH_NOARGS, "Look for events and wake who waits for them."},
    {"wake_ready", reactor_wake_ready_method, METH_NOARGS, "Settle newcomers; wake who was to be woken later."},
    {NULL},
};

static PyObject *reactor_get_inherited(PyObject *self, void *unused)
{
    return PyBool_FromLong(is_inherited((Reactor *)self));
}

static PyGetSetDef reactor_getset[] = {
    {"inherited", reactor_get_inherited, NULL, "Whether this is a fork's child, and all of it the parent's.", NULL},
    {NULL},
};

static PyMemberDef reactor_members[] = {
    {"loop", T_OBJECT, offsetof(Reactor, loop), READONLY, NULL},
    {"budget", T_INT, offsetof(Reactor, budget), 0, NULL},
    {"room", T_LONGLONG, offsetof(Reactor, room), 0, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Reactor, weak_references), READONLY, NULL},
    {NULL},
};

static PyType_Slot reactor_slots[] = {
    {Py_tp_doc, "The epoll instance of an event loop, and who waits for what."},
    {Py_tp_new, reactor_new},
    {Py_tp_dealloc, reactor_dealloc},
    {Py_tp_traverse, reactor_traverse},
    {Py_tp_clear, reactor_clear},
    {Py_tp_methods, reactor_methods},
    {Py_tp_members, reactor_members},
    {Py_tp_getset, reactor_getset},
    {0, NULL},
};

PyType_Spec reactor_spec = {
    .name = "aionet.native._compiled.Reactor",
    .basicsize = sizeof(Reactor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = reactor_slots,
};
