/* Driving: the reactor resumes a task's coroutine itself, without a step of the Task.
 *
 * Theory of operation
 * -------------------
 * A task waits for a stream on a `Wait`. The callback of that is the Task's own wake-up, and leads to all that a step
 * takes: the Task, its coroutine (`Task.get_coro`), its context. So when the stream is ready the reactor makes the step
 * itself: it enters the context and the task with the hooks that asyncio has for this, sends to the coroutine, and
 * leaves. A step then costs no callback, no handle and no step of the Task, and the coroutine is what it looks like
 * to `current_task`, `timeout`, `TaskGroup`, debuggers and profilers. Only an exact `asyncio.Task` is driven, if its
 * coroutine is one of the interpreter's, and if it is not being cancelled: a Task keeps the CancelledError that its
 * coroutine raises in the end, with its traceback. Any other is woken, and makes its steps itself.
 *
 * What comes of a step:
 *
 *   another wait      the Wait that the Task knows takes its operation over, and the Task stays parked
 *   a bare yield      the Task makes its next step in the loop's next turn
 *   a foreign future  is given the Task's wake-up, as the Task would have done; the Task makes the next step
 *   its end           the Task is completed with the methods of `asyncio.Future`
 *   a bad yield, or an error in here, as for want of memory: the Task is woken at once, and throws it
 *
 * *Cancelling.* `Task.cancel` asks what the Task waits on, which is the Wait. Parked: as any future, it wakes the Task in
 * the loop's next turn with CancelledError. While a step is made the task cancels itself: the Wait takes that, and keeps
 * it until the coroutine waits again or ends. A foreign future is cancelled then; if it refuses, the Task remembers that
 * it is to be cancelled. A step of the Task has the same outcomes (`_must_cancel` says the same there).
 *
 * *Order.* Before the coroutine is resumed, its operation lets go of the Wait, or it could not be stepped. Before the
 * Task is woken, its context and the task are left: its step enters them.
 */
#include "native.h"

/* -- which tasks are driven -------------------------------------------------------------------------------------- */

/* The exact asyncio.Task whose wake-up the callback is, borrowed; or NULL. */
static PyObject *task_of(Wait *wait)
{
    PyObject *callback = wait->callback;
    PyObject *task = callback != NULL && PyCFunction_CheckExact(callback) ? PyCFunction_GET_SELF(callback) : NULL;
    return task != NULL && (PyObject *)Py_TYPE(task) == wait->state->task_class ? task : NULL;
}

/* How often it was cancelled and has not taken that back; -1: an error is set. */
static long cancellations(ModuleState *state, PyObject *task)
{
    PyObject *number = PyObject_CallMethodNoArgs(task, state->str_cancelling);
    long count = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    return count;
}

/* Another method of a Task's may be a callback, too. The name is private: under another one, nothing is driven. */
static int is_wake_up(PyObject *callback)
{
    return strcmp(((PyCFunctionObject *)callback)->m_ml->ml_name, "task_wakeup") == 0;
}

int wait_finds_coroutine(Wait *wait)
{
    ModuleState *state = wait->state;
    PyObject *task = task_of(wait), *coroutine = NULL;
    if (task == NULL || !is_wake_up(wait->callback) || state->enter_task == NULL || state->leave_task == NULL)
        return 0;
    if (cancellations(state, task) == 0)
        coroutine = PyObject_CallMethodNoArgs(task, state->str_get_coro);
    if (coroutine != NULL && PyCoro_CheckExact(coroutine))
        wait->coroutine = Py_NewRef(coroutine);
    Py_XDECREF(coroutine);
    PyErr_Clear(); /* for want of memory: the Task makes this step */
    return wait->coroutine != NULL;
}

/* -- what comes of a step ---------------------------------------------------------------------------------------- */

/* The error that is set is thrown by the Task itself, at once. */
static int wake_with_error(Wait *wait, Reactor *reactor)
{
    Py_XSETREF(wait->error, take_exception());
    reactor_leave(reactor);
    return wait_wake(wait);
}

static int wake_in_next_turn(Wait *wait, Reactor *reactor)
{
    return wait_wake_later(wait) < 0 ? wake_with_error(wait, reactor) : 0;
}

