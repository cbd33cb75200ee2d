/* Declarations shared by the C files. */

#ifndef SOCKJS_TORNADO_CORE_H
#define SOCKJS_TORNADO_CORE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#ifdef __GNUC__
/* Do not export these symbols, so that they cannot clash with those of other libraries. */
#pragma GCC visibility push(hidden)
#endif

/* SessionState.OPEN and Blocked.IN_CALLBACK; session/outbox.py checks at import that they are equal. */
enum { SESSION_OPEN = 1, IN_CALLBACK = 1 };

typedef struct {
    PyObject_HEAD
    PyObject *busy, *closing, *connection, *dropped_pending, *inbox, *budget;
} Callbacks;

typedef struct {
    PyObject_HEAD
    PyObject *blocked, *callbacks, *outbox, *outbox_waiters, *queued, *receiver, *settings, *state, *stats, *thread;
} Session;

/* A connection; a websocket's receiver is a subclass. */
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
    double available;
} CallbackBudget;

extern PyTypeObject *callbacks_type, *connection_type, *counters_type, *budget_type;

/* socket.socket */
extern PyTypeObject *socket_type;

extern PyMethodDef session_methods[], connection_methods[];

/* Created once and never freed. CPython caches small integers, so a field is compared with these by identity. If a
 * field holds any other object, the call takes the Python fallback. */
extern PyObject *zero, *in_callback;

/* The method of the C base type, which an application cannot replace. */
extern PyObject *socket_fileno;

#define NAMES(EACH) \
    EACH(charge) EACH(continue_delivery) EACH(finish_delivery) EACH(handle_error) EACH(max_inbound_rate) \
    EACH(max_message_size) EACH(max_messages_per_request) EACH(max_queue_bytes) EACH(max_queue_messages) EACH(on_message) EACH(rendered) \
    EACH(send_messages) EACH(send_prepared) EACH(waiting) EACH(_after_receive) EACH(_buffer) EACH(_buffer_write) \
    EACH(_process_read) EACH(_receive) EACH(_receive_fallback) EACH(_send_fallback) EACH(_send_prepared_fallback) \
    EACH(_wake_outbox_waiters) EACH(_write_messages) EACH(_write_prepared)

struct names {
#define EACH(name) PyObject *name;
    NAMES(EACH)
#undef EACH
};

extern struct names names;

/* --- in core.c --- */

/* Store an object in a field. Releasing the previous value may run application code. */
void set(PyObject **field, PyObject *value);

/* Return the integer in a field, or -1 if it is unset, not an integer or too large. */
Py_ssize_t number_in(PyObject *field);

/* Return an attribute as a limit, clipped to PY_SSIZE_T_MAX. Return -1 if it is not a valid limit; an exception may be
 * set. The lookup may run application code. */
Py_ssize_t limit_of(PyObject *settings, PyObject *name);

/* Add to a counter. */
void count(long long *counter, Py_ssize_t more);

/* Return whether a field holds a Counters object. */
int is_counting(PyObject *stats);

/* Call a method and discard the result. If `argument` is NULL, call it without one. Return 0, or -1 with an exception
 * set. */
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

/* Convert an integer to a limit, clipped to PY_SSIZE_T_MAX. Return -1 with an exception set if it is not an integer. */
Py_ssize_t limit_from(PyObject *number);

/* Append the messages in `data` to a list. Return the position of the first frame that needs the Python parser, or -1
 * with an exception set. */
Py_ssize_t collect_messages(const unsigned char *data, Py_ssize_t end, Py_ssize_t max_size, PyObject *messages);

/* Return the websocket frame that carries a list of messages, or None if the Python encoder is needed. */
PyObject *write_messages(PyObject *module, PyObject *messages);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif
