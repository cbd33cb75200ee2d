/* The fast path of connections: from the read buffer to the session, and from its messages to the socket. */

#include "core.h"

#ifndef _WIN32
#include <sys/socket.h>
#ifndef MSG_NOSIGNAL /* If it is not defined: Python ignores SIGPIPE. */
#define MSG_NOSIGNAL 0
#endif
#endif

/* Maximum size in bytes of a write on the fast path; must not exceed the write buffer of wire/connection.py. */
enum { SMALL_WRITE = 4096 };

PyDoc_STRVAR(get_buffer_doc,
"get_buffer(sizehint, /)\n--\n\n"
"Return the buffer for the next read.");

static PyObject *
connection_get_buffer(PyObject *object, PyObject *sizehint)
{
    PyObject *buffer = ((Connection *)object)->buffer;

    return buffer != NULL ? Py_NewRef(buffer) : PyObject_GetAttr(object, names._buffer);
}

PyDoc_STRVAR(write_doc,
"write(data, /)\n--\n\n"
"Buffer data; the event loop writes it in its next iteration, with everything else that was buffered.");

static PyObject *
connection_write(PyObject *object, PyObject *data)
{
    Connection *self = (Connection *)object;

    if (self->write_buffer == Py_None && self->queue != NULL && PyBytes_CheckExact(data)
        && PyBytes_Size(data) <= SMALL_WRITE) {
        PyObject *queue = Py_NewRef(self->queue);
        PyObject *others = PyObject_GetAttr(queue, names.waiting);
        int is_ordinary = others != NULL && PyList_CheckExact(others) && PyList_Size(others)
            && self->write_buffer == Py_None;
        int failed = others == NULL || (is_ordinary && PyList_Append(others, object) < 0);
        if (is_ordinary && !failed)
            set(&self->write_buffer, data);
        Py_XDECREF(others);
        Py_DECREF(queue);
        if (is_ordinary || failed)
            RETURN(failed);
    }
    return PyObject_CallMethodObjArgs(object, names._buffer_write, data, NULL);
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
    return PyObject_CallMethodObjArgs(object, names._write_messages, messages, NULL);
}

PyDoc_STRVAR(write_prepared_doc,
"write_prepared(message, /)\n--\n\n"
"Write one message of a broadcast to a websocket.");

static PyObject *
connection_write_prepared(PyObject *object, PyObject *message)
{
    Connection *self = (Connection *)object;

    if (self->is_plain == Py_True) {
        PyObject *frames = PyObject_GetAttr(message, names.rendered);
        PyObject *framing = Py_XNewRef(self->framing);
        PyObject *frame = NULL;

        if (frames != NULL && framing != NULL && PyDict_CheckExact(frames))
            frame = Py_XNewRef(PyDict_GetItemWithError(frames, framing));
        Py_XDECREF(framing);
        Py_XDECREF(frames);
        if (frame != NULL) {
            PyObject *done = connection_write(object, frame);
            Py_DECREF(frame);
            return done;
        }
        PyErr_Clear();
    }
    return PyObject_CallMethodObjArgs(object, names._write_prepared, message, NULL);
}

/* Append the messages in the buffer to a list. Return 1, or 0 if the buffer contains anything that needs the Python
 * parser, or -1 with an exception set. */
static int
read_ordinary(Connection *self, Py_ssize_t size, PyObject *messages)
{
    PyObject *settings = Py_XNewRef(self->settings);
    PyObject *rate = settings == NULL ? NULL : PyObject_GetAttr(settings, names.max_inbound_rate);
    Py_ssize_t max_size = rate == NULL ? -1 : limit_of(settings, names.max_message_size);
    Py_ssize_t end, most = max_size < 0 ? -1 : limit_of(settings, names.max_messages_per_request);
    int is_limited = rate != Py_None;

    Py_XDECREF(rate);
    Py_XDECREF(settings);
    if (most < 0 || is_limited || !is_counting(self->stats) || self->session == NULL || self->buffer == NULL
        /* After a full read, Python yields to other connections. */
        || !PyByteArray_CheckExact(self->buffer) || size < 0 || size >= PyByteArray_Size(self->buffer)) {
        PyErr_Clear();
        return 0;
    }
    end = collect_messages((const unsigned char *)PyByteArray_AsString(self->buffer), size, max_size, messages);
    return end < 0 ? -1 : end == size && PyList_Size(messages) <= most;
}

PyDoc_STRVAR(process_read_doc,
"process_read(nbytes, /)\n--\n\n"
"Process ``nbytes`` bytes that were read from a websocket.");

static PyObject *
connection_process_read(PyObject *object, PyObject *nbytes)
{
    Connection *self = (Connection *)object;
    Py_ssize_t size = number_in(nbytes);

    if (self->parser == Py_None) {
        /* Allocating may run the garbage collector, whose finalizers may change any field: check them afterwards. */
        PyObject *messages = PyList_New(0);
        int done = messages == NULL ? -1 : read_ordinary(self, size, messages);
        if (done == 1) {
            PyObject *session = Py_NewRef(self->session);
            count(&((Counters *)self->stats)->bytes_received, size);
            set(&self->received_since_ping, Py_True);
            if (call(session, names._receive, messages) < 0)
                done = -1;
            Py_DECREF(session);
        }
        Py_XDECREF(messages);
        if (done)
            RETURN(done < 0);
    }
    return PyObject_CallMethodObjArgs(object, names._process_read, nbytes, NULL);
}

