/* Driver: the parked task.
 *
 * Theory of operation
 * -------------------
 * A driver is the coroutine of a real `asyncio.Task` and runs another coroutine, the user's. When that one waits
 * for one of our streams, the driver yields *itself*, once, as the future that the Task waits on, and is parked.
 * From then on the reactor resumes the user's coroutine directly: it enters the task and its context with the hooks
 * that asyncio has for this, sends, and leaves. The Task is stepped again only when the coroutine awaits something
 * else (that future is passed on), returns, raises or is cancelled. A wait then costs no callback, no handle and no
 * step of the Task; and `current_task`, `timeout`, `TaskGroup` and debuggers see nothing unusual.
 *
 *   parked      the Task waits on this; `operation` says for what
 *   running     the coroutine runs, stepped by the Task or directly, or is being closed: what it calls may not step
 *               the driver, which raises ValueError then, as CPython's coroutines do
 *   pending     it was run directly and has come to something that is the Task's: told at the Task's next step
 *
 * Cancelling. The Task asks what it waits on, which is this, to cancel. Parked: the operation is given up and the
 * Task is woken in the loop's next turn with CancelledError, as by any future. Running directly: refused, so that
 * the Task remembers it; as soon as the coroutine waits again the Task is woken and throws. Where it waits for a
 * foreign future by then, that future is cancelled, as the Task would have done.
 *
 * `on_end(argument, error or None)`, if given, is called when the user's coroutine has ended, however that was, even
 * if it was cancelled before its first step. It may return a coroutine, which is then run in the same task. With it,
 * an Exception of the user's coroutine is not the Task's; anything else is raised on.
 */
#include "native.h"

enum { NOTHING_PENDING, PENDING_YIELD, PENDING_RETURN, PENDING_RAISE };

/* -- running the coroutine ------------------------------------------------------------------------------------- */

static PyObject *as_coroutine(Driver *driver, PyObject *awaitable) /* steals */
{
    PyTypeObject *type = awaitable == NULL ? NULL : Py_TYPE(awaitable);
    if (awaitable == NULL || PyCoro_CheckExact(awaitable))
        return awaitable;
    if (type->tp_as_async == NULL || type->tp_as_async->am_await == NULL) {
        PyErr_Format(PyExc_TypeError, "object %.100s can't be used in 'await' expression", type->tp_name);
        Py_DECREF(awaitable);
        return NULL;
    }
    PyObject *iterator = type->tp_as_async->am_await(awaitable);
    Py_DECREF(awaitable);
    return iterator;
}

static PySendResult ended(Driver *driver, PySendResult status, PyObject **result);

static PySendResult send_once(Driver *driver, PyObject *value, PyObject **result)
{
    if (driver->coroutine == NULL) {
        if (driver->start == NULL) {
            PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
            *result = NULL;
            return PYGEN_ERROR;
        }
        PyObject *start = driver->start, *argument = driver->start_argument;
        driver->start = driver->start_argument = NULL;
        driver->coroutine = as_coroutine(driver, PyObject_CallOneArg(start, argument));
        Py_DECREF(start);
        Py_DECREF(argument);
        if (driver->coroutine == NULL) {
            *result = NULL;
            return PYGEN_ERROR;
        }
    }
    return PyIter_Send(driver->coroutine, value, result); /* which stays: a driver that runs refuses to be closed */
}

static PySendResult run(Driver *driver, PyObject *value, PyObject **result)
{
    PySendResult status = send_once(driver, value, result);
    return status == PYGEN_NEXT ? status : ended(driver, status, result);
}

/* The coroutine has returned or raised: call `on_end`, and run what it returns. */
static PySendResult ended(Driver *driver, PySendResult status, PyObject **result)
{
    if (driver->on_end == NULL) { /* the coroutine is kept: debuggers ask finished ones for their names, too */
        if (driver->outcome != NULL && status == PYGEN_RETURN) {
            Py_CLEAR(*result);
            raise_taken(driver->outcome);
            driver->outcome = NULL;
            return PYGEN_ERROR;
        }
        return status;
    }
    PyObject *error = status == PYGEN_ERROR ? take_exception() : Py_NewRef(Py_None);
    if (status == PYGEN_RETURN)
        Py_CLEAR(*result);
    Py_CLEAR(driver->coroutine);
    PyObject *on_end = driver->on_end, *argument = driver->on_end_argument;
    driver->on_end = driver->on_end_argument = NULL;
    PyObject *arguments[] = {argument, error}, *rest = PyObject_Vectorcall(on_end, arguments, 2, NULL);
    Py_DECREF(on_end);
    Py_DECREF(argument);
    if (error != Py_None && !PyObject_TypeCheck(error, (PyTypeObject *)PyExc_Exception))
        driver->outcome = Py_NewRef(error);
    Py_DECREF(error);
    *result = NULL;
    if (rest == NULL)
        return ended(driver, PYGEN_ERROR, result);
    if (rest == Py_None) {
        *result = rest;
        return ended(driver, PYGEN_RETURN, result);
    }
    driver->coroutine = rest;
    status = PyIter_Send(rest, Py_None, result);
    return status == PYGEN_NEXT ? status : ended(driver, status, result);
}

/* -- parking ---------------------------------------------------------------------------------------------------- */

/* Park on what was yielded, if it is a wait for one of our streams on this loop. */
static int parks_on(Driver *driver, PyObject *yielded)
{
    ModuleState *state = driver->base.state;
    if (Py_TYPE(yielded) != state->wait_type)
        return 0;
    Wait *wait = (Wait *)yielded;
    if (wait->operation == NULL || wait->cancelled || (driver->base.loop != NULL && wait->loop != driver->base.loop))
        return 0;
    driver->operation = (Operation *)Py_NewRef(wait->operation);
    driver->operation->driver = (Driver *)Py_NewRef(driver);
    if (driver->base.loop == NULL)
        driver->base.loop = Py_NewRef(wait->loop);
    driver->operation->wait = NULL; /* it is not the Task that is woken */
    wait->operation = NULL;
    Py_DECREF(wait);
    return 1;
}

static void unpark(Driver *driver)
{
    Operation *operation = driver->operation;
    driver->operation = NULL;
    driver->parked = 0;
    if (operation != NULL) {
        Py_CLEAR(operation->driver);
        Py_DECREF(operation);
    }
}

static PyObject *current_task(ModuleState *state, PyObject *loop)
{
    if (state->current_tasks == NULL)
        return PyObject_CallOneArg(state->current_task, loop);
    /* what Python 3.11's `current_task`, which is slow, looks at */
    PyObject *task = PyDict_GetItemWithError(state->current_tasks, loop);
    return task == NULL && PyErr_Occurred() ? NULL : Py_NewRef(task ? task : Py_None);
}

/* Whether this is a step of the driver's Task, on this loop. Asking which loop runs would cost a getpid(2). */
static int know_task(Driver *driver, PyObject *loop)
{
    ModuleState *state = driver->base.state;
    PyObject *task = current_task(state, loop);
    if (task == NULL)
        return -1;
    PyObject *method, *coroutine = NULL;
    int known = find_attribute(task, state->str_get_coro, &method);
    if (known > 0) { /* else it is no Task of asyncio's */
        coroutine = PyObject_CallNoArgs(method);
        Py_DECREF(method);
        known = coroutine == NULL ? -1 : coroutine == (PyObject *)driver;
        Py_XDECREF(coroutine);
    }
    if (known > 0)
        Py_XSETREF(driver->task, task);
    else
        Py_DECREF(task);
    return known;
}

/* What the Task is given at the end of its step. */
static PySendResult to_task(Driver *driver, PySendResult status, PyObject **result)
{
    if (status != PYGEN_NEXT) {
        Py_CLEAR(driver->task); /* it holds this: no cycle is to outlive it */
        return status;
    }
    if (Py_TYPE(*result) != driver->base.state->wait_type)
        return status;
    int known = know_task(driver, ((Wait *)*result)->loop);
    if (known < 0) {
        Py_CLEAR(*result);
        return PYGEN_ERROR;
    }
    if (known && parks_on(driver, *result)) {
        driver->parked = 1;
        driver->cancel_asked = 0;
        driver->base.cancelled = 0;
        driver->base.blocking = 1;
        Py_SETREF(*result, Py_NewRef(driver));
    }
    return status;
}

