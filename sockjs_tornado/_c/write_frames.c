/* The frames a[...] that carry messages to clients, for websockets and for HTTP: write_messages(). */

#include "frames.h"

#include <stdio.h>

/* Return whether three bytes of UTF-8 encode a character that some clients do not receive unchanged:
 * U+200C-200F, U+2028-202F, U+2060-206F, U+FFF0-FFFF. */
static int
must_escape(const unsigned char *c)
{
    if (c[0] == 0xE2)
        return (c[1] == 0x80 && ((c[2] >= 0x8C && c[2] <= 0x8F) || (c[2] >= 0xA8 && c[2] <= 0xAF)))
            || (c[1] == 0x81 && c[2] >= 0xA0 && c[2] <= 0xAF);
    return c[0] == 0xEF && c[1] == 0xBF && c[2] >= 0xB0;
}

/* Return the size of a text as a JSON string, with the quotes. */
static Py_ssize_t
quoted_size(const unsigned char *text, Py_ssize_t size)
{
    Py_ssize_t quoted = size + 2;
    Py_ssize_t i = 0;

    /* Each byte may become six bytes. */
    if (size > (PY_SSIZE_T_MAX - 2) / 6)
        return PY_SSIZE_T_MAX;

    while ((i += plain_prefix(text + i, size - i)) < size) {
        for (; i < size && text[i] >= 0x80; i++) {
            if (text[i] >= 0xE2 && must_escape(text + i)) {
                quoted += 3;
                i += 2;
            }
        }
        for (; i < size && text[i] < 0x80 && escape_growth(text[i]); i++)
            quoted += escape_growth(text[i]);
    }
    return quoted;
}

/* Write \uXXXX, and return the end. */
static unsigned char *
put_escape(unsigned char *to, unsigned int code)
{
    static const char digits[] = "0123456789abcdef";

    *to++ = '\\';
    *to++ = 'u';
    *to++ = digits[code >> 12];
    *to++ = digits[code >> 8 & 15];
    *to++ = digits[code >> 4 & 15];
    *to++ = digits[code & 15];
    return to;
}

/* Write a text as a JSON string, and return the end. */
static unsigned char *
put_quoted(unsigned char *to, const unsigned char *text, Py_ssize_t size)
{
    static const char shorts[] = "btn?fr";
    Py_ssize_t i = 0;

    *to++ = '"';
    while (i < size) {
        Py_ssize_t plain = plain_prefix(text + i, size - i);
        memcpy(to, text + i, plain);
        to += plain;
        i += plain;
        for (; i < size && text[i] >= 0x80; i++) {
            if (text[i] >= 0xE2 && must_escape(text + i)) {
                to = put_escape(to, (text[i] & 15u) << 12 | (text[i + 1] & 63u) << 6 | (text[i + 2] & 63u));
                i += 2;
            }
            else
                *to++ = text[i];
        }
        for (; i < size && text[i] < 0x80 && escape_growth(text[i]); i++) {
            if (escape_growth(text[i]) == 1) {
                *to++ = '\\';
                *to++ = text[i] >= 0x20 ? text[i] : (unsigned char)shorts[text[i] - '\b'];
            }
            else
                to = put_escape(to, text[i]);
        }
    }
    *to++ = '"';
    return to;
}

Py_ssize_t
frame_size(PyObject *messages)
{
    Py_ssize_t count, i, payload, size;

    if (!PyList_CheckExact(messages))
        return 0;
    count = PyList_Size(messages);
    /* a[ and ], and the commas. */
    payload = count ? 3 + count - 1 : 3;
    for (i = 0; i < count; i++) {
        PyObject *message = PyList_GetItem(messages, i);
        const char *text = PyUnicode_Check(message) ? PyUnicode_AsUTF8AndSize(message, &size) : NULL;

        if (text == NULL) {
            if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
                return -1;
            PyErr_Clear();
            return 0;
        }
        size = quoted_size((const unsigned char *)text, size);
        /* Too large for one object, on 32-bit platforms. */
        if (size > PY_SSIZE_T_MAX - MAX_FRAMING - payload) {
            PyErr_NoMemory();
            return -1;
        }
        payload += size;
    }
    return payload;
}

unsigned char *
put_frame(unsigned char *to, PyObject *messages)
{
    Py_ssize_t i, size, count = PyList_Size(messages);

    *to++ = 'a';
    *to++ = '[';
    for (i = 0; i < count; i++) {
        const char *text;

        if (i)
            *to++ = ',';
        text = PyUnicode_AsUTF8AndSize(PyList_GetItem(messages, i), &size);
        if (text == NULL)
            return NULL;
        to = put_quoted(to, (const unsigned char *)text, size);
    }
    *to++ = ']';
    return to;
}

PyObject *
write_messages(PyObject *module, PyObject *messages)
{
    Py_ssize_t payload = frame_size(messages), header;
    unsigned char *to;
    PyObject *frame;

    (void)module;
    if (payload < 0)
        return NULL;
    if (!payload)
        Py_RETURN_NONE;
    header = payload < 126 ? 2 : payload < 65536 ? 4 : 10;
    frame = PyBytes_FromStringAndSize(NULL, header + payload);
    if (frame == NULL)
        return NULL;
    to = (unsigned char *)PyBytes_AsString(frame);
    *to++ = FINAL_TEXT;
    if (header == 2)
        *to++ = (unsigned char)payload;
    else {
        int shift = header == 4 ? 8 : 56;
        *to++ = header == 4 ? 126 : 127;
        for (; shift >= 0; shift -= 8)
            *to++ = (unsigned char)((uint64_t)payload >> shift);
    }
    if (put_frame(to, messages) == NULL)
        Py_CLEAR(frame);
    return frame;
}

PyObject *
line_chunk(PyObject *messages, Py_ssize_t size)
{
    char length[24];
    int length_size = snprintf(length, sizeof length, "%zx\r\n", (size_t)size + 1);
    PyObject *chunk = PyBytes_FromStringAndSize(NULL, length_size + size + 3);
    unsigned char *to;

    if (chunk == NULL)
        return NULL;
    to = (unsigned char *)PyBytes_AsString(chunk);
    memcpy(to, length, length_size);
    to = put_frame(to + length_size, messages);
    if (to == NULL)
        Py_CLEAR(chunk);
    else
        memcpy(to, "\n\r\n", 3);
    return chunk;
}
