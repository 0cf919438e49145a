/* The module: its types and state, accept(2), and what several files need. */
#include "native.h"

#include <pthread.h>

unsigned long forks;

static void count_fork(void)
{
    forks++;
}

ModuleState *state_of(PyObject *self)
{
    PyObject *module = PyType_GetModuleByDef(Py_TYPE(self), &native_module);
    return module == NULL ? NULL : module_state(module);
}

ModuleState *module_state(PyObject *module)
{
    return *(ModuleState **)PyModule_GetState(module);
}

/* As PyObject_GetOptionalAttr of Python 3.13. */
int find_attribute(PyObject *object, PyObject *name, PyObject **found)
{
    *found = PyObject_GetAttr(object, name);
    if (*found != NULL)
        return 1;
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    return 0;
}

/* A bytes object that only the caller refers to, and that nothing has hashed, is cut to `length`. As _PyBytes_Resize, but
 * where there is no memory for a smaller one the object stays as large as it was, and the bytes are kept. */
PyObject *bytes_cut(PyObject *data, Py_ssize_t length)
{
    Py_SET_SIZE(data, length);
    PyBytes_AS_STRING(data)[length] = 0;
    PyObject *smaller = PyObject_Realloc(data, offsetof(PyBytesObject, ob_sval) + length + 1);
    return smaller == NULL ? data : smaller;
}

/* -- coroutine manners ---------------------------------------------------------------------------------------- */

/* As the interpreter makes one of what is raised: a class may return something else than an exception. */
static PyObject *make_exception(PyObject *type, PyObject *value)
{
    if (PyExceptionInstance_Check(value) && PyObject_TypeCheck(value, (PyTypeObject *)type))
        return Py_NewRef(value);
    PyObject *made = value == Py_None         ? PyObject_CallNoArgs(type)
                     : PyTuple_Check(value) ? PyObject_Call(type, value, NULL)
                                            : PyObject_CallOneArg(type, value);
    if (made != NULL && !PyExceptionInstance_Check(made)) {
        PyErr_Format(PyExc_TypeError, "calling %R should have returned an instance of BaseException, not %R", type,
                     Py_TYPE(made));
        Py_CLEAR(made);
    }
    return made;
}

PyObject *exception_of_throw(PyObject *const *arguments, Py_ssize_t count)
{
    PyObject *type = count > 0 ? arguments[0] : NULL, *exception;
    PyObject *value = count > 1 ? arguments[1] : Py_None, *traceback = count > 2 ? arguments[2] : Py_None;
    if (count < 1 || count > 3) {
        PyErr_SetString(PyExc_TypeError, "throw() takes an exception, or a type, a value and a traceback");
        return NULL;
    }
    if (PyExceptionInstance_Check(type))
        exception = Py_NewRef(type);
    else if (PyExceptionClass_Check(type))
        exception = make_exception(type, value);
    else {
        PyErr_Format(PyExc_TypeError, "throw() takes an exception, not %R", type);
        return NULL;
    }
    if (exception != NULL && traceback != Py_None && PyException_SetTraceback(exception, traceback) < 0)
        Py_CLEAR(exception);
    return exception;
}

PySendResult send_result_of(PyObject *returned, PyObject **result)
{
    *result = returned;
    if (returned != NULL)
        return PYGEN_NEXT;
    if (PyErr_Occurred() == NULL) {
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    if (!PyErr_ExceptionMatches(PyExc_StopIteration))
        return PYGEN_ERROR;
    PyObject *stop = take_exception();
    *result = Py_NewRef(((PyStopIterationObject *)stop)->value ? ((PyStopIterationObject *)stop)->value : Py_None);
    Py_DECREF(stop);
    return PYGEN_RETURN;
}

PyObject *returned_by_method(PySendResult status, PyObject *result)
{
    if (status == PYGEN_RETURN && result == Py_None)
        PyErr_SetNone(PyExc_StopIteration); /* which a slot may leave out */
    return returned_of(status, result);
}

PyObject *returned_of(PySendResult status, PyObject *result)
{
    if (status == PYGEN_NEXT)
        return result;
    if (status == PYGEN_RETURN) {
        if (result != Py_None) {
            PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, result);
            if (stop != NULL) {
                PyErr_SetObject(PyExc_StopIteration, stop);
                Py_DECREF(stop);
            }
        }
        Py_DECREF(result);
    }
    return NULL;
}

