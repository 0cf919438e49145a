/* ConnectionBase: the attributes of a connection that is being served, where C finds them. */
#include "native.h"

static int connection_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    ConnectionBase *connection = (ConnectionBase *)self;
    Py_VISIT(connection->socket);
    Py_VISIT(connection->started);
    Py_VISIT(connection->reason);
    Py_VISIT(connection->task);
    Py_VISIT(connection->cause);
    return 0;
}

static int connection_clear(PyObject *self)
{
    ConnectionBase *connection = (ConnectionBase *)self;
    Py_CLEAR(connection->socket);
    Py_CLEAR(connection->started);
    Py_CLEAR(connection->reason);
    Py_CLEAR(connection->task);
    Py_CLEAR(connection->cause);
    return 0;
}

static void connection_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    connection_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef connection_members[] = {
    {"socket", T_OBJECT_EX, offsetof(ConnectionBase, socket), 0, NULL},
    {"started", T_OBJECT_EX, offsetof(ConnectionBase, started), 0, NULL},
    {"_reason", T_OBJECT, offsetof(ConnectionBase, reason), 0, NULL},
    {"_task", T_OBJECT, offsetof(ConnectionBase, task), 0, NULL},
    {"_cause", T_OBJECT, offsetof(ConnectionBase, cause), 0, NULL},
    {NULL},
};

static PyType_Slot connection_slots[] = {
    {Py_tp_doc, "The attributes of a connection, where C finds them."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, connection_dealloc},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {Py_tp_members, connection_members},
    {0, NULL},
};

PyType_Spec connection_base_spec = {
    .name = "aionet.native._compiled.ConnectionBase",
    .basicsize = sizeof(ConnectionBase),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = connection_slots,
};
