/* Roster: the everyday beginning and end of a connection that a spawner serves.
 *
 * Theory of operation
 * -------------------
 * What a spawner does for each connection stands in Python (spawner.py), once for both engines. Where nobody
 * limits or follows connections, and a handler is called directly, most of it comes to a few words of memory:
 * a connection of a batch is put on the roster and its task is made, and when its handler has returned, or was told
 * that the peer is gone, its socket is closed, it is struck off, and a cause is counted. A Roster does that.
 *
 * An end that is not of this kind is `ended`'s business, the spawner's own function, as if this were not here: so is
 * the last connection, and the first to end while there is no room for more, because somebody waits for those.
 */
#include "native.h"

enum { RETURNED, PEER_ENDED, PEER_LOST, CAUSES };

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ModuleState *state;
    PyTypeObject *connection_class;
    PyObject *coroutine; /* function: the coroutine of a connection's task */
    PyObject *handler, *task_name;
    PyObject *draining;             /* what every socket knows its spawner's drain by */
    PyObject *connections, *counts; /* shared with the spawner: a set; a list by a cause's number */
    PyObject *causes;
    Py_ssize_t numbers[CAUSES];
    PyObject *logged; /* whether the log wants to have every loss; it may change its mind, and is asked in each turn */
    int logs;         /* what it said */
    unsigned long asked; /* in which turn */
    PyObject *ended;
    Py_ssize_t most; /* connections at a time, or 0 */
    char followed;   /* whether somebody wants to know of every end */
} Roster;

/* -- beginning --------------------------------------------------------------------------------------------------- */

/* A connection that has no task that would end it, or none of its own, and the error that is being raised says why. */
static void strike_off(Roster *roster, PyObject *socket, PyObject *connection)
{
    PyObject *raised = take_exception();
    PyObject *aborted = PyObject_CallMethod(socket, "abort", NULL);
    if (aborted == NULL || (connection != NULL && PySet_Discard(roster->connections, connection) < 0))
        PyErr_WriteUnraisable(NULL);
    Py_XDECREF(aborted);
    raise_taken(raised);
}

/* A coroutine that ends the connection, whatever becomes of it. */
static PyObject *coroutine_for(Roster *roster, PyObject *socket, PyObject *connection)
{
    PyObject *arguments[] = {roster->handler, socket, (PyObject *)roster, connection};
    PyObject *coroutine = PyObject_Vectorcall(roster->coroutine, arguments, 4, NULL);
    if (coroutine != NULL && coroutine_prime(roster->state, coroutine) < 0)
        Py_CLEAR(coroutine);
    return coroutine;
}

/* Put a connection of `socket` on the roster, and give it a task. */
static int begin_one(Roster *roster, PyObject *socket, PyObject *started, PyObject *make_task)
{
    ConnectionBase *connection = (ConnectionBase *)roster->connection_class->tp_alloc(roster->connection_class, 0);
    PyObject *coroutine = NULL;
    if (connection != NULL) {
        connection->socket = Py_NewRef(socket);
        connection->started = Py_NewRef(started);
        if (PyObject_SetAttr(socket, roster->state->str_draining, roster->draining) == 0 &&
            PySet_Add(roster->connections, (PyObject *)connection) == 0)
            coroutine = coroutine_for(roster, socket, (PyObject *)connection);
    }
    if (coroutine != NULL) {
        PyObject *arguments[] = {coroutine, roster->task_name};
        connection->task = PyObject_Vectorcall(make_task, arguments, 1, roster->state->name_keyword);
        Py_DECREF(coroutine); /* which ends the connection, if it got no task */
    }
    int begun = connection != NULL && connection->task != NULL ? 0 : -1;
    if (begun < 0)
        strike_off(roster, socket, (PyObject *)connection);
    Py_XDECREF(connection);
    return begun;
}

static PyObject *roster_begin(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 3 || !PyList_CheckExact(arguments[0])) {
        PyErr_SetString(PyExc_TypeError, "begin(sockets: list, started, make_task)");
        return NULL;
    }
    PyObject *sockets = arguments[0];
    while (PyList_GET_SIZE(sockets) > 0) {
        PyObject *socket = Py_NewRef(PyList_GET_ITEM(sockets, 0));
        int begun = PyList_SetSlice(sockets, 0, 1, NULL);
        if (begun == 0)
            begun = begin_one((Roster *)self, socket, arguments[1], arguments[2]);
        Py_DECREF(socket);
        if (begun < 0)
            return NULL;
    }
    Py_RETURN_NONE;
}

/* -- ending ------------------------------------------------------------------------------------------------------ */

