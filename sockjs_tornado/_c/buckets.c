/* The buckets of session/deadlines.py: enter_bucket() and leave_bucket(). */

#include "core.h"

/* As in Python: later deadlines are never checked. */
#define NEVER 1e15

/* Return a deadline, or NaN with an exception set. */
static double
due_of(PyObject *owner)
{
    PyObject *due = PyObject_GetAttr(owner, names.due);
    double seconds = due == NULL ? -1.0 : PyFloat_AsDouble(due);

    Py_XDECREF(due);
    return seconds == -1.0 && PyErr_Occurred() ? Py_NAN : seconds;
}

static int
leave(PyObject *buckets, PyObject *owner, PyObject *bucket)
{
    PyObject *members;
    int failed;

    if (PyObject_SetAttr(owner, names.bucket, Py_None) < 0)
        return -1;
    members = Py_XNewRef(PyDict_GetItemWithError(buckets, bucket));
    if (members == NULL)
        return PyErr_Occurred() ? -1 : 0;
    failed = PySet_Discard(members, owner) < 0 || (PySet_Size(members) == 0 && PyDict_DelItem(buckets, bucket) < 0);
    Py_DECREF(members);
    return -failed;
}

/* Add an owner to a bucket. Return whether it is a new one, or -1 with an exception set. */
static int
enter(PyObject *buckets, PyObject *owner, PyObject *bucket)
{
    PyObject *members;
    int is_new, failed;

    if (PyObject_SetAttr(owner, names.bucket, bucket) < 0)
        return -1;
    members = Py_XNewRef(PyDict_GetItemWithError(buckets, bucket));
    is_new = members == NULL;
    if (is_new && !PyErr_Occurred())
        members = PySet_New(NULL);
    failed = members == NULL || PySet_Add(members, owner) < 0
        || (is_new && PyDict_SetItem(buckets, bucket, members) < 0);
    Py_XDECREF(members);
    return failed ? -1 : is_new;
}

PyObject *
enter_bucket(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *buckets, *owner, *before, *bucket = NULL;
    double due, resolution;
    long long number;
    int result = 0;

    (void)module;
    if (count != 4 || !PyDict_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "enter_bucket: expected a dict, a number, a callable and an owner");
        return NULL;
    }
    buckets = args[0];
    owner = args[3];
    resolution = PyFloat_AsDouble(args[1]);
    if (PyErr_Occurred())
        return NULL;
    due = due_of(owner);
    if (PyErr_Occurred())
        return NULL;
    if (!(due <= NEVER))
        Py_RETURN_NONE;
    /* The bucket is due when all of its span has passed. */
    number = due > 0 ? (long long)(due / resolution) + 1 : 1;
    before = PyObject_GetAttr(owner, names.bucket);
    if (before == NULL)
        return NULL;
    if (before == Py_None || PyLong_AsLongLong(before) > number) {
        bucket = PyLong_FromLongLong(number);
        result = bucket == NULL || (before != Py_None && leave(buckets, owner, before) < 0)
            ? -1 : enter(buckets, owner, bucket);
    }
    if (result == 1) {
        PyObject *timer = PyObject_CallFunctionObjArgs(args[2], bucket, NULL);
        result = timer == NULL ? -1 : 0;
        Py_XDECREF(timer);
    }
    Py_XDECREF(bucket);
    Py_DECREF(before);
    RETURN(result < 0 || PyErr_Occurred());
}

PyObject *
leave_bucket(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *bucket;
    int result;

    (void)module;
    if (count != 2 || !PyDict_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "leave_bucket: expected a dict and an owner");
        return NULL;
    }
    bucket = PyObject_GetAttr(args[1], names.bucket);
    if (bucket == NULL)
        return NULL;
    result = bucket == Py_None ? 0 : leave(args[0], args[1], bucket);
    Py_DECREF(bucket);
    RETURN(result < 0);
}