/* -- accept(2) -------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(accept_doc, "accept(listener, limit, reactor, local, wire_class, socket_class, options, ledger, /)\n--\n\n"
                         "Take up to `limit` connections off the queue of a listening descriptor.\n\n"
                         "Returns their sockets, and whether the queue is empty now. Raises OSError if the first one "
                         "fails; a later failure ends the batch. Without memory for its socket a connection is reset.");

static PyObject *socket_of(Stream *stream, PyTypeObject *type, PyObject *options, PyObject *ledger)
{
    SocketBase *socket = (SocketBase *)type->tp_alloc(type, 0);
    if (socket == NULL)
        return NULL;
    socket->wire = Py_NewRef(stream);
    socket->received = Py_NewRef(Py_None);
    socket->dialing = Py_NewRef(Py_None);
    socket->options = Py_NewRef(options);
    socket->ledger = Py_NewRef(ledger);
    if (ledger != Py_None && PySet_Add(ledger, (PyObject *)socket) < 0)
        Py_CLEAR(socket);
    return (PyObject *)socket;
}

enum { COMPANY = 4 }; /* looking at fewer newcomers together saves nothing (newcomers.c) */

/* Of a batch of some size all are newcomers. */
static void note_newcomers(PyObject *sockets)
{
    Py_ssize_t count = PyList_GET_SIZE(sockets);
    for (Py_ssize_t i = 0; count >= COMPANY && i < count; i++)
        ((Stream *)((SocketBase *)PyList_GET_ITEM(sockets, i))->wire)->newcomer = 1;
}

/* 0: its socket is in the list; -1: `empty`, or an error is set. */
static int accept_one(ModuleState *state, int listener, Reactor *reactor, PyObject *local, PyTypeObject *wire_class,
                      PyTypeObject *socket_class, PyObject *options, PyObject *ledger, PyObject *sockets, int *empty)
{
    Stream *stream = stream_accept(state, listener, (PyObject *)wire_class, reactor, local, empty);
    if (stream == NULL)
        return -1;
    PyObject *socket = socket_of(stream, socket_class, options, ledger);
    int failed = socket == NULL || PyList_Append(sockets, socket) < 0;
    if (failed && ledger != Py_None && socket != NULL && PySet_Discard(ledger, socket) < 0)
        PyErr_WriteUnraisable(NULL);
    if (failed)
        stream_reset(stream);
    Py_XDECREF(socket);
    Py_DECREF(stream);
    return failed ? -1 : 0;
}

static PyObject *accept_function(PyObject *module, PyObject *arguments)
{
    ModuleState *state = module_state(module);
    PyObject *listener, *local, *options, *ledger;
    PyTypeObject *wire_class, *socket_class;
    Reactor *reactor;
    int limit, empty = 0;
    if (!PyArg_ParseTuple(arguments, "OiO!OO!O!OO:accept", &listener, &limit, state->reactor_type, &reactor, &local,
                          &PyType_Type, &wire_class, &PyType_Type, &socket_class, &options, &ledger))
        return NULL;
    if (!PyType_IsSubtype(wire_class, state->stream_type) || !PyType_IsSubtype(socket_class, state->socket_base_type)) {
        PyErr_SetString(PyExc_TypeError, "accept() needs classes of the compiled engine");
        return NULL;
    }
    int fd = PyObject_AsFileDescriptor(listener);
    PyObject *sockets = fd < 0 ? NULL : PyList_New(0);
    PyObject *result = sockets == NULL ? NULL : PyTuple_New(2); /* beforehand: later nothing may fail */
    int taken = 0;
    while (result != NULL && taken < limit &&
           accept_one(state, fd, reactor, local, wire_class, socket_class, options, ledger, sockets, &empty) == 0)
        taken++;
    if (result == NULL || (taken == 0 && taken < limit && !empty)) {
        Py_XDECREF(sockets);
        Py_XDECREF(result);
        return NULL;
    }
    PyErr_Clear(); /* if it is more than that one connection's, the next try raises it again */
    note_newcomers(sockets);
    PyTuple_SET_ITEM(result, 0, sockets);
    PyTuple_SET_ITEM(result, 1, PyBool_FromLong(empty));
    return result;
}

