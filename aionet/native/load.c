/* The type `Load`: Python sets it up, drives it in slices of time (without the GIL), and reads what was counted. */
#include "native.h"

#include "load.h"

#include <arpa/inet.h>
#include <math.h>

typedef struct {
    PyObject_HEAD
    Load load;
    char driving; /* by a thread, which has let go of the GIL */
} LoadObject;

static const char *const workloads[LOAD_WORKLOADS] = {"echo", "accept", "connect", "bulk", "idle"};
static const char *const mistakes[LOAD_MISTAKES] = {"mismatch", "early end", "no answer"};

/* -- setting up --------------------------------------------------------------------------------------------------- */

static int set_workload(Load *load, const char *name)
{
    for (int i = 0; i < LOAD_WORKLOADS; i++)
        if (!strcmp(name, workloads[i])) {
            load->workload = (LoadWorkload)i;
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "a workload is echo, accept, connect, bulk or idle, not '%s'", name);
    return -1;
}

/* A numeric address and a port, or a path. */
static int set_address(Load *load, const char *host, int port)
{
    struct sockaddr_in *in = (struct sockaddr_in *)&load->address;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&load->address;
    struct sockaddr_un *un = (struct sockaddr_un *)&load->address;
    if (port == 0) {
        if (strlen(host) >= sizeof un->sun_path) {
            PyErr_Format(PyExc_ValueError, "a path of a socket is shorter than %zu bytes, not '%s'", sizeof un->sun_path,
                         host);
            return -1;
        }
        un->sun_family = AF_UNIX;
        strcpy(un->sun_path, host);
        load->address_length = sizeof *un;
    } else if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)port);
        load->address_length = sizeof *in;
        if (ntohl(in->sin_addr.s_addr) >> 24 != IN_LOOPBACKNET)
            load->sources = 0;
        return 0;
    } else if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        load->address_length = sizeof *in6;
    } else {
        PyErr_Format(PyExc_ValueError, "'%s' is not a numeric address", host);
        return -1;
    }
    load->sources = 0;
    return 0;
}

static int check_numbers(const Load *load, int port, double rate)
{
    if (load->count < 1 || load->size < 1 || load->size > 1 << 26 || load->sources < 0 || port < 0 || port > 65535)
        PyErr_SetString(PyExc_ValueError, "connections and size are above 0, sources at least 0, a port below 65536");
    else if (!isfinite(rate) || rate < 0 || rate > 1e9)
        PyErr_SetString(PyExc_ValueError, "a rate is from 0 to 1e9 requests per second");
    else if (rate > 0 && (load->workload == LOAD_BULK || load->workload == LOAD_IDLE))
        PyErr_Format(PyExc_ValueError, "%s has no rate", workloads[load->workload]);
    else
        return 0;
    return -1;
}

