/* Sessions: what an ordinary message meets between its connection and the application, both ways. */

#include "core.h"

#ifdef _WIN32
#include <windows.h>
#else
#include <time.h>
#endif

/* As in turns.py: messages between two looks at the clock. */
enum { MAX_STEP = 16 };

/* Whether the fields are what they are once Python has filled them in. */
static int
is_whole(Session *self)
{
    return self->callbacks != NULL && PyObject_TypeCheck(self->callbacks, callbacks_type) && self->outbox != NULL
        && PyList_CheckExact(self->outbox) && self->receiver != NULL && self->settings != NULL && is_counting(self->stats)
        && self->thread != NULL && self->waiters != NULL;
}

/* Hand what is in the outbox to the receiver. */
static int
flush(Session *self)
{
    PyObject *receiver, *messages, *empty = PyList_New(0);
    int failed = empty == NULL;

    /* To make a list may be to collect garbage, of which somebody may have sent it, or closed the session. */
    if (failed || !is_whole(self) || !PyList_Size(self->outbox) || self->receiver == Py_None || self->hold != zero) {
        Py_XDECREF(empty);
        return -failed;
    }
    receiver = Py_NewRef(self->receiver);
    messages = self->outbox;
    self->outbox = empty;
    count(&((Counters *)self->stats)->messages_sent, PyList_Size(messages));
    set(&self->queued, zero);
    failed = call(receiver, names.send_messages, messages) < 0
        || (self->waiters != Py_None && call((PyObject *)self, names._wake, NULL) < 0);
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
    Py_ssize_t queued, size = PyObject_Size(message), max_bytes = -1, max_messages = -1;

    if (size >= 0 && self->hold == corked && self->settings != NULL) {
        PyObject *settings = Py_NewRef(self->settings);
        max_bytes = limit_of(settings, names.max_queue_bytes);
        max_messages = max_bytes < 0 ? -1 : limit_of(settings, names.max_queue_messages);
        Py_DECREF(settings);
    }
    /* Of what is wrong with a message or a limit, Python knows. */
    PyErr_Clear();
    queued = number_in(self->queued);
    if (size >= 0 && queued >= 0 && number_in(self->state) == OPENED && is_whole(self)
        && PyLong_AsUnsignedLong(self->thread) == PyThread_get_thread_ident()
        && (self->hold == corked ? size <= max_bytes - queued && PyList_Size(self->outbox) < max_messages
            : self->hold == zero && self->receiver != Py_None && size <= PY_SSIZE_T_MAX - queued)) {
        int is_held = self->hold != zero;
        PyObject *sum = PyLong_FromSsize_t(queued + size);
        int failed = sum == NULL || PyList_Append(self->outbox, message) < 0;
        if (!failed)
            set(&self->queued, sum);
        Py_XDECREF(sum);
        RETURN(failed || (!is_held && flush(self) < 0));
    }
    /* Where the thread is no number. */
    PyErr_Clear();
    return PyObject_CallMethodObjArgs(object, names._send_fallback, message, NULL);
}

PyDoc_STRVAR(send_prepared_doc,
"_send_prepared(message, /)\n--\n\n"
"Send one message that is on its way to many.");

