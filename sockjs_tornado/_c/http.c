/* HTTP/1.1 request heads: parse_head(). */

#include "http.h"

#include <stddef.h>

/* --- characters --- */

enum { TOKEN = 1, HOST = 2, HEX = 4 };

static unsigned char kinds[256], lower[256];

/* Add a kind to characters. */
static void
mark(const char *characters, unsigned char kind)
{
    for (; *characters; characters++)
        kinds[(unsigned char)*characters] |= kind;
}

static const unsigned char *
skip_token(const unsigned char *at, const unsigned char *end)
{
    while (at < end && kinds[*at] & TOKEN)
        at++;
    return at;
}

/* Skip bytes that are at least `least`, and not DEL. */
static inline const unsigned char *
skip_text(const unsigned char *at, const unsigned char *end, unsigned char least)
{
    for (; end - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        if (BELOW(word, least) | ZEROS(word ^ BYTES_OF(0x7F)))
            break;
    }
    while (at < end && *at >= least && *at != 0x7F)
        at++;
    return at;
}

static const unsigned char *
skip_value(const unsigned char *at, const unsigned char *end)
{
    while ((at = skip_text(at, end, ' ')) < end && *at == '\t')
        do
            at++;
        while (at < end && *at == '\t');
    return at;
}

static inline int
is_blank(unsigned char byte)
{
    return byte == ' ' || byte == '\t';
}

/* --- names and values --- */

int
is_same(const unsigned char *text, const unsigned char *other, Py_ssize_t size)
{
    Py_ssize_t i;

    for (i = 0; i < size; i++)
        if (lower[text[i]] != lower[other[i]])
            return 0;
    return 1;
}

int
is_named(struct text text, const char *name)
{
    return text.size == (Py_ssize_t)strlen(name) && is_same(text.start, (const unsigned char *)name, text.size);
}

static struct text
strip(const unsigned char *start, const unsigned char *end)
{
    struct text text;

    while (start < end && is_blank(*start))
        start++;
    while (start < end && is_blank(end[-1]))
        end--;
    text.start = start;
    text.size = end - start;
    return text;
}

/* Return whether a comma-separated list contains an element (RFC 9110, section 5.6.1). */
static int
has_element(struct text list, const char *element)
{
    const unsigned char *at = list.start, *end = at + list.size;

    while (at < end) {
        const unsigned char *comma = memchr(at, ',', end - at);
        if (comma == NULL)
            comma = end;
        if (is_named(strip(at, comma), element))
            return 1;
        at = comma + 1;
    }
    return 0;
}

static int
is_host(struct text value)
{
    const unsigned char *at = value.start, *end = at + value.size;

    for (; at < end; at++) {
        if (kinds[*at] & HOST)
            continue;
        if (*at != '%' || end - at < 3 || !(kinds[at[1]] & kinds[at[2]] & HEX))
            return 0;
        at += 2;
    }
    return 1;
}

/* Return whether a value is one length or a list of identical ones, and store the length's digits. */
static int
is_length(struct text value, struct text *length)
{
    const unsigned char *at = value.start, *end = at + value.size;
    Py_ssize_t size;

    while (at < end && *at >= '0' && *at <= '9')
        at++;
    size = at - value.start;
    /* Up to 18 digits fit into 64 bits. */
    if (size < 1 || size > 18)
        return 0;
    while (at < end) {
        if (*at++ != ',')
            return 0;
        while (at < end && is_blank(*at))
            at++;
        if (end - at < size || memcmp(at, value.start, size) != 0)
            return 0;
        at += size;
    }
    length->start = value.start;
    length->size = size;
    return 1;
}

/* --- parsing --- */

/* DECLINED: it is invalid or unusual, and the twin has to parse it. */
enum result { INCOMPLETE, COMPLETE, DECLINED };

/* Check a field that determines the end of the request, or what happens with the connection. */
static int
evaluate(struct head *head, struct text name, struct text value)
{
    struct text length;

    switch (name.size) {
    case 4:
        if (!is_named(name, "host"))
            return 1;
        if (head->has_host || !is_host(value))
            return 0;
        head->has_host = 1;
        return 1;
    case 6:
        if (is_named(name, "expect"))
            head->has_expect |= has_element(value, "100-continue");
        return 1;
    case 7:
        head->has_upgrade |= is_named(name, "upgrade");
        return 1;
    case 10:
        if (is_named(name, "connection")) {
            head->has_close |= has_element(value, "close");
            head->has_keep_alive |= has_element(value, "keep-alive");
        }
        return 1;
    case 14:
        if (!is_named(name, "content-length"))
            return 1;
        if (head->is_chunked || !is_length(value, &length))
            return 0;
        if (head->length.size
            && (head->length.size != length.size || memcmp(head->length.start, length.start, length.size) != 0))
            return 0;
        head->length = length;
        return 1;
    case 17:
        if (!is_named(name, "transfer-encoding"))
            return 1;
        if (!head->is_http11 || head->is_chunked || head->length.size || !is_named(value, "chunked"))
            return 0;
        head->is_chunked = 1;
        return 1;
    default:
        return 1;
    }
}

/* Move to the byte after an expected one. */
#define EXPECT(byte) \
    do { \
        if (at == end) \
            return INCOMPLETE; \
        if (*at++ != (byte)) \
            return DECLINED; \
    } while (0)