/* --- writing the buffers of many connections, once per iteration of the event loop --- */

#ifndef _WIN32
/* Number of sockets that are looked up before the first is written to, so that cold Python objects are not accessed
 * between the system calls. */
enum { BATCH = 128 };

typedef struct {
    Connection *connection;
    PyObject *data;
    Py_ssize_t written;
    int fd;
} Write;

/* Prefetch the connections that are next: a broadcast to 19,000 connections takes 6 % less time. */
static void
prefetch(PyObject *connections, Py_ssize_t i, Py_ssize_t size)
{
#ifdef __GNUC__
    Connection *later = (Connection *)(i + 8 < size ? PyList_GetItem(connections, i + 8) : NULL);
    PyObject *soon = i + 4 < size ? PyList_GetItem(connections, i + 4) : NULL;

    if (later != NULL) {
        __builtin_prefetch(later);
        __builtin_prefetch(&later->write_buffer);
    }
    if (soon != NULL && PyObject_TypeCheck(soon, connection_type))
        __builtin_prefetch(((Connection *)soon)->writable_socket);
#endif
}

/* Move a connection's write buffer to `write`. Return 1, or 0 if it is empty, or -1 if Connection.flush has to write
 * it. */
static int
take_write(PyObject *object, Write *write)
{
    Connection *self = (Connection *)object;
    PyObject *number;

    if (!PyObject_TypeCheck(object, connection_type) || self->write_buffer == NULL)
        return -1;
    if (self->write_buffer == Py_None)
        return 0;
    if (!PyBytes_CheckExact(self->write_buffer) || self->writable_socket == NULL
        || Py_TYPE(self->writable_socket) != socket_type)
        return -1;
    /* Not cached: the descriptor of a closed socket may be reused. Call the C base type's method, since a method in
     * Python could close a socket that was looked up before, or change the lists. */
    number = PyObject_CallFunctionObjArgs(socket_fileno, self->writable_socket, NULL);
    write->fd = number == NULL ? -1 : (int)PyLong_AsLong(number);
    Py_XDECREF(number);
    if (write->fd < 0) {
        PyErr_Clear();
        return -1;
    }
    write->connection = self;
    write->data = self->write_buffer;
    self->write_buffer = Py_NewRef(Py_None);
    return 1;
}

/* Put the bytes that the socket did not accept back into the connection's write buffer. */
static void
give_rest(Write *write)
{
    Py_ssize_t size = PyBytes_Size(write->data), written = write->written;
    /* If it accepted none, asyncio's transport gets the error when it writes. */
    PyObject *rest = written <= 0 ? Py_NewRef(write->data)
        : PyBytes_FromStringAndSize(PyBytes_AsString(write->data) + written, size - written);

    if (rest == NULL) {
        /* Out of memory: the client must not receive later bytes after a gap. */
        PyErr_Clear();
        shutdown(write->fd, SHUT_RDWR);
    }
    else
        set(&write->connection->write_buffer, rest);
    Py_XDECREF(rest);
}

/* Write, and append the connections that have bytes left to a list. Return the number of bytes written. */
static Py_ssize_t
write_batch(Write *batch, int count, PyObject *left)
{
    Py_ssize_t total = 0;
    Write *write, *end = batch + count;

    for (write = batch; write < end; write++)
        write->written = send(
            write->fd, PyBytes_AsString(write->data), (size_t)PyBytes_Size(write->data), MSG_DONTWAIT | MSG_NOSIGNAL);
    for (write = batch; write < end; write++) {
        if (write->written != PyBytes_Size(write->data)) {
            give_rest(write);
            PyList_Append(left, (PyObject *)write->connection);
        }
        if (write->written > 0)
            total += write->written;
        Py_DECREF(write->data);
    }
    return total;
}

PyObject *
write_buffered(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Write batch[BATCH];
    Py_ssize_t i, size, total = 0;
    int ready = 0, was_collecting;

    if (count != 2 || !PyList_Check(args[0]) || !PyList_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "write_buffered() takes two lists");
        return NULL;
    }
    /* Looking up a descriptor allocates an object, for which Python 3.11 may run the garbage collector. A finalizer
     * could close a socket that was looked up. */
    was_collecting = PyGC_Disable();
    size = PyList_Size(args[0]);
    for (i = 0; i < size; i++) {
        PyObject *connection = PyList_GetItem(args[0], i);
        int taken;

        prefetch(args[0], i, size);
        taken = take_write(connection, &batch[ready]);
        if (taken < 0)
            /* An invalid connection must not keep the others from writing. */
            PyList_Append(args[1], connection);
        else
            ready += taken;
        if (ready == BATCH) {
            total += write_batch(batch, ready, args[1]);
            ready = 0;
        }
    }
    total += write_batch(batch, ready, args[1]);
    if (was_collecting)
        PyGC_Enable();
    return PyErr_Occurred() ? NULL : PyLong_FromSsize_t(total);
}
#endif

/* --- the type's methods --- */

PyMethodDef connection_methods[] = {
    {"get_buffer", connection_get_buffer, METH_O, get_buffer_doc},
    {"process_read", connection_process_read, METH_O, process_read_doc},
    {"write", connection_write, METH_O, write_doc},
    {"write_messages", connection_write_messages, METH_O, write_websocket_messages_doc},
    {"write_prepared", connection_write_prepared, METH_O, write_prepared_doc},
    {NULL, NULL, 0, NULL},
};