static PyObject *
session_send_prepared(PyObject *object, PyObject *message)
{
    Session *self = (Session *)object;

    /* While there is a receiver and nothing holds messages back, the session is open and its outbox empty. */
    if (self->hold == zero && is_counting(self->stats) && self->receiver != NULL && self->receiver != Py_None) {
        PyObject *receiver = Py_NewRef(self->receiver);
        int failed;
        count(&((Counters *)self->stats)->messages_sent, 1);
        failed = call(receiver, names.send_prepared, message) < 0;
        Py_DECREF(receiver);
        RETURN(failed);
    }
    return PyObject_CallMethodObjArgs(object, names._send_prepared_fallback, message, NULL);
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
    failed = call(callbacks, names.raised, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    return failed;
}

/* Return monotonic seconds, to some milliseconds. */
static double
seconds(void)
{
#ifdef _WIN32
    return (double)GetTickCount64() / 1000;
#else
    struct timespec now;

#ifdef CLOCK_MONOTONIC_COARSE
    /* A quarter of the time, and no system call on any machine. It advances every 1 to 10 ms. */
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
#else
    clock_gettime(CLOCK_MONOTONIC, &now);
#endif
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
#endif
}

/* Call on_message for each message. Returns 1, or 0 where the callbacks have seen to the rest, or -1. */
static int
deliver(Session *self, PyObject *callbacks, PyObject *connection, PyObject *messages)
{
    /* For one message, which is what most reads bring, the clock is not read. */
    Py_ssize_t i, look = PyList_Size(messages) > 1;
    double deadline = look ? seconds() + ((Turns *)((Callbacks *)callbacks)->turns)->share : 0;
    PyObject *callback = PyObject_GetAttr(connection, names.on_message);
    int done = callback == NULL ? -1 : 1;

    /* To look a callback up may be to call a property, which may close the session. */
    if (done == 1 && number_in(self->state) != OPENED)
        done = call(callbacks, names.finish, NULL);
    for (i = 0; done == 1 && i < PyList_Size(messages); i++) {
        PyObject *message = Py_NewRef(PyList_GetItem(messages, i));
        PyObject *result = PyObject_CallFunctionObjArgs(callback, message, NULL);
        int is_late = 0;
        Py_DECREF(message);
        if (i + 1 == look && look < PyList_Size(messages)) {
            is_late = seconds() >= deadline;
            look += look < MAX_STEP ? look : MAX_STEP;
        }
        if (result == NULL)
            done = give_error(callbacks);
        else if (result != Py_None || is_late || number_in(self->state) != OPENED) {
            PyObject *rest = PyList_GetSlice(messages, i + 1, PyList_Size(messages));
            PyObject *gone = NULL;
            if (rest != NULL)
                gone = PyObject_CallMethodObjArgs(
                    callbacks, names.go_on, callback, rest, result, is_late ? Py_True : Py_False, NULL);
            done = gone == NULL ? -1 : 0;
            Py_XDECREF(rest);
            Py_XDECREF(gone);
        }
        Py_XDECREF(result);
    }
    Py_XDECREF(callback);
    return done;
}

/* Whether nothing but messages has come up while they were delivered; -1 with an exception set. */
static int
is_idle(Callbacks *callbacks)
{
    PyObject *inbox = callbacks->inbox;
    int is_empty = inbox == Py_None;

    if (callbacks->untold != Py_False || callbacks->closing != Py_False || inbox == NULL)
        return 0;
    if (!is_empty) {
        Py_INCREF(inbox);
        is_empty = PyObject_Not(inbox);
        Py_DECREF(inbox);
    }
    return is_empty;
}

PyDoc_STRVAR(receive_doc,
"_receive(messages, /)\n--\n\n"
"Hand the client's messages to the application, in order; what it sends meanwhile leaves together.");

static PyObject *
session_receive(PyObject *object, PyObject *messages)
{
    Session *self = (Session *)object;
    Callbacks *callbacks = (Callbacks *)self->callbacks;
    PyObject *connection;
    int done;

    if (number_in(self->state) != OPENED || self->hold != zero || !PyList_CheckExact(messages)
        || !is_whole(self) || callbacks->busy != Py_False || callbacks->connection == NULL || callbacks->turns == NULL
        || !PyObject_TypeCheck(callbacks->turns, turns_type))
        return PyObject_CallMethodObjArgs(object, names._receive_fallback, messages, NULL);
    Py_INCREF((PyObject *)callbacks);
    connection = Py_NewRef(callbacks->connection);
    count(&((Counters *)self->stats)->messages_received, PyList_Size(messages));
    set(&callbacks->busy, Py_True);
    set(&self->hold, corked);
    done = deliver(self, (PyObject *)callbacks, connection, messages);
    Py_DECREF(connection);
    if (done == 1) {
        int idle = is_idle(callbacks);
        if (idle == 1)
            set(&callbacks->busy, Py_False);
        else
            done = idle < 0 ? -1 : call((PyObject *)callbacks, names.finish, NULL);
    }
    Py_DECREF((PyObject *)callbacks);
    if (done < 0)
        return NULL;
    if (done == 1 && self->hold == corked && is_whole(self)) {
        int has_outbox = PyList_Size(self->outbox) > 0;
        set(&self->hold, zero);
        RETURN(has_outbox && flush(self) < 0);
    }
    return PyObject_CallMethodObjArgs(object, names._after_receive, NULL);
}

PyMethodDef session_methods[] = {
    {"_receive", session_receive, METH_O, receive_doc},
    {"send", session_send, METH_O, send_doc},
    {"_send_prepared", session_send_prepared, METH_O, send_prepared_doc},
    {NULL, NULL, 0, NULL},
};