/* Whether `error` says that the peer of this very wire is gone; -1 on an error. */
static int is_loss_of(ModuleState *state, PyObject *error, PyObject *wire)
{
    if ((PyObject *)Py_TYPE(error) != state->connection_lost_error)
        return 0;
    PyObject *ends;
    int found = find_attribute(error, state->str_ends, &ends);
    if (found <= 0)
        return found;
    Py_DECREF(ends);
    return ends == wire;
}

/* Whether the log wants to have every loss; -1 on an error. */
static int logs_losses(Roster *roster, Reactor *reactor)
{
    if (roster->asked != reactor->turns) {
        PyObject *answer = PyObject_CallNoArgs(roster->logged);
        int logs = answer == NULL ? -1 : PyObject_IsTrue(answer);
        Py_XDECREF(answer);
        if (logs < 0)
            return -1;
        roster->logs = logs;
        roster->asked = reactor->turns;
    }
    return roster->logs;
}

/* Which of the everyday causes it is; CAUSES if it is another one, -1 on an error. */
static int cause_of(Roster *roster, ConnectionBase *connection, PyObject *error)
{
    Stream *stream = connection->socket == NULL ? NULL : stream_of(roster->state, connection->socket);
    if (stream == NULL || (connection->cause != NULL && connection->cause != Py_None))
        return CAUSES;
    if (error == Py_None && stream->lost != NULL && stream->lost != Py_None)
        return CAUSES;
    if (error == Py_None)
        return stream->end_seen ? PEER_ENDED : RETURNED;
    int loss = is_loss_of(roster->state, error, (PyObject *)stream);
    if (loss <= 0)
        return loss < 0 ? -1 : CAUSES;
    int logged = logs_losses(roster, stream->reactor);
    return logged < 0 ? -1 : logged ? CAUSES : PEER_LOST;
}

static PyObject *next_count(Roster *roster, Py_ssize_t number)
{
    PyObject *one = PyLong_FromLong(1);
    PyObject *count = one == NULL ? NULL : PyNumber_Add(PyList_GET_ITEM(roster->counts, number), one);
    Py_XDECREF(one);
    return count;
}

/* Whether it was an everyday end, and is over; -1 on an error, and it is not over: what may fail comes first. */
static int end_at_once(Roster *roster, ConnectionBase *connection, PyObject *error)
{
    Py_ssize_t active = PySet_GET_SIZE(roster->connections);
    if (roster->followed || active == 1 || active == roster->most)
        return 0;
    int cause = cause_of(roster, connection, error);
    if (cause < 0 || cause == CAUSES)
        return cause < 0 ? -1 : 0;
    PyObject *count = next_count(roster, roster->numbers[cause]);
    int closed = count == NULL ? -1 : socket_close_at_once(roster->state, connection->socket);
    if (closed <= 0 || PySet_Discard(roster->connections, (PyObject *)connection) < 0) {
        Py_XDECREF(count);
        return closed == 0 ? 0 : -1;
    }
    Py_XSETREF(connection->cause, Py_NewRef(PyTuple_GET_ITEM(roster->causes, cause)));
    return PyList_SetItem(roster->counts, roster->numbers[cause], count) < 0 ? -1 : 1;
}

/* Something failed before the end was over: it is as if that had ended the handler, and is `ended`'s business. */
static PyObject *end_after_failure(Roster *roster, PyObject *connection)
{
    PyObject *raised = take_exception(), *arguments[] = {connection, raised};
    PyObject *rest = PyObject_Vectorcall(roster->ended, arguments, 2, NULL);
    if (rest == Py_None && !PyObject_TypeCheck(raised, (PyTypeObject *)PyExc_Exception)) { /* an interrupt, say */
        Py_DECREF(rest);
        raise_taken(raised);
        return NULL;
    }
    Py_DECREF(raised);
    return rest;
}

/* The handler of a connection has ended: what its coroutine calls, with the connection and the error or None. */
static PyObject *roster_vectorcall(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *names)
{
    Roster *roster = (Roster *)self;
    if (PyVectorcall_NARGS(flags) != 2 || names != NULL ||
        !PyObject_TypeCheck(arguments[0], roster->connection_class)) {
        PyErr_SetString(PyExc_TypeError, "a roster is called with a connection and the error of its handler, or None");
        return NULL;
    }
    int ended = end_at_once(roster, (ConnectionBase *)arguments[0], arguments[1]);
    if (ended < 0)
        return end_after_failure(roster, arguments[0]);
    if (ended)
        Py_RETURN_NONE;
    return PyObject_Vectorcall(roster->ended, arguments, 2, NULL);
}

/* -- the type ---------------------------------------------------------------------------------------------------- */

