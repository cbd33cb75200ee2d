/* Frames of websockets and their JSON, for sockjs_tornado.wire and sockjs_tornado.transports.websocket_receiver.
 *
 * Optional: each function has an equivalent in Python, which is used if the module was not built, and for input that is
 * not handled here. Differential tests compare the two.
 */

#include "core.h"

#include <stdint.h>
#include <string.h>

#define BYTES_OF(x) (UINT64_C(0x0101010101010101) * (x))
#define HIGH_BITS BYTES_OF(0x80)

/* A word that is nonzero if and only if one of the bytes is zero. */
#define ZEROS(word) (((word) - BYTES_OF(1)) & ~(word) & HIGH_BITS)

/* --- incoming frames --- */

enum { FINAL_TEXT = 0x81, MASKED = 0x80, SMALL = 256 };

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

static PyObject *
unmasked_text(const unsigned char *from, Py_ssize_t size, const unsigned char *mask)
{
    unsigned char small[SMALL];
    unsigned char *to = small;
    PyObject *text;

    if (size > SMALL && (to = PyMem_Malloc(size)) == NULL)
        return PyErr_NoMemory();
    unmask(to, from, size, mask);
    text = PyUnicode_DecodeUTF8((const char *)to, size, NULL);
    if (to != small)
        PyMem_Free(to);
    return text;
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

Py_ssize_t
limit_from(PyObject *number)
{
    Py_ssize_t limit = PyLong_AsSsize_t(number);

    if (limit == -1 && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Clear();
        limit = PY_SSIZE_T_MAX;
    }
    return limit;
}

PyDoc_STRVAR(read_text_frames_doc,
"read_text_frames(data, position, max_size, events, /)\n--\n\n"
"Append the text of each complete frame from ``position`` on to ``events``, and return the end position.\n\n"
"Stops at the first frame that is not complete, final, masked text, below 64 KiB and at most ``max_size`` bytes.\n\n"
"Raises:\n"
"    UnicodeDecodeError: If a text is not UTF-8.");

static PyObject *
read_text_frames(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    const unsigned char *data;
    char *start;
    Py_ssize_t end, position, max_size;

    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "read_text_frames() takes 4 arguments");
        return NULL;
    }
    if (PyBytes_AsStringAndSize(args[0], &start, &end) < 0)
        return NULL;
    data = (const unsigned char *)start;
    position = PyLong_AsSsize_t(args[1]);
    if (position == -1 && PyErr_Occurred())
        return NULL;
    max_size = limit_from(args[2]);
    if (max_size == -1 && PyErr_Occurred())
        return NULL;
    if (position < 0) {
        PyErr_SetString(PyExc_ValueError, "position is negative");
        return NULL;
    }

    for (;;) {
        const unsigned char *frame = data + position;
        Py_ssize_t size, payload;
        PyObject *text;
        int failed;

        payload = position > end ? 0 : text_frame(frame, end - position, max_size, &size);
        if (!payload)
            break;
        text = unmasked_text(frame + payload, size, frame + payload - 4);
        if (text == NULL)
            return NULL;
        failed = PyList_Append(args[3], text);
        Py_DECREF(text);
        if (failed)
            return NULL;
        position += payload + size;
    }
    return PyLong_FromSsize_t(position);
}

/* --- JSON, both directions --- */

/* Return by how many bytes JSON escapes make an ASCII byte longer. */
static int
escape_growth(unsigned char byte)
{
    switch (byte) {
    case '"': case '\\': case '\b': case '\f': case '\n': case '\r': case '\t':
        return 1;
    default:
        return byte < 0x20 ? 5 : 0;
    }
}

/* Return the length of the prefix that is ASCII and needs no escapes. */
static Py_ssize_t
plain_prefix(const unsigned char *text, Py_ssize_t size)
{
    Py_ssize_t i = 0;

    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, text + i, 8);
        if ((word | ZEROS(word ^ BYTES_OF('"')) | ZEROS(word ^ BYTES_OF('\\')) | (word - BYTES_OF(0x20)))
            & HIGH_BITS)
            break;
    }
    while (i < size && text[i] < 0x80 && !escape_growth(text[i]))
        i++;
    return i;
}

/* --- incoming messages --- */

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

/* Append the strings of a JSON array without white space to a list. Overwrites the array.
 *
 * Return 1, or 0 if it is anything else, or -1 with an exception set. */
static int
append_strings(unsigned char *at, Py_ssize_t size, PyObject *messages)
{
    unsigned char *end = at + size;

    if (size < 4 || *at != '[')
        return 0;
    do {
        unsigned char *start, *to;
        PyObject *message;
        int failed;

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
        message = PyUnicode_DecodeUTF8((const char *)start, to - start, NULL);
        if (message == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
                return -1;
            PyErr_Clear();
            return 0;
        }
        failed = PyList_Append(messages, message);
        Py_DECREF(message);
        if (failed)
            return -1;
        if (++at == end)
            return 0;
    } while (*at == ',');
    return *at == ']' && at + 1 == end;
}