static PyObject *forks_function(PyObject *module, PyObject *unused)
{
    return PyLong_FromUnsignedLong(forks);
}

static PyMethodDef functions[] = {
    {"forks", forks_function, METH_NOARGS, "forks()\n--\n\nHow often this process, or one before it, was born of a fork."},
    {"prime", coroutine_prime_function, METH_O, "prime($module, coroutine, /)\n--\n\nLet it run until it awaits BEGIN."},
    {"accept", accept_function, METH_VARARGS, accept_doc},
    {NULL},
};

/* -- the module's life ------------------------------------------------------------------------------------------ */

static int add_type(PyObject *module, PyTypeObject **place, PyType_Spec *spec, PyObject *base)
{
    *place = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, base);
    return *place == NULL ? -1 : PyModule_AddType(module, *place);
}

static int add_types(PyObject *module, ModuleState *state)
{
    return add_type(module, &state->wait_type, &wait_spec, NULL) ||
                   add_type(module, &state->reactor_type, &reactor_spec, NULL) ||
                   add_type(module, &state->stream_type, &stream_spec, NULL) ||
                   add_type(module, &state->operation_type, &operation_spec, NULL) ||
                   add_type(module, &state->begin_type, &begin_spec, NULL) ||
                   add_type(module, &state->socket_base_type, &socket_base_spec, NULL) ||
                   add_type(module, &state->method_type, &method_spec, NULL) ||
                   add_type(module, &state->connection_base_type, &connection_base_spec, NULL) ||
                   add_type(module, &state->roster_type, &roster_spec, NULL) ||
                   add_type(module, &state->selector_type, &selector_spec, NULL) ||
                   add_type(module, &state->tls_type, &tls_spec, NULL) ||
                   add_type(module, &state->tls_operation_type, &tls_operation_spec, NULL) ||
                   add_type(module, &state->window_type, &window_spec, NULL) ||
                   add_type(module, &state->load_type, &load_spec, NULL) ||
                   add_type(module, &state->allowance_type, &allowance_spec, NULL)
               ? -1
               : 0;
}

static int add_begin(PyObject *module, ModuleState *state)
{
    state->begin = state->begin_type->tp_alloc(state->begin_type, 0);
    return state->begin == NULL ? -1 : PyModule_AddObjectRef(module, "BEGIN", state->begin);
}

static int import_from(const char *module_name, const char *name, PyObject **place)
{
    PyObject *module = PyImport_ImportModule(module_name);
    *place = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    return *place == NULL ? -1 : 0;
}

/* What belongs to CPython, and may be gone in its next version: then `*place` stays NULL. */
static int import_if_there(const char *module_name, const char *name, PyObject **place)
{
    if (import_from(module_name, name, place) == 0)
        return 0;
    if (!PyErr_ExceptionMatches(PyExc_AttributeError))
        return -1;
    PyErr_Clear();
    return 0;
}

/* How the reactor completes a Task: by the methods of its base, because a Task's own refuse. */
static int know_future(ModuleState *state)
{
    state->future_set_result = PyObject_GetAttrString(state->future_class, "set_result");
    state->future_set_exception = PyObject_GetAttrString(state->future_class, "set_exception");
    state->future_cancel = PyObject_GetAttrString(state->future_class, "cancel");
    return state->future_set_result && state->future_set_exception && state->future_cancel ? 0 : -1;
}

static int import_number(const char *module_name, const char *name, int *place)
{
    PyObject *number;
    if (import_from(module_name, name, &number) < 0)
        return -1;
    long value = PyLong_AsLong(number);
    Py_DECREF(number);
    *place = (int)value;
    return value == -1 && PyErr_Occurred() ? -1 : 0;
}

static int import_seconds(const char *module_name, const char *name, double *place)
{
    PyObject *number;
    if (import_from(module_name, name, &number) < 0)
        return -1;
    *place = PyFloat_AsDouble(number);
    Py_DECREF(number);
    return *place == -1 && PyErr_Occurred() ? -1 : 0;
}

static int intern(PyObject **place, const char *text)
{
    *place = PyUnicode_InternFromString(text);
    return *place == NULL ? -1 : 0;
}

