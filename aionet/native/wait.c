/* Wait: what stands for a task that waits.
 *
 * Theory of operation
 * -------------------
 * `asyncio.Task` waits on anything that speaks the future protocol: `_asyncio_future_blocking`, `get_loop`,
 * `add_done_callback(wakeup, context=)`, `cancel(msg=)`, `result`. It asks for nothing else, so this has nothing
 * else but what is asked about a task from outside: libraries look at a task's `_fut_waiter`, find out with `isinstance`
 * that it is a future, and ask whether it is done or cancelled. There is one callback: the task's.
 *
 * `wait_wake` calls it at once: no other code is running when the reactor does so, and a turn of the loop
 * is saved. A cancellation calls it in the loop's next turn, as a future's does, because it comes out of the
 * middle of other code.
 *
 * Where the reactor makes the task's steps itself (driving.c) one of these stands for the task through all of them, also
 * while such a step is made (`running`), and while the task waits for another future (`foreign`), which it stands for then.
 */
#include "native.h"

/* It refers to nothing, and is of no interest to the collector of garbage, until a task waits on it. */
Wait *wait_new(ModuleState *state, Operation *operation)
{
    Wait *wait = state->free_waits;
    if (wait != NULL) {
        state->free_waits = (Wait *)wait->callback;
        state->free_wait_count--;
        PyObject_Init((PyObject *)wait, state->wait_type);
    } else {
        wait = PyObject_GC_New(Wait, state->wait_type);
        if (wait == NULL)
            return NULL;
    }
    wait->state = state;
    wait->loop = wait->callback = wait->context = wait->message = NULL;
    wait->coroutine = wait->foreign = wait->error = NULL;
    wait->operation = operation;
    wait->blocking = 1; /* it is about to be yielded to a task */
    wait->cancelled = wait->running = wait->tracked = 0;
    return wait;
}

/* What to call `callback` with. If asyncio's compiled Task made it, that wants nothing but a result (woken.py). */
static PyObject *news_for(PyObject *callback, Wait *wait)
{
    int of_task = PyCFunction_CheckExact(callback) && PyCFunction_GET_SELF(callback) != NULL &&
                  (PyObject *)Py_TYPE(PyCFunction_GET_SELF(callback)) == wait->state->task_class;
    int plain = of_task && !wait->cancelled && wait->error == NULL;
    return Py_NewRef(plain ? wait->state->woken : (PyObject *)wait);
}

int wait_wake(Wait *wait)
{
    PyObject *callback = wait->callback, *context = wait->context, *result;
    if (callback == NULL)
        return 0;
    wait->callback = wait->context = NULL;
    if (PyContext_Enter(context) < 0) {
        Py_DECREF(callback);
        Py_DECREF(context);
        return -1;
    }
    PyObject *news = news_for(callback, wait);
    result = PyObject_CallOneArg(callback, news);
    Py_DECREF(news);
    Py_DECREF(callback);
    PyObject *raised = result == NULL ? take_exception() : NULL;
    int left = PyContext_Exit(context);
    if (left < 0 && raised != NULL) /* only one can be raised, and the first one is the cause */
        PyErr_WriteUnraisable(NULL);
    Py_DECREF(context);
    Py_XDECREF(result);
    if (raised != NULL)
        raise_taken(raised);
    return raised != NULL ? -1 : left;
}

/* On an error nothing has changed. */
int wait_wake_later(Wait *wait)
{
    if (wait->callback == NULL)
        return 0;
    PyObject *arguments[] = {wait->loop, wait->callback, (PyObject *)wait, wait->context};
    PyObject *handle = PyObject_VectorcallMethod(wait->state->str_call_soon, arguments,
                                                 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, wait->state->context_keyword);
    if (handle == NULL)
        return -1;
    Py_DECREF(handle);
    Py_CLEAR(wait->callback);
    Py_CLEAR(wait->context);
    return 0;
}

void wait_let_go(Wait *wait)
{
    Py_CLEAR(wait->callback);
    Py_CLEAR(wait->context);
    Py_CLEAR(wait->message);
    Py_CLEAR(wait->coroutine);
    Py_CLEAR(wait->foreign);
    Py_CLEAR(wait->error);
}

/* Borrowed; NULL once its operation is over, unless a task waits on it. */
static PyObject *loop_of(Wait *wait)
{
    return wait->loop == NULL && wait->operation != NULL ? wait->operation->stream->reactor->loop : wait->loop;
}

static PyObject *wait_add_done_callback(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    Wait *wait = (Wait *)self;
    if (count != 1 || (names != NULL && PyTuple_GET_SIZE(names) > 1)) {
        PyErr_SetString(PyExc_TypeError, "add_done_callback(callback, *, context=None)");
        return NULL;
    }
    if (wait->running || loop_of(wait) == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this stands for another task, or for nothing any more");
        return NULL;
    }
    PyObject *context = names != NULL && PyTuple_GET_SIZE(names) == 1 ? arguments[1] : Py_None;
    context = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (context == NULL)
        return NULL;
    if (wait->loop == NULL) {
        wait->loop = Py_NewRef(loop_of(wait));
        wait->tracked = 1;
        PyObject_GC_Track(wait);
    }
    Py_XSETREF(wait->context, context);
    Py_XSETREF(wait->callback, Py_NewRef(arguments[0]));
    Py_RETURN_NONE;
}

static PyObject *cancel_foreign(Wait *wait, PyObject *message)
{
    PyObject *arguments[] = {wait->foreign, message};
    return PyObject_VectorcallMethod(wait->state->str_cancel, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     wait->state->msg_keyword);
}

static PyObject *wait_cancel(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    Wait *wait = (Wait *)self;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    PyObject *message = count + named > 0 ? arguments[0] : Py_None;
    if (wait->foreign != NULL)
        return cancel_foreign(wait, message);
    if (wait->running) { /* the task cancels itself: see driving.c */
        wait->cancelled = 1;
        Py_XSETREF(wait->message, Py_NewRef(message));
        Py_RETURN_TRUE;
    }
    if (wait->cancelled || wait->callback == NULL)
        Py_RETURN_FALSE; /* it was woken already: the task will find that it is to be cancelled */
    if (wait_wake_later(wait) < 0)
        return NULL;
    wait->cancelled = 1;
    Py_XSETREF(wait->message, Py_NewRef(message));
    Py_RETURN_TRUE;
}

static PyObject *wait_result(PyObject *self, PyObject *unused)
{
    Wait *wait = (Wait *)self;
    if (!wait->cancelled && wait->error == NULL)
        Py_RETURN_NONE;
    if (!wait->cancelled) {
        raise_taken(wait->error);
        wait->error = NULL;
        return NULL;
    }
    PyObject *message = wait->message;
    wait->message = NULL;
    wait->cancelled = 0;
    if (message == NULL || message == Py_None)
        PyErr_SetNone(wait->state->cancelled_error);
    else {
        PyObject *error = PyObject_CallOneArg(wait->state->cancelled_error, message);
        if (error != NULL) {
            PyErr_SetObject(wait->state->cancelled_error, error);
            Py_DECREF(error);
        }
    }
    Py_XDECREF(message);
    return NULL;
}

static PyObject *wait_get_loop(PyObject *self, PyObject *unused)
{
    PyObject *loop = loop_of((Wait *)self);
    return Py_NewRef(loop == NULL ? Py_None : loop);
}

/* Whether the task may make its next step: it waits no more. */
static PyObject *wait_done(PyObject *self, PyObject *unused)
{
    Wait *wait = (Wait *)self;
    if (wait->foreign != NULL)
        return PyObject_CallMethod(wait->foreign, "done", NULL);
    return PyBool_FromLong(wait->running || wait->callback == NULL);
}

static PyObject *wait_cancelled(PyObject *self, PyObject *unused)
{
    Wait *wait = (Wait *)self;
    if (wait->foreign != NULL)
        return PyObject_CallMethod(wait->foreign, "cancelled", NULL);
    return PyBool_FromLong(wait->cancelled);
}

static PyObject *wait_repr(PyObject *self)
{
    Wait *wait = (Wait *)self;
    if (wait->foreign != NULL)
        return PyObject_Repr(wait->foreign);
    return PyUnicode_FromString(wait->operation == NULL ? "<Wait done>" : "<Wait pending>"); /* as a part of its task's */
}

static PyObject *wait_get_class(PyObject *self, void *unused)
{
    return Py_NewRef(((Wait *)self)->state->future_class);
}

static int wait_traverse(PyObject *self, visitproc visit, void *arg)
{
    Wait *wait = (Wait *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(wait->loop);
    Py_VISIT(wait->callback);
    Py_VISIT(wait->context);
    Py_VISIT(wait->message);
    Py_VISIT(wait->coroutine);
    Py_VISIT(wait->foreign);
    Py_VISIT(wait->error);
    return 0;
}

static int wait_clear(PyObject *self)
{
    Py_CLEAR(((Wait *)self)->loop);
    wait_let_go((Wait *)self);
    return 0;
}

static void wait_dealloc(PyObject *self)
{
    Wait *wait = (Wait *)self;
    PyTypeObject *type = Py_TYPE(self);
    ModuleState *state = wait->state;
    if (wait->tracked) {
        PyObject_GC_UnTrack(self);
        wait_clear(self);
    }
    if (state->free_wait_count < MOST_FREE) {
        wait->callback = (PyObject *)state->free_waits;
        state->free_waits = wait;
        state->free_wait_count++;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

static PyMethodDef wait_methods[] = {
    {"add_done_callback", (PyCFunction)(void (*)(void))wait_add_done_callback, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"cancel", (PyCFunction)(void (*)(void))wait_cancel, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"result", wait_result, METH_NOARGS, NULL},
    {"get_loop", wait_get_loop, METH_NOARGS, NULL},
    {"done", wait_done, METH_NOARGS, NULL},
    {"cancelled", wait_cancelled, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef wait_members[] = {
    {"_asyncio_future_blocking", T_BOOL, offsetof(Wait, blocking), 0, NULL},
    {NULL},
};

static PyGetSetDef wait_getset[] = {
    {"__class__", wait_get_class, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot wait_slots[] = {
    {Py_tp_doc, "What stands for a task that waits."},
    {Py_tp_dealloc, wait_dealloc},
    {Py_tp_traverse, wait_traverse},
    {Py_tp_clear, wait_clear},
    {Py_tp_methods, wait_methods},
    {Py_tp_members, wait_members},
    {Py_tp_getset, wait_getset},
    {Py_tp_repr, wait_repr},
    {0, NULL},
};

PyType_Spec wait_spec = {
    .name = "aionet.native._compiled.Wait",
    .basicsize = sizeof(Wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = wait_slots,
};