static int know_numbers(Roster *roster)
{
    for (int cause = 0; cause < CAUSES; cause++) {
        PyObject *number = PyObject_GetAttrString(PyTuple_GET_ITEM(roster->causes, cause), "number");
        if (number == NULL)
            return -1;
        roster->numbers[cause] = PyLong_AsSsize_t(number);
        Py_DECREF(number);
        if (roster->numbers[cause] == -1 && PyErr_Occurred())
            return -1;
        if (roster->numbers[cause] < 0 || roster->numbers[cause] >= PyList_GET_SIZE(roster->counts)) {
            PyErr_SetString(PyExc_ValueError, "a cause has no place among the counts");
            return -1;
        }
    }
    return 0;
}

static PyObject *roster_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *words[] = {"connection_class", "coroutine", "handler", "task_name", "draining", "connections",
                            "counts",           "causes",    "logged",  "ended",     "most",     NULL};
    PyObject *connection_class, *coroutine, *handler, *task_name, *draining, *connections, *counts, *causes, *logged, *ended;
    Py_ssize_t most;
    PyObject *module = PyType_GetModuleByDef(type, &native_module);
    ModuleState *state = module == NULL ? NULL : module_state(module);
    if (state == NULL ||
        !PyArg_ParseTupleAndKeywords(arguments, names, "$O!OOOOO!O!O!OOn:Roster", words, &PyType_Type, &connection_class,
                                     &coroutine, &handler, &task_name, &draining, &PySet_Type, &connections, &PyList_Type, &counts,
                                     &PyTuple_Type, &causes, &logged, &ended, &most))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)connection_class, state->connection_base_type) ||
        PyTuple_GET_SIZE(causes) != CAUSES) {
        PyErr_Format(PyExc_TypeError, "a roster needs a class of compiled connections and %d causes", CAUSES);
        return NULL;
    }
    Roster *roster = (Roster *)type->tp_alloc(type, 0);
    if (roster == NULL)
        return NULL;
    roster->vectorcall = roster_vectorcall;
    roster->state = state;
    roster->connection_class = (PyTypeObject *)Py_NewRef(connection_class);
    roster->coroutine = Py_NewRef(coroutine);
    roster->handler = Py_NewRef(handler);
    roster->task_name = Py_NewRef(task_name);
    roster->draining = Py_NewRef(draining);
    roster->connections = Py_NewRef(connections);
    roster->counts = Py_NewRef(counts);
    roster->causes = Py_NewRef(causes);
    roster->logged = Py_NewRef(logged);
    roster->ended = Py_NewRef(ended);
    roster->most = most;
    roster->asked = ULONG_MAX;
    if (know_numbers(roster) < 0)
        Py_CLEAR(roster);
    return (PyObject *)roster;
}

static int roster_traverse(PyObject *self, visitproc visit, void *arg)
{
    Roster *roster = (Roster *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(roster->connection_class);
    Py_VISIT(roster->coroutine);
    Py_VISIT(roster->handler);
    Py_VISIT(roster->draining);
    Py_VISIT(roster->connections);
    Py_VISIT(roster->counts);
    Py_VISIT(roster->causes);
    Py_VISIT(roster->logged);
    Py_VISIT(roster->ended);
    return 0;
}

/* `handler`, `ended` and what else may lead back to the spawner. */
static int roster_clear(PyObject *self)
{
    Roster *roster = (Roster *)self;
    Py_CLEAR(roster->connection_class);
    Py_CLEAR(roster->coroutine);
    Py_CLEAR(roster->handler);
    Py_CLEAR(roster->task_name);
    Py_CLEAR(roster->draining);
    Py_CLEAR(roster->connections);
    Py_CLEAR(roster->counts);
    Py_CLEAR(roster->causes);
    Py_CLEAR(roster->logged);
    Py_CLEAR(roster->ended);
    return 0;
}

static void roster_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    roster_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef roster_methods[] = {
    {"begin", (PyCFunction)(void (*)(void))roster_begin, METH_FASTCALL,
     "begin($self, sockets, started, make_task, /)\n--\n\n"
     "Take all `sockets` out of their list, and give each a connection and a task."},
    {NULL},
};

static PyMemberDef roster_members[] = {
    {"followed", T_BOOL, offsetof(Roster, followed), 0, "Whether every end is `ended`'s business."},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Roster, vectorcall), READONLY, NULL},
    {NULL},
};

static PyType_Slot roster_slots[] = {
    {Py_tp_doc, "Begins and ends the connections of a spawner, where there is nothing special about them."},
    {Py_tp_new, roster_new},
    {Py_tp_dealloc, roster_dealloc},
    {Py_tp_traverse, roster_traverse},
    {Py_tp_clear, roster_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_methods, roster_methods},
    {Py_tp_members, roster_members},
    {0, NULL},
};

PyType_Spec roster_spec = {
    .name = "aionet.native._compiled.Roster",
    .basicsize = sizeof(Roster),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = roster_slots,
};
