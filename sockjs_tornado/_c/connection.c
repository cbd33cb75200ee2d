/* The fast path of connections: from the read buffer to the session, and from its messages to the socket. */

#include "core.h"

#include <string.h>

static PyObject *
connection_get_buffer(PyObject *object, PyObject *sizehint)
{
    PyObject *buffer = ((Connection *)object)->_buffer;

    (void)sizehint;
    return buffer != NULL ? Py_NewRef(buffer) : PyObject_GetAttr(object, names._buffer);
}

static PyObject *
connection_write(PyObject *object, PyObject *data)
{
    Connection *self = (Connection *)object;

    if (self->_write_buffer != NULL && PyBytes_CheckExact(self->_write_buffer) && PyBytes_CheckExact(data)) {
        Py_ssize_t before = PyBytes_Size(self->_write_buffer), size = PyBytes_Size(data);

        if (before + size <= MAX_BUFFERED) {
            /* Bytes are not tracked by the garbage collector, so no other code runs. */
            PyObject *both = PyBytes_FromStringAndSize(NULL, before + size);

            if (both == NULL)
                return NULL;
            memcpy(PyBytes_AsString(both), PyBytes_AsString(self->_write_buffer), before);
            memcpy(PyBytes_AsString(both) + before, PyBytes_AsString(data), size);
            set(&self->_write_buffer, both);
            Py_DECREF(both);
            Py_RETURN_NONE;
        }
    }
    if (self->_write_buffer == Py_None && self->_queue != NULL && PyBytes_CheckExact(data)
        && PyBytes_Size(data) <= MAX_BUFFERED) {
        PyObject *queue = Py_NewRef(self->_queue);
        PyObject *others = PyObject_GetAttr(queue, names.waiting);
        int is_ordinary = others != NULL && PyList_CheckExact(others) && PyList_Size(others)
            && self->_write_buffer == Py_None;
        int failed = others == NULL || (is_ordinary && PyList_Append(others, object) < 0);
        if (is_ordinary && !failed)
            set(&self->_write_buffer, data);
        Py_XDECREF(others);
        Py_DECREF(queue);
        if (is_ordinary || failed)
            RETURN(failed);
    }
    return PyObject_CallMethodObjArgs(object, names._buffer_write, data, NULL);
}

/* Write a frame, and release it. */
static PyObject *
write_frame(PyObject *object, PyObject *frame)
{
    PyObject *done = connection_write(object, frame);

    Py_DECREF(frame);
    return done;
}

static PyObject *
connection_write_messages(PyObject *object, PyObject *messages)
{
    if (((Connection *)object)->_is_plain == Py_True) {
        PyObject *frame = write_messages(NULL, messages);
        if (frame == NULL)
            return NULL;
        if (frame != Py_None)
            return write_frame(object, frame);
        Py_DECREF(frame);
    }
    return PyObject_CallMethodObjArgs(object, names._write_messages, messages, NULL);
}

static PyObject *
connection_write_lines(PyObject *object, PyObject *messages)
{
    Connection *self = (Connection *)object;

    if (self->_is_plain == Py_True) {
        Py_ssize_t size = frame_size(messages), left = number_in(self->_left);
        if (size < 0)
            return NULL;
        /* At its limit, the response ends. The line feed counts. */
        if (size && left > size + 1) {
            PyObject *chunk = line_chunk(messages, size);
            PyObject *rest = chunk == NULL ? NULL : PyLong_FromSsize_t(left - size - 1);

            if (rest == NULL) {
                Py_XDECREF(chunk);
                return NULL;
            }
            set(&self->_left, rest);
            Py_DECREF(rest);
            return write_frame(object, chunk);
        }
    }
    return PyObject_CallMethodObjArgs(object, names._write_lines, messages, NULL);
}

static PyObject *
connection_write_prepared(PyObject *object, PyObject *message)
{
    Connection *self = (Connection *)object;

    if (self->_is_plain == Py_True) {
        PyObject *frames = PyObject_GetAttr(message, names.rendered);
        PyObject *framing = Py_XNewRef(self->_framing);
        PyObject *frame = NULL;

        if (frames != NULL && framing != NULL && PyDict_CheckExact(frames))
            frame = Py_XNewRef(PyDict_GetItemWithError(frames, framing));
        Py_XDECREF(framing);
        Py_XDECREF(frames);
        if (frame != NULL)
            return write_frame(object, frame);
        PyErr_Clear();
    }
    return PyObject_CallMethodObjArgs(object, names._write_prepared, message, NULL);
}

