/* HTTP/1.1 responses: format_response(). */

#include "http.h"

/* Return the characters of a string if it is ASCII. Return NULL without an exception if it is anything else. */
static struct text
ascii_text(PyObject *string)
{
    struct text text = {NULL, 0};

    if (PyUnicode_Check(string)) {
        text.start = (const unsigned char *)PyUnicode_AsUTF8AndSize(string, &text.size);
        if (text.start == NULL)
            PyErr_Clear();
        else if (text.size != PyUnicode_GetLength(string))
            text.start = NULL;
    }
    return text;
}

/* Return whether a text contains CR, LF or NUL. */
static int
is_unsafe(struct text text)
{
    const unsigned char *at = text.start, *end = at + text.size;

    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        if (BELOW(word, '\r' + 1))
            break;
    }
    for (; at < end; at++)
        if (*at == '\r' || *at == '\n' || *at == 0)
            return 1;
    return 0;
}

static unsigned char *
copy(unsigned char *to, const void *from, Py_ssize_t size)
{
    memcpy(to, from, size);
    return to + size;
}

/* Return a response, or NULL, without an exception if it is left to the twin. No other code runs meanwhile: nothing
 * that the garbage collector tracks is allocated. */
static PyObject *
join_response(PyObject *status_and_common, PyObject *fields, PyObject *body)
{
    struct text first = ascii_text(status_and_common), texts[2 * MAX_RESPONSE_FIELDS];
    Py_ssize_t i, size, count, body_size;
    PyObject *response;
    unsigned char *to;
    char *data;

    if (first.start == NULL || !PyList_Check(fields) || !PyBytes_Check(body))
        return NULL;
    if (PyBytes_AsStringAndSize(body, &data, &body_size) < 0)
        return NULL;
    count = 2 * PyList_Size(fields);
    if (count > 2 * MAX_RESPONSE_FIELDS)
        return NULL;
    size = first.size + 2 + body_size;
    for (i = 0; i < count; i++) {
        PyObject *field = PyList_GetItem(fields, i / 2);

        if (!PyTuple_Check(field) || PyTuple_Size(field) != 2)
            return NULL;
        texts[i] = ascii_text(PyTuple_GetItem(field, i % 2));
        if (texts[i].start == NULL || is_unsafe(texts[i]))
            return NULL;
        size += texts[i].size + 2;
    }
    response = PyBytes_FromStringAndSize(NULL, size);
    if (response == NULL)
        return NULL;
    to = copy((unsigned char *)PyBytes_AsString(response), first.start, first.size);
    for (i = 0; i < count; i++) {
        to = copy(to, texts[i].start, texts[i].size);
        to = copy(to, i % 2 ? "\r\n" : ": ", 2);
    }
    to = copy(to, "\r\n", 2);
    copy(to, data, body_size);
    return response;
}

PyObject *
format_response(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *response;

    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "format_response() takes a str, a list and bytes");
        return NULL;
    }
    response = join_response(args[0], args[1], args[2]);
    if (response == NULL && !PyErr_Occurred())
        response = call_twin(names._format_response_python, args, count);
    return response;
}
