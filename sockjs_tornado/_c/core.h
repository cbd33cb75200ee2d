/* The contract between C and Python, and what the C files share. */

#ifndef SOCKJS_TORNADO_CORE_H
#define SOCKJS_TORNADO_CORE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#ifdef __GNUC__
/* Do not export these symbols, so that they cannot clash with those of other libraries. */
#pragma GCC visibility push(hidden)
#endif

/* --- what C does ---
 *
 * C handles a call if the condition holds. It writes only to what is listed, apart from what the Python methods do that
 * it calls. It passes any other call to the twin, which handles every case. Two methods of RepeatedRequestCore have no
 * twin, because without C no request is a RepeatedRequest. tests/test_core.py compares methods with their twins,
 * tests/test_speedups.py compares functions.
 *
 * method               twin                     C handles                                   C writes to
 *
 * SessionCore
 *   send               _send_fallback           an open session, in its thread, that has    _outbox, queued; if it
 *                                               a receiver and is not blocked, or is        flushes also messages_sent
 *                                               within its callbacks and its limits
 *   send_message       _send_message_fallback   a single argument that is a str             what send() writes to
 *   _send_prepared     _send_prepared_fallback  a receiver, and nothing is blocked          messages_sent
 *   _receive           _receive_fallback        an open session, no callback is running     Callbacks._state, _blocked,
 *                                               or due, and nothing is blocked              queued, _outbox,
 *                                                                                           messages_received,
 *                                                                                           messages_sent
 * ConnectionCore
 *   get_buffer         _buffer                  everything; the twin is a field             nothing
 *   flush              _flush                   bytes for a plain socket, if it accepts     _write_buffer,
 *                                               all                                         bytes_sent
 *   write              _buffer_write            at most MAX_BUFFERED bytes in the buffer,   _write_buffer, and the list
 *                                               which is not empty, or else the queue's     waiting of _queue
 *                                               flush is scheduled
 *   write_messages     _write_messages          str, if _is_plain                           what write() writes to
 *   write_prepared     _write_prepared          a message that was rendered with _framing,  what write() writes to
 *                                               if _is_plain
 *   write_lines        _write_lines             str, if _is_plain, below the response's     _left, and what write()
 *                                               limit                                       writes to
 *   process_read       _process_read            ordinary frames, no incomplete message, no  bytes_received,
 *                                               rate limit, and a buffer that is not full;  _received_since_ping
 *                                               the usual close frame
 * HTTPConnectionCore
 *   get_buffer         _buffer                  everything; the twin is a field             nothing
 *   buffer_updated     _process_data            a request that repeats the head of the one  _request, due, what
 *                                               before it, for an open session: a POST of   _receive() writes to,
 *                                               an array of strings, or a poll              bytes_received; of a poll's
 *                                                                                           session _receiver and due,
 *                                                                                           and connections
 * RepeatedRequestCore
 *   send_messages      _send_messages           str, for a poll that waits                  session; of the session
 *                                                                                           _receiver and due;
 *                                                                                           bytes_sent; of the
 *                                                                                           connection _request and due
 *   release            none                     everything                                  session, connection
 *   take_session       none                     everything                                  session
 * RequestHead
 *   header             header                   everything; the twin's class is             nothing
 *                                               _RequestHeadPython
 *   header_lines       header_lines             everything                                  nothing
 *   accept_handshake   accept_handshake         everything                                  nothing
 *   fields             fields                   everything                                  nothing
 * functions
 *   read_text_frames   _read_text_frames_python final, masked texts below 64 KiB            the list
 *   read_messages      FrameParser              the same, if they are arrays of strings     the list
 *   write_messages     messages_frame           str without surrogates                      nothing
 *   accept_socket      _accept_socket_python    everything, on Linux                        nothing
 *   enter_bucket       _enter_bucket_python     finite deadlines                            bucket, dict and sets
 *   leave_bucket       _leave_bucket_python     everything                                  bucket, dict and sets
 *   write_buffered     flush                    bytes for a plain socket                    _write_buffer, the list
 *   parse_head         _parse_head_python       valid heads with at most MAX_HEAD_FIELDS    nothing
 *                                               fields, and what they begin with
 *   time_steps         TimedSteps               everything                                  nothing
 *   format_response    _format_response_python  ASCII, a list of at most                    nothing
 *                                               MAX_RESPONSE_FIELDS tuples without CR, LF
 *                                               or NUL, and bytes
 */

/* The fields that C uses, by their names in Python. Python code, of the application too, may set them to any object. */
#define CALLBACKS_FIELDS(EACH) EACH(_budget) EACH(_events) EACH(_state) EACH(connection)
#define SESSION_FIELDS(EACH) \
    EACH(_blocked) EACH(_callbacks) EACH(_outbox) EACH(_outbox_waiters) EACH(_receiver) EACH(_settings) EACH(_stats) \
    EACH(_thread) EACH(_unsent_response) EACH(bucket) EACH(due) EACH(queued) EACH(state)
