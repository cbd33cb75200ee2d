/* The module: its types, their fields, and its functions.
 *
 * The fields of the fast path are C members, which are faster than attributes. An application can delete them, or set
 * them to any object, whenever its code runs. That is the case if an attribute is looked up, if a method, ``__len__``,
 * ``__bool__``, ``__hash__`` or ``__eq__`` is called, if the last reference to an object is released, and, on Python
 * 3.11, if an object that the garbage collector tracks is allocated (a list, or an exception). Therefore:
 *
 * 1. Look attributes up first, then check the fields, then use them. No application code runs between check and use.
 * 2. Hold a reference to every object that is used while application code runs: the field may release its own.
 * 3. If a field does not hold what Python stores there, call the fallback, which raises the appropriate exception.
 */

#include "core.h"

#include <stddef.h>
#include <structmember.h>

PyTypeObject *callbacks_type, *connection_type, *counters_type, *budget_type, *http_connection_type, *session_type,
    *socket_type, *ipv4_type, *ipv6_type;
PyObject *zero, *in_callback, *idle, *running, *infinity, *socket_fileno, *copy_context;
struct names names;

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
limit_from(PyObject *number)
{
    Py_ssize_t limit = PyLong_AsSsize_t(number);

    if (limit == -1 && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        limit = PY_SSIZE_T_MAX;
    }
    return limit;
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

/* --- garbage collection and deallocation of objects that consist of fields --- */

#define FIELDS(self) ((PyObject **)((char *)(self) + sizeof(PyObject)))

int
visit_fields(PyObject *self, size_t size, visitproc visit, void *arg)
{
    PyObject **field, **end = (PyObject **)((char *)self + size);

    Py_VISIT(Py_TYPE(self));
    for (field = FIELDS(self); field < end; field++)
        Py_VISIT(*field);
    return 0;
}

int
clear_fields(PyObject *self, size_t size)
{
    PyObject **field, **end = (PyObject **)((char *)self + size);

    for (field = FIELDS(self); field < end; field++)
        Py_CLEAR(*field);
    return 0;
}

void
free_object(PyObject *self, size_t size)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    clear_fields(self, size);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* --- types --- */

#define DEFINE_TYPE(prefix, type, flags, ...) \
    static PyType_Slot prefix##_slots[] = {{Py_tp_members, prefix##_fields}, __VA_ARGS__}; \
    static PyType_Spec prefix##_spec = {"sockjs_tornado._speedups." #type "Core", sizeof(type), 0, \
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | (flags), prefix##_slots};

/* Define a type whose instances consist of objects. */
#define DEFINE_OBJECT_TYPE(prefix, type, methods) \
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
    } \
    DEFINE_TYPE(prefix, type, Py_TPFLAGS_HAVE_GC, {Py_tp_methods, methods}, {Py_tp_traverse, prefix##_traverse}, \
        {Py_tp_clear, prefix##_clear}, {Py_tp_dealloc, prefix##_dealloc}, {0, NULL})

#define END {NULL, 0, 0, 0, NULL}
#define MEMBER(kind, type, name) {#name, kind, offsetof(type, name), 0, NULL},
#define CALLBACKS_MEMBER(name) MEMBER(T_OBJECT_EX, Callbacks, name)
#define SESSION_MEMBER(name) MEMBER(T_OBJECT_EX, Session, name)
#define CONNECTION_MEMBER(name) MEMBER(T_OBJECT_EX, Connection, name)
#define HTTP_MEMBER(name) MEMBER(T_OBJECT_EX, HTTPConnection, name)
#define COUNTERS_MEMBER(name) MEMBER(T_LONGLONG, Counters, name)

static PyMemberDef callbacks_fields[] = {CALLBACKS_FIELDS(CALLBACKS_MEMBER) END};
static PyMemberDef session_fields[] = {SESSION_FIELDS(SESSION_MEMBER) END};
static PyMemberDef connection_fields[] = {CONNECTION_FIELDS(CONNECTION_MEMBER) END};
static PyMemberDef http_connection_fields[] = {HTTP_FIELDS(HTTP_MEMBER) END};
static PyMemberDef counters_fields[] = {COUNTERS_FIELDS(COUNTERS_MEMBER) END};
static PyMemberDef budget_fields[] = {
    MEMBER(T_DOUBLE, TimeBudget, available) MEMBER(T_DOUBLE, TimeBudget, slow_after) END};

static PyMethodDef no_methods[] = {{NULL, NULL, 0, NULL}};

DEFINE_OBJECT_TYPE(callbacks, Callbacks, no_methods)
DEFINE_OBJECT_TYPE(session, Session, session_methods)
DEFINE_OBJECT_TYPE(connection, Connection, connection_methods)
DEFINE_OBJECT_TYPE(http_connection, HTTPConnection, http_connection_methods)
DEFINE_TYPE(counters, Counters, 0, {0, NULL})
DEFINE_TYPE(budget, TimeBudget, 0, {0, NULL})

/* --- the module --- */

/* Create a type, and add it to the module under its name. */
static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);

    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) < 0)
        Py_CLEAR(type);
    return (PyTypeObject *)type;
}

/* Return an attribute of a module. */
static PyObject *
import_from(const char *name, const char *attribute)
{
    PyObject *module = PyImport_ImportModule(name);
    PyObject *object = module == NULL ? NULL : PyObject_GetAttrString(module, attribute);

    Py_XDECREF(module);
    return object;
}

static int
add_constants(PyObject *module)
{
    PyObject *min_charge = PyFloat_FromDouble(MIN_CHARGE);
    int failed = min_charge == NULL || PyModule_AddObjectRef(module, "MIN_CHARGE", min_charge) < 0
        || PyModule_AddIntMacro(module, IN_CALLBACK) < 0 || PyModule_AddIntMacro(module, SESSION_OPEN) < 0
        || PyModule_AddIntMacro(module, CALLBACKS_IDLE) < 0 || PyModule_AddIntMacro(module, CALLBACKS_RUNNING) < 0
        || PyModule_AddIntMacro(module, ROUTER_DRAINING) < 0
        || PyModule_AddIntMacro(module, MAX_STEP) < 0 || PyModule_AddIntMacro(module, MAX_BUFFERED) < 0;

    Py_XDECREF(min_charge);
    return -failed;
}

static int
execute(PyObject *module)
{
    PyObject *base;

    if (zero != NULL) {
        /* The cached objects are in use: a second import must not replace them. */
        PyErr_SetString(PyExc_ImportError, "sockjs_tornado._speedups can be imported only once in a process");
        return -1;
    }
    socket_type = (PyTypeObject *)import_from("socket", "socket");
    base = socket_type == NULL ? NULL : import_from("_socket", "socket");
    socket_fileno = base == NULL ? NULL : PyObject_GetAttrString(base, "fileno");
    Py_XDECREF(base);
    copy_context = socket_fileno == NULL ? NULL : import_from("contextvars", "copy_context");
    if (copy_context == NULL)
        return -1;
#define EACH(name) \
    names.name = PyUnicode_InternFromString(#name); \
    if (names.name == NULL) \
        return -1;
    NAMES(EACH)
#undef EACH
    in_callback = PyLong_FromLong(IN_CALLBACK);
    zero = PyLong_FromLong(0);
    idle = PyLong_FromLong(CALLBACKS_IDLE);
    running = PyLong_FromLong(CALLBACKS_RUNNING);
    infinity = PyFloat_FromDouble(Py_HUGE_VAL);
    if (infinity == NULL || in_callback == NULL || zero == NULL || idle == NULL || running == NULL
        || add_constants(module) < 0)
        return -1;
    if (prepare_accept(module) < 0)
        return -1;
    callbacks_type = add_type(module, &callbacks_spec);
    connection_type = add_type(module, &connection_spec);
    counters_type = add_type(module, &counters_spec);
    budget_type = add_type(module, &budget_spec);
    http_connection_type = add_type(module, &http_connection_spec);
    repeated_type = add_type(module, &repeated_spec);
    session_type = add_type(module, &session_spec);
    request_head_type = prepare_http() < 0 ? NULL : add_type(module, &request_head_spec);
    timed_steps_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &timed_steps_spec, NULL);
    if (timed_steps_type == NULL)
        return -1;
    if (request_head_type == NULL || callbacks_type == NULL || connection_type == NULL || counters_type == NULL
        || budget_type == NULL || http_connection_type == NULL || repeated_type == NULL || session_type == NULL)
        return -1;
    return 0;
}

#define FASTCALL(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef functions[] = {
#ifdef __linux__
    {"accept_socket", accept_socket, METH_O, "accept_socket(sock, /)\n--\n\n"},
#endif
    {"enter_bucket", FASTCALL(enter_bucket), "enter_bucket(buckets, resolution, on_new, owner, /)\n--\n\n"},
    {"format_response", FASTCALL(format_response), "format_response(status_and_common, fields, body, /)\n--\n\n"},
    {"leave_bucket", FASTCALL(leave_bucket), "leave_bucket(buckets, owner, /)\n--\n\n"},
    {"parse_head", FASTCALL(parse_head), "parse_head(data, start, end, max_size, max_fields, /)\n--\n\n"},
    {"read_messages", FASTCALL(read_messages), "read_messages(memory, size, max_size, messages, /)\n--\n\n"},
    {"read_text_frames", FASTCALL(read_text_frames), "read_text_frames(data, position, max_size, events, /)\n--\n\n"},
    {"time_steps", FASTCALL(time_steps), "time_steps(coroutine, callbacks, name, slow_after, /)\n--\n\n"},
#ifndef _WIN32
    {"write_buffered", FASTCALL(write_buffered), "write_buffered(connections, left, /)\n--\n\n"},
#endif
    {"write_messages", write_messages, METH_O, "write_messages(messages, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sockjs_tornado._speedups",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
