/* Allowance: how many bytes the connections of a spawner may hold, and how many of them are free.
 *
 * Theory of operation
 * -------------------
 * What counts, and what happens when there is no room, stands in limiting/pending_bytes.py, which subclasses this type.
 * Here is what a message needs of it: two subtractions. A stream that counts has an allowance; `in_hand` says how many
 * bytes its last read has brought, which count until its next read or write begins (`stream_let_go`). A read takes no more
 * than what is free (`stream_admit`). Where less is free than a read is worth, it waits, like a read for input, until the
 * allowance wakes it; by then room is reserved for it, as its `in_hand`. A stream whose last read was small need not wait
 * as long as there is `reserve`: it reads `least` at a time then.
 */
#include "native.h"

/* A reader has let go of its bytes, and others wait for room: they are woken in the loop's next turn. */
static void offer_room(Stream *stream)
{
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)stream->allowance, stream->reactor->state->str_offer_room);
    if (done == NULL)
        reactor_on_failure(stream->reactor);
    Py_XDECREF(done);
}

void stream_let_go_of(Stream *stream)
{
    Allowance *allowance = stream->allowance;
    int bytes = stream->in_hand;
    stream->in_hand = 0;
    if (allowance == NULL)
        return;
    allowance->free += bytes;
    if (allowance->crowded && allowance->free + allowance->reserve >= allowance->least) {
        PyObject *raised = take_exception();
        offer_room(stream);
        if (raised != NULL)
            raise_taken(raised);
    }
}

void stream_take_in_hand(Stream *stream, Py_ssize_t bytes)
{
    stream->allowance->free -= bytes - stream->in_hand;
    stream->in_hand = (int)bytes;
}

int stream_reads_little(Stream *stream)
{
    return stream->recent > 0 && stream->recent >> stream->reactor->state->unit_bits == 0;
}

void stream_note_filled(Stream *stream)
{
    ModuleState *state = stream->reactor->state;
    if (stream->recent >= state->worth_noting)
        stream->recent = Py_MAX(stream->recent, 1 << state->unit_bits);
}

Py_ssize_t stream_admit(Stream *stream, Py_ssize_t max_bytes)
{
    Allowance *allowance = stream->allowance;
    long long room = allowance->free + stream->in_hand;
    if (room >= allowance->least)
        return (Py_ssize_t)Py_MIN((long long)max_bytes, room);
    if (stream_reads_little(stream) && room + allowance->reserve >= allowance->least)
        return (Py_ssize_t)Py_MIN((long long)max_bytes, allowance->least);
    PyObject *done = PyObject_CallMethodOneArg((PyObject *)allowance, stream->reactor->state->str_wait_for_room,
                                               (PyObject *)stream);
    Py_XDECREF(done);
    return done == NULL ? FAILED_CALL : 0;
}

/* -- for Python ----------------------------------------------------------------------------------------------- */

static int allowance_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static void allowance_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef allowance_members[] = {
    {"free", T_LONGLONG, offsetof(Allowance, free), 0, NULL},
    {"least", T_LONGLONG, offsetof(Allowance, least), 0, NULL},
    {"reserve", T_LONGLONG, offsetof(Allowance, reserve), 0, NULL},
    {"crowded", T_BOOL, offsetof(Allowance, crowded), 0, NULL},
    {NULL},
};

static PyType_Slot allowance_slots[] = {
    {Py_tp_doc, "How many bytes connections may hold, and how many of them are free."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, allowance_dealloc},
    {Py_tp_traverse, allowance_traverse},
    {Py_tp_members, allowance_members},
    {0, NULL},
};

PyType_Spec allowance_spec = {
    .name = "aionet.native._compiled.Allowance",
    .basicsize = sizeof(Allowance),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = allowance_slots,
};