static PySendResult take_pending(Driver *driver, PyObject **result)
{
    int kind = driver->pending_kind;
    *result = driver->pending;
    driver->pending = NULL;
    driver->pending_kind = NOTHING_PENDING;
    if (kind == PENDING_YIELD)
        return PYGEN_NEXT;
    if (kind == PENDING_RETURN)
        return PYGEN_RETURN;
    raise_taken(*result);
    *result = NULL;
    return PYGEN_ERROR;
}

static void keep_pending(Driver *driver, PySendResult status, PyObject *result)
{
    driver->pending_kind = status == PYGEN_NEXT     ? PENDING_YIELD
                           : status == PYGEN_RETURN ? PENDING_RETURN
                                                    : PENDING_RAISE;
    driver->pending = status == PYGEN_ERROR ? take_exception() : result;
}

static PySendResult throw_into(Driver *driver, PyObject *exception, PyObject **result);

/* Whether a step of it is being made, and the code that this has called tries to make another. */
static int refuses(Driver *driver)
{
    if (driver->running)
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
    return driver->running;
}

static PySendResult step(Driver *driver, PyObject *value, PyObject **result)
{
    if (driver->pending_kind != NOTHING_PENDING) {
        PySendResult status = take_pending(driver, result);
        return to_task(driver, status, result);
    }
    if (driver->parked) { /* stepped by somebody else than the reactor: let the coroutine look again */
        unpark(driver);
    }
    PySendResult status;
    if (driver->owed != NULL) {
        PyObject *exception = driver->owed;
        driver->owed = NULL;
        status = throw_into(driver, exception, result);
    } else {
        status = run(driver, value, result);
    }
    return to_task(driver, status, result);
}

static PySendResult driver_am_send(PyObject *self, PyObject *value, PyObject **result)
{
    Driver *driver = (Driver *)self;
    *result = NULL;
    if (refuses(driver))
        return PYGEN_ERROR;
    driver->running = 1;
    PySendResult status = step(driver, value, result);
    driver->running = 0;
    return status;
}

static int enter(Driver *driver)
{
    if (PyContext_Enter(driver->base.context) < 0)
        return -1;
    if (reactor_enter(driver->reactor, driver->task) == 0)
        return 0;
    PyObject *raised = take_exception();
    PyContext_Exit(driver->base.context);
    raise_taken(raised);
    return -1;
}

/* With an exception of the coroutine's possibly set, which stays. The task stays current: see `reactor_enter`. */
static void leave(Driver *driver)
{
    PyObject *raised = take_exception();
    if (PyContext_Exit(driver->base.context) < 0) /* the coroutine has entered another one, and not left it */
        reactor_on_failure(driver->reactor);
    if (raised != NULL)
        raise_taken(raised);
}

int driver_resume(Driver *driver)
{
    PyObject *result;
    if (!driver->parked || driver->base.callback == NULL)
        return 0;
    Reactor *reactor = driver->reactor = driver->operation->stream->reactor;
    Py_INCREF(driver);
    Py_INCREF(reactor);
    int woken = enter(driver);
    if (woken < 0 && driver->owed == NULL) { /* for want of memory: its Task is stepped, and raises that */
        driver->owed = take_exception();
        unpark(driver);
        reactor_leave(reactor);
        woken = wait_wake(&driver->base);
    } else if (woken == 0) {
        unpark(driver);
        driver->cancel_asked = 0;
        driver->running = 1;
        PySendResult status = run(driver, Py_None, &result);
        driver->running = 0;
        int parks = status == PYGEN_NEXT && parks_on(driver, result);
        if (parks) {
            Py_DECREF(result);
            driver->parked = 1;
        }
        leave(driver);
        if (!parks) {
            keep_pending(driver, status, result);
            if (status != PYGEN_NEXT)
                Py_CLEAR(driver->task); /* it holds this: no cycle is to outlive it */
        }
        if (!parks || driver->cancel_asked) {
            reactor_leave(reactor);
            woken = wait_wake(&driver->base);
        }
    }
    Py_DECREF(reactor);
    Py_DECREF(driver);
    return woken;
}

