/* Selector: an epoll instance that asyncio's descriptors and our streams share.
 *
 * Theory of operation
 * -------------------
 * An `asyncio.SelectorEventLoop` takes any selector. With this one (native/selector.py makes a whole selector of it)
 * the loop and the reactor wait together: one epoll_wait(2) to a turn in place of two. asyncio's own descriptors
 * are registered level-triggered, with generation 0, and returned to the loop; streams' events are noted and their
 * tasks woken right here, where no task is running.
 *
 * *Staying.* As long as nothing but streams became ready, and waking their tasks scheduled nothing, moved no timer
 * and did not stop the loop, there is nothing for a turn of the loop to do: `select` waits again. The loop's queue,
 * its timers and its stop flag are looked at for that (attributes that have been the same since Python 3.4); where
 * they cannot be found, every select returns.
 */
#include "native.h"

#include <math.h>

enum { EVENTS_PER_SELECT = 256 };

typedef struct {
    PyObject_HEAD
    ModuleState *state;
    Reactor *reactor;           /* owned while attached */
    PyObject *ready, *timers;   /* of its loop, while attached: `_ready`, and `_scheduled` at the last look */
    int epoll;
    unsigned long forks;
} Selector;

/* What epoll_wait(2) takes: rounded up, so that a timer is due when it returns. */
static int milliseconds(double seconds)
{
    double rounded = ceil(seconds * 1e3);
    return seconds <= 0 ? 0 : rounded > 2e9 ? 2000000000 : (int)rounded;
}

static PyObject *first_of(PyObject *list) /* borrowed; NULL if empty */
{
    return list != NULL && PyList_GET_SIZE(list) > 0 ? PyList_GET_ITEM(list, 0) : NULL;
}

/* Whether a turn of the loop would find nothing to do; -1: an error is set. */
static int loop_is_idle(Selector *selector, PyObject *first_timer)
{
    if (selector->ready == NULL || selector->timers == NULL || first_of(selector->timers) != first_timer)
        return 0;
    Py_ssize_t scheduled = PyObject_Size(selector->ready);
    if (scheduled != 0)
        return scheduled < 0 ? -1 : 0;
    PyObject *stopping;
    int found = find_attribute(selector->reactor->loop, selector->state->str_stopping, &stopping);
    if (found <= 0)
        return found;
    Py_DECREF(stopping);
    return stopping == Py_False;
}

static void note_foreign(PyObject *found, const struct epoll_event *event)
{
    PyObject *pair = Py_BuildValue("(iI)", (int)(uint32_t)event->data.u64, event->events);
    if (pair == NULL || PyList_Append(found, pair) < 0)
        PyErr_Clear(); /* there is no memory for it: the next look finds it again, as it is level-triggered */
    Py_XDECREF(pair);
}

/* Sort the events; how many were the streams'. */
static int take_events(Selector *selector, struct epoll_event *events, int count, PyObject *found)
{
    int ours = 0;
    for (int i = 0; i < count; i++) {
        if (events[i].data.u64 >> 32)
            events[ours++] = events[i];
        else
            note_foreign(found, &events[i]);
    }
    if (ours && selector->reactor != NULL)
        reactor_note(selector->reactor, events, ours);
    return ours;
}

static int wait_for_events(Selector *selector, struct epoll_event *events, int timeout)
{
    int count;
    if (timeout == 0)
        return epoll_wait(selector->epoll, events, EVENTS_PER_SELECT, 0);
    Py_BEGIN_ALLOW_THREADS
    count = epoll_wait(selector->epoll, events, EVENTS_PER_SELECT, timeout);
    Py_END_ALLOW_THREADS
    return count;
}

/* After a full batch: what is ready behind it, as far as this turn has room. It ends at a descriptor of asyncio's, which
 * stays ready and would be found again. */
