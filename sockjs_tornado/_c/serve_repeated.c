/* Serving requests that repeat a head: posts of messages, and polls. */

#include "repeated.h"

#ifndef _WIN32
#include <poll.h>
#include <string.h>

#ifndef POLLRDHUP /* Only Linux reports that the peer has closed its side. */
#define POLLRDHUP 0
#endif

/* --- what is compared --- */

/* Return the position of the body if the data is a request with the same head and a complete body, and nothing else.
 * Return 0 if it is anything else. */
static Py_ssize_t
match(Repeated *self, const char *data, Py_ssize_t size)
{
    const char *head = PyBytes_AsString(self->head);
    Py_ssize_t head_size = PyBytes_Size(self->head), at = self->length_at, rest = head_size - at - self->length_size;
    Py_ssize_t length = 0, digits = 0;

    if (size < head_size - self->length_size || memcmp(data, head, at) != 0)
        return 0;
    if (self->length_size) {
        /* More digits may not fit into Py_ssize_t, and a body of that size is not in the buffer. */
        for (; at < size && digits < 9 && data[at] >= '0' && data[at] <= '9'; at++, digits++)
            length = length * 10 + (data[at] - '0');
        if (!digits)
            return 0;
    }
    if (size - at < rest || memcmp(data + at, head + head_size - rest, rest) != 0)
        return 0;
    return at + rest + length == size ? at + rest : 0;
}

/* Return whether the router serves sessions. The lookup may run application code. */
static int
is_open(Repeated *self)
{
    PyObject *state = PyObject_GetAttr(self->container, names.state);
    Py_ssize_t number = state == NULL ? -1 : number_in(state);

    Py_XDECREF(state);
    PyErr_Clear();
    return number >= 0 && number <= ROUTER_DRAINING;
}

/* Return the open session of the requests, borrowed, or NULL if its id has another one now. */
static Session *
find_session(Repeated *self)
{
    PyObject *session = PyDict_GetItemWithError(self->sessions, self->session_id);

    PyErr_Clear();
    if (session == NULL || session != PyWeakref_GetObject(self->known) || !is_session(session)
        || number_in(((Session *)session)->state) != SESSION_OPEN || ((Session *)session)->_blocked != zero)
        return NULL;
    return (Session *)session;
}

/* Return whether the connection's peer has not closed it. */
static int
is_connected(HTTPConnection *connection)
{
    struct pollfd events = {descriptor(connection), POLLRDHUP, 0};

    return events.fd >= 0 && poll(&events, 1, 0) == 0;
}

/* --- posts --- */

/* Call a session's _receive() in a copy of the current context, so that the context variables that callbacks set do not
 * leak into other requests. Return 0, or -1 with an exception set. */
static int
receive_in_context(Session *session, PyObject *messages)
{
    PyObject *receive = PyObject_GetAttr((PyObject *)session, names._receive);
    PyObject *context = receive == NULL ? NULL : PyObject_CallNoArgs(copy_context);
    PyObject *done = context == NULL ? NULL
        : PyObject_CallMethodObjArgs(context, names.run, receive, messages, NULL);

    Py_XDECREF(done);
    Py_XDECREF(context);
    Py_XDECREF(receive);
    return done == NULL ? -1 : 0;
}

/* Return whether no message waits for the application, so that nothing delays the response. */
static int
is_inbox_empty(Session *session)
{
    Callbacks *callbacks = (Callbacks *)session->_callbacks;

    return is_valid_session(session) && callbacks->_events == Py_None;
}

/* Deliver messages, and respond. Return 0, or -1 with an exception set. */
static int
deliver_post(HTTPConnection *connection, Repeated *self, Session *session, PyObject *messages, Py_ssize_t size)
{
    int failed;

    count(&((Counters *)self->stats)->bytes_received, size);
    set(&connection->_request, (PyObject *)self);
    set(&connection->due, infinity);
    failed = receive_in_context(session, messages) < 0 && handle_error((PyObject *)self) < 0;
    /* The application may have closed the connection. */
    if (failed || connection->_request != (PyObject *)self)
        return -failed;
    if (may_respond(self) && connection->_request == (PyObject *)self && is_inbox_empty(session)
        && descriptor(connection) >= 0) {
        PyObject *response = build_response(self, NULL, 0);
        return response == NULL ? -1 : respond(self, connection, Py_None, response);
    }
    if (connection->_request != (PyObject *)self)
        return 0;
    return call((PyObject *)self, names._finish_post, (PyObject *)session);
}

/* Return 1, or 0 if the request is left to Python, or -1 with an exception set. `size` is the body's. */
static int
serve_post(HTTPConnection *connection, Repeated *self, PyObject *messages, Py_ssize_t size)
{
    Session *session;
    int failed;

    if (PyList_Size(messages) > self->max_messages || !is_open(self) || (session = find_session(self)) == NULL
        || connection->_request != Py_None || !is_valid_session(session)
        || ((Callbacks *)session->_callbacks)->_state != idle)
        return 0;
    Py_INCREF((PyObject *)session);
    failed = deliver_post(connection, self, session, messages, size) < 0;
    Py_DECREF((PyObject *)session);
    return failed ? -1 : 1;
}

/* --- polls --- */

/* Return 1, or 0 if the request is left to Python, or -1 with an exception set. */
static int
serve_poll(HTTPConnection *connection, Repeated *self)
{
    Session *session;
    int failed;

    if (!is_open(self) || !may_respond(self) || (session = find_session(self)) == NULL || !is_valid_session(session)
        || session->_receiver != Py_None || session->_unsent_response != Py_None || connection->_request != Py_None
        || self->session != NULL || !is_connected(connection))
        return 0;
    Py_INCREF((PyObject *)session);
    self->session = Py_NewRef((PyObject *)session);
    set(&session->_receiver, (PyObject *)self);
    count(&((Counters *)self->stats)->connections, 1);
    set(&connection->_request, (PyObject *)self);
    set(&connection->due, infinity);
    failed = set_session_due(self, session, monotonic() + self->heartbeat_delay) < 0 || flush_outbox(session) < 0;
    if (failed)
        failed = handle_error((PyObject *)self) < 0;
    Py_DECREF((PyObject *)session);
    return failed ? -1 : 1;
}

int
serve_repeated(HTTPConnection *connection, PyObject *nbytes)
{
    Py_ssize_t size = number_in(nbytes), start;
    PyObject *messages;
    const char *data;
    Repeated *self;
    int done = 0;

    if (connection->_repeated == NULL || !PyObject_TypeCheck(connection->_repeated, repeated_type))
        return 0;
    /* Allocating may run the garbage collector, whose finalizers may change any field: check them afterwards. */
    messages = PyList_New(0);
    if (messages == NULL)
        return -1;
    self = (Repeated *)connection->_repeated;
    if (self == NULL || !PyObject_TypeCheck((PyObject *)self, repeated_type)
        || self->connection != (PyObject *)connection || connection->_request != Py_None
        || !is_empty(connection->_data) || connection->_buffer == NULL
        || !PyByteArray_CheckExact(connection->_buffer)
        /* After a full read, Python yields to other connections. */
        || size <= 0 || size >= PyByteArray_Size(connection->_buffer)) {
        Py_DECREF(messages);
        return 0;
    }
    Py_INCREF((PyObject *)self);
    data = PyByteArray_AsString(connection->_buffer);
    start = match(self, data, size);
    if (start && !self->is_poll && size - start <= self->max_size) {
        /* No other code runs before the body is decoded. */
        done = read_strings((const unsigned char *)data + start, size - start, messages);
        if (done == 1)
            done = serve_post(connection, self, messages, size - start);
    }
    else if (start == size && self->is_poll)
        done = serve_poll(connection, self);
    Py_DECREF((PyObject *)self);
    Py_DECREF(messages);
    return done;
}

#endif
