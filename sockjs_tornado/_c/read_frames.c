/* Clients' websocket frames, and the JSON in them: read_text_frames() and read_messages(). */

#include "frames.h"

/* Payloads up to this size are unmasked on the stack. */
enum { SMALL = 256 };

/* Append what a payload contains to a list; it may overwrite the payload. Return 1, or 0 if the frame needs the Python
 * parser, or -1 with an exception set. */
typedef int (*appender)(unsigned char *payload, Py_ssize_t size, PyObject *list);

/* --- frames --- */

/* RFC 6455, section 5.3. */
static void
unmask(unsigned char *to, const unsigned char *from, Py_ssize_t size, const unsigned char *mask)
{
    unsigned char twice[8];
    uint64_t key, word;
    Py_ssize_t i = 0;

    memcpy(twice, mask, 4);
    memcpy(twice + 4, mask, 4);
    memcpy(&key, twice, 8);
    for (; i + 8 <= size; i += 8) {
        memcpy(&word, from + i, 8);
        word ^= key;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++)
        to[i] = from[i] ^ mask[i & 3];
}

/* Return the offset of a frame's payload, and its size; 0 if it is not a complete, final, masked text frame below 64
 * KiB. */
static Py_ssize_t
text_frame(const unsigned char *frame, Py_ssize_t available, Py_ssize_t max_size, Py_ssize_t *size)
{
    Py_ssize_t payload = 6;

    if (available < payload || frame[0] != FINAL_TEXT || !(frame[1] & MASKED))
        return 0;
    *size = frame[1] & 0x7F;
    if (*size == 126) {
        payload = 8;
        *size = frame[2] << 8 | frame[3];
        /* RFC 6455, section 5.2: the length must use the shortest form. */
        if (*size < 126)
            return 0;
    }
    else if (*size == 127)
        return 0;
    return *size > max_size || payload + *size > available ? 0 : payload;
}

/* Append what the frames from `position` on contain to a list. Return the position of the first frame that needs the
 * Python parser, or -1 with an exception set. */
static inline Py_ssize_t
read_frames(const unsigned char *data, Py_ssize_t position, Py_ssize_t end, Py_ssize_t max_size, PyObject *list,
    appender append)
{
    while (position <= end) {
        unsigned char small[SMALL];
        unsigned char *payload = small;
        Py_ssize_t size, start = text_frame(data + position, end - position, max_size, &size);
        int done;

        if (!start)
            break;
        start += position;
        if (size > SMALL && (payload = PyMem_Malloc(size)) == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        unmask(payload, data + start, size, data + start - 4);
        done = append(payload, size, list);
        if (payload != small)
            PyMem_Free(payload);
        if (done < 0)
            return -1;
        if (!done)
            break;
        position = start + size;
    }
    return position;
}

/* --- texts --- */

static int
append_text(unsigned char *payload, Py_ssize_t size, PyObject *list)
{
    PyObject *text = PyUnicode_DecodeUTF8((const char *)payload, size, NULL);
    int failed = text == NULL || PyList_Append(list, text) < 0;

    Py_XDECREF(text);
    return failed ? -1 : 1;
}

/* --- messages --- */

/* Return the byte that an escape stands for; 0 if it is \u or invalid. */
static unsigned char
unescaped(unsigned char c)
{
    switch (c) {
    case '"': case '\\': case '/':
        return c;
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return 0;
    }
}

/* Append the strings of a JSON array without white space. If the payload is anything else, some may be appended. */
static int
append_strings(unsigned char *at, Py_ssize_t size, PyObject *messages)
{
    unsigned char *end = at + size;

    if (size < 4 || *at != '[')
        return 0;
    do {
        unsigned char *start, *to;

        /* Skip the bracket or the comma. */
        if (++at == end || *at != '"')
            return 0;
        start = to = ++at;
        for (;;) {
            Py_ssize_t plain = plain_prefix(at, end - at);
            if (to != at)
                memmove(to, at, plain);
            to += plain;
            at += plain;
            if (at == end || *at < 0x20)
                return 0;
            if (*at == '"')
                break;
            if (*at == '\\' && (++at == end || !(*at = unescaped(*at))))
                return 0;
            *to++ = *at++;
        }
        if (append_text(start, to - start, messages) < 0) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                return -1;
            PyErr_Clear();
            return 0;
        }
        if (++at == end)
            return 0;
    } while (*at == ',');
    return *at == ']' && at + 1 == end;
}

static int
append_messages(unsigned char *payload, Py_ssize_t size, PyObject *messages)
{
    Py_ssize_t before = PyList_Size(messages);
    int done = append_strings(payload, size, messages);

    return done || PyList_SetSlice(messages, before, PyList_Size(messages), NULL) == 0 ? done : -1;
}

Py_ssize_t
collect_messages(const unsigned char *data, Py_ssize_t end, Py_ssize_t max_size, PyObject *messages)
{
    return read_frames(data, 0, end, max_size, messages, append_messages);
}

int
read_strings(const unsigned char *payload, Py_ssize_t size, PyObject *messages)
{
    unsigned char small[SMALL];
    unsigned char *copy = size > SMALL ? PyMem_Malloc(size) : small;
    int done;

    if (copy == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memcpy(copy, payload, size);
    done = append_messages(copy, size, messages);
    if (copy != small)
        PyMem_Free(copy);
    return done;
}

/* --- the functions for Python --- */

/* Read two arguments. Return 0, or -1 with an exception set. */
static int
read_numbers(PyObject *const *args, Py_ssize_t *number, Py_ssize_t *max_size)
{
    if ((*number = PyLong_AsSsize_t(args[1])) == -1 && PyErr_Occurred())
        return -1;
    return (*max_size = limit_from(args[2])) == -1 && PyErr_Occurred() ? -1 : 0;
}

PyObject *
read_text_frames(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    char *data;
    Py_ssize_t end, position, max_size;

    (void)module;
    if (count != 4 || !PyBytes_Check(args[0]) || !PyList_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "read_text_frames() takes bytes, two int and a list");
        return NULL;
    }
    if (read_numbers(args, &position, &max_size) < 0 || PyBytes_AsStringAndSize(args[0], &data, &end) < 0)
        return NULL;
    if (position < 0) {
        PyErr_SetString(PyExc_ValueError, "position is negative");
        return NULL;
    }
    position = read_frames((const unsigned char *)data, position, end, max_size, args[3], append_text);
    return position < 0 ? NULL : PyLong_FromSsize_t(position);
}

PyObject *
read_messages(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t end, max_size;

    (void)module;
    if (count != 4 || !PyByteArray_Check(args[0]) || !PyList_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "read_messages() takes a bytearray, two int and a list");
        return NULL;
    }
    if (read_numbers(args, &end, &max_size) < 0)
        return NULL;
    if (end < 0 || end > PyByteArray_Size(args[0])) {
        PyErr_SetString(PyExc_ValueError, "size exceeds the memory");
        return NULL;
    }
    end = collect_messages((const unsigned char *)PyByteArray_AsString(args[0]), end, max_size, args[3]);
    return end < 0 ? NULL : PyLong_FromSsize_t(end);
}