/* Append the messages in the buffer to a list. Return 1, or 0 if the buffer contains anything that needs the Python
 * parser, or -1 with an exception set. */
static int
read_ordinary(Connection *self, Py_ssize_t size, PyObject *messages)
{
    PyObject *settings = Py_XNewRef(self->_settings);
    PyObject *rate = settings == NULL ? NULL : PyObject_GetAttr(settings, names.max_inbound_rate);
    Py_ssize_t max_size = rate == NULL ? -1 : limit_of(settings, names.max_message_size);
    Py_ssize_t end, most = max_size < 0 ? -1 : limit_of(settings, names.max_messages_per_request);
    int is_limited = rate != Py_None;

    Py_XDECREF(rate);
    Py_XDECREF(settings);
    if (most < 0 || is_limited || !is_counting(self->_stats) || self->_session == NULL || self->_buffer == NULL
        /* After a full read, Python yields to other connections. */
        || !PyByteArray_CheckExact(self->_buffer) || size < 0 || size >= PyByteArray_Size(self->_buffer)) {
        PyErr_Clear();
        return 0;
    }
    end = collect_messages((const unsigned char *)PyByteArray_AsString(self->_buffer), size, max_size, messages);
    return end < 0 ? -1 : end == size && PyList_Size(messages) <= most;
}

enum { NORMAL = 1000 };

/* Return whether the buffer contains the usual close frame of a client, with code NORMAL and without a reason. */
static int
is_normal_close(Connection *self, Py_ssize_t size)
{
    const unsigned char *data;

    if (size != 8 || self->_buffer == NULL || !PyByteArray_CheckExact(self->_buffer)
        || PyByteArray_Size(self->_buffer) <= size)
        return 0;
    data = (const unsigned char *)PyByteArray_AsString(self->_buffer);
    return data[0] == 0x88 && data[1] == 0x82 && ((data[6] ^ data[2]) << 8 | (data[7] ^ data[3])) == NORMAL;
}

static PyObject *
connection_process_read(PyObject *object, PyObject *nbytes)
{
    Connection *self = (Connection *)object;
    Py_ssize_t size = number_in(nbytes);

    if (self->_parser == Py_None && is_normal_close(self, size)) {
        PyObject *code = PyLong_FromLong(NORMAL);
        PyObject *result = code == NULL ? NULL
            : PyObject_CallMethodObjArgs(object, names._process_close, nbytes, code, NULL);

        Py_XDECREF(code);
        return result;
    }
    if (self->_parser == Py_None) {
        /* Allocating may run the garbage collector, whose finalizers may change any field: check them afterwards. */
        PyObject *messages = PyList_New(0);
        int done = messages == NULL ? -1 : read_ordinary(self, size, messages);
        if (done == 1) {
            PyObject *session = Py_NewRef(self->_session);
            count(&((Counters *)self->_stats)->bytes_received, size);
            set(&self->_received_since_ping, Py_True);
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

/* The docstrings are those of the twins. */
PyMethodDef connection_methods[] = {
    {"flush", (PyCFunction)(void (*)(void))connection_flush, METH_FASTCALL, "flush($self, flags=0, /)\n--\n\n"},
    {"get_buffer", connection_get_buffer, METH_O, "get_buffer($self, sizehint, /)\n--\n\n"},
    {"process_read", connection_process_read, METH_O, "process_read($self, nbytes, /)\n--\n\n"},
    {"write", connection_write, METH_O, "write($self, data, /)\n--\n\n"},
    {"write_lines", connection_write_lines, METH_O, "write_lines($self, messages, /)\n--\n\n"},
    {"write_messages", connection_write_messages, METH_O, "write_messages($self, messages, /)\n--\n\n"},
    {"write_prepared", connection_write_prepared, METH_O, "write_prepared($self, message, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};
