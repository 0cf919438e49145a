/* SocketBase and Method: `await socket.read()` without a Python frame in between.
 *
 * Theory of operation
 * -------------------
 * A socket's `read`, `write` and so on are Python functions, written once for every wire (stream_socket.py). A
 * `Method` wraps such a function and takes a short cut around it where there is one: the socket's wire is a
 * compiled stream, and the arguments are plain. Everything else is the function's business, as if this were not
 * here. Whether bytes wait in a buffer above the wire is looked at when the operation begins, not when it is made.
 *
 * It is a method descriptor, so that a call makes no bound method first.
 */
#include "native.h"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    ModuleState *state;
    PyObject *function;
    char kind;
} Method;

static const struct {
    const char *name;
    Kind kind;
    int arguments; /* that the short cut takes, beside the socket, at least and at most */
    int optional;
} kinds[] = {
    {"read", READ, 0, 1},   {"__anext__", NEXT_CHUNK, 0, 0},           {"read_into", READ_INTO, 1, 0},
    {"write", WRITE, 1, 0}, {"write_vectored", WRITE_VECTORED, 1, 0},
};

Stream *stream_of(ModuleState *state, PyObject *socket)
{
    PyObject *wire;
    if (Py_TYPE(socket) != state->socket_class) {
        if (!PyObject_TypeCheck(socket, state->socket_base_type))
            return NULL;
        Py_XSETREF(state->socket_class, (PyTypeObject *)Py_NewRef(Py_TYPE(socket)));
    }
    if ((wire = ((SocketBase *)socket)->wire) == NULL)
        return NULL;
    if (Py_TYPE(wire) != state->wire_class && !PyObject_TypeCheck(wire, state->stream_type))
        return NULL;
    return (Stream *)wire;
}

/* Whether iterating over a socket reads with our `read`, and not with one of a subclass; -1: an error is set. */
static int reads_with_ours(Method *method, PyObject *socket)
{
    PyObject *read;
    int ours = find_attribute((PyObject *)Py_TYPE(socket), method->state->str_read, &read);
    if (ours > 0) {
        ours = Py_TYPE(read) == method->state->method_type && ((Method *)read)->kind == READ;
        Py_DECREF(read);
    }
    return ours;
}

/* Whether an exception says of an argument that it is not what is asked for; if so, it is cleared. */
static int is_refusal(void)
{
    if (!PyErr_ExceptionMatches(PyExc_TypeError) && !PyErr_ExceptionMatches(PyExc_BufferError) &&
        !PyErr_ExceptionMatches(PyExc_OverflowError))
        return 0;
    PyErr_Clear();
    return 1;
}

/* Whether the argument is plain, and for reads how much is asked for; -1: an error is set. */
static inline int is_plain(int kind, PyObject *argument, Py_ssize_t *max_bytes)
{
    if (kind == READ || kind == NEXT_CHUNK) {
        *max_bytes = READ_BYTES;
        if (argument == NULL)
            return 1;
        if (!PyLong_CheckExact(argument))
            return 0;
        *max_bytes = PyLong_AsSsize_t(argument);
        if (*max_bytes == -1 && PyErr_Occurred())
            return is_refusal() ? 0 : -1;
        return *max_bytes >= 1;
    }
    if (kind == READ_INTO) {
        Py_buffer view;
        if (PyObject_GetBuffer(argument, &view, PyBUF_WRITABLE) < 0)
            return is_refusal() ? 0 : -1;
        Py_ssize_t bytes = view.len;
        PyBuffer_Release(&view);
        return bytes != 0;
    }
    return kind != WRITE_VECTORED || PyTuple_CheckExact(argument) || PyList_CheckExact(argument);
}

/* Whether there is a short cut for such arguments, and for reads how much is asked for; -1: an error is set. */
static inline int is_simple(Method *method, PyObject *socket, PyObject *argument, Py_ssize_t *max_bytes)
{
    int ours = method->kind == NEXT_CHUNK ? reads_with_ours(method, socket) : 1;
    return ours > 0 ? is_plain(method->kind, argument, max_bytes) : ours;
}