static void look_on(Selector *selector, Reactor *reactor, struct epoll_event *events, PyObject *found)
{
    double began = monotonic_seconds();
    int count = EVENTS_PER_SELECT;
    while (count == EVENTS_PER_SELECT && PyList_GET_SIZE(found) == 0 && reactor_may_look_on(reactor, began)) {
        count = epoll_wait(selector->epoll, events, EVENTS_PER_SELECT, 0);
        take_events(selector, events, count, found);
    }
}

/* The loop replaces its list of timers now and then, but not while it selects. -1: an error is set. */
static int look_up_timers(Selector *selector)
{
    PyObject *timers;
    Py_CLEAR(selector->timers);
    if (selector->reactor == NULL)
        return 0;
    int found = find_attribute(selector->reactor->loop, selector->state->str_scheduled, &timers);
    if (found > 0 && PyList_CheckExact(timers))
        Py_XSETREF(selector->timers, timers);
    else if (found > 0)
        Py_DECREF(timers);
    return found < 0 ? -1 : 0;
}

/* Wait once. 1: wait again, for `*timeout` at the most; 0: return what was found; -1: an error is set. */
static int select_once(Selector *selector, int *timeout, double deadline, PyObject *found)
{
    struct epoll_event events[EVENTS_PER_SELECT];
    PyObject *first_timer = first_of(selector->timers);
    int count = wait_for_events(selector, events, *timeout);
    if (count < 0 && errno == EINTR)
        return PyErr_CheckSignals(); /* the signal's handler may have scheduled something */
    if (count < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    Reactor *reactor = (Reactor *)Py_XNewRef(selector->reactor);
    int ours = take_events(selector, events, count, found);
    if (count == EVENTS_PER_SELECT && reactor != NULL)
        look_on(selector, reactor, events, found);
    int failed = reactor != NULL && reactor_wake_ready(reactor) < 0;
    Py_XDECREF(reactor);
    if (failed)
        return -1;
    if (ours == 0 || ours < count || PyList_GET_SIZE(found) > 0 || *timeout == 0 || selector->epoll < 0)
        return 0;
    int idle = loop_is_idle(selector, first_timer);
    if (idle <= 0)
        return idle;
    if (PyErr_CheckSignals() < 0)
        return -1;
    double left = deadline ? deadline - monotonic_seconds() : 0;
    if (deadline)
        *timeout = milliseconds(left);
    return !deadline || left > 0;
}

/* select(timeout or None) -> [(descriptor, events)] of those that are not streams; None in a fork's child, which shares
 * the instance with its parent: an event that the child takes is missing there. */
static PyObject *selector_select(PyObject *self, PyObject *argument)
{
    Selector *selector = (Selector *)self;
    if (selector->forks != forks)
        Py_RETURN_NONE;
    double seconds = argument == Py_None ? -1 : PyFloat_AsDouble(argument);
    if (seconds == -1 && PyErr_Occurred())
        return NULL;
    if (isnan(seconds)) {
        PyErr_SetString(PyExc_ValueError, "a timeout is a number of seconds, not NaN");
        return NULL;
    }
    double deadline = argument == Py_None || seconds <= 0 ? 0 : monotonic_seconds() + seconds;
    int timeout = argument == Py_None ? -1 : milliseconds(seconds);
    if (look_up_timers(selector) < 0)
        return NULL;
    PyObject *found = PyList_New(0);
    int again = found == NULL ? -1 : 1;
    while (again > 0)
        again = select_once(selector, &timeout, deadline, found);
    if (again < 0)
        Py_CLEAR(found); /* level-triggered events are found again */
    return found;
}

/* -- asyncio's descriptors ---------------------------------------------------------------------------------------- */

static PyObject *control(Selector *selector, int operation, PyObject *arguments)
{
    int fd;
    unsigned int events = 0;
    if (!PyArg_ParseTuple(arguments, "i|I", &fd, &events))
        return NULL;
    struct epoll_event event = {.events = events, .data.u64 = (uint32_t)fd};
    if (selector->forks != forks)
        Py_RETURN_NONE; /* the parent's */
    if (epoll_ctl(selector->epoll, operation, fd, &event) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *selector_add(PyObject *self, PyObject *arguments)
{
    return control((Selector *)self, EPOLL_CTL_ADD, arguments);
}

static PyObject *selector_change(PyObject *self, PyObject *arguments)
{
    return control((Selector *)self, EPOLL_CTL_MOD, arguments);
}

static PyObject *selector_remove(PyObject *self, PyObject *arguments)
{
    return control((Selector *)self, EPOLL_CTL_DEL, arguments);
}

/* -- the reactor ---------------------------------------------------------------------------------------------------- */

int selector_attach(PyObject *self, Reactor *reactor)
{
    Selector *selector = (Selector *)self;
    if (selector->epoll < 0) {
        PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
        return -1;
    }
    if (selector->forks != forks) {
        PyErr_SetNone(selector->state->inherited_error);
        return -1;
    }
    if (selector->reactor != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a selector belongs to the reactor of one event loop");
        return -1;
    }
    PyObject *ready;
    if (find_attribute(reactor->loop, selector->state->str_ready, &ready) < 0)
        return -1;
    selector->reactor = (Reactor *)Py_NewRef(reactor);
    selector->ready = ready; /* without it, it never stays */
    return selector->epoll;
}

void selector_detach(PyObject *self)
{
    Selector *selector = (Selector *)self;
    Py_CLEAR(selector->ready);
    Py_CLEAR(selector->timers);
    Py_CLEAR(selector->reactor);
}

static PyObject *selector_close(PyObject *self, PyObject *unused)
{
    Selector *selector = (Selector *)self;
    if (selector->epoll >= 0)
        close(selector->epoll);
    selector->epoll = -1;
    if (selector->reactor != NULL)
        selector->reactor->epoll = -1;
    Py_RETURN_NONE;
}

static PyObject *selector_fileno(PyObject *self, PyObject *unused)
{
    return PyLong_FromLong(((Selector *)self)->epoll);
}

static PyObject *selector_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    Selector *selector = (Selector *)type->tp_alloc(type, 0);
    if (selector == NULL)
        return NULL;
    selector->state = state_of((PyObject *)selector);
    selector->forks = forks;
    selector->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (selector->state != NULL && selector->epoll < 0)
        PyErr_SetFromErrno(PyExc_OSError);
    if (selector->state == NULL || selector->epoll < 0) {
        Py_DECREF(selector);
        return NULL;
    }
    return (PyObject *)selector;
}

static int selector_traverse(PyObject *self, visitproc visit, void *arg)
{
    Selector *selector = (Selector *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(selector->reactor);
    Py_VISIT(selector->ready);
    Py_VISIT(selector->timers);
    return 0;
}

static int selector_clear(PyObject *self)
{
    selector_detach(self);
    return 0;
}

static void selector_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(selector_close(self, NULL));
    selector_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef selector_methods[] = {
    {"_select", selector_select, METH_O, "Wait for events; wake the streams' tasks, return the others."},
    {"_add", selector_add, METH_VARARGS, NULL},
    {"_change", selector_change, METH_VARARGS, NULL},
    {"_remove", selector_remove, METH_VARARGS, NULL},
    {"_close", selector_close, METH_NOARGS, NULL},
    {"fileno", selector_fileno, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot selector_slots[] = {
    {Py_tp_doc, "An epoll instance that an event loop shares with its reactor."},
    {Py_tp_new, selector_new},
    {Py_tp_dealloc, selector_dealloc},
    {Py_tp_traverse, selector_traverse},
    {Py_tp_clear, selector_clear},
    {Py_tp_methods, selector_methods},
    {0, NULL},
};

PyType_Spec selector_spec = {
    .name = "aionet.native._compiled.Selector",
    .basicsize = sizeof(Selector),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = selector_slots,
};
