/* Sessions: what an ordinary message meets between its connection and the application, both ways. */

#include "_core.h"

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
    if (failed || !is_whole(self) || !PyList_Size(self->outbox) || self->receiver == Py_None
        || number_in(self->hold) != 0) {
        Py_XDECREF(empty);
        return -failed;
    }
    receiver = Py_NewRef(self->receiver);
    messages = self->outbox;
    self->outbox = empty;
    set(&self->queued, zero);
    ((Counters *)self->stats)->messages_sent += PyList_Size(messages);
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
    int is_ordinary = number_in(self->state) == OPENED && is_whole(self)
        && PyLong_AsUnsignedLong(self->thread) == PyThread_get_thread_ident();
    Py_ssize_t size = is_ordinary ? PyObject_Size(message) : -1;
    Py_ssize_t hold = number_in(self->hold), queued = number_in(self->queued);

    if (size < 0 || queued < 0)
        is_ordinary = 0;
    else if (hold == CORKED)
        is_ordinary = size <= limit_of(self->settings, names.max_queue_bytes) - queued
            && PyList_Size(self->outbox) < limit_of(self->settings, names.max_queue_messages);
    else
        is_ordinary = hold == 0 && self->receiver != Py_None;
    /* Of what is wrong with a message or a limit, Python knows. */
    PyErr_Clear();
    if (is_ordinary) {
        PyObject *sum = PyLong_FromSsize_t(queued + size);
        int failed = sum == NULL || PyList_Append(self->outbox, message) < 0;
        if (!failed)
            set(&self->queued, sum);
        Py_XDECREF(sum);
        RETURN(failed || (hold == 0 && flush(self) < 0));
    }
    return PyObject_CallMethodObjArgs(object, names._send, message, NULL);
}

PyDoc_STRVAR(send_prepared_doc,
"send_prepared(message, /)\n--\n\n"
"Send one message that is on its way to many.");

static PyObject *
session_send_prepared(PyObject *object, PyObject *message)
{
    Session *self = (Session *)object;

    /* While there is a receiver and nothing holds messages back, the session is open and its outbox empty. */
    if (number_in(self->hold) == 0 && is_counting(self->stats) && self->receiver != NULL && self->receiver != Py_None) {
        PyObject *receiver = Py_NewRef(self->receiver);
        int failed;
        ((Counters *)self->stats)->messages_sent++;
        failed = call(receiver, names.send_prepared, message) < 0;
        Py_DECREF(receiver);
        RETURN(failed);
    }
    return PyObject_CallMethodObjArgs(object, names._send_prepared, message, NULL);
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

/* Call on_message for each message. Returns 1, or 0 where the callbacks have seen to the rest, or -1. */
static int
deliver(Session *self, PyObject *callbacks, PyObject *messages)
{
    PyObject *callback = PyObject_GetAttr(((Callbacks *)callbacks)->connection, names.on_message);
    Py_ssize_t i;
    int done = callback == NULL ? -1 : 1;

    /* To look a callback up may be to call a property, which may close the session. */
    if (done == 1 && number_in(self->state) != OPENED)
        done = call(callbacks, names.finish, NULL);
    for (i = 0; done == 1 && i < PyList_Size(messages); i++) {
        PyObject *message = Py_NewRef(PyList_GetItem(messages, i));
        PyObject *result = PyObject_CallFunctionObjArgs(callback, message, NULL);
        Py_DECREF(message);
        if (result == NULL)
            done = give_error(callbacks);
        else if (result != Py_None || number_in(self->state) != OPENED) {
            PyObject *rest = PyList_GetSlice(messages, i + 1, PyList_Size(messages));
            PyObject *gone = NULL;
            if (rest != NULL)
                gone = PyObject_CallMethodObjArgs(callbacks, names.go_on, callback, rest, result, NULL);
            done = gone == NULL ? -1 : 0;
            Py_XDECREF(rest);
            Py_XDECREF(gone);
        }
        Py_XDECREF(result);
    }
    Py_XDECREF(callback);
    return done;
}

PyDoc_STRVAR(receive_doc,
"receive(messages, /)\n--\n\n"
"Hand the client's messages to the application, in order; what it sends meanwhile leaves together.");

static PyObject *
session_receive(PyObject *object, PyObject *messages)
{
    Session *self = (Session *)object;
    Callbacks *callbacks = (Callbacks *)self->callbacks;
    int done, is_idle;

    if (number_in(self->state) != OPENED || number_in(self->hold) != 0 || !PyList_CheckExact(messages)
        || !is_whole(self) || callbacks->busy != Py_False || callbacks->connection == NULL)
        return PyObject_CallMethodObjArgs(object, names._receive, messages, NULL);
    ((Counters *)self->stats)->messages_received += PyList_Size(messages);
    set(&self->hold, corked);
    set(&callbacks->busy, Py_True);
    Py_INCREF((PyObject *)callbacks);
    done = deliver(self, (PyObject *)callbacks, messages);
    if (done == 1) {
        is_idle = callbacks->untold == Py_False && callbacks->closing == Py_False && callbacks->inbox != NULL
            ? PyObject_Not(callbacks->inbox) : 0;
        if (is_idle == 1)
            set(&callbacks->busy, Py_False);
        else
            done = is_idle < 0 ? -1 : call((PyObject *)callbacks, names.finish, NULL);
    }
    Py_DECREF((PyObject *)callbacks);
    if (done < 0)
        return NULL;
    if (done == 1 && number_in(self->hold) == CORKED && is_whole(self)) {
        set(&self->hold, zero);
        RETURN(PyList_Size(self->outbox) && flush(self) < 0);
    }
    return PyObject_CallMethodObjArgs(object, names._received, NULL);
}

PyMethodDef session_methods[] = {
    {"receive", session_receive, METH_O, receive_doc},
    {"send", session_send, METH_O, send_doc},
    {"send_prepared", session_send_prepared, METH_O, send_prepared_doc},
    {NULL, NULL, 0, NULL},
};
