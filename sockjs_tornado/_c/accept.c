/* Accepting connections: accept_socket(). */

#ifdef __linux__
#define _GNU_SOURCE /* accept4() */
#endif

#include "core.h"

#ifdef __linux__
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Return a subclass of socket.socket whose family and type are class attributes. The properties of the base class make
 * members of enumerations of the numbers at each access, which takes a microsecond. */
static PyTypeObject *
new_type(PyObject *module, const char *name, const char *family_name)
{
    PyObject *sockets = PyImport_ImportModule("socket");
    PyObject *family = sockets == NULL ? NULL : PyObject_GetAttrString(sockets, family_name);
    PyObject *type = family == NULL ? NULL : PyObject_GetAttrString(sockets, "SOCK_STREAM");
    PyObject *made = type == NULL ? NULL
        : PyObject_CallFunction((PyObject *)&PyType_Type, "s(O){s:(),s:O,s:O,s:s}", name, socket_type, "__slots__",
            "family", family, "type", type, "__module__", "sockjs_tornado._speedups");

    Py_XDECREF(type);
    Py_XDECREF(family);
    Py_XDECREF(sockets);
    if (made != NULL && PyModule_AddObjectRef(module, name, made) < 0)
        Py_CLEAR(made);
    return (PyTypeObject *)made;
}

int
prepare_accept(PyObject *module)
{
    ipv4_type = new_type(module, "IPv4Socket", "AF_INET");
    ipv6_type = ipv4_type == NULL ? NULL : new_type(module, "IPv6Socket", "AF_INET6");
    return ipv6_type == NULL ? -1 : 0;
}

/* Return an address as Python does, or that of the connection's other end for a family other than IPv4 and IPv6. */
static PyObject *
address_of(PyObject *connection, const struct sockaddr_storage *storage)
{
    char text[INET6_ADDRSTRLEN];
    const struct sockaddr_in *ipv4 = (const struct sockaddr_in *)storage;
    const struct sockaddr_in6 *ipv6 = (const struct sockaddr_in6 *)storage;

    if (storage->ss_family == AF_INET && inet_ntop(AF_INET, &ipv4->sin_addr, text, sizeof text) != NULL)
        return Py_BuildValue("si", text, (int)ntohs(ipv4->sin_port));
    if (storage->ss_family == AF_INET6 && inet_ntop(AF_INET6, &ipv6->sin6_addr, text, sizeof text) != NULL)
        return Py_BuildValue("siII", text, (int)ntohs(ipv6->sin6_port), (unsigned)ntohl(ipv6->sin6_flowinfo),
            (unsigned)ipv6->sin6_scope_id);
    return PyObject_CallMethod(connection, "getpeername", NULL);
}

PyObject *
accept_socket(PyObject *module, PyObject *listening)
{
    struct sockaddr_storage storage;
    socklen_t size = sizeof storage;
    PyObject *number, *connection, *address;
    PyTypeObject *type;
    int fd;

    (void)module;
    number = PyObject_CallFunctionObjArgs(socket_fileno, listening, NULL);
    fd = number == NULL ? -1 : (int)PyLong_AsLong(number);
    Py_XDECREF(number);
    if (number == NULL)
        return NULL;
    number = PyObject_GetAttr(listening, names.proto);
    if (number == NULL)
        return NULL;
    memset(&storage, 0, sizeof storage);
    do
        fd = accept4(fd, (struct sockaddr *)&storage, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    while (fd < 0 && errno == EINTR && PyErr_CheckSignals() == 0);
    if (fd < 0) {
        Py_DECREF(number);
        return PyErr_Occurred() ? NULL : PyErr_SetFromErrno(PyExc_OSError);
    }
    type = storage.ss_family == AF_INET ? ipv4_type : storage.ss_family == AF_INET6 ? ipv6_type : socket_type;
    connection = PyObject_CallFunction(
        (PyObject *)type, "iiOi", (int)storage.ss_family, (int)SOCK_STREAM, number, fd);
    Py_DECREF(number);
    if (connection == NULL) {
        close(fd);
        return NULL;
    }
    /* It owns the descriptor from now on. */
    address = address_of(connection, &storage);
    return address == NULL ? (Py_DECREF(connection), NULL) : Py_BuildValue("NN", connection, address);
}

#else

int
prepare_accept(PyObject *module)
{
    (void)module;
    return 0;
}

#endif
