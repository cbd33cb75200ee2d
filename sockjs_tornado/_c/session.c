/* The fast path of sessions: from the connection to the application's callbacks, and from send() to the receiver. */

#include "core.h"

#include <math.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <time.h>
#endif

#if defined(_WIN32)
enum { PRECISE, COARSE };
#elif defined(CLOCK_MONOTONIC_COARSE)
/* The coarse clock takes a quarter of the time, and never a system call. It advances every 1 to 10 ms. */
enum { PRECISE = CLOCK_MONOTONIC, COARSE = CLOCK_MONOTONIC_COARSE };
#else
enum { PRECISE = CLOCK_MONOTONIC, COARSE = CLOCK_MONOTONIC };
#endif

int
is_valid_session(Session *self)
{
    return self->_callbacks != NULL && PyObject_TypeCheck(self->_callbacks, callbacks_type) && self->_outbox != NULL
        && PyList_CheckExact(self->_outbox) && self->_receiver != NULL && self->_settings != NULL
        && is_counting(self->_stats) && self->_thread != NULL && self->_outbox_waiters != NULL;
}

int
flush_outbox(Session *self)
{
    PyObject *receiver, *messages, *empty = PyList_New(0);
    int failed = empty == NULL;

    /* Allocating may run the garbage collector, whose finalizers may send or close: check the fields afterwards. */
    if (failed || !is_valid_session(self) || !PyList_Size(self->_outbox) || self->_receiver == Py_None
        || self->_blocked != zero) {
        Py_XDECREF(empty);
        return -failed;
    }
    receiver = Py_NewRef(self->_receiver);
    messages = self->_outbox;
    self->_outbox = empty;
    count(&((Counters *)self->_stats)->messages_sent, PyList_Size(messages));
    set(&self->queued, zero);
    failed = call(receiver, names.send_messages, messages) < 0
        || (self->_outbox_waiters != Py_None && call((PyObject *)self, names._wake_outbox_waiters, NULL) < 0);
    Py_DECREF(receiver);
    Py_DECREF(messages);
    return -failed;
}

static PyObject *
session_send(PyObject *object, PyObject *message)
{
    Session *self = (Session *)object;
    Py_ssize_t queued, size = PyObject_Size(message), max_bytes = -1, max_messages = -1;

    if (size >= 0 && self->_blocked == in_callback && self->_settings != NULL) {
        PyObject *settings = Py_NewRef(self->_settings);
        max_bytes = limit_of(settings, names.max_queue_bytes);
        max_messages = max_bytes < 0 ? -1 : limit_of(settings, names.max_queue_messages);
        Py_DECREF(settings);
    }
    /* The fallback raises the exception for an invalid message or limit. */
    PyErr_Clear();
    queued = number_in(self->queued);
    if (size >= 0 && queued >= 0 && number_in(self->state) == SESSION_OPEN && is_valid_session(self)
        && PyLong_AsUnsignedLong(self->_thread) == PyThread_get_thread_ident()
        && (self->_blocked == in_callback ? size <= max_bytes - queued && PyList_Size(self->_outbox) < max_messages
            /* Its unsent bytes count. */
            && self->_unsent_response == Py_None
            : self->_blocked == zero && self->_receiver != Py_None && size <= PY_SSIZE_T_MAX - queued)) {
        int is_blocked = self->_blocked != zero;
        PyObject *sum = PyLong_FromSsize_t(queued + size);
        int failed = sum == NULL || PyList_Append(self->_outbox, message) < 0;
        if (!failed)
            set(&self->queued, sum);
        Py_XDECREF(sum);
        RETURN(failed || (!is_blocked && flush_outbox(self) < 0));
    }
    /* If `thread` is not an integer. */
    PyErr_Clear();
    return PyObject_CallMethodObjArgs(object, names._send_fallback, message, NULL);
}

static PyObject *
session_send_message(PyObject *object, PyObject *const *args, Py_ssize_t count, PyObject *keywords)
{
    PyObject *method, *positional, *named = NULL, *result = NULL;
    Py_ssize_t i;

    if (count == 1 && keywords == NULL && PyUnicode_CheckExact(args[0]))
        return session_send(object, args[0]);
    method = PyObject_GetAttr(object, names._send_message_fallback);
    positional = method == NULL ? NULL : PyTuple_New(count);
    for (i = 0; positional != NULL && i < count; i++)
        PyTuple_SetItem(positional, i, Py_NewRef(args[i]));
    if (positional != NULL)
        named = PyDict_New();
    for (i = 0; named != NULL && keywords != NULL && i < PyTuple_Size(keywords); i++)
        if (PyDict_SetItem(named, PyTuple_GetItem(keywords, i), args[count + i]) < 0)
            Py_CLEAR(named);
    if (named != NULL)
        result = PyObject_Call(method, positional, named);
    Py_XDECREF(method);
    Py_XDECREF(positional);
    Py_XDECREF(named);
    return result;
}