static int prepare_names(ModuleState *state)
{
    if (intern(&state->str_add_done_callback, "add_done_callback") || intern(&state->str_add_reader, "add_reader") || intern(&state->str_call_soon, "call_soon") ||
        intern(&state->str_context, "context") || intern(&state->str_get_coro, "get_coro") || intern(&state->str_throw, "throw") ||
        intern(&state->str_close, "close") || intern(&state->str_cancel, "cancel") ||
        intern(&state->str_cancelling, "cancelling") ||
        intern(&state->str_on_events, "on_events") || intern(&state->str_busy_error, "_busy_error") ||
        intern(&state->str_closed_error, "_closed_error") ||
        intern(&state->str_note_interruption, "note_interruption") ||
        intern(&state->str_note_growth, "_note_growth") || intern(&state->str_offer_room, "offer_room") ||
        intern(&state->str_on_unsent, "_on_unsent") ||
        intern(&state->str_wait_for_room, "wait_for_room") ||
        intern(&state->str_note_end, "_note_end") || intern(&state->str_on_cold_events, "_on_cold_events") ||
        intern(&state->str_send_rest, "_send_rest") || intern(&state->str_read, "read") ||
        intern(&state->str_write, "write") || intern(&state->str_blocking, "_asyncio_future_blocking") ||
        intern(&state->str_selector, "_selector") || intern(&state->str_is_closed, "is_closed") ||
        intern(&state->str_linger, "linger") || intern(&state->str_operation, "operation") ||
        intern(&state->str_refuse_if_lost, "_refuse_if_lost") ||
        intern(&state->str_ready, "_ready") || intern(&state->str_stopping, "_stopping") ||
        intern(&state->str_ends, "_ends") || intern(&state->str_scheduled, "_scheduled") ||
        intern(&state->str_error, "_error") || intern(&state->str_finish_send, "_finish_send") ||
        intern(&state->str_pending, "pending") || intern(&state->str_reply, "_reply") ||
        intern(&state->str_receive_slowly, "_receive_slowly") || intern(&state->str_sslobj, "_sslobj") ||
        intern(&state->str_receive_into_slowly, "_receive_into_slowly") ||
        intern(&state->str_send_slowly, "_send_slowly") || intern(&state->str_draining, "_draining"))
        return -1;
    state->context_keyword = PyTuple_Pack(1, state->str_context);
    state->msg_keyword = Py_BuildValue("(s)", "msg");
    state->name_keyword = Py_BuildValue("(s)", "name");
    return state->context_keyword && state->msg_keyword && state->name_keyword ? 0 : -1;
}