/* The Task was cancelled; message is its own. */
PyObject *driver_cancel(Driver *driver, PyObject *message)
{
    if (driver->running || driver->base.cancelled || driver->base.callback == NULL) {
        driver->cancel_asked = 1;
        Py_RETURN_FALSE; /* it remembers, and throws at its next step */
    }
    driver->base.cancelled = 1;
    Py_XSETREF(driver->base.message, Py_NewRef(message));
    if (driver->operation != NULL)
        Py_CLEAR(driver->operation->driver); /* nobody is to resume it any more; it stays in the way of other readers */
    if (wait_wake_later(&driver->base) < 0)
        return NULL;
    Py_RETURN_TRUE;
}

/* -- throwing and closing ---------------------------------------------------------------------------------------- */

/* Self-cancelled, and waiting for a foreign future by now: the Task would have cancelled that future. Returns 1 if it
 * takes that, 2 if it refuses, 0 if this is not the case, -1 on an error. */
static int cancels_what_it_awaits(Driver *driver, PyObject *exception)
{
    PyObject *future = driver->pending, *cancelled;
    if (driver->pending_kind != PENDING_YIELD || future == Py_None ||
        !PyObject_TypeCheck(exception, (PyTypeObject *)driver->base.state->cancelled_error))
        return 0;
    PyObject *blocking;
    int found = find_attribute(future, driver->base.state->str_blocking, &blocking);
    if (found <= 0)
        return found;
    Py_DECREF(blocking);
    PyObject *arguments = ((PyBaseExceptionObject *)exception)->args;
    PyObject *message = PyTuple_GET_SIZE(arguments) ? PyTuple_GET_ITEM(arguments, 0) : Py_None;
    PyObject *method = PyObject_GetAttr(future, driver->base.state->str_cancel);
    PyObject *names = PyTuple_Pack(1, driver->base.state->str_msg);
    cancelled = method && names ? PyObject_Vectorcall(method, &message, 0, names) : NULL;
    Py_XDECREF(method);
    Py_XDECREF(names);
    if (cancelled == NULL)
        return -1;
    int taken = PyObject_IsTrue(cancelled);
    Py_DECREF(cancelled);
    return taken < 0 ? -1 : taken ? 1 : 2;
}

static PySendResult throw_into(Driver *driver, PyObject *exception, PyObject **result) /* steals `exception` */
{
    *result = NULL;
    if (driver->coroutine == NULL) { /* before its first step, or after its last */
        Py_CLEAR(driver->start);
        Py_CLEAR(driver->start_argument);
        raise_taken(exception);
        return ended(driver, PYGEN_ERROR, result);
    }
    PyObject *coroutine = Py_NewRef(driver->coroutine);
    PyObject *returned = PyObject_CallMethodOneArg(coroutine, driver->base.state->str_throw, exception);
    Py_DECREF(coroutine);
    Py_DECREF(exception);
    PySendResult status = send_result_of(returned, result);
    return status == PYGEN_NEXT ? status : ended(driver, status, result);
}

static PySendResult throwing_step(Driver *driver, PyObject *exception, PyObject **result) /* steals `exception` */
{
    PySendResult status;
    *result = NULL;
    if (driver->owed != NULL) { /* which comes before whatever the future ended with */
        Py_SETREF(exception, driver->owed);
        driver->owed = NULL;
    }
    unpark(driver);
    int passed_on = cancels_what_it_awaits(driver, exception);
    if (passed_on < 0) {
        Py_DECREF(exception);
        return PYGEN_ERROR;
    }
    if (passed_on == 2) /* it is waited for first */
        Py_XSETREF(driver->owed, Py_NewRef(exception));
    if (passed_on || driver->pending_kind == PENDING_RAISE) {
        Py_DECREF(exception);
        status = take_pending(driver, result);
    } else if (driver->pending_kind == PENDING_RETURN) { /* a task that cancels itself and returns is cancelled */
        Py_CLEAR(driver->pending);
        driver->pending_kind = NOTHING_PENDING;
        raise_taken(exception);
        return PYGEN_ERROR;
    } else {
        Py_CLEAR(driver->pending);
        driver->pending_kind = NOTHING_PENDING;
        status = throw_into(driver, exception, result);
    }
    return to_task(driver, status, result);
}

static PyObject *driver_throw(PyObject *self, PyObject *const *arguments, Py_ssize_t count)
{
    Driver *driver = (Driver *)self;
    PyObject *result, *exception = refuses(driver) ? NULL : exception_of_throw(arguments, count);
    if (exception == NULL)
        return NULL;
    driver->running = 1;
    PySendResult status = throwing_step(driver, exception, &result);
    driver->running = 0;
    return returned_by_method(status, result);
}

static PyObject *driver_send(PyObject *self, PyObject *value)
{
    PyObject *result;
    PySendResult status = driver_am_send(self, value, &result);
    return returned_by_method(status, result);
}

static PyObject *driver_iternext(PyObject *self)
{
    PyObject *result;
    PySendResult status = driver_am_send(self, Py_None, &result);
    return returned_of(status, result);
}

/* Report the end to `on_end`, with GeneratorExit. It can wait for nothing any more. 0, or -1 and an error is set. */
static int report_close(Driver *driver)
{
    PyObject *on_end = driver->on_end, *argument = driver->on_end_argument, *rest = NULL;
    if (on_end == NULL)
        return 0;
    PyObject *error = PyObject_CallNoArgs(PyExc_GeneratorExit);
    if (error == NULL) /* without memory this is the error, and the end is reported all the same */
        error = take_exception();
    driver->on_end = driver->on_end_argument = NULL;
    rest = PyObject_CallFunctionObjArgs(on_end, argument, error, NULL);
    PyObject *closed = rest;
    if (rest != NULL && rest != Py_None) { /* a coroutine that has not begun is closed without a word */
        closed = PyObject_CallMethodNoArgs(rest, driver->base.state->str_close);
        Py_DECREF(rest);
    }
    int reported = closed == NULL ? -1 : 0;
    Py_XDECREF(closed);
    Py_DECREF(error);
    Py_DECREF(on_end);
    Py_DECREF(argument);
    return reported;
}

/* End the coroutine where it is. What its clean-up raises is raised here, after the end was reported. */
static PyObject *driver_close(PyObject *self, PyObject *unused)
{
    Driver *driver = (Driver *)self;
    if (refuses(driver))
        return NULL;
    driver->running = 1;
    unpark(driver);
    Py_CLEAR(driver->pending);
    driver->pending_kind = NOTHING_PENDING;
    Py_CLEAR(driver->start);
    Py_CLEAR(driver->start_argument);
    PyObject *closed = Py_NewRef(Py_None);
    if (driver->coroutine != NULL)
        Py_SETREF(closed, PyObject_CallMethodNoArgs(driver->coroutine, driver->base.state->str_close));
    PyObject *raised = closed == NULL ? take_exception() : NULL;
    if (report_close(driver) < 0) {
        if (raised != NULL) /* only one can be raised, and the first one is the cause */
            PyErr_WriteUnraisable(NULL);
        Py_CLEAR(closed);
    }
    if (raised != NULL)
        raise_taken(raised);
    driver->running = 0;
    return closed;
}

/* -- the type --------------------------------------------------------------------------------------------------- */

static Driver *driver_make(PyTypeObject *type, ModuleState *state)
{
    Driver *driver = state == NULL ? NULL : (Driver *)type->tp_alloc(type, 0);
    if (driver != NULL)
        driver->base.state = state;
    return driver;
}

static PyObject *driver_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    PyObject *coroutine;
    if (!PyArg_ParseTuple(arguments, "O:Driver", &coroutine))
        return NULL;
    PyObject *module = PyType_GetModuleByDef(type, &native_module);
    Driver *driver = module == NULL ? NULL : driver_make(type, module_state(module));
    if (driver != NULL)
        driver->coroutine = Py_NewRef(coroutine);
    return (PyObject *)driver;
}

PyObject *driver_for(ModuleState *state, PyObject *start, PyObject *argument, PyObject *on_end,
                     PyObject *on_end_argument)
{
    Driver *driver = driver_make(state->driver_type, state);
    if (driver != NULL) {
        driver->start = Py_NewRef(start);
        driver->start_argument = Py_NewRef(argument);
        driver->on_end = Py_NewRef(on_end);
        driver->on_end_argument = Py_NewRef(on_end_argument);
    }
    return (PyObject *)driver;
}

const char driver_drive_doc[] =
    "drive(start, argument, on_end, on_end_argument, /)\n--\n\n"
    "Return a driver of what `start(argument)` returns at the first step.\n\n"
    "When that has ended, `on_end(on_end_argument, error or None)` is called, which may return a coroutine to go on in.";

PyObject *driver_drive(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "drive(start, argument, on_end, on_end_argument)");
        return NULL;
    }
    return driver_for(module_state(module), arguments[0], arguments[1], arguments[2], arguments[3]);
}

/* What debuggers and inspect ask of a coroutine is answered by the one that is driven. */
static PyObject *driver_getattro(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(self, name), *coroutine = ((Driver *)self)->coroutine;
    if (value != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return value;
    const char *text = PyUnicode_AsUTF8(name);
    if (text == NULL || (strncmp(text, "cr_", 3) && strcmp(text, "__name__") && strcmp(text, "__qualname__")))
        return NULL;
    PyErr_Clear();
    if (coroutine != NULL)
        return PyObject_GetAttr(coroutine, name);
    PyObject *start = ((Driver *)self)->start;
    if (start != NULL && text[0] == '_')
        return PyObject_GetAttr(start, name);
    if (!strcmp(text, "cr_running") || !strcmp(text, "cr_suspended"))
        Py_RETURN_FALSE;
    if (text[0] == '_')
        return PyUnicode_FromString("Driver");
    Py_RETURN_NONE;
}

static int driver_traverse(PyObject *self, visitproc visit, void *arg)
{
    Driver *driver = (Driver *)self;
    Py_VISIT(driver->coroutine);
    Py_VISIT(driver->start);
    Py_VISIT(driver->start_argument);
    Py_VISIT(driver->on_end);
    Py_VISIT(driver->on_end_argument);
    Py_VISIT(driver->outcome);
    Py_VISIT(driver->task);
    Py_VISIT(driver->operation);
    Py_VISIT(driver->pending);
    Py_VISIT(driver->owed);
    return wait_traverse(self, visit, arg);
}

static int driver_clear(PyObject *self)
{
    Driver *driver = (Driver *)self;
    unpark(driver);
    Py_CLEAR(driver->coroutine);
    Py_CLEAR(driver->start);
    Py_CLEAR(driver->start_argument);
    Py_CLEAR(driver->on_end);
    Py_CLEAR(driver->on_end_argument);
    Py_CLEAR(driver->outcome);
    Py_CLEAR(driver->task);
    Py_CLEAR(driver->pending);
    Py_CLEAR(driver->owed);
    return wait_clear(self);
}

/* Of a driver whose Task is gone before it was done. */
static void driver_finalize(PyObject *self)
{
    Driver *driver = (Driver *)self;
    if (driver->on_end == NULL)
        return;
    PyObject *raised = take_exception();
    PyObject *closed = driver_close(self, NULL);
    if (closed == NULL)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(closed);
    if (raised != NULL)
        raise_taken(raised);
}

static void driver_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc(self) < 0)
        return;
    PyObject_GC_UnTrack(self);
    driver_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef driver_methods[] = {
    {"send", driver_send, METH_O, "Run until it has to wait for something of the Task's."},
    {"throw", (PyCFunction)(void (*)(void))driver_throw, METH_FASTCALL, "Raise an exception where it waits."},
    {"close", driver_close, METH_NOARGS, "End the coroutine where it waits."},
    {NULL},
};

static PyMemberDef driver_members[] = {
    {"coroutine", T_OBJECT, offsetof(Driver, coroutine), READONLY, "What is driven."},
    {NULL},
};

static PyType_Slot driver_slots[] = {
    {Py_tp_doc, "Runs a coroutine for a Task that stays parked while it waits for sockets."},
    {Py_tp_new, driver_new},
    {Py_tp_finalize, driver_finalize},
    {Py_tp_dealloc, driver_dealloc},
    {Py_tp_traverse, driver_traverse},
    {Py_tp_clear, driver_clear},
    {Py_tp_getattro, driver_getattro},
    {Py_tp_methods, driver_methods},
    {Py_tp_members, driver_members},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, driver_iternext},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, driver_am_send},
    {0, NULL},
};

PyType_Spec driver_spec = {
    .name = "aionet.native._compiled.Driver",
    .basicsize = sizeof(Driver),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = driver_slots,
};