static enum result
parse_request_line(struct head *head, const unsigned char *at, const unsigned char *end)
{
    static const char version[] = "HTTP/0.0\r\n";
    const char *expected;

    /* RFC 9112, section 2.2. */
    if (at < end && *at == '\r') {
        at++;
        EXPECT('\n');
    }
    head->method.start = at;
    at = skip_token(at, end);
    head->method.size = at - head->method.start;
    if (at < end && !head->method.size)
        return DECLINED;
    EXPECT(' ');
    head->target.start = at;
    at = skip_text(at, end, '!');
    head->target.size = at - head->target.start;
    if (at < end && !head->target.size)
        return DECLINED;
    EXPECT(' ');
    for (expected = version; *expected; expected++) {
        if (*expected != '0')
            EXPECT((unsigned char)*expected);
        else if (at == end)
            return INCOMPLETE;
        else if (*at < '0' || *at++ > '9')
            return DECLINED;
    }
    if (at[-5] != '1' || at[-3] > '1')
        return DECLINED;
    head->is_http11 = at[-3] == '1';
    head->fields_start = at;
    return COMPLETE;
}

static enum result
parse_fields(struct head *head, const unsigned char *end, Py_ssize_t max_fields)
{
    const unsigned char *at = head->fields_start;

    if (max_fields > MAX_HEAD_FIELDS)
        max_fields = MAX_HEAD_FIELDS;
    while (at == end || *at != '\r') {
        const unsigned char *value_start;
        struct text name, value;
        Field *field;

        name.start = at;
        at = skip_token(at, end);
        name.size = at - name.start;
        if (at < end && !name.size)
            return DECLINED;
        EXPECT(':');
        value_start = at;
        at = skip_value(at, end);
        value = strip(value_start, at);
        EXPECT('\r');
        EXPECT('\n');
        if (head->count >= max_fields || !evaluate(head, name, value))
            return DECLINED;
        field = &head->fields[head->count++];
        field->name = (uint32_t)(name.start - head->fields_start);
        field->name_size = (uint32_t)name.size;
        field->value = (uint32_t)(value.start - head->fields_start);
        field->value_size = (uint32_t)value.size;
    }
    head->fields_end = at++;
    EXPECT('\n');
    return head->is_http11 && !head->has_host ? DECLINED : COMPLETE;
}

/* --- the functions for Python --- */

PyObject *
call_twin(PyObject *name, PyObject *const *args, Py_ssize_t count)
{
    PyObject *module = PyImport_ImportModule("sockjs_tornado.wire.http_parser");
    PyObject *twin = module == NULL ? NULL : PyObject_GetAttr(module, name);
    PyObject *result = NULL, *arguments = twin == NULL ? NULL : PyTuple_New(count);
    Py_ssize_t i;

    if (arguments != NULL) {
        for (i = 0; i < count; i++)
            PyTuple_SetItem(arguments, i, Py_NewRef(args[i]));
        result = PyObject_CallObject(twin, arguments);
    }
    Py_XDECREF(arguments);
    Py_XDECREF(twin);
    Py_XDECREF(module);
    return result;
}

/* Return what parse_head() returns, or NULL, without an exception if it is left to the twin. */
static PyObject *
parse(const unsigned char *data, Py_ssize_t size, const Py_ssize_t *numbers)
{
    Py_ssize_t start = numbers[0], end = numbers[1], max_size = numbers[2], max_fields = numbers[3], available;
    const unsigned char *limit;
    struct head head;
    enum result result;

    if (start > end || end > size)
        return NULL;
    available = end - start < max_size ? end - start : max_size;
    /* Offsets have 32 bits. */
    if (available > INT32_MAX)
        return NULL;
    limit = data + start + available;
    memset(&head, 0, offsetof(struct head, fields));
    result = parse_request_line(&head, data + start, limit);
    if (result == COMPLETE)
        result = parse_fields(&head, limit, max_fields);
    if (result == COMPLETE)
        return new_head(&head, head.fields_end + 2 - (data + start));
    return result == INCOMPLETE && available < max_size ? Py_NewRef(Py_None) : NULL;
}

PyObject *
parse_head(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *result = NULL;
    Py_ssize_t numbers[4];
    Py_buffer buffer;
    int i;

    (void)module;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "parse_head() takes a buffer and four int");
        return NULL;
    }
    for (i = 0; i < 4; i++) {
        numbers[i] = PyLong_Check(args[i + 1]) ? number_in(args[i + 1]) : -1;
        if (numbers[i] < 0)
            return call_twin(names._parse_head_python, args, count);
    }
    if (PyByteArray_Check(args[0]))
        result = parse((const unsigned char *)PyByteArray_AsString(args[0]), PyByteArray_Size(args[0]), numbers);
    else if (PyObject_GetBuffer(args[0], &buffer, PyBUF_SIMPLE) == 0) {
        result = parse(buffer.buf, buffer.len, numbers);
        PyBuffer_Release(&buffer);
    }
    if (result == NULL && !PyErr_Occurred())
        result = call_twin(names._parse_head_python, args, count);
    return result;
}

int
prepare_http(void)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", digits[] = "0123456789";
    int i;

    for (i = 0; i < 256; i++)
        lower[i] = (unsigned char)(i >= 'A' && i <= 'Z' ? i + 'a' - 'A' : i);
    mark(letters, TOKEN | HOST);
    mark(digits, TOKEN | HOST | HEX);
    mark("ABCDEFabcdef", HEX);
    mark("!#$%&'*+-.^_`|~", TOKEN);
    mark("-._~!$&'()*+;=:[]", HOST);
    prepare_handshake();
    return prepare_methods();
}