/* Whether `yielded` stands for an operation on this loop; then its operation is what the task waits for. */
static int waits_again(Wait *wait, Reactor *reactor, PyObject *yielded)
{
    if (Py_TYPE(yielded) != wait->state->wait_type)
        return 0;
    Wait *other = (Wait *)yielded;
    Operation *operation = other->operation;
    if (operation == NULL || other->callback != NULL || operation->stream->reactor != reactor)
        return 0;
    other->operation = NULL;
    wait->operation = operation;
    Py_SETREF(operation->wait, (Wait *)Py_NewRef(wait));
    return 1;
}

/* Whether the cancellation that came in the step still holds: from Python 3.13 on `uncancel` takes it back. */
static int still_cancelled(Wait *wait, PyObject *task)
{
#if PY_VERSION_HEX >= 0x030D0000
    if (wait->cancelled) {
        wait->cancelled = cancellations(wait->state, task) != 0;
        PyErr_Clear();
    }
#endif
    return wait->cancelled;
}

/* Have the Task pass its cancellation on to what it waits for now, or remember it, as after a step of its own. It is
 * counted once. */
static int pass_cancellation_on(Wait *wait, PyObject *task)
{
    wait->cancelled = 0;
    PyObject *message = wait->message, *counted = NULL;
    wait->message = NULL;
    PyObject *done = PyObject_CallMethodOneArg(task, wait->state->str_cancel, message == NULL ? Py_None : message);
    if (done != NULL)
        counted = PyObject_CallMethod(task, "uncancel", NULL);
    Py_XDECREF(message);
    Py_XDECREF(done);
    Py_XDECREF(counted);
    return counted == NULL ? -1 : 0;
}

static int is_on_loop(PyObject *future, PyObject *loop)
{
    PyObject *found = PyObject_CallMethod(future, "get_loop", NULL);
    Py_XDECREF(found);
    return found == NULL ? -1 : found == loop;
}

/* -1 and an error is set if the task cannot wait for what was yielded; the messages are those of a Task. */
static int may_wait_for(Wait *wait, PyObject *task, PyObject *yielded)
{
    PyObject *blocking;
    if (yielded == task) {
        PyErr_Format(PyExc_RuntimeError, "Task cannot await on itself: %R", task);
        return -1;
    }
    int found = find_attribute(yielded, wait->state->str_blocking, &blocking);
    if (found < 0)
        return -1;
    int blocks = found ? PyObject_IsTrue(blocking) : 0;
    int is_future = found && blocking != Py_None;
    if (found)
        Py_DECREF(blocking);
    if (!is_future) {
        if (PyGen_Check(yielded))
            PyErr_Format(PyExc_RuntimeError,
                         "yield was used instead of yield from for generator in task %R with %R", task, yielded);
        else
            PyErr_Format(PyExc_RuntimeError, "Task got bad yield: %R", yielded);
        return -1;
    }
    int on_loop = blocks < 0 ? -1 : is_on_loop(yielded, wait->loop);
    if (on_loop == 0)
        PyErr_Format(PyExc_RuntimeError, "Task %R got Future %R attached to a different loop", task, yielded);
    else if (on_loop > 0 && !blocks)
        PyErr_Format(PyExc_RuntimeError, "yield was used instead of yield from in task %R with %R", task, yielded);
    return on_loop > 0 && blocks ? 0 : -1;
}

/* Give the Task's wake-up to the future. */
static int hand_over(Wait *wait, PyObject *task, PyObject *future)
{
    ModuleState *state = wait->state;
    if (may_wait_for(wait, task, future) < 0 || PyObject_SetAttr(future, state->str_blocking, Py_False) < 0)
        return -1;
    if (state->add_to_awaited_by != NULL) { /* for call graphs; the Task takes it back when it is woken */
        PyObject *added = PyObject_CallFunctionObjArgs(state->add_to_awaited_by, future, task, NULL);
        if (added == NULL)
            return -1;
        Py_DECREF(added);
    }
    PyObject *arguments[] = {future, wait->callback, wait->context};
    PyObject *done = PyObject_VectorcallMethod(state->str_add_done_callback, arguments,
                                               2 | PY_VECTORCALL_ARGUMENTS_OFFSET, state->context_keyword);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    wait->foreign = Py_NewRef(future);
    Py_CLEAR(wait->callback);
    Py_CLEAR(wait->context);
    return 0;
}