Py_ssize_t
collect_messages(const unsigned char *data, Py_ssize_t end, Py_ssize_t max_size, PyObject *messages)
{
    Py_ssize_t position = 0;

    for (;;) {
        unsigned char small[SMALL];
        unsigned char *array = small;
        Py_ssize_t before = PyList_Size(messages);
        Py_ssize_t size, payload = text_frame(data + position, end - position, max_size, &size);
        int done;

        if (!payload)
            break;
        if (size > SMALL && (array = PyMem_Malloc(size)) == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        unmask(array, data + position + payload, size, data + position + payload - 4);
        done = append_strings(array, size, messages);
        if (array != small)
            PyMem_Free(array);
        if (done != 1) {
            if (done < 0 || PyList_SetSlice(messages, before, PyList_Size(messages), NULL) < 0)
                return -1;
            break;
        }
        position += payload + size;
    }
    return position;
}

PyDoc_STRVAR(read_messages_doc,
"read_messages(memory, size, max_size, messages, /)\n--\n\n"
"Append the messages in ``memory`` to ``messages``. Return the position of the first frame that needs the Python\n"
"parser: one that ``read_text_frames`` does not read, or whose text is not an array of strings without white space or\n"
"``\\u``.");

static PyObject *
read_messages(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t end, max_size, position;
    const unsigned char *data;

    if (count != 4 || !PyByteArray_Check(args[0]) || !PyList_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "read_messages() takes a bytearray, two int and a list");
        return NULL;
    }
    end = PyLong_AsSsize_t(args[1]);
    if (end == -1 && PyErr_Occurred())
        return NULL;
    max_size = limit_from(args[2]);
    if (max_size == -1 && PyErr_Occurred())
        return NULL;
    if (end < 0 || end > PyByteArray_Size(args[0])) {
        PyErr_SetString(PyExc_ValueError, "size exceeds the memory");
        return NULL;
    }
    data = (const unsigned char *)PyByteArray_AsString(args[0]);

    position = collect_messages(data, end, max_size, args[3]);
    return position < 0 ? NULL : PyLong_FromSsize_t(position);
}

/* --- outgoing messages --- */

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

PyDoc_STRVAR(write_messages_doc,
"write_messages(messages, /)\n--\n\n"
"Return the websocket frame that carries ``messages``.\n\n"
"Return None if it is not a list, or contains anything but ``str`` that can be encoded as UTF-8.");

PyObject *
write_messages(PyObject *module, PyObject *messages)
{
    Py_ssize_t count, i, payload, header, size;
    const char *text;
    unsigned char *to;
    PyObject *frame;

    if (!PyList_CheckExact(messages))
        Py_RETURN_NONE;
    count = PyList_Size(messages);
    /* a[ and ], and the commas. */
    payload = count ? 3 + count - 1 : 3;
    for (i = 0; i < count; i++) {
        PyObject *message = PyList_GetItem(messages, i);
        if (!PyUnicode_Check(message))
            Py_RETURN_NONE;
        text = PyUnicode_AsUTF8AndSize(message, &size);
        if (text == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
                return NULL;
            PyErr_Clear();
            Py_RETURN_NONE;
        }
        size = quoted_size((const unsigned char *)text, size);
        /* Too large for one object, on 32-bit platforms. */
        if (size > PY_SSIZE_T_MAX - 16 - payload)
            return PyErr_NoMemory();
        payload += size;
    }
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
    *to++ = 'a';
    *to++ = '[';
    for (i = 0; i < count; i++) {
        if (i)
            *to++ = ',';
        text = PyUnicode_AsUTF8AndSize(PyList_GetItem(messages, i), &size);
        if (text == NULL) {
            Py_DECREF(frame);
            return NULL;
        }
        to = put_quoted(to, (const unsigned char *)text, size);
    }
    *to = ']';
    return frame;
}

/* --- the module --- */

#ifndef _WIN32
PyDoc_STRVAR(write_buffered_doc,
"write_buffered(connections, left, /)\n--\n\n"
"Write the ``_write_buffer`` (bytes or None) of each connection to its ``_writable_socket`` (a non-blocking socket or\n"
"None). Append connections that may have unwritten data to ``left``, and return the number of bytes written.");
#endif

static PyMethodDef functions[] = {
    {"read_text_frames", (PyCFunction)(void (*)(void))read_text_frames, METH_FASTCALL, read_text_frames_doc},
    {"read_messages", (PyCFunction)(void (*)(void))read_messages, METH_FASTCALL, read_messages_doc},
#ifndef _WIN32
    {"write_buffered", (PyCFunction)(void (*)(void))write_buffered, METH_FASTCALL, write_buffered_doc},
#endif
    {"write_messages", write_messages, METH_O, write_messages_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{Py_mod_exec, add_core}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "sockjs_tornado._speedups",
    .m_size = 0,
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&definition);
}