static PyObject *
session_send_prepared(PyObject *object, PyObject *message)
{
    Session *self = (Session *)object;

    /* If a receiver is attached and nothing is blocked, the session is open and its outbox is empty. */
    if (self->_blocked == zero && is_counting(self->_stats) && self->_receiver != NULL && self->_receiver != Py_None) {
        PyObject *receiver = Py_NewRef(self->_receiver);
        int failed;
        count(&((Counters *)self->_stats)->messages_sent, 1);
        failed = call(receiver, names.send_prepared, message) < 0;
        Py_DECREF(receiver);
        RETURN(failed);
    }
    return PyObject_CallMethodObjArgs(object, names._send_prepared_fallback, message, NULL);
}

int
handle_error(PyObject *handler)
{
    PyObject *type, *error, *traceback;
    int failed;

    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    failed = call(handler, names.handle_error, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return failed;
}

/* Return monotonic seconds. On Windows, the resolution is 16 ms. */
static double
seconds(int clock)
{
#ifdef _WIN32
    return (double)GetTickCount64() / 1000;
#else
    struct timespec now;

    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
#endif
}

double
monotonic(void)
{
    return seconds(PRECISE);
}

double
coarse_monotonic(void)
{
    return seconds(COARSE);
}

/* Charge the time since `start` to a budget, or do nothing if it is NULL. Return 0, or -1 with an exception set. */
static int
charge(PyObject *budget, double start)
{
    double taken = budget == NULL ? 0 : seconds(PRECISE) - start;
    PyObject *number;
    int failed;

    if (taken < MIN_CHARGE)
        return 0;
    number = PyFloat_FromDouble(taken);
    failed = number == NULL || call(budget, names.charge, number) < 0;
    Py_XDECREF(number);
    return -failed;
}

/* Whether deliveries that take so many seconds are reported. */
#define IS_REPORTED(slow_after) ((slow_after) > 0 && (slow_after) < HUGE_VAL)

/* Report a delivery since `began` that took `slow_after` or longer. Return 0, or -1 with an exception set. */
static int
report_slow(PyObject *callbacks, double began, double slow_after)
{
    double taken = IS_REPORTED(slow_after) ? seconds(COARSE) - began : -1;
    PyObject *number;
    int failed;

    if (taken < slow_after)
        return 0;
    number = PyFloat_FromDouble(taken);
    failed = number == NULL || call(callbacks, names.report_slow, number) < 0;
    Py_XDECREF(number);
    return -failed;
}

/* Report a delivery, then handle the exception of its last call, which may release the session. Return 0, or -1 with an
 * exception set. */
static int
handle_slow_error(PyObject *callbacks, double began, double slow_after)
{
    PyObject *type, *error, *traceback;

    PyErr_Fetch(&type, &error, &traceback);
    if (report_slow(callbacks, began, slow_after) < 0) {
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
        return -1;
    }
    PyErr_Restore(type, error, traceback);
    return handle_error(callbacks);
}

/* Call on_message for each message. Return 1, or 0 if Callbacks has handled the rest, or -1 with an exception set. */
static int
deliver(Session *self, PyObject *callbacks, PyObject *connection, PyObject *messages)
{
    /* Most reads contain one message: read only the coarse clock for it, before and after it. */
    Py_ssize_t i, next_look = PyList_Size(messages) > 1;
    TimeBudget *limits = (TimeBudget *)((Callbacks *)callbacks)->_budget;
    double slow_after = limits->slow_after, began = next_look || IS_REPORTED(slow_after) ? seconds(COARSE) : 0;
    double deadline = began + limits->available;
    PyObject *budget = next_look ? Py_NewRef(((Callbacks *)callbacks)->_budget) : NULL;
    double start = next_look ? seconds(PRECISE) : 0;
    PyObject *callback = PyObject_GetAttr(connection, names.on_message);
    int done = callback == NULL ? -1 : 1;

    /* If on_message is a property, its lookup may have closed the session. */
    if (done == 1 && number_in(self->state) != SESSION_OPEN) {
        done = call(callbacks, names.finish_delivery, NULL);
        slow_after = HUGE_VAL;
    }
    for (i = 0; done == 1 && i < PyList_Size(messages); i++) {
        PyObject *message = Py_NewRef(PyList_GetItem(messages, i));
        PyObject *result = PyObject_CallFunctionObjArgs(callback, message, NULL);
        int is_late = 0;
        Py_DECREF(message);
        if (i + 1 == next_look && next_look < PyList_Size(messages)) {
            is_late = seconds(COARSE) >= deadline;
            next_look += next_look < MAX_STEP ? next_look : MAX_STEP;
        }
        if (result == NULL) {
            done = handle_slow_error(callbacks, began, slow_after);
            slow_after = HUGE_VAL;
        }
        else if (result != Py_None || is_late || number_in(self->state) != SESSION_OPEN) {
            PyObject *rest = PyList_GetSlice(messages, i + 1, PyList_Size(messages));
            PyObject *outcome = NULL;
            /* Callbacks charges and reports the rest itself. */
            if (rest != NULL && charge(budget, start) == 0 && report_slow(callbacks, began, slow_after) == 0)
                outcome = PyObject_CallMethodObjArgs(
                    callbacks, names.continue_delivery, callback, rest, result, is_late ? Py_True : Py_False, NULL);
            done = outcome == NULL ? -1 : 0;
            Py_CLEAR(budget);
            slow_after = HUGE_VAL;
            Py_XDECREF(rest);
            Py_XDECREF(outcome);
        }
        Py_XDECREF(result);
    }
    Py_XDECREF(callback);
    if (done >= 0 && (charge(budget, start) < 0 || report_slow(callbacks, began, slow_after) < 0))
        done = -1;
    Py_XDECREF(budget);
    return done;
}

static PyObject *
session_receive(PyObject *object, PyObject *messages)
{
    Session *self = (Session *)object;
    Callbacks *callbacks = (Callbacks *)self->_callbacks;
    PyObject *connection;
    int done;

    if (number_in(self->state) != SESSION_OPEN || self->_blocked != zero || !PyList_CheckExact(messages)
        || !is_valid_session(self) || callbacks->_state != idle || callbacks->connection == NULL
        || callbacks->_budget == NULL || !PyObject_TypeCheck(callbacks->_budget, budget_type))
        return PyObject_CallMethodObjArgs(object, names._receive_fallback, messages, NULL);
    Py_INCREF((PyObject *)callbacks);
    connection = Py_NewRef(callbacks->connection);
    count(&((Counters *)self->_stats)->messages_received, PyList_Size(messages));
    set(&callbacks->_state, running);
    set(&self->_blocked, in_callback);
    done = deliver(self, (PyObject *)callbacks, connection, messages);
    Py_DECREF(connection);
    if (done == 1) {
        /* If no callback has become due while messages were delivered. */
        if (callbacks->_events == Py_None)
            set(&callbacks->_state, idle);
        else if (call((PyObject *)callbacks, names.finish_delivery, NULL) < 0)
            done = -1;
    }
    Py_DECREF((PyObject *)callbacks);
    if (done < 0)
        return NULL;
    if (done == 1 && self->_blocked == in_callback && is_valid_session(self)) {
        int has_outbox = PyList_Size(self->_outbox) > 0;
        set(&self->_blocked, zero);
        RETURN(has_outbox && flush_outbox(self) < 0);
    }
    return PyObject_CallMethodObjArgs(object, names._after_receive, NULL);
}

PyMethodDef session_methods[] = {
    {"_receive", session_receive, METH_O, "_receive($self, messages, /)\n--\n\n"},
    {"send", session_send, METH_O,
     "send($self, message, /)\n--\n\nSend one message. Does nothing if the session is closed."},
    {"send_message", (PyCFunction)(void (*)(void))session_send_message, METH_FASTCALL | METH_KEYWORDS,
     "send_message($self, msg, stats=True, binary=False)\n--\n\n"
     "Send a message that ``SockJSConnection.send`` accepts; ``stats`` is ignored.\n\n"
     "``SockJSConnection.send`` calls it while the session is open. A session class may override it."},
    {"_send_prepared", session_send_prepared, METH_O, "_send_prepared($self, message, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};