static int module_exec(PyObject *module)
{
    static int counts_forks; /* once in a process, however many interpreters */
    ModuleState *state = *(ModuleState **)PyModule_GetState(module) = PyMem_Calloc(1, sizeof(ModuleState));
    if (state == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    if (!counts_forks && (errno = pthread_atfork(NULL, NULL, count_fork)) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    counts_forks = 1;
    if (import_if_there("asyncio.tasks", "_enter_task", &state->enter_task) ||
        import_if_there("asyncio.tasks", "_leave_task", &state->leave_task) ||
        import_if_there("asyncio", "future_add_to_awaited_by", &state->add_to_awaited_by) || /* of Python 3.14 */
        import_from("asyncio", "Future", &state->future_class) || know_future(state) ||
        import_from("asyncio.exceptions", "CancelledError", &state->cancelled_error) ||
        import_from("asyncio.tasks", "Task", &state->task_class) ||
        import_from("aionet.native.woken", "WOKEN", &state->woken) ||
        import_from("aionet.errors", "ConnectionLostError", &state->connection_lost_error) ||
        import_from("aionet.errors", "SocketInheritedError", &state->inherited_error) ||
        import_from("aionet.errors", "ResourceExhaustedError", &state->resource_exhausted_error) ||
        import_from("aionet.wires.descriptors", "waiting", &state->closed_descriptors) ||
        import_from("aionet.wires.lingering", "BROKEN_OFF", &state->broken_off) ||
        import_number("aionet.wires.budget", "BUDGET", &state->budget) ||
        import_number("aionet.wires.budget", "UNIT_BITS", &state->unit_bits) ||
        import_number("aionet.wires.budget", "TURN_BYTES", &state->turn_bytes) ||
        import_number("aionet.wires.budget", "WORTH_NOTING", &state->worth_noting) ||
        import_seconds("aionet.wires.budget", "SLICE_SECONDS", &state->slice_seconds) ||
        import_number("aionet.wires.tls.records", "RECORD_COST", &state->record_cost) ||
        import_number("aionet.wires.tls.records", "CIPHER_COST", &state->cipher_cost) ||
        import_number("aionet.wires.tls.records", "LARGE_RECORD", &state->large_record) ||
        import_number("aionet.wires.tls.records", "MOST_WITHOUT_DATA", &state->most_without_data))
        return -1;
#if PY_VERSION_HEX >= 0x030C0000
    if (import_if_there("asyncio.tasks", "_swap_current_task", &state->swap_task))
        return -1;
#else
    if (import_if_there("asyncio.tasks", "_current_tasks", &state->current_tasks))
        return -1;
#endif
    return prepare_names(state) || add_types(module, state) || add_begin(module, state) ? -1 : 0;
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    ModuleState *state = module_state(module);
    if (state == NULL)
        return 0;
    Py_VISIT(state->wait_type);
    Py_VISIT(state->reactor_type);
    Py_VISIT(state->stream_type);
    Py_VISIT(state->operation_type);
    Py_VISIT(state->begin_type);
    Py_VISIT(state->socket_base_type);
    Py_VISIT(state->method_type);
    Py_VISIT(state->connection_base_type);
    Py_VISIT(state->roster_type);
    Py_VISIT(state->selector_type);
    Py_VISIT(state->tls_type);
    Py_VISIT(state->tls_operation_type);
    Py_VISIT(state->window_type);
    Py_VISIT(state->load_type);
    Py_VISIT(state->allowance_type);
    Py_VISIT(state->enter_task);
    Py_VISIT(state->leave_task);
    Py_VISIT(state->add_to_awaited_by);
    Py_VISIT(state->future_class);
    Py_VISIT(state->future_set_result);
    Py_VISIT(state->future_set_exception);
    Py_VISIT(state->future_cancel);
    Py_VISIT(state->begin);
    Py_VISIT(state->cancelled_error);
    Py_VISIT(state->task_class);
    Py_VISIT(state->woken);
    Py_VISIT(state->connection_lost_error);
    Py_VISIT(state->inherited_error);
    Py_VISIT(state->resource_exhausted_error);
    Py_VISIT(state->closed_descriptors);
    Py_VISIT(state->broken_off);
    Py_VISIT(state->swap_task);
    Py_VISIT(state->current_tasks);
    Py_VISIT(state->wire_class);
    Py_VISIT(state->socket_class);
    Py_VISIT(state->tls_class);
    Py_VISIT(state->want_read_error);
    Py_VISIT(state->zero_return_error);
    Py_VISIT(state->engine_read);
    Py_VISIT(state->engine_write);
    Py_VISIT(state->bio_read);
    Py_VISIT(state->bio_write);
    Py_VISIT(state->engine_type);
    Py_VISIT(state->bio_type);
    for (int kind = 0; kind < METHODS; kind++)
        Py_VISIT(state->slow[kind]);
    return 0;
}

static void free_kept_objects(ModuleState *state)
{
    while (state->free_operations != NULL) {
        Operation *operation = state->free_operations;
        state->free_operations = operation->next_ready;
        PyObject_GC_Del(operation);
    }
    while (state->free_tls_operations != NULL) {
        Operation *operation = state->free_tls_operations;
        state->free_tls_operations = operation->next_ready;
        PyObject_GC_Del(operation);
    }
    while (state->free_waits != NULL) {
        Wait *wait = state->free_waits;
        state->free_waits = (Wait *)wait->callback;
        PyObject_GC_Del(wait);
    }
    state->free_operation_count = state->free_tls_operation_count = state->free_wait_count = MOST_FREE; /* keep none from now on */
}

/* The state outlives the module. At the end of the interpreter modules, types and objects are cleared in any order, and
 * objects of ours are still to find their types and names then; so all that goes is what was kept for later. */
static int module_clear(PyObject *module)
{
    if (module_state(module) != NULL)
        free_kept_objects(module_state(module));
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef native_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aionet.native._compiled",
    .m_doc = "The compiled engine's types; see native.h.",
    .m_size = sizeof(ModuleState *),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC PyInit__compiled(void)
{
    return PyModuleDef_Init(&native_module);
}