/* Beneath the socket is no stream: TLS, perhaps; else the function knows. */
static PyObject *call_over_another_wire(Method *method, PyObject *const *arguments, size_t flags)
{
    PyObject *socket = arguments[0], *argument = PyVectorcall_NARGS(flags) > 1 ? arguments[1] : NULL;
    Py_ssize_t max_bytes = 0;
    Tls *tls = tls_beneath(method->state, socket, method->kind);
    int simple = tls == NULL ? 0 : is_simple(method, socket, argument, &max_bytes);
    if (simple < 0)
        return NULL;
    if (simple)
        return tls_operation_new(method->state, method->kind, socket, tls, argument, max_bytes);
    return PyObject_Vectorcall(method->function, arguments, flags, NULL);
}

static PyObject *method_vectorcall(PyObject *self, PyObject *const *arguments, size_t flags, PyObject *names)
{
    Method *method = (Method *)self;
    Py_ssize_t count = PyVectorcall_NARGS(flags), given = count - 1, max_bytes = 0;
    int kind = method->kind;
    if (names != NULL || given < kinds[kind].arguments || given > kinds[kind].arguments + kinds[kind].optional)
        goto function;
    Stream *stream = stream_of(method->state, arguments[0]);
    if (stream == NULL)
        return call_over_another_wire(method, arguments, flags);
    PyObject *argument = given ? arguments[1] : NULL;
    int simple = is_simple(method, arguments[0], argument, &max_bytes);
    if (simple < 0)
        return NULL;
    if (!simple)
        goto function;
    if (kind <= NEXT_CHUNK)
        return operation_new(method->state, kind, arguments[0], stream, NULL, max_bytes);
    if (kind != WRITE_VECTORED)
        return operation_new(method->state, kind, arguments[0], stream, argument, 0);
    PyObject *buffers = PySequence_Tuple(argument);
    if (buffers == NULL)
        return NULL;
    PyObject *operation = operation_new(method->state, kind, arguments[0], stream, buffers, 0);
    Py_DECREF(buffers);
    return operation;

function:
    return PyObject_Vectorcall(method->function, arguments, flags, names);
}

static PyObject *method_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    PyObject *function;
    if (!PyArg_ParseTuple(arguments, "O:Method", &function))
        return NULL;
    PyObject *name = PyObject_GetAttrString(function, "__name__");
    if (name == NULL)
        return NULL;
    Method *method = (Method *)type->tp_alloc(type, 0);
    if (method == NULL) {
        Py_DECREF(name);
        return NULL;
    }
    method->state = state_of((PyObject *)method);
    method->vectorcall = method_vectorcall;
    method->function = Py_NewRef(function);
    method->kind = -1;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (PyUnicode_CompareWithASCIIString(name, kinds[i].name) == 0)
            method->kind = (char)kinds[i].kind;
    if (method->kind < 0) {
        PyErr_Format(PyExc_ValueError, "there is no short cut around %R", function);
        Py_DECREF(name);
        Py_DECREF(method);
        return NULL;
    }
    Py_DECREF(name);
    Py_XSETREF(method->state->slow[(int)method->kind], Py_NewRef(function));
    return (PyObject *)method;
}

static PyObject *method_descr_get(PyObject *self, PyObject *object, PyObject *type)
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

/* Documentation, signature and the like are the function's. */
static PyObject *method_getattro(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(self, name);
    if (value != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return value;
    PyErr_Clear();
    return PyObject_GetAttr(((Method *)self)->function, name);
}

static PyObject *method_get_doc(PyObject *self, void *unused)
{
    return PyObject_GetAttrString(((Method *)self)->function, "__doc__");
}

static PyObject *method_get_module(PyObject *self, void *unused)
{
    return PyObject_GetAttrString(((Method *)self)->function, "__module__");
}

static int method_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Method *)self)->function);
    return 0;
}

static int method_clear(PyObject *self)
{
    Py_CLEAR(((Method *)self)->function);
    return 0;
}