/* Those of a websocket's and a stream's receiver, which are subclasses, are among them. */
#define CONNECTION_FIELDS(EACH) \
    EACH(_buffer) EACH(_framing) EACH(_is_plain) EACH(_left) EACH(_parser) EACH(_queue) EACH(_received_since_ping) \
    EACH(_session) EACH(_settings) EACH(_stats) EACH(_writable_socket) EACH(_write_buffer)
#define COUNTERS_FIELDS(EACH) \
    EACH(bytes_received) EACH(bytes_sent) EACH(connections) EACH(messages_received) EACH(messages_sent)
#define HTTP_FIELDS(EACH) \
    EACH(_buffer) EACH(_data) EACH(_repeated) EACH(_request) EACH(_writable_socket) EACH(bucket) EACH(due)

/* All other attributes that C reads, and all methods that it calls. */
#define NAMES(EACH) \
    EACH(_after_receive) EACH(_buffer) EACH(_buffer_write) EACH(_finish_post) EACH(_flush) \
    EACH(_format_response_python) EACH(_parse_head_python) EACH(_process_close) EACH(_process_data) \
    EACH(_process_read) EACH(_receive) EACH(_receive_fallback) EACH(_send_fallback) EACH(_send_message_fallback) \
    EACH(_send_messages) EACH(_send_prepared_fallback) EACH(_send_rest) EACH(_wake_outbox_waiters) EACH(_write_lines) \
    EACH(_write_messages) EACH(_write_prepared) EACH(bucket) EACH(charge) EACH(continue_delivery) EACH(due) \
    EACH(finish_delivery) EACH(handle_error) EACH(is_logging) EACH(is_stopped) EACH(max_inbound_rate) \
    EACH(max_message_size) EACH(max_messages_per_request) EACH(max_queue_bytes) EACH(max_queue_messages) \
    EACH(on_message) EACH(proto) EACH(rendered) EACH(report_slow) EACH(response_finished) EACH(run) EACH(schedule) \
    EACH(send_messages) EACH(send_prepared) EACH(state) EACH(waiting)

/* Numbers that Python has, too. The module exports them. */
enum {
    /* IN_CALLBACK, SessionState.OPEN, IDLE and RUNNING; session/outbox.py checks at import that they are equal. */
    IN_CALLBACK = 1,
    SESSION_OPEN = 1,
    CALLBACKS_IDLE = 0,
    CALLBACKS_RUNNING = 1,
    /* RouterState.DRAINING; server/repeated.py checks it. */
    ROUTER_DRAINING = 1,
    /* Used by Python from here: wire/time_budget.py and wire/connection.py explain them. */
    MAX_STEP = 16,
    MAX_BUFFERED = 8192
};

/* Number of fields up to which C parses a head (the usual limit is 100), and up to which it builds a response. */
enum { MAX_HEAD_FIELDS = 128, MAX_RESPONSE_FIELDS = 64 };
#define MIN_CHARGE 0.001

/* --- types --- */

#define OBJECT(name) PyObject *name;
#define COUNTER(name) long long name;

typedef struct {
    PyObject_HEAD
    CALLBACKS_FIELDS(OBJECT)
} Callbacks;

typedef struct {
    PyObject_HEAD
    SESSION_FIELDS(OBJECT)
} Session;

typedef struct {
    PyObject_HEAD
    CONNECTION_FIELDS(OBJECT)
} Connection;

typedef struct {
    PyObject_HEAD
    HTTP_FIELDS(OBJECT)
} HTTPConnection;

typedef struct {
    PyObject_HEAD
    COUNTERS_FIELDS(COUNTER)
} Counters;

typedef struct {
    PyObject_HEAD
    double available;
    double slow_after;
} TimeBudget;

extern PyTypeObject *callbacks_type, *connection_type, *counters_type, *budget_type, *http_connection_type,
    *repeated_type, *session_type;

extern PyType_Spec repeated_spec;

/* socket.socket, and those of its subclasses that accept_socket() returns; NULL if there are none */
extern PyTypeObject *socket_type, *ipv4_type, *ipv6_type;

extern PyMethodDef session_methods[], connection_methods[], http_connection_methods[];

#define is_session(object) PyObject_TypeCheck(object, session_type)

/* Created once and never freed. CPython caches small integers, so a field is compared with these by identity. If a
 * field holds any other object, the call takes the Python fallback. */
extern PyObject *zero, *in_callback, *idle, *running, *infinity;

/* The method of the C base type, which an application cannot replace. */
extern PyObject *socket_fileno;

/* contextvars.copy_context() */
extern PyObject *copy_context;

extern struct names {
    NAMES(OBJECT)
} names;

/* --- in core.c --- */

/* Store an object in a field. Releasing the previous value may run application code. */
void set(PyObject **field, PyObject *value);

/* Return the integer in a field, or -1 if it is unset, not an integer or too large. */
Py_ssize_t number_in(PyObject *field);

/* Convert an integer to a limit, clipped to PY_SSIZE_T_MAX. Return -1 with an exception set if it is not an integer. */
Py_ssize_t limit_from(PyObject *number);

