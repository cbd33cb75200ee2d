/* The fast path of messages between the read buffer and the write queue: its types.
 *
 * The fields that it uses are C members, which are faster than attributes. Each method handles the common case, and
 * calls a Python method for all others: a session's `send` calls `_send_fallback`, a connection's `write` calls
 * `_buffer_write`; see NAMES. If the module was not built, the classes of the same names in session/outbox.py,
 * session/callbacks.py, session/callback_budget.py, observe/stats.py and wire/connection.py call only the fallbacks.
 *
 * An application can delete these fields, or set them to any object, whenever its code runs. That is the case if an
 * attribute is looked up, if a method, ``__len__``, ``__bool__``, ``__hash__`` or ``__eq__`` is called, if the last
 * reference to an object is released, and, on Python 3.11, if an object that the garbage collector tracks is allocated.
 * Therefore:
 *
 * 1. Look attributes up first, then check the fields, then use them. No application code runs between check and use.
 * 2. Hold a reference to every object that is used while application code runs: the field may release its own.
 * 3. If a field does not hold what Python stores there, call the fallback, which raises the appropriate exception.
 */

#include "core.h"

#include <stddef.h>
#include <structmember.h>

PyTypeObject *callbacks_type, *connection_type, *counters_type, *budget_type, *socket_type;
PyObject *zero, *in_callback, *socket_fileno;
struct names names;

/* --- fields --- */

#define FIELD(type, field, name) {name, T_OBJECT_EX, offsetof(type, field), 0, NULL}

static PyMemberDef callbacks_fields[] = {
    FIELD(Callbacks, busy, "_busy"),
    FIELD(Callbacks, closing, "_closing"),
    FIELD(Callbacks, connection, "connection"),
    FIELD(Callbacks, dropped_pending, "_dropped_pending"),
    FIELD(Callbacks, inbox, "_inbox"),
    FIELD(Callbacks, budget, "_budget"),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef session_fields[] = {
    FIELD(Session, callbacks, "_callbacks"),
    FIELD(Session, blocked, "_blocked"),
    FIELD(Session, outbox, "_outbox"),
    FIELD(Session, outbox_waiters, "_outbox_waiters"),
    FIELD(Session, queued, "queued"),
    FIELD(Session, receiver, "_receiver"),
    FIELD(Session, settings, "_settings"),
    FIELD(Session, state, "state"),
    FIELD(Session, stats, "_stats"),
    FIELD(Session, thread, "_thread"),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef connection_fields[] = {
    FIELD(Connection, buffer, "_buffer"),
    FIELD(Connection, writable_socket, "_writable_socket"),
    FIELD(Connection, framing, "_framing"),
    FIELD(Connection, write_buffer, "_write_buffer"),
    FIELD(Connection, received_since_ping, "_received_since_ping"),
    FIELD(Connection, is_plain, "_is_plain"),
    FIELD(Connection, parser, "_parser"),
    FIELD(Connection, queue, "_queue"),
    FIELD(Connection, session, "_session"),
    FIELD(Connection, settings, "_settings"),
    FIELD(Connection, stats, "_stats"),
    {NULL, 0, 0, 0, NULL},
};

#define COUNTER(field) {#field, T_LONGLONG, offsetof(Counters, field), 0, NULL}

static PyMemberDef counters_fields[] = {
    COUNTER(bytes_received),
    COUNTER(messages_received),
    COUNTER(messages_sent),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef budget_fields[] = {
    {"available", T_DOUBLE, offsetof(CallbackBudget, available), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

/* --- garbage collection and deallocation of objects that consist of fields --- */

#define FIELDS(self) ((PyObject **)((char *)(self) + sizeof(PyObject)))

static int
visit_fields(PyObject *self, size_t size, visitproc visit, void *arg)
{
    PyObject **field, **end = (PyObject **)((char *)self + size);

    Py_VISIT(Py_TYPE(self));
    for (field = FIELDS(self); field < end; field++)
        Py_VISIT(*field);
    return 0;
}

static int
clear_fields(PyObject *self, size_t size)
{
    PyObject **field, **end = (PyObject **)((char *)self + size);

    for (field = FIELDS(self); field < end; field++)
        Py_CLEAR(*field);
    return 0;
}

static void
free_object(PyObject *self, size_t size)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    clear_fields(self, size);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#define LIFE(prefix, type) \
    static int prefix##_traverse(PyObject *self, visitproc visit, void *arg) \
    { \
        return visit_fields(self, sizeof(type), visit, arg); \
    } \
    static int prefix##_clear(PyObject *self) \
    { \
        return clear_fields(self, sizeof(type)); \
    } \
    static void prefix##_dealloc(PyObject *self) \
    { \
        free_object(self, sizeof(type)); \
    }

LIFE(callbacks, Callbacks)
LIFE(session, Session)
LIFE(connection, Connection)

/* --- access to fields and methods --- */

void
set(PyObject **field, PyObject *value)
{
    PyObject *before = *field;

    *field = Py_NewRef(value);
    Py_XDECREF(before);
}

Py_ssize_t
number_in(PyObject *field)
{
    Py_ssize_t number = field == NULL ? -1 : PyLong_AsSsize_t(field);

    if (number == -1)
        PyErr_Clear();
    return number;
}

Py_ssize_t
limit_of(PyObject *settings, PyObject *name)
{
    PyObject *number = PyObject_GetAttr(settings, name);
    Py_ssize_t limit = number == NULL ? -1 : limit_from(number);

    Py_XDECREF(number);
    return limit < 0 ? -1 : limit;
}

void
count(long long *counter, Py_ssize_t more)
{
    /* An application can set it to any number: let it wrap around, which is undefined for signed integers. */
    *counter = (long long)((unsigned long long)*counter + (unsigned long long)more);
}

int
is_counting(PyObject *stats)
{
    return stats != NULL && PyObject_TypeCheck(stats, counters_type);
}

int
call(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *result = PyObject_CallMethodObjArgs(object, name, argument, NULL);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* --- types --- */

static PyType_Slot callbacks_slots[] = {
    {Py_tp_members, callbacks_fields},
    {Py_tp_traverse, callbacks_traverse},
    {Py_tp_clear, callbacks_clear},
    {Py_tp_dealloc, callbacks_dealloc},
    {0, NULL},
};

static PyType_Slot session_slots[] = {
    {Py_tp_members, session_fields},
    {Py_tp_methods, session_methods},
    {Py_tp_traverse, session_traverse},
    {Py_tp_clear, session_clear},
    {Py_tp_dealloc, session_dealloc},
    {0, NULL},
};

static PyType_Slot connection_slots[] = {
    {Py_tp_members, connection_fields},
    {Py_tp_methods, connection_methods},
    {Py_tp_traverse, connection_traverse},
    {Py_tp_clear, connection_clear},
    {Py_tp_dealloc, connection_dealloc},
    {0, NULL},
};

static PyType_Slot counters_slots[] = {
    {Py_tp_members, counters_fields},
    {0, NULL},
};

static PyType_Slot budget_slots[] = {
    {Py_tp_members, budget_fields},
    {0, NULL},
};

#define SPEC(name, type, flags, slots) \
    {"sockjs_tornado._speedups." name, sizeof(type), 0, \
     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | (flags), slots}

static PyType_Spec callbacks_spec = SPEC("CallbacksCore", Callbacks, Py_TPFLAGS_HAVE_GC, callbacks_slots);
static PyType_Spec session_spec = SPEC("SessionCore", Session, Py_TPFLAGS_HAVE_GC, session_slots);
static PyType_Spec connection_spec = SPEC("ConnectionCore", Connection, Py_TPFLAGS_HAVE_GC, connection_slots);
static PyType_Spec counters_spec = SPEC("CountersCore", Counters, 0, counters_slots);
static PyType_Spec budget_spec = SPEC("CallbackBudgetCore", CallbackBudget, 0, budget_slots);

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec, const char *name)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);

    if (type != NULL && PyModule_AddObjectRef(module, name, type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

int
add_core(PyObject *module)
{
    PyObject *sockets, *base;

    if (zero != NULL) {
        /* The cached objects are in use: a second import must not replace them. */
        PyErr_SetString(PyExc_ImportError, "sockjs_tornado._speedups can be imported only once in a process");
        return -1;
    }
    sockets = PyImport_ImportModule("socket");
    socket_type = sockets == NULL ? NULL : (PyTypeObject *)PyObject_GetAttrString(sockets, "socket");
    Py_XDECREF(sockets);
    if (socket_type == NULL)
        return -1;
    sockets = PyImport_ImportModule("_socket");
    base = sockets == NULL ? NULL : PyObject_GetAttrString(sockets, "socket");
    socket_fileno = base == NULL ? NULL : PyObject_GetAttrString(base, "fileno");
    Py_XDECREF(base);
    Py_XDECREF(sockets);
    if (socket_fileno == NULL)
        return -1;
#define EACH(name) \
    names.name = PyUnicode_InternFromString(#name); \
    if (names.name == NULL) \
        return -1;
    NAMES(EACH)
#undef EACH
    in_callback = PyLong_FromLong(IN_CALLBACK);
    zero = PyLong_FromLong(0);
    if (in_callback == NULL || zero == NULL || PyModule_AddIntConstant(module, "IN_CALLBACK", IN_CALLBACK) < 0
        || PyModule_AddIntConstant(module, "SESSION_OPEN", SESSION_OPEN) < 0)
        return -1;
    callbacks_type = add_type(module, &callbacks_spec, "CallbacksCore");
    connection_type = add_type(module, &connection_spec, "ConnectionCore");
    counters_type = add_type(module, &counters_spec, "CountersCore");
    budget_type = add_type(module, &budget_spec, "CallbackBudgetCore");
    return callbacks_type == NULL || connection_type == NULL || counters_type == NULL || budget_type == NULL
        || add_type(module, &session_spec, "SessionCore") == NULL ? -1 : 0;
}
