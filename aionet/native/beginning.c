/* Begin: what the coroutine of a connection awaits first of all.
 *
 * Theory of operation
 * -------------------
 * A connection has to be ended however its task ends, even if that is cancelled before its first step, or never makes
 * one. A coroutine that has not begun runs none of its code then. So it is begun before it is given to a task: `prime`
 * lets it run into its `try` statement, where it awaits BEGIN, which yields once; at the first step of the task it
 * continues there. (connection_task.py has the coroutine, and the same in Python.)
 */
#include "native.h"

typedef struct {
    PyObject_HEAD
    char yields; /* `prime` runs */
} Begin;

static PySendResult begin_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    Begin *begin = (Begin *)self;
    PySendResult status = begin->yields ? PYGEN_NEXT : PYGEN_RETURN;
    begin->yields = 0;
    *result = Py_NewRef(Py_None);
    return status;
}

static PyObject *begin_iternext(PyObject *self)
{
    PyObject *result;
    PySendResult status = begin_am_send(self, Py_None, &result);
    return returned_of(status, result);
}

int coroutine_prime(ModuleState *state, PyObject *coroutine)
{
    Begin *begin = (Begin *)state->begin;
    PyObject *result;
    begin->yields = 1;
    PySendResult status = PyIter_Send(coroutine, Py_None, &result);
    int awaited = !begin->yields;
    begin->yields = 0;
    if (status == PYGEN_ERROR)
        return -1;
    Py_DECREF(result);
    if (status == PYGEN_NEXT && awaited)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "a coroutine that is primed awaits BEGIN first");
    return -1;
}

PyObject *coroutine_prime_function(PyObject *module, PyObject *coroutine)
{
    return coroutine_prime(module_state(module), coroutine) < 0 ? NULL : Py_NewRef(Py_None);
}

static void begin_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot begin_slots[] = {
    {Py_tp_doc, "What the coroutine of a connection awaits first of all."},
    {Py_tp_dealloc, begin_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, begin_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, begin_am_send},
    {0, NULL},
};

PyType_Spec begin_spec = {
    .name = "aionet.native._compiled.Begin",
    .basicsize = sizeof(Begin),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = begin_slots,
};