static PyObject *load_new(PyTypeObject *type, PyObject *arguments, PyObject *names)
{
    static char *keywords[] = {"workload", "host", "port", "connections", "size", "rate", "sources", "wait", NULL};
    const char *workload, *host;
    int port;
    double rate;
    Load given = {.epoll = -1};
    if (!PyArg_ParseTupleAndKeywords(arguments, names, "ssiiidip:Load", keywords, &workload, &host, &port, &given.count,
                                     &given.size, &rate, &given.sources, &given.wait) ||
        set_workload(&given, workload) < 0 || check_numbers(&given, port, rate) < 0 || set_address(&given, host, port) < 0)
        return NULL;
    if (!load_stays(&given))
        given.size = 1;
    given.interval = rate > 0 ? (int64_t)(1e9 / rate) : 0;
    LoadObject *self = (LoadObject *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->load = given;
    if (load_prepare(&self->load) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void load_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    load_release(&((LoadObject *)self)->load);
    type->tp_free(self);
    Py_DECREF(type);
}

/* -- driving ------------------------------------------------------------------------------------------------------ */

static Load *usable(PyObject *self)
{
    LoadObject *object = (LoadObject *)self;
    if (object->driving)
        PyErr_SetString(PyExc_RuntimeError, "another thread drives this load");
    else if (object->load.epoll < 0)
        PyErr_SetString(PyExc_RuntimeError, "this load was closed");
    else
        return &object->load;
    return NULL;
}

PyDoc_STRVAR(drive_doc, "drive($self, seconds, until_served=False, /)\n--\n\n"
                        "Put the load on for so many seconds, or until each connection has had a reply.");

static PyObject *load_drive_method(PyObject *self, PyObject *arguments)
{
    double seconds;
    int until_served = 0;
    Load *load = usable(self);
    if (load == NULL || !PyArg_ParseTuple(arguments, "d|p:drive", &seconds, &until_served))
        return NULL;
    if (!(seconds >= 0 && seconds <= 1e6)) {
        PyErr_SetString(PyExc_ValueError, "seconds are from 0 to a million");
        return NULL;
    }
    ((LoadObject *)self)->driving = 1;
    Py_BEGIN_ALLOW_THREADS
    load_drive(load, (int64_t)(seconds * 1e9), until_served);
    Py_END_ALLOW_THREADS
    ((LoadObject *)self)->driving = 0;
    Py_RETURN_NONE;
}

static PyObject *load_begin_method(PyObject *self, PyObject *unused)
{
    Load *load = usable(self);
    if (load == NULL)
        return NULL;
    load_begin(load);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(finish_doc, "finish($self, patience, /)\n--\n\n"
                         "Close all connections, and count what had no answer for so many seconds.");

static PyObject *load_finish_method(PyObject *self, PyObject *patience)
{
    Load *load = usable(self);
    double seconds = load == NULL ? 0 : PyFloat_AsDouble(patience);
    if (load == NULL || PyErr_Occurred())
        return NULL;
    if (!(seconds >= 0 && seconds <= 1e6))
        return PyErr_Format(PyExc_ValueError, "patience is from 0 to a million seconds, not %R", patience);
    load_finish(load, (int64_t)(seconds * 1e9));
    Py_RETURN_NONE;
}

static PyObject *load_close_method(PyObject *self, PyObject *unused)
{
    if (((LoadObject *)self)->driving)
        return PyErr_Format(PyExc_RuntimeError, "another thread drives this load");
    load_release(&((LoadObject *)self)->load);
    Py_RETURN_NONE;
}

/* -- what was counted --------------------------------------------------------------------------------------------- */

static int set_count(PyObject *counts, PyObject *key, uint64_t count) /* steals the key */
{
    PyObject *number = key == NULL || count == 0 ? NULL : PyLong_FromUnsignedLongLong(count);
    int status = key == NULL || (number == NULL && count > 0) ? -1 : 0;
    if (number != NULL)
        status = PyDict_SetItem(counts, key, number);
    Py_XDECREF(number);
    Py_XDECREF(key);
    return status;
}

static PyObject *load_errors_method(PyObject *self, PyObject *unused)
{
    Load *load = usable(self);
    PyObject *errors = load == NULL ? NULL : PyDict_New();
    for (int i = 0; errors != NULL && i < LOAD_ERRNOS; i++)
        if (set_count(errors, PyLong_FromLong(i), load->errnos[i]) < 0)
            Py_CLEAR(errors);
    for (int i = 0; errors != NULL && i < LOAD_MISTAKES; i++)
        if (set_count(errors, PyUnicode_FromString(mistakes[i]), load->mistakes[i]) < 0)
            Py_CLEAR(errors);
    return errors;
}

static PyObject *load_histogram_method(PyObject *self, PyObject *unused)
{
    Load *load = usable(self);
    PyObject *counts = load == NULL ? NULL : PyDict_New();
    for (int i = 0; counts != NULL && i < LOAD_BUCKETS; i++)
        if (load->histogram.counts[i] > 0 &&
            set_count(counts, PyUnicode_FromFormat("%d", i), load->histogram.counts[i]) < 0)
            Py_CLEAR(counts);
    if (counts == NULL)
        return NULL;
    const LoadHistogram *histogram = &load->histogram;
    return Py_BuildValue("{sisKsLsLsN}", "linear_bits", LOAD_LINEAR_BITS, "total", (unsigned long long)histogram->total,
                         "minimum", (long long)histogram->minimum, "maximum", (long long)histogram->maximum, "counts",
                         counts);
}

PyDoc_STRVAR(service_doc, "service($self, /)\n--\n\n"
                          "The requests of the connection that had the fewest, of the one that had the most, and how many\n"
                          "connections had less than a tenth of the mean.");

static PyObject *load_service_method(PyObject *self, PyObject *unused)
{
    Load *load = usable(self);
    if (load == NULL)
        return NULL;
    uint64_t least = UINT64_MAX, most = 0;
    double tenth = (double)load->requests / load->count / 10;
    int starved = 0;
    for (int slot = 0; slot < load->count; slot++) {
        uint64_t completed = load->connections[slot].completed;
        least = completed < least ? completed : least;
        most = completed > most ? completed : most;
        starved += (double)completed < tenth;
    }
    return Py_BuildValue("(KKi)", (unsigned long long)least, (unsigned long long)most, starved);
}

#define COUNTER(NAME, TYPE)                                                                                            \
    {                                                                                                                  \
        #NAME, TYPE, offsetof(LoadObject, load) + offsetof(Load, NAME), READONLY, NULL                                 \
    }

static PyMemberDef load_members[] = {
    COUNTER(requests, T_ULONGLONG), COUNTER(bytes_compared, T_ULONGLONG), COUNTER(overdue, T_ULONGLONG),
    COUNTER(idle, T_LONGLONG),      COUNTER(served, T_INT),               COUNTER(sources, T_INT),
    {NULL},
};

static PyMethodDef load_methods[] = {
    {"drive", load_drive_method, METH_VARARGS, drive_doc},
    {"begin", load_begin_method, METH_NOARGS, "Forget what was counted, but for errors."},
    {"finish", load_finish_method, METH_O, finish_doc},
    {"close", load_close_method, METH_NOARGS, "Let go of everything."},
    {"errors", load_errors_method, METH_NOARGS, "How often what went wrong, by errno or name."},
    {"histogram", load_histogram_method, METH_NOARGS, "Latencies, as LatencyHistogram.from_json() reads them."},
    {"service", load_service_method, METH_NOARGS, service_doc},
    {NULL},
};

static PyType_Slot load_slots[] = {
    {Py_tp_doc, "The connections of a load generator; see load.h."},
    {Py_tp_new, load_new},
    {Py_tp_dealloc, load_dealloc},
    {Py_tp_methods, load_methods},
    {Py_tp_members, load_members},
    {0, NULL},
};

PyType_Spec load_spec = {
    .name = "aionet.native._compiled.Load",
    .basicsize = sizeof(LoadObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = load_slots,
};