static void method_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    method_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef method_members[] = {
    {"__wrapped__", T_OBJECT, offsetof(Method, function), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Method, vectorcall), READONLY, NULL},
    {NULL},
};

static PyGetSetDef method_getset[] = {
    {"__doc__", method_get_doc, NULL, NULL, NULL},
    {"__module__", method_get_module, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot method_slots[] = {
    {Py_tp_new, method_new},
    {Py_tp_dealloc, method_dealloc},
    {Py_tp_traverse, method_traverse},
    {Py_tp_clear, method_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, method_descr_get},
    {Py_tp_getattro, method_getattro},
    {Py_tp_members, method_members},
    {Py_tp_getset, method_getset},
    {0, NULL},
};

PyType_Spec method_spec = {
    .name = "aionet.native._compiled.Method",
    .basicsize = sizeof(Method),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR |
             Py_TPFLAGS_IMMUTABLETYPE, /* without which the interpreter does not specialize the look-up of a method */
    .slots = method_slots,
};

/* -- SocketBase: the attributes of a socket ---------------------------------------------------------------------- */

static int socket_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    SocketBase *socket = (SocketBase *)self;
    Py_VISIT(socket->wire);
    Py_VISIT(socket->received);
    Py_VISIT(socket->options);
    Py_VISIT(socket->ledger);
    Py_VISIT(socket->dialing);
    return 0;
}

static int socket_clear(PyObject *self)
{
    SocketBase *socket = (SocketBase *)self;
    Py_CLEAR(socket->wire);
    Py_CLEAR(socket->received);
    Py_CLEAR(socket->options);
    Py_CLEAR(socket->ledger);
    Py_CLEAR(socket->dialing);
    return 0;
}

static void socket_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    socket_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Close, if that takes no waiting and nobody has to be told. */
int socket_close_at_once(ModuleState *state, PyObject *self)
{
    SocketBase *socket = (SocketBase *)self;
    Stream *stream = stream_of(state, self);
    if (stream == NULL || socket->dialing != Py_None || socket->options == NULL || socket->ledger == NULL)
        return 0;
    PyObject *linger = PyObject_GetAttr(socket->options, state->str_linger);
    double seconds = linger == NULL ? -1 : PyFloat_AsDouble(linger);
    Py_XDECREF(linger);
    if (seconds == -1 && PyErr_Occurred())
        return -1;
    if (!stream_close_at_once(stream, seconds))
        return 0;
    return socket->ledger != Py_None && PySet_Discard(socket->ledger, self) < 0 ? -1 : 1;
}

static PyObject *socket_close_at_once_method(PyObject *self, PyObject *unused)
{
    ModuleState *state = state_of(self);
    int closed = state == NULL ? -1 : socket_close_at_once(state, self);
    return closed < 0 ? NULL : PyBool_FromLong(closed);
}

static PyMethodDef socket_methods[] = {
    {"_close_at_once", socket_close_at_once_method, METH_NOARGS, NULL},
    {NULL},
};

static PyMemberDef socket_members[] = {
    {"_wire", T_OBJECT_EX, offsetof(SocketBase, wire), 0, NULL},
    {"_received", T_OBJECT_EX, offsetof(SocketBase, received), 0, NULL},
    {"_options", T_OBJECT_EX, offsetof(SocketBase, options), 0, NULL},
    {"_ledger", T_OBJECT_EX, offsetof(SocketBase, ledger), 0, NULL},
    {"_dialing", T_OBJECT_EX, offsetof(SocketBase, dialing), 0, NULL},
    {NULL},
};

static PyType_Slot socket_slots[] = {
    {Py_tp_doc, "The attributes of a socket, where C finds them."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, socket_dealloc},
    {Py_tp_traverse, socket_traverse},
    {Py_tp_clear, socket_clear},
    {Py_tp_methods, socket_methods},
    {Py_tp_members, socket_members},
    {0, NULL},
};

PyType_Spec socket_base_spec = {
    .name = "aionet.native._compiled.SocketBase",
    .basicsize = sizeof(SocketBase),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = socket_slots,
};
