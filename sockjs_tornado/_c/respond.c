/* Responses to requests that repeat a head. */

#include "repeated.h"

#ifndef _WIN32
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#ifndef MSG_NOSIGNAL /* If it is not defined: Python ignores SIGPIPE. */
#define MSG_NOSIGNAL 0
#endif

/* --- what is looked up --- */

int
descriptor(HTTPConnection *connection)
{
    PyObject *number;
    int fd;

    if (!is_plain_socket(connection->_writable_socket))
        return -1;
    number = PyObject_CallFunctionObjArgs(socket_fileno, connection->_writable_socket, NULL);
    fd = number == NULL ? -1 : (int)PyLong_AsLong(number);
    Py_XDECREF(number);
    PyErr_Clear();
    return fd;
}

int
is_empty(PyObject *data)
{
    return data != NULL && PyBytes_CheckExact(data) && !PyBytes_Size(data);
}

int
may_respond(Repeated *self)
{
    PyObject *is_stopped = PyObject_GetAttr(self->server, names.is_stopped);
    PyObject *is_logging = is_stopped == NULL ? NULL : PyObject_CallMethodObjArgs(self->server, names.is_logging, NULL);
    int may = is_stopped == Py_False && is_logging == Py_False;

    Py_XDECREF(is_logging);
    Py_XDECREF(is_stopped);
    PyErr_Clear();
    return may;
}

/* --- deadlines --- */

/* Set a deadline. Return 0, or -1 with an exception set. */
static int
set_due(PyObject **due, double seconds)
{
    PyObject *number = PyFloat_FromDouble(seconds);

    if (number == NULL)
        return -1;
    set(due, number);
    Py_DECREF(number);
    return 0;
}

int
set_session_due(Repeated *self, Session *session, double seconds)
{
    Py_ssize_t bucket;

    if (set_due(&session->due, seconds) < 0)
        return -1;
    bucket = session->bucket == NULL || session->bucket == Py_None ? -1 : number_in(session->bucket);
    /* As numbers of C, for a delay of any length: a cast to an integer would overflow. */
    if (bucket >= 0 && (double)bucket <= seconds / self->resolution + 1)
        return 0;
    return call(self->container, names.schedule, (PyObject *)session);
}

/* --- responses --- */

/* Write the value of a Date field (RFC 9110, section 5.6.7). */
static void
put_date(unsigned char *to)
{
    static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static char text[64];
    static time_t known = -1;
    time_t now = time(NULL);

    if (now != known) {
        struct tm parts;
        gmtime_r(&now, &parts);
        snprintf(text, sizeof text, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT", days + 3 * parts.tm_wday, parts.tm_mday,
            months + 3 * parts.tm_mon, parts.tm_year + 1900, parts.tm_hour, parts.tm_min, parts.tm_sec);
        known = now;
    }
    memcpy(to, text, DATE_SIZE);
}

PyObject *
build_response(Repeated *self, PyObject *messages, Py_ssize_t size)
{
    Py_ssize_t head_size = PyBytes_Size(self->response);
    char length[48];
    int length_size = messages == NULL ? 0
        : snprintf(length, sizeof length, "Content-Length: %zd\r\n\r\n", size + 1);
    PyObject *response = PyBytes_FromStringAndSize(NULL, head_size + length_size + (messages == NULL ? 0 : size + 1));
    unsigned char *to;

    if (response == NULL)
        return NULL;
    to = (unsigned char *)PyBytes_AsString(response);
    memcpy(to, PyBytes_AsString(self->response), head_size);
    put_date(to + self->date_at);
    if (messages == NULL)
        return response;
    memcpy(to + head_size, length, length_size);
    to = put_frame(to + head_size + length_size, messages);
    if (to == NULL)
        Py_CLEAR(response);
    else
        *to = '\n';
    return response;
}

int
respond(Repeated *self, HTTPConnection *connection, PyObject *session, PyObject *response)
{
    Py_ssize_t size = PyBytes_Size(response), sent = -1;
    int fd = descriptor(connection), failed = 0;

    if (fd >= 0)
        sent = send(fd, PyBytes_AsString(response), (size_t)size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent == size && is_empty(connection->_data) && connection->bucket != NULL && connection->bucket != Py_None) {
        set(&connection->_request, Py_None);
        failed = set_due(&connection->due, monotonic() + self->idle_timeout) < 0;
    }
    else {
        if (sent != size) {
            PyObject *rest = sent <= 0 ? Py_NewRef(response)
                : PyBytes_FromStringAndSize(PyBytes_AsString(response) + sent, size - sent);
            PyObject *done = rest == NULL ? NULL
                : PyObject_CallMethodObjArgs((PyObject *)self, names._send_rest, rest, session, NULL);
            failed = done == NULL;
            Py_XDECREF(done);
            Py_XDECREF(rest);
        }
        if (!failed)
            failed = call((PyObject *)connection, names.response_finished, Py_True) < 0;
    }
    Py_DECREF(response);
    return -failed;
}

/* --- polls --- */

int
complete_poll(Repeated *self, PyObject *messages)
{
    Py_ssize_t size = self->is_poll && self->session != NULL ? frame_size(messages) : 0;
    HTTPConnection *connection;
    PyObject *response;
    Session *session;
    int failed;

    if (size <= 0 || !may_respond(self))
        return size < 0 ? -1 : 0;
    response = build_response(self, messages, size);
    if (response == NULL)
        return -1;
    session = (Session *)self->session;
    connection = (HTTPConnection *)self->connection;
    if (session == NULL || session->_receiver != (PyObject *)self
        || (session->_blocked != zero && session->_blocked != in_callback) || connection == NULL
        || connection->_request != (PyObject *)self || descriptor(connection) < 0) {
        Py_DECREF(response);
        return 0;
    }
    Py_INCREF((PyObject *)connection);
    /* The reference moves from the field. */
    self->session = NULL;
    set(&session->_receiver, Py_None);
    failed = set_session_due(self, session, monotonic() + self->disconnect_delay) < 0;
    count(&((Counters *)self->stats)->bytes_sent, size + 1);
    if (!failed && connection->_request == (PyObject *)self)
        failed = respond(self, connection, (PyObject *)session, response) < 0;
    else
        Py_DECREF(response);
    if (!failed && session->_outbox_waiters != NULL && session->_outbox_waiters != Py_None)
        failed = call((PyObject *)session, names._wake_outbox_waiters, NULL) < 0;
    Py_DECREF((PyObject *)session);
    Py_DECREF((PyObject *)connection);
    return failed ? -1 : 1;
}

#endif
