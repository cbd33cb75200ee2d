/* The steps of an `async def` callback: what runs between two awaits, and blocks the event loop. */

#include "core.h"

#include <stddef.h>

typedef struct {
    PyObject_HEAD
    PyObject *coroutine;
    PyObject *callbacks;
    PyObject *name;
    double slow_after;
} TimedSteps;

#define OBJECTS offsetof(TimedSteps, slow_after)

PyTypeObject *timed_steps_type;

/* Report a step since `began`, if it was slow. An exception of the report replaces that of the step. Return 0, or -1
 * with an exception set. */
static int
report_step(TimedSteps *self, double began)
{
    double taken = coarse_monotonic() - began;
    PyObject *type, *error, *traceback, *number, *result = NULL, *callbacks, *name;

    if (taken < self->slow_after || self->callbacks == NULL || self->name == NULL)
        return 0;
    callbacks = Py_NewRef(self->callbacks);
    name = Py_NewRef(self->name);
    PyErr_Fetch(&type, &error, &traceback);
    number = PyFloat_FromDouble(taken);
    if (number != NULL)
        result = PyObject_CallMethodObjArgs(callbacks, names.report_slow, number, name, NULL);
    Py_XDECREF(number);
    Py_DECREF(callbacks);
    Py_DECREF(name);
    if (result == NULL) {
        Py_XDECREF(type);
        Py_XDECREF(error);
        Py_XDECREF(traceback);
        return -1;
    }
    Py_DECREF(result);
    PyErr_Restore(type, error, traceback);
    return 0;
}

static PySendResult
steps_send(PyObject *object, PyObject *argument, PyObject **result)
{
    TimedSteps *self = (TimedSteps *)object;
    PyObject *coroutine = Py_XNewRef(self->coroutine);
    double began = coarse_monotonic();
    PySendResult sent;

    *result = NULL;
    if (coroutine == NULL) {
        /* The garbage collector has cleared it. */
        PyErr_SetString(PyExc_RuntimeError, "the coroutine was freed");
        return PYGEN_ERROR;
    }
    sent = PyIter_Send(coroutine, argument, result);
    Py_DECREF(coroutine);
    if (report_step(self, began) < 0) {
        Py_CLEAR(*result);
        return PYGEN_ERROR;
    }
    return sent;
}

/* Raise StopIteration with a value, whatever its type. */
static void
stop_iteration(PyObject *value)
{
    PyObject *error = PyObject_CallFunctionObjArgs(PyExc_StopIteration, value, NULL);

    if (error != NULL)
        PyErr_SetObject(PyExc_StopIteration, error);
    Py_XDECREF(error);
}

static PyObject *
steps_send_method(PyObject *self, PyObject *argument)
{
    PyObject *result;
    PySendResult sent = steps_send(self, argument, &result);

    if (sent == PYGEN_RETURN) {
        stop_iteration(result);
        Py_CLEAR(result);
    }
    return result;
}

static PyObject *
steps_next(PyObject *self)
{
    return steps_send_method(self, Py_None);
}

/* Call a method of the coroutine. */
static PyObject *
delegate(TimedSteps *self, const char *name, PyObject *arguments)
{
    PyObject *method = self->coroutine == NULL ? NULL : PyObject_GetAttrString(self->coroutine, name), *result;
    double began = coarse_monotonic();

    if (method == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "the coroutine was freed");
        return NULL;
    }
    result = PyObject_CallObject(method, arguments);
    Py_DECREF(method);
    if (report_step(self, began) < 0)
        Py_CLEAR(result);
    return result;
}

static PyObject *
steps_throw(PyObject *self, PyObject *arguments)
{
    return delegate((TimedSteps *)self, "throw", arguments);
}

static PyObject *
steps_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    return delegate((TimedSteps *)self, "close", NULL);
}

static int
steps_traverse(PyObject *self, visitproc visit, void *arg)
{
    return visit_fields(self, OBJECTS, visit, arg);
}

static int
steps_clear(PyObject *self)
{
    return clear_fields(self, OBJECTS);
}

static void
steps_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    clear_fields(self, OBJECTS);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyMethodDef steps_methods[] = {
    {"send", steps_send_method, METH_O, NULL},
    {"throw", steps_throw, METH_VARARGS, NULL},
    {"close", steps_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot steps_slots[] = {
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, steps_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, steps_next},
    {Py_tp_methods, steps_methods},
    {Py_tp_traverse, steps_traverse},
    {Py_tp_clear, steps_clear},
    {Py_tp_dealloc, steps_dealloc},
    {0, NULL},
};

PyType_Spec timed_steps_spec = {"sockjs_tornado._speedups.TimedSteps", sizeof(TimedSteps), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, steps_slots};

PyObject *
time_steps(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    TimedSteps *self;
    double slow_after;

    (void)module;
    if (count != 4) {
        PyErr_Format(PyExc_TypeError, "expected 4 arguments, got %zd", count);
        return NULL;
    }
    slow_after = PyFloat_AsDouble(args[3]);
    if (slow_after == -1 && PyErr_Occurred())
        return NULL;
    self = PyObject_GC_New(TimedSteps, timed_steps_type);
    if (self == NULL)
        return NULL;
    self->coroutine = Py_NewRef(args[0]);
    self->callbacks = Py_NewRef(args[1]);
    self->name = Py_NewRef(args[2]);
    self->slow_after = slow_after;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}