static int is_an_exit(PyObject *error)
{
    return PyErr_GivenExceptionMatches(error, PyExc_KeyboardInterrupt) ||
           PyErr_GivenExceptionMatches(error, PyExc_SystemExit);
}

/* The coroutine has ended: so does the Task, as after a step of its own. Steals `result`. */
static int complete(Wait *wait, PyObject *task, PyObject *result)
{
    ModuleState *state = wait->state;
    PyObject *error = result == NULL ? take_exception() : NULL;
    PyObject *method = state->future_set_result, *argument = result;
    if (error != NULL && PyErr_GivenExceptionMatches(error, state->cancelled_error)) {
        PyObject *arguments = ((PyBaseExceptionObject *)error)->args;
        method = state->future_cancel;
        argument = PyTuple_GET_SIZE(arguments) > 0 ? PyTuple_GET_ITEM(arguments, 0) : Py_None;
    } else if (error != NULL) {
        method = state->future_set_exception;
        argument = error;
    } else if (still_cancelled(wait, task)) {
        method = state->future_cancel;
        argument = wait->message == NULL ? Py_None : wait->message;
    }
    PyObject *arguments[] = {task, argument};
    PyObject *done = PyObject_Vectorcall(method, arguments, 2, NULL);
    wait_let_go(wait); /* the Task keeps it */
    Py_XDECREF(result);
    int failed = done == NULL ? -1 : 0;
    Py_XDECREF(done);
    if (error != NULL && is_an_exit(error)) { /* it ends the run, whatever else failed */
        PyErr_Clear();
        raise_taken(error);
        return -1;
    }
    Py_XDECREF(error);
    return failed;
}

/* -- a step ------------------------------------------------------------------------------------------------------ */

static int enter(Wait *wait, Reactor *reactor, PyObject *task)
{
    if (PyContext_Enter(wait->context) < 0)
        return -1;
    if (reactor_enter(reactor, task) == 0)
        return 0;
    PyObject *raised = take_exception();
    if (PyContext_Exit(wait->context) < 0)
        PyErr_WriteUnraisable(NULL);
    raise_taken(raised);
    return -1;
}

/* With an exception of the coroutine's possibly set, which stays. The task stays current: see `reactor_enter`. */
static void leave_context(Reactor *reactor, PyObject *context)
{
    PyObject *raised = PyErr_Occurred() ? take_exception() : NULL;
    if (PyContext_Exit(context) < 0) /* the coroutine has entered another one, and not left it */
        reactor_on_failure(reactor);
    if (raised != NULL)
        raise_taken(raised);
}

static int settle(Wait *wait, Reactor *reactor, PyObject *task, PyObject *yielded)
{
    int cancelled = still_cancelled(wait, task);
    if (waits_again(wait, reactor, yielded))
        return cancelled ? wake_in_next_turn(wait, reactor) : 0;
    if (yielded == Py_None)
        return wake_in_next_turn(wait, reactor);
    if (hand_over(wait, task, yielded) < 0)
        return wake_with_error(wait, reactor);
    return cancelled ? pass_cancellation_on(wait, task) : 0;
}

static void detach(Wait *wait)
{
    Operation *operation = wait->operation;
    wait->operation = NULL;
    if (operation != NULL && operation->wait == wait)
        Py_CLEAR(operation->wait);
}

int wait_drive(Wait *wait, Reactor *reactor)
{
    PyObject *task = Py_NewRef(task_of(wait)), *result;
    int failed;
    Py_INCREF(wait);
    Py_INCREF(reactor);
    detach(wait);
    if (enter(wait, reactor, task) < 0) {
        failed = wake_with_error(wait, reactor);
    } else {
        wait->running = 1; /* and so it keeps its callback and context */
        PySendResult status = PyCoro_Type.tp_as_async->am_send(wait->coroutine, Py_None, &result);
        wait->running = 0;
        leave_context(reactor, wait->context);
        if (status == PYGEN_NEXT) {
            failed = settle(wait, reactor, task, result);
            Py_DECREF(result);
        } else {
            failed = complete(wait, task, status == PYGEN_RETURN ? result : NULL);
        }
    }
    Py_DECREF(reactor);
    Py_DECREF(wait);
    Py_DECREF(task);
    return failed;
}
