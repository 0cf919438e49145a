/* Wait: what stands for a task that waits.
 *
 * Theory of operation
 * -------------------
 * `asyncio.Task` waits on anything that speaks the future protocol: `_asyncio_future_blocking`, `get_loop`,
 * `add_done_callback(wakeup, context=)`, `cancel(msg=)`, `result`. It asks for nothing else, so this has nothing
 * else. There is one callback: the task's.
 *
 * `wait_wake` calls it at once: nobody else's code is running when the reactor does so, and a turn of the loop
 * is saved. A cancellation calls it in the loop's next turn, as a future's does, because it comes out of the
 * middle of other code.
 */
#include "native.h"

Wait *wait_new(ModuleState *state, PyObject *loop, Operation *operation)
{
    Wait *wait = state->free_waits;
    if (wait != NULL) {
        state->free_waits = (Wait *)wait->callback;
        state->free_wait_count--;
        wait->callback = NULL;
        PyObject_Init((PyObject *)wait, state->wait_type);
    } else {
        wait = PyObject_GC_New(Wait, state->wait_type);
        if (wait == NULL)
            return NULL;
    }
    wait->state = state;
    wait->loop = Py_NewRef(loop);
    wait->callback = wait->context = wait->message = NULL;
    wait->operation = operation;
    wait->blocking = 1; /* it is about to be yielded to a task */
    wait->cancelled = 0;
    PyObject_GC_Track(wait);
    return wait;
}

/* What to call `callback` with. If asyncio's compiled Task made it, that wants nothing but a result (woken.py). */
static PyObject *news_for(PyObject *callback, Wait *wait)
{
    int of_task = PyCFunction_CheckExact(callback) && PyCFunction_GET_SELF(callback) != NULL &&
                  (PyObject *)Py_TYPE(PyCFunction_GET_SELF(callback)) == wait->state->task_class;
    return Py_NewRef(of_task && !wait->cancelled ? wait->state->woken : (PyObject *)wait);
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

int wait_wake_later(Wait *wait)
{
    PyObject *callback = wait->callback, *context = wait->context;
    if (callback == NULL)
        return 0;
    wait->callback = wait->context = NULL;
    PyObject *arguments[] = {wait->loop, callback, (PyObject *)wait, context};
    PyObject *handle = PyObject_VectorcallMethod(wait->state->str_call_soon, arguments,
                                                 3 | PY_VECTORCALL_ARGUMENTS_OFFSET, wait->state->context_keyword);
    Py_DECREF(callback);
    Py_DECREF(context);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

static PyObject *wait_add_done_callback(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    Wait *wait = (Wait *)self;
    if (count != 1 || (names != NULL && PyTuple_GET_SIZE(names) > 1)) {
        PyErr_SetString(PyExc_TypeError, "add_done_callback(callback, *, context=None)");
        return NULL;
    }
    PyObject *context = names != NULL && PyTuple_GET_SIZE(names) == 1 ? arguments[1] : Py_None;
    context = context == Py_None ? PyContext_CopyCurrent() : Py_NewRef(context);
    if (context == NULL)
        return NULL;
    Py_XSETREF(wait->context, context);
    Py_XSETREF(wait->callback, Py_NewRef(arguments[0]));
    Py_RETURN_NONE;
}

static PyObject *wait_cancel(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    Wait *wait = (Wait *)self;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    PyObject *message = count + named > 0 ? arguments[0] : Py_None;
    if (Py_TYPE(self) == wait->state->driver_type)
        return driver_cancel((Driver *)self, message);
    if (wait->cancelled || wait->callback == NULL)
        Py_RETURN_FALSE; /* it was woken already: the task will find that it is to be cancelled */
    wait->cancelled = 1;
    wait->message = Py_NewRef(message);
    if (wait_wake_later(wait) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

static PyObject *wait_result(PyObject *self, PyObject *unused)
{
    Wait *wait = (Wait *)self;
    if (!wait->cancelled)
        Py_RETURN_NONE;
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
    return Py_NewRef(((Wait *)self)->loop ? ((Wait *)self)->loop : Py_None);
}

static PyObject *wait_done(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(((Wait *)self)->cancelled);
}

int wait_traverse(PyObject *self, visitproc visit, void *arg)
{
    Wait *wait = (Wait *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(wait->loop);
    Py_VISIT(wait->callback);
    Py_VISIT(wait->context);
    Py_VISIT(wait->message);
    return 0;
}

int wait_clear(PyObject *self)
{
    Wait *wait = (Wait *)self;
    Py_CLEAR(wait->loop);
    Py_CLEAR(wait->callback);
    Py_CLEAR(wait->context);
    Py_CLEAR(wait->message);
    return 0;
}

static void wait_dealloc(PyObject *self)
{
    Wait *wait = (Wait *)self;
    PyTypeObject *type = Py_TYPE(self);
    ModuleState *state = wait->state;
    PyObject_GC_UnTrack(self);
    wait_clear(self);
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
    {NULL},
};

static PyMemberDef wait_members[] = {
    {"_asyncio_future_blocking", T_BOOL, offsetof(Wait, blocking), 0, NULL},
    {NULL},
};

static PyType_Slot wait_slots[] = {
    {Py_tp_doc, "What stands for a task that waits."},
    {Py_tp_dealloc, wait_dealloc},
    {Py_tp_traverse, wait_traverse},
    {Py_tp_clear, wait_clear},
    {Py_tp_methods, wait_methods},
    {Py_tp_members, wait_members},
    {0, NULL},
};

PyType_Spec wait_spec = {
    .name = "aionet.native._compiled.Wait",
    .basicsize = sizeof(Wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = wait_slots,
};
