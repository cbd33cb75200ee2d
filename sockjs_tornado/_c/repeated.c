/* HTTP requests that repeat the head of the request before them: HTTPConnection.buffer_updated() and RepeatedRequest.
 *
 * A client sends the same head for each of its messages, but for the length. What follows from the head was decided in
 * Python, for the request before. A RepeatedRequest contains the results; its constructor is the only one that sets
 * them. So C compares the head, checks what may have changed meanwhile, and serves the request.
 */

#include "repeated.h"

#include <stddef.h>
#include <string.h>
#include <structmember.h>

enum { OBJECTS_END = offsetof(Repeated, length_at) };

PyTypeObject *repeated_type;

/* --- methods --- */

static PyObject *
http_get_buffer(PyObject *object, PyObject *sizehint)
{
    PyObject *buffer = ((HTTPConnection *)object)->_buffer;

    (void)sizehint;
    return buffer != NULL ? Py_NewRef(buffer) : PyObject_GetAttr(object, names._buffer);
}

static PyObject *
http_buffer_updated(PyObject *object, PyObject *nbytes)
{
#ifndef _WIN32
    int done = serve_repeated((HTTPConnection *)object, nbytes);

    if (done)
        RETURN(done < 0);
#endif
    return PyObject_CallMethodObjArgs(object, names._process_data, nbytes, NULL);
}

static PyObject *
repeated_send_messages(PyObject *object, PyObject *messages)
{
#ifndef _WIN32
    int done = complete_poll((Repeated *)object, messages);

    if (done)
        RETURN(done < 0);
#endif
    return PyObject_CallMethodObjArgs(object, names._send_messages, messages, NULL);
}

/* Forget the connection, which has ended, and with it the session. */
static PyObject *
repeated_release(PyObject *object, PyObject *ignored)
{
    (void)ignored;
    Py_CLEAR(((Repeated *)object)->session);
    Py_CLEAR(((Repeated *)object)->connection);
    Py_RETURN_NONE;
}

/* Return the session of the waiting poll, which waits no longer, or None. */
static PyObject *
repeated_take_session(PyObject *object, PyObject *ignored)
{
    PyObject *session = ((Repeated *)object)->session;

    (void)ignored;
    ((Repeated *)object)->session = NULL;
    return session == NULL ? Py_NewRef(Py_None) : session;
}

/* The docstrings are those of the twins. */
PyMethodDef http_connection_methods[] = {
    {"buffer_updated", http_buffer_updated, METH_O, "buffer_updated(nbytes, /)\n--\n\n"},
    {"get_buffer", http_get_buffer, METH_O, "get_buffer(sizehint, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef repeated_methods[] = {
    {"release", repeated_release, METH_NOARGS, "release()\n--\n\n"},
    {"send_messages", repeated_send_messages, METH_O, "send_messages(messages, /)\n--\n\n"},
    {"take_session", repeated_take_session, METH_NOARGS, "take_session()\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

/* --- the type --- */

static int
are_positions_valid(Repeated *self)
{
    return self->length_at >= 0 && self->length_size >= 0 && self->date_at >= 0
        && self->length_at + self->length_size <= PyBytes_Size(self->head)
        && self->date_at + DATE_SIZE <= PyBytes_Size(self->response) && self->max_size >= 0 && self->max_messages >= 0
        && self->resolution > 0;
}

static PyObject *
new_repeated(PyTypeObject *type, PyObject *args, PyObject *options)
{
    static char *keywords[] = {"connection", "server", "container", "sessions", "session_id", "known", "stats", "head",
        "length_at", "length_size", "response", "date_at", "is_poll", "max_size", "max_messages", "heartbeat_delay",
        "disconnect_delay", "idle_timeout", "resolution", NULL};
    PyObject *objects[8];
    Repeated read, *self;

    memset(&read, 0, sizeof read);
    if (!PyArg_ParseTupleAndKeywords(args, options, "O!OOO!UOO!SnnSnpnndddd:RepeatedRequest", keywords,
            http_connection_type, &objects[0], &objects[1], &objects[2], &PyDict_Type, &objects[3], &objects[4],
            &objects[5], counters_type, &objects[6], &objects[7], &read.length_at, &read.length_size, &read.response,
            &read.date_at, &read.is_poll, &read.max_size, &read.max_messages, &read.heartbeat_delay,
            &read.disconnect_delay, &read.idle_timeout, &read.resolution))
        return NULL;
    read.head = objects[7];
    if (!are_positions_valid(&read) || !PyWeakref_CheckRef(objects[5])) {
        PyErr_SetString(PyExc_ValueError, "RepeatedRequest: invalid arguments");
        return NULL;
    }
    self = (Repeated *)PyType_GenericAlloc(type, 0);
    if (self == NULL)
        return NULL;
    memcpy((char *)self + OBJECTS_END, (char *)&read + OBJECTS_END, sizeof read - OBJECTS_END);
    self->connection = Py_NewRef(objects[0]);
    self->server = Py_NewRef(objects[1]);
    self->container = Py_NewRef(objects[2]);
    self->sessions = Py_NewRef(objects[3]);
    self->session_id = Py_NewRef(objects[4]);
    self->known = Py_NewRef(objects[5]);
    self->stats = Py_NewRef(objects[6]);
    self->head = Py_NewRef(objects[7]);
    self->response = Py_NewRef(read.response);
    return (PyObject *)self;
}

static int
traverse_repeated(PyObject *self, visitproc visit, void *arg)
{
    return visit_fields(self, OBJECTS_END, visit, arg);
}

/* The other fields refer to nothing that refers to this object. */
static int
clear_repeated(PyObject *self)
{
    Py_CLEAR(((Repeated *)self)->session);
    Py_CLEAR(((Repeated *)self)->connection);
    return 0;
}

static void
free_repeated(PyObject *self)
{
    free_object(self, OBJECTS_END);
}

#define READ_ONLY(name) {#name, T_OBJECT, offsetof(Repeated, name), READONLY, NULL}

static PyMemberDef repeated_members[] = {
    READ_ONLY(connection),
    READ_ONLY(head),
    READ_ONLY(session),
    READ_ONLY(session_id),
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot repeated_slots[] = {
    {Py_tp_new, new_repeated},
    {Py_tp_members, repeated_members},
    {Py_tp_methods, repeated_methods},
    {Py_tp_traverse, traverse_repeated},
    {Py_tp_clear, clear_repeated},
    {Py_tp_dealloc, free_repeated},
    {0, NULL},
};

PyType_Spec repeated_spec = {
    "sockjs_tornado._speedups.RepeatedRequestCore",
    sizeof(Repeated),
    0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    repeated_slots,
};
