/* What the C files have of each other. */

#ifndef SOCKJS_TORNADO_CORE_H
#define SOCKJS_TORNADO_CORE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#ifdef __GNUC__
/* Nobody else's functions of these names, and ours nobody else's. */
#pragma GCC visibility push(hidden)
#endif

/* As in outbox.py: the state in which messages come and go, and the hold of one whose callbacks are running. */
enum { OPENED = 1, CORKED = 1 };

typedef struct {
    PyObject_HEAD
    PyObject *busy, *closing, *connection, *inbox, *turns, *untold;
} Callbacks;

typedef struct {
    PyObject_HEAD
    PyObject *callbacks, *hold, *outbox, *queued, *receiver, *settings, *state, *stats, *thread, *waiters;
} Session;

/* Of a connection, and of the websocket's receiver that it may be. */
typedef struct {
    PyObject_HEAD
    PyObject *buffer, *framing, *is_plain, *parser, *queue, *received_since_ping, *session, *settings, *stats;
    PyObject *writable_socket, *write_buffer;
} Connection;

typedef struct {
    PyObject_HEAD
    long long bytes_received, messages_received, messages_sent;
} Counters;

typedef struct {
    PyObject_HEAD
    double share;
} Turns;

extern PyTypeObject *callbacks_type, *connection_type, *counters_type, *turns_type;

/* socket.socket */
extern PyTypeObject *socket_type;

extern PyMethodDef session_methods[], connection_methods[];

/* Made once, for good. CPython has one object for each small number, so a field that holds zero holds this one; if it
 * holds another one, the call is left to Python. */
extern PyObject *zero, *corked;

/* The method of the base type, which no application can replace. */
extern PyObject *socket_fileno;

#define NAMES(EACH) \
    EACH(finish) EACH(go_on) EACH(max_inbound_rate) EACH(max_message_size) EACH(max_messages_per_request) \
    EACH(max_queue_bytes) EACH(max_queue_messages) EACH(on_message) EACH(raised) EACH(rendered) EACH(send_messages) \
    EACH(send_prepared) EACH(waiting) EACH(_after_receive) EACH(_buffer) EACH(_buffer_write) EACH(_receive) \
    EACH(_receive_fallback) EACH(_send_fallback) EACH(_send_prepared_fallback) EACH(_process_read) EACH(_wake) \
    EACH(_write_messages) EACH(_write_prepared)

struct names {
#define EACH(name) PyObject *name;
    NAMES(EACH)
#undef EACH
};

extern struct names names;

/* --- in core.c --- */

/* Put another object into a field. Freeing what it held before may run code of the application. */
void set(PyObject **field, PyObject *value);

/* Return what a field holds, or -1 where it is unset or no such number. */
Py_ssize_t number_in(PyObject *field);

/* Return an attribute as a limit, which may be beyond any size; -1, perhaps with an exception set, where it is none. Looking
 * it up may run code of the application. */
Py_ssize_t limit_of(PyObject *settings, PyObject *name);

/* Add to a counter. */
void count(long long *counter, Py_ssize_t more);

/* Tell whether a field holds counters. */
int is_counting(PyObject *stats);

/* Call a method for its effect, without an argument where that is NULL: 0, or -1 with an exception set. */
int call(PyObject *object, PyObject *name, PyObject *argument);

#define RETURN(failed) \
    do { \
        if (failed) \
            return NULL; \
        Py_RETURN_NONE; \
    } while (0)

/* Add the types to the module. */
int add_core(PyObject *module);

/* --- in connection.c --- */

/* Write the buffered data of connections to their sockets. */
PyObject *write_buffered(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- in speedups.c --- */

/* Return a limit, which may be beyond any size; -1 with an exception set where it is none. */
Py_ssize_t limit_from(PyObject *number);

/* Append what is in the SockJS frames of `data` to a list, and return where the first frame begins that is out of the
 * ordinary; -1 with an exception set. */
Py_ssize_t collect_messages(const unsigned char *data, Py_ssize_t end, Py_ssize_t max_size, PyObject *messages);

/* Return the websocket frame with the SockJS frame of a list of messages, or None. */
PyObject *write_messages(PyObject *module, PyObject *messages);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif
