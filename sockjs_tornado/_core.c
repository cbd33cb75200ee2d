/* What happens to every ordinary message between the read buffer and the write queue, in C.
 *
 * The fields that this looks at are here too, since C finds them fastest in a structure. What is out of the ordinary is
 * left to the methods in Python that do the same for all messages: `send` to `_send`, `receive` to `_receive`, and so on.
 * Where this was not built, everything is left to them, by the classes of the same names in outbox.py, callbacks.py and
 * wire/connection.py.
 */

#include "_core.h"

#include <stddef.h>
#include <structmember.h>

/* As in outbox.py: the state in which messages come and go, and the hold of one whose callbacks are running. */
enum { OPENED = 1, CORKED = 1 };

/* Bytes up to which a write is an ordinary one; not more than wire/connection.py gathers. */
enum { SMALL_WRITE = 4096 };

typedef struct {
    PyObject_HEAD
    PyObject *busy, *closing, *connection, *inbox, *untold;
} Callbacks;

typedef struct {
    PyObject_HEAD
    PyObject *callbacks, *hold, *outbox, *queued, *receiver, *settings, *state, *stats, *thread, *waiters;
} Session;

/* Of a connection, and of the websocket's receiver that it may be. */
typedef struct {
    PyObject_HEAD
    PyObject *buffer, *framing, *gathered, *heard, *is_plain, *parser, *queue, *session, *settings, *stats;
} Connection;

#define FIELD(type, field, name) {name, T_OBJECT_EX, offsetof(type, field), 0, NULL}

static PyMemberDef callbacks_fields[] = {
    FIELD(Callbacks, busy, "_busy"),
    FIELD(Callbacks, closing, "_closing"),
    FIELD(Callbacks, connection, "connection"),
    FIELD(Callbacks, inbox, "_inbox"),
    FIELD(Callbacks, untold, "_untold"),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef session_fields[] = {
    FIELD(Session, callbacks, "_callbacks"),
    FIELD(Session, hold, "_hold"),
    FIELD(Session, outbox, "_outbox"),
    FIELD(Session, queued, "queued"),
    FIELD(Session, receiver, "_receiver"),
    FIELD(Session, settings, "_settings"),
    FIELD(Session, state, "state"),
    FIELD(Session, stats, "_stats"),
    FIELD(Session, thread, "_thread"),
    FIELD(Session, waiters, "_waiters"),
    {NULL, 0, 0, 0, NULL},
};

static PyMemberDef connection_fields[] = {
    FIELD(Connection, buffer, "_buffer"),
    FIELD(Connection, framing, "_framing"),
    FIELD(Connection, gathered, "_gathered"),
    FIELD(Connection, heard, "_heard"),
    FIELD(Connection, is_plain, "_is_plain"),
    FIELD(Connection, parser, "_parser"),
    FIELD(Connection, queue, "_queue"),
    FIELD(Connection, session, "_session"),
    FIELD(Connection, settings, "_settings"),
    FIELD(Connection, stats, "_stats"),
    {NULL, 0, 0, 0, NULL},
};

/* --- the life of objects that have nothing but fields --- */

static PyTypeObject *callbacks_type;

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

static void
set(PyObject **field, PyObject *value)
{
    PyObject *before = *field;

    *field = Py_NewRef(value);
    Py_XDECREF(before);
}

/* --- numbers and names --- */

/* Made once, for good. */
static PyObject *zero, *corked;
static PyObject *bytes_received, *max_inbound_rate, *max_message_size, *max_messages_per_request, *max_queue_bytes,
    *max_queue_messages, *messages_received, *messages_sent, *on_message, *receive, *rendered, *send_messages,
    *send_prepared, *waiting, *_buffer;
/* Methods in Python that do the rest. */
static PyObject *_finish, *_gather, *_go_on, *_raised, *_receive, *_received, *_send, *_send_prepared, *_take_messages,
    *_wake, *_write_messages, *_write_prepared;

/* Return what a field holds, or -1 where it is unset or no such number. */
static Py_ssize_t
number_in(PyObject *field)
{
    Py_ssize_t number = field == NULL ? -1 : PyLong_AsSsize_t(field);

    if (number == -1)
        PyErr_Clear();
    return number;
}

/* Return an attribute as a limit, which may be beyond any size; -1, perhaps with an exception set, where it is none. */
static Py_ssize_t
limit_of(PyObject *settings, PyObject *name)
{
    PyObject *number = PyObject_GetAttr(settings, name);
    Py_ssize_t limit = number == NULL ? -1 : limit_from(number);

    Py_XDECREF(number);
    return limit;
}

static int
count(PyObject *stats, PyObject *name, Py_ssize_t amount)
{
    PyObject *before = PyObject_GetAttr(stats, name);
    PyObject *more = before == NULL ? NULL : PyLong_FromSsize_t(amount);
    PyObject *sum = more == NULL ? NULL : PyNumber_Add(before, more);
    int failed = sum == NULL || PyObject_SetAttr(stats, name, sum) < 0;

    Py_XDECREF(before);
    Py_XDECREF(more);
    Py_XDECREF(sum);
    return failed ? -1 : 0;
}

/* Call a method for its effect, without an argument where that is NULL: 0, or -1 with an exception set. */
static int
call(PyObject *object, PyObject *name, PyObject *argument)
{
    PyObject *result = PyObject_CallMethodObjArgs(object, name, argument, NULL);

    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

#define RETURN(failed) \
    do { \
        if (failed) \
            return NULL; \
        Py_RETURN_NONE; \
    } while (0)

/* --- sessions --- */

/* Whether the fields are what they are once Python has filled them in. */
static int
is_whole(Session *self)
{
    return self->callbacks != NULL && PyObject_TypeCheck(self->callbacks, callbacks_type) && self->outbox != NULL
        && PyList_CheckExact(self->outbox) && self->receiver != NULL && self->settings != NULL && self->stats != NULL
        && self->thread != NULL && self->waiters != NULL;
}

/* Hand what is in the outbox to the receiver. */
static int
flush(Session *self)
{
    PyObject *receiver, *messages, *empty = PyList_New(0);
    int failed = empty == NULL;

    /* To make a list may be to collect garbage, of which somebody may have sent it, or closed the session. */
    if (failed || !is_whole(self) || !PyList_Size(self->outbox) || self->receiver == Py_None
        || number_in(self->hold) != 0) {
        Py_XDECREF(empty);
        return -failed;
    }
    receiver = Py_NewRef(self->receiver);
    messages = self->outbox;
    self->outbox = empty;
    set(&self->queued, zero);
    failed = count(self->stats, messages_sent, PyList_Size(messages)) < 0
        || call(receiver, send_messages, messages) < 0
        || (self->waiters != Py_None && call((PyObject *)self, _wake, NULL) < 0);
    Py_DECREF(receiver);
    Py_DECREF(messages);
    return -failed;
}

PyDoc_STRVAR(send_doc,
"send(message, /)\n--\n\n"
"Send one message; after the end it goes nowhere.\n\n"
"Raises:\n"
"    RuntimeError: In another thread than the event loop's.");

static PyObject *
session_send(PyObject *object, PyObject *message)
{
    Session *self = (Session *)object;
    int is_ordinary = number_in(self->state) == OPENED && is_whole(self)
        && PyLong_AsUnsignedLong(self->thread) == PyThread_get_thread_ident();
    Py_ssize_t size = is_ordinary ? PyObject_Size(message) : -1;
    Py_ssize_t hold = number_in(self->hold), queued = number_in(self->queued);

    if (size < 0 || queued < 0)
        is_ordinary = 0;
    else if (hold == CORKED)
        is_ordinary = size <= limit_of(self->settings, max_queue_bytes) - queued
            && PyList_Size(self->outbox) < limit_of(self->settings, max_queue_messages);
    else
        is_ordinary = hold == 0 && self->receiver != Py_None;
    /* Of what is wrong with a message or a limit, Python knows. */
    PyErr_Clear();
    if (is_ordinary) {
        PyObject *sum = PyLong_FromSsize_t(queued + size);
        int failed = sum == NULL || PyList_Append(self->outbox, message) < 0;
        if (!failed)
            set(&self->queued, sum);
        Py_XDECREF(sum);
        RETURN(failed || (hold == 0 && flush(self) < 0));
    }
    return PyObject_CallMethodObjArgs(object, _send, message, NULL);
}

PyDoc_STRVAR(send_prepared_doc,
"send_prepared(message, /)\n--\n\n"
"Send one message that is on its way to many.");

static PyObject *
session_send_prepared(PyObject *object, PyObject *message)
{
    Session *self = (Session *)object;

    /* While there is a receiver and nothing holds messages back, the session is open and its outbox empty. */
    if (number_in(self->hold) == 0 && is_whole(self) && self->receiver != Py_None) {
        PyObject *receiver = Py_NewRef(self->receiver);
        int failed = count(self->stats, messages_sent, 1) < 0 || call(receiver, send_prepared, message) < 0;
        Py_DECREF(receiver);
        RETURN(failed);
    }
    return PyObject_CallMethodObjArgs(object, _send_prepared, message, NULL);
}

/* Have the callbacks see to an exception of one of them. */
static int
give_error(PyObject *callbacks)
{
    PyObject *type, *error, *traceback;
    int failed;

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    failed = call(callbacks, _raised, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return failed;
}

/* Call on_message for each message. Returns 1, or 0 where the callbacks have seen to the rest, or -1. */
static int
deliver(Session *self, PyObject *callbacks, PyObject *messages)
{
    PyObject *callback = PyObject_GetAttr(((Callbacks *)callbacks)->connection, on_message);
    Py_ssize_t i;
    int done = callback == NULL ? -1 : 1;

    /* To look a callback up may be to call a property, which may close the session. */
    if (done == 1 && number_in(self->state) != OPENED)
        done = call(callbacks, _finish, NULL);
    for (i = 0; done == 1 && i < PyList_Size(messages); i++) {
        PyObject *message = Py_NewRef(PyList_GetItem(messages, i));
        PyObject *result = PyObject_CallFunctionObjArgs(callback, message, NULL);
        Py_DECREF(message);
        if (result == NULL)
            done = give_error(callbacks);
        else if (result != Py_None || number_in(self->state) != OPENED) {
            PyObject *rest = PyList_GetSlice(messages, i + 1, PyList_Size(messages));
            PyObject *gone = NULL;
            if (rest != NULL)
                gone = PyObject_CallMethodObjArgs(callbacks, _go_on, callback, rest, result, NULL);
            done = gone == NULL ? -1 : 0;
            Py_XDECREF(rest);
            Py_XDECREF(gone);
        }
        Py_XDECREF(result);
    }
    Py_XDECREF(callback);
    return done;
}

PyDoc_STRVAR(receive_doc,
"receive(messages, /)\n--\n\n"
"Hand the client's messages to the application, in order; what it sends meanwhile leaves together.");

static PyObject *
session_receive(PyObject *object, PyObject *messages)
{
    Session *self = (Session *)object;
    Callbacks *callbacks = (Callbacks *)self->callbacks;
    int done, is_idle;

    if (number_in(self->state) != OPENED || number_in(self->hold) != 0 || !PyList_CheckExact(messages)
        || !is_whole(self) || callbacks->busy != Py_False || callbacks->connection == NULL)
        return PyObject_CallMethodObjArgs(object, _receive, messages, NULL);
    if (count(self->stats, messages_received, PyList_Size(messages)) < 0)
        return NULL;
    set(&self->hold, corked);
    set(&callbacks->busy, Py_True);
    Py_INCREF((PyObject *)callbacks);
    done = deliver(self, (PyObject *)callbacks, messages);
    if (done == 1) {
        is_idle = callbacks->untold == Py_False && callbacks->closing == Py_False && callbacks->inbox != NULL
            ? PyObject_Not(callbacks->inbox) : 0;
        if (is_idle == 1)
            set(&callbacks->busy, Py_False);
        else
            done = is_idle < 0 ? -1 : call((PyObject *)callbacks, _finish, NULL);
    }
    Py_DECREF((PyObject *)callbacks);
    if (done < 0)
        return NULL;
    if (done == 1 && number_in(self->hold) == CORKED && is_whole(self)) {
        set(&self->hold, zero);
        RETURN(PyList_Size(self->outbox) && flush(self) < 0);
    }
    return PyObject_CallMethodObjArgs(object, _received, NULL);
}

/* --- connections --- */

PyDoc_STRVAR(get_buffer_doc,
"get_buffer(sizehint, /)\n--\n\n"
"Return the memory that the next read goes to.");

static PyObject *
connection_get_buffer(PyObject *object, PyObject *sizehint)
{
    PyObject *buffer = ((Connection *)object)->buffer;

    return buffer != NULL ? Py_NewRef(buffer) : PyObject_GetAttr(object, _buffer);
}

PyDoc_STRVAR(write_doc,
"write(data, /)\n--\n\n"
"Write when the event loop comes round, together with all else that is written until then.");

static PyObject *
connection_write(PyObject *object, PyObject *data)
{
    Connection *self = (Connection *)object;

    if (self->gathered == Py_None && self->queue != NULL && PyBytes_CheckExact(data)
        && PyBytes_Size(data) <= SMALL_WRITE) {
        PyObject *others = PyObject_GetAttr(self->queue, waiting);
        int is_ordinary = others != NULL && PyList_CheckExact(others) && PyList_Size(others);
        int failed = others == NULL || (is_ordinary && PyList_Append(others, object) < 0);
        Py_XDECREF(others);
        if (is_ordinary && !failed)
            set(&self->gathered, data);
        if (is_ordinary || failed)
            RETURN(failed);
    }
    return PyObject_CallMethodObjArgs(object, _gather, data, NULL);
}

PyDoc_STRVAR(write_websocket_messages_doc,
"write_messages(messages, /)\n--\n\n"
"Write messages to a websocket, in one frame.");

static PyObject *
connection_write_messages(PyObject *object, PyObject *messages)
{
    if (((Connection *)object)->is_plain == Py_True) {
        PyObject *done, *frame = write_messages(NULL, messages);
        if (frame == NULL)
            return NULL;
        if (frame != Py_None) {
            done = connection_write(object, frame);
            Py_DECREF(frame);
            return done;
        }
        Py_DECREF(frame);
    }
    return PyObject_CallMethodObjArgs(object, _write_messages, messages, NULL);
}

PyDoc_STRVAR(write_prepared_doc,
"write_prepared(message, /)\n--\n\n"
"Write a message that is on its way to many to a websocket.");

static PyObject *
connection_write_prepared(PyObject *object, PyObject *message)
{
    Connection *self = (Connection *)object;

    if (self->is_plain == Py_True && self->framing != NULL) {
        PyObject *done = NULL, *frames = PyObject_GetAttr(message, rendered);
        PyObject *frame = NULL;

        if (frames != NULL && PyDict_CheckExact(frames))
            frame = PyDict_GetItemWithError(frames, self->framing);
        if (frame != NULL)
            done = connection_write(object, frame);
        Py_XDECREF(frames);
        if (frame != NULL)
            return done;
        PyErr_Clear();
    }
    return PyObject_CallMethodObjArgs(object, _write_prepared, message, NULL);
}

/* Append the messages in the buffer to a list: 1, 0 where something else is in it, or -1 with an exception set. */
static int
read_ordinary(Connection *self, Py_ssize_t size, PyObject *messages)
{
    PyObject *rate = PyObject_GetAttr(self->settings, max_inbound_rate);
    Py_ssize_t max_size = rate == NULL ? -1 : limit_of(self->settings, max_message_size);
    Py_ssize_t end, most = max_size < 0 ? -1 : limit_of(self->settings, max_messages_per_request);
    int is_limited = rate != Py_None;

    Py_XDECREF(rate);
    if (most < 0 || is_limited) {
        PyErr_Clear();
        return 0;
    }
    end = collect_messages((const unsigned char *)PyByteArray_AsString(self->buffer), size, max_size, messages);
    return end < 0 ? -1 : end == size && PyList_Size(messages) <= most;
}

PyDoc_STRVAR(take_messages_doc,
"take_messages(nbytes, /)\n--\n\n"
"Take what was read from a websocket.");

static PyObject *
connection_take_messages(PyObject *object, PyObject *nbytes)
{
    Connection *self = (Connection *)object;
    Py_ssize_t size = number_in(nbytes);

    if (self->parser == Py_None && self->buffer != NULL && PyByteArray_CheckExact(self->buffer) && size >= 0
        && size <= PyByteArray_Size(self->buffer) && self->settings != NULL && self->stats != NULL
        && self->session != NULL) {
        PyObject *messages = PyList_New(0);
        int done = messages == NULL ? -1 : read_ordinary(self, size, messages);
        if (done == 1) {
            PyObject *session = Py_NewRef(self->session);
            set(&self->heard, Py_True);
            if (count(self->stats, bytes_received, size) < 0 || call(session, receive, messages) < 0)
                done = -1;
            Py_DECREF(session);
        }
        Py_XDECREF(messages);
        if (done)
            RETURN(done < 0);
    }
    return PyObject_CallMethodObjArgs(object, _take_messages, nbytes, NULL);
}

/* --- types --- */

static PyMethodDef session_methods[] = {
    {"receive", session_receive, METH_O, receive_doc},
    {"send", session_send, METH_O, send_doc},
    {"send_prepared", session_send_prepared, METH_O, send_prepared_doc},
    {NULL, NULL, 0, NULL},
};

static PyMethodDef connection_methods[] = {
    {"get_buffer", connection_get_buffer, METH_O, get_buffer_doc},
    {"take_messages", connection_take_messages, METH_O, take_messages_doc},
    {"write", connection_write, METH_O, write_doc},
    {"write_messages", connection_write_messages, METH_O, write_websocket_messages_doc},
    {"write_prepared", connection_write_prepared, METH_O, write_prepared_doc},
    {NULL, NULL, 0, NULL},
};

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

#define SPEC(name, type, slots) \
    {"sockjs_tornado._speedups." name, sizeof(type), 0, \
     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, slots}

static PyType_Spec callbacks_spec = SPEC("CallbacksCore", Callbacks, callbacks_slots);
static PyType_Spec session_spec = SPEC("SessionCore", Session, session_slots);
static PyType_Spec connection_spec = SPEC("ConnectionCore", Connection, connection_slots);

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
    static const struct {
        PyObject **name;
        const char *text;
    } names[] = {
#define NAME(name) {&name, #name}
        NAME(bytes_received), NAME(max_inbound_rate), NAME(max_message_size), NAME(max_messages_per_request),
        NAME(max_queue_bytes), NAME(max_queue_messages), NAME(messages_received), NAME(messages_sent),
        NAME(on_message), NAME(receive), NAME(rendered), NAME(send_messages), NAME(send_prepared), NAME(waiting),
        NAME(_buffer), NAME(_gather), NAME(_receive), NAME(_received), NAME(_send), NAME(_send_prepared),
        NAME(_take_messages), NAME(_wake), NAME(_write_messages), NAME(_write_prepared),
        {&_finish, "finish"}, {&_go_on, "go_on"}, {&_raised, "raised"},
#undef NAME
    };
    size_t i;

    if (zero != NULL) {
        /* What is made once must not be made anew under those who use it. */
        PyErr_SetString(PyExc_ImportError, "a process loads this once");
        return -1;
    }
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        *names[i].name = PyUnicode_InternFromString(names[i].text);
        if (*names[i].name == NULL)
            return -1;
    }
    zero = PyLong_FromLong(0);
    corked = PyLong_FromLong(CORKED);
    if (zero == NULL || corked == NULL)
        return -1;
    callbacks_type = add_type(module, &callbacks_spec, "CallbacksCore");
    return callbacks_type == NULL || add_type(module, &session_spec, "SessionCore") == NULL
        || add_type(module, &connection_spec, "ConnectionCore") == NULL ? -1 : 0;
}