/* Return an attribute as a limit. Return -1 if it is not a valid limit; an exception may be set. The lookup may run
 * application code. */
Py_ssize_t limit_of(PyObject *settings, PyObject *name);

/* Add to a counter. */
void count(long long *counter, Py_ssize_t more);

/* Return whether a field holds a Counters object. */
int is_counting(PyObject *stats);

/* Call a method and discard the result. If `argument` is NULL, call it without one. Return 0, or -1 with an exception
 * set. */
int call(PyObject *object, PyObject *name, PyObject *argument);

/* Traverse, clear and free an object that begins with fields up to `size`. */
int visit_fields(PyObject *self, size_t size, visitproc visit, void *arg);
int clear_fields(PyObject *self, size_t size);
void free_object(PyObject *self, size_t size);

#define RETURN(failed) \
    do { \
        if (failed) \
            return NULL; \
        Py_RETURN_NONE; \
    } while (0)

/* --- in accept.c --- */

/* Create the types of accepted sockets. Return 0, or -1 with an exception set. */
int prepare_accept(PyObject *module);

/* Return whether an object is a socket that is written to without Python: a socket.socket, or an accepted one. */
static inline int
is_plain_socket(PyObject *object)
{
    PyTypeObject *type = object == NULL ? NULL : Py_TYPE(object);

    return type != NULL && (type == ipv4_type || type == socket_type || type == ipv6_type);
}

/* --- in buckets.c --- */

PyObject *enter_bucket(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *leave_bucket(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* --- in write_buffered.c --- */

PyObject *connection_flush(PyObject *object, PyObject *const *args, Py_ssize_t count);

/* --- in session.c --- */

/* Return whether the fields of a session hold objects of the types that Python stores there. */
int is_valid_session(Session *session);

/* Write the outbox to the receiver, if nothing is blocked. Return 0, or -1 with an exception set. */
int flush_outbox(Session *session);

/* Pass the current exception to a method handle_error(). Return 0, or -1 with an exception set. */
int handle_error(PyObject *handler);

/* Return monotonic seconds. On Windows, the resolution is 16 ms. */
double monotonic(void);

/* Return monotonic seconds of a clock that is cheaper, and advances every 1 to 10 ms. */
double coarse_monotonic(void);

/* --- in timed_steps.c --- */

extern PyType_Spec timed_steps_spec;
extern PyTypeObject *timed_steps_type;

/* --- in read_frames.c --- */

/* Append the strings of a JSON array to a list. Return 1, or 0 if it is anything else or has white space or \u, or -1
 * with an exception set. */
int read_strings(const unsigned char *payload, Py_ssize_t size, PyObject *messages);

/* Append the messages in `data` to a list. Return the position of the first frame that needs the Python parser, or -1
 * with an exception set. */
Py_ssize_t collect_messages(const unsigned char *data, Py_ssize_t end, Py_ssize_t max_size, PyObject *messages);

/* --- in write_frames.c --- */

/* Maximum bytes around a frame a[...]. */
enum { MAX_FRAMING = 32 };

/* Return the size of the frame a[...] that carries messages; 0 if they are not a list of str that UTF-8 can encode, or
 * -1 with an exception set. */
Py_ssize_t frame_size(PyObject *messages);

/* Write that frame, and return its end, or NULL with an exception set. */
unsigned char *put_frame(unsigned char *to, PyObject *messages);

/* Return the HTTP chunk that carries messages as one line, or NULL with an exception set. `size` is the frame's. */
PyObject *line_chunk(PyObject *messages, Py_ssize_t size);

/* --- in http.c and request_head.c --- */

/* Fill the tables of characters and methods. Return 0, or -1 with an exception set. */
int prepare_http(void);

extern PyType_Spec request_head_spec;
extern PyTypeObject *request_head_type;

/* --- the module's functions --- */

#ifdef __linux__
/* Accept a connection from a listening socket, and return it with the address of its client. */
PyObject *accept_socket(PyObject *module, PyObject *listening);
#endif

/* Return a response as bytes: status line and common fields, further fields, the empty line, and the body. */
PyObject *format_response(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Return the head of an HTTP request, or None if it is incomplete. */
PyObject *parse_head(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Append the messages in a buffer to a list. Return the position of the first frame that needs the Python parser: one
 * that read_text_frames() does not read, or whose text is not an array of strings without white space or \u. */
PyObject *read_messages(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Append the text of each complete frame from a position on to a list, and return the end position. Stop at the first
 * frame that is not complete, final, masked text, below 64 KiB and at most `max_size` bytes. */
PyObject *read_text_frames(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Return an awaitable that awaits a coroutine, and calls report_slow(seconds, name) of its callbacks after each step
 * that has taken `slow_after` seconds or longer. */
PyObject *time_steps(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Write the buffer of each connection to its socket, and append those that may have unwritten data to a list. */
PyObject *write_buffered(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* Return the websocket frame that carries messages, or None if they are not a list of str that UTF-8 can encode. */
PyObject *write_messages(PyObject *module, PyObject *messages);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif
