/* Requests that repeat the head of the request before them on their connection, but for the length. */

#ifndef SOCKJS_TORNADO_REPEATED_H
#define SOCKJS_TORNADO_REPEATED_H

#include "core.h"

#ifdef __GNUC__
#pragma GCC visibility push(hidden)
#endif

#define REPEATED_FIELDS(EACH) \
    EACH(connection) EACH(container) EACH(head) EACH(known) EACH(response) EACH(server) EACH(session) EACH(session_id) \
    EACH(sessions) EACH(stats)

/* What was decided for the first of the requests. */
typedef struct {
    PyObject_HEAD
    /* `session` is set while a poll waits, and `connection` until the connection ends; the others do not change. */
    REPEATED_FIELDS(OBJECT)
    /* Position of the Content-Length in the head. If there is none, it is the end of the head, and its size is 0. */
    Py_ssize_t length_at, length_size;
    /* Position of the date in the response. */
    Py_ssize_t date_at;
    Py_ssize_t max_size, max_messages;
    double heartbeat_delay, disconnect_delay, idle_timeout, resolution;
    int is_poll;
} Repeated;

/* Bytes of a Date field's value. */
enum { DATE_SIZE = 29 };

#ifndef _WIN32

/* --- in respond.c --- */

/* Return the descriptor of the socket to which C may write, or -1. */
int descriptor(HTTPConnection *connection);

/* Return whether an object is an empty bytes object. */
int is_empty(PyObject *data);

/* Set the deadline of a session, and schedule it unless it is looked at early enough. Return 0, or -1 with an exception
 * set. */
int set_session_due(Repeated *self, Session *session, double seconds);

/* Return whether C may respond: if the server was stopped, the response has another head, and Python writes the access
 * log. The lookups may run application code. */
int may_respond(Repeated *self);

/* Return a response, or NULL with an exception set. If messages are given, they are its body; `size` is their frame's
 * size. */
PyObject *build_response(Repeated *self, PyObject *messages, Py_ssize_t size);

/* Send a response, and release it. The connection serves its next request then. `session` is None, or that of a poll.
 * Return 0, or -1 with an exception set. */
int respond(Repeated *self, HTTPConnection *connection, PyObject *session, PyObject *response);

/* Respond to a waiting poll. Return 1, or 0 if this is left to Python, or -1 with an exception set. */
int complete_poll(Repeated *self, PyObject *messages);

/* --- in serve_repeated.c --- */

/* Serve what was read if it is a request with the same head. Return 1, or 0 if it is left to Python, or -1 with an
 * exception set. */
int serve_repeated(HTTPConnection *connection, PyObject *nbytes);

#endif

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif
