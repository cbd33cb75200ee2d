/* What _speedups.c and _core.c have of each other. */

#ifndef SOCKJS_TORNADO_CORE_H
#define SOCKJS_TORNADO_CORE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* Return a limit, which may be beyond any size; -1 with an exception set where it is none. */
Py_ssize_t limit_from(PyObject *number);

/* Append what is in the SockJS frames of `data` to a list, and return where the first frame begins that is out of the
 * ordinary; -1 with an exception set. */
Py_ssize_t collect_messages(const unsigned char *data, Py_ssize_t end, Py_ssize_t max_size, PyObject *messages);

/* Return the websocket frame with the SockJS frame of a list of messages, or None. */
PyObject *write_messages(PyObject *module, PyObject *messages);

/* Add the types to the module. */
int add_core(PyObject *module);

#endif
