/* HTTP/1.1: parse_head() with its result, RequestHead, and format_response(). */

#include "core.h"
#include "words.h"

#include <stddef.h>
#include <structmember.h>

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
        at++;
    return at;
}

static inline int
is_blank(unsigned char byte)
{
    return byte == ' ' || byte == '\t';
}

/* --- names and values --- */

/* Return whether two texts of the same size differ in case only. */
static int
is_same(const unsigned char *text, const unsigned char *other, Py_ssize_t size)
{
    Py_ssize_t i;

    for (i = 0; i < size; i++)
        if (lower[text[i]] != lower[other[i]])
            return 0;
    return 1;
}

struct text {
    const unsigned char *start;
    Py_ssize_t size;
};

static int
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

/* A field line; the offsets are those of the first field line. */
typedef struct {
    uint32_t name, name_size, value, value_size;
} Field;

struct head {
    struct text method, target, length;
    const unsigned char *fields_start, *fields_end;
    Py_ssize_t count;
    int is_http11, has_host, has_upgrade, is_chunked, has_close, has_keep_alive, has_expect;
    Field fields[MAX_HEAD_FIELDS];
};

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

/* --- RequestHead --- */

PyTypeObject *request_head_type;

/* The field lines, as sent, follow the last element of `fields`. */
typedef struct {
    PyObject_VAR_HEAD
    PyObject *method, *target;
    long long content_length;
    Py_ssize_t size, count;
    char is_http11, is_chunked, has_body, keep_alive, expects_continue, has_upgrade;
    Field fields[];
} RequestHead;

static const char *const method_names[] = {"GET", "POST", "OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", NULL};
static PyObject *methods[sizeof method_names / sizeof *method_names];

static PyObject *
decode(struct text text)
{
    return PyUnicode_DecodeLatin1((const char *)text.start, text.size, NULL);
}

static PyObject *
decode_method(struct text text)
{
    int i;

    for (i = 0; method_names[i] != NULL; i++)
        if (text.size == (Py_ssize_t)strlen(method_names[i]) && memcmp(text.start, method_names[i], text.size) == 0)
            return Py_NewRef(methods[i]);
    return decode(text);
}

static PyObject *
new_head(const struct head *head, Py_ssize_t size)
{
    Py_ssize_t lines_size = head->fields_end - head->fields_start, i;
    Py_ssize_t items = head->count + (lines_size + (Py_ssize_t)sizeof(Field) - 1) / (Py_ssize_t)sizeof(Field);
    RequestHead *self = (RequestHead *)PyType_GenericAlloc(request_head_type, items);

    if (self == NULL)
        return NULL;
    self->method = decode_method(head->method);
    self->target = decode(head->target);
    if (self->method == NULL || self->target == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    for (i = 0; i < head->length.size; i++)
        self->content_length = self->content_length * 10 + (head->length.start[i] - '0');
    self->size = size;
    self->count = head->count;
    self->is_http11 = (char)head->is_http11;
    self->is_chunked = (char)head->is_chunked;
    self->has_body = head->is_chunked || self->content_length > 0;
    self->keep_alive = !head->has_close && (head->is_http11 || head->has_keep_alive);
    self->expects_continue = head->is_http11 && head->has_expect;
    self->has_upgrade = (char)head->has_upgrade;
    memcpy(self->fields, head->fields, head->count * sizeof(Field));
    memcpy(self->fields + head->count, head->fields_start, lines_size);
    return (PyObject *)self;
}

static void
free_head(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    Py_XDECREF(((RequestHead *)self)->method);
    Py_XDECREF(((RequestHead *)self)->target);
    PyObject_Free(self);
    Py_DECREF(type);
}

static struct text
text_at(RequestHead *self, uint32_t offset, uint32_t size)
{
    struct text text;

    text.start = (const unsigned char *)(self->fields + self->count) + offset;
    text.size = size;
    return text;
}

static PyObject *
decode_value(RequestHead *self, Py_ssize_t index)
{
    return decode(text_at(self, self->fields[index].value, self->fields[index].value_size));
}

/* Return the index of the first field of a name from an index on, or the number of fields if there is none. */
static Py_ssize_t
find_field(RequestHead *self, Py_ssize_t index, struct text name)
{
    for (; index < self->count; index++) {
        Field *field = &self->fields[index];
        if (field->name_size == name.size
            && is_same(text_at(self, field->name, field->name_size).start, name.start, name.size))
            break;
    }
    return index;
}

/* Read the argument of a method. Return 0, or -1 with an exception set. */
static int
read_name(PyObject *argument, struct text *name)
{
    if (!PyUnicode_Check(argument)) {
        PyErr_SetString(PyExc_TypeError, "the name of a header field must be a str");
        return -1;
    }
    name->start = (const unsigned char *)PyUnicode_AsUTF8AndSize(argument, &name->size);
    if (name->start == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeEncodeError))
            return -1;
        /* It contains a lone surrogate, and no field is named so. */
        PyErr_Clear();
        name->size = 0;
    }
    return 0;
}

/* Append an object to a list, and release it. Return 0, or -1 with an exception set. */
static int
append(PyObject *list, PyObject *object)
{
    int failed = object == NULL || PyList_Append(list, object) < 0;

    Py_XDECREF(object);
    return -failed;
}

static PyObject *
collect_values(RequestHead *self, Py_ssize_t index, struct text name)
{
    PyObject *values = PyList_New(0);

    while (values != NULL && (index = find_field(self, index, name)) < self->count)
        if (append(values, decode_value(self, index++)) < 0)
            Py_CLEAR(values);
    return values;
}

static PyObject *
header(RequestHead *self, PyObject *argument)
{
    PyObject *values, *separator, *joined = NULL;
    Py_ssize_t index;
    struct text name;

    if (read_name(argument, &name) < 0)
        return NULL;
    index = find_field(self, 0, name);
    if (index == self->count)
        return PyUnicode_FromStringAndSize(NULL, 0);
    if (find_field(self, index + 1, name) == self->count)
        return decode_value(self, index);
    values = collect_values(self, index, name);
    separator = values == NULL ? NULL : PyUnicode_FromString(is_named(name, "cookie") ? "; " : ",");
    if (separator != NULL)
        joined = PyUnicode_Join(separator, values);
    Py_XDECREF(separator);
    Py_XDECREF(values);
    return joined;
}

static PyObject *
header_lines(RequestHead *self, PyObject *argument)
{
    struct text name;

    return read_name(argument, &name) < 0 ? NULL : collect_values(self, 0, name);
}

static PyObject *
fields(RequestHead *self, PyObject *ignored)
{
    PyObject *pairs = PyList_New(0);
    Py_ssize_t i;

    (void)ignored;
    for (i = 0; pairs != NULL && i < self->count; i++) {
        PyObject *name = decode(text_at(self, self->fields[i].name, self->fields[i].name_size));
        PyObject *value = name == NULL ? NULL : decode_value(self, i);

        if (append(pairs, value == NULL ? NULL : PyTuple_Pack(2, name, value)) < 0)
            Py_CLEAR(pairs);
        Py_XDECREF(name);
        Py_XDECREF(value);
    }
    return pairs;
}

#define MEMBER(kind, name) {#name, kind, offsetof(RequestHead, name), READONLY, NULL}

static PyMemberDef head_members[] = {
    MEMBER(T_OBJECT_EX, method),
    MEMBER(T_OBJECT_EX, target),
    MEMBER(T_BOOL, is_http11),
    MEMBER(T_PYSSIZET, size),
    MEMBER(T_PYSSIZET, count),
    MEMBER(T_LONGLONG, content_length),
    MEMBER(T_BOOL, is_chunked),
    MEMBER(T_BOOL, has_body),
    MEMBER(T_BOOL, keep_alive),
    MEMBER(T_BOOL, expects_continue),
    MEMBER(T_BOOL, has_upgrade),
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef head_methods[] = {
    {"header", (PyCFunction)(void (*)(void))header, METH_O, "header($self, name, /)\n--\n\n"},
    {"header_lines", (PyCFunction)(void (*)(void))header_lines, METH_O, "header_lines($self, name, /)\n--\n\n"},
    {"fields", (PyCFunction)(void (*)(void))fields, METH_NOARGS, "fields($self, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot head_slots[] = {
    {Py_tp_dealloc, free_head},
    {Py_tp_members, head_members},
    {Py_tp_methods, head_methods},
    {0, NULL},
};

/* It refers to nothing but strings, so the garbage collector need not know it. */
PyType_Spec request_head_spec = {
    "sockjs_tornado._speedups.RequestHead",
    sizeof(RequestHead),
    sizeof(Field),
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    head_slots,
};

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
    for (i = 0; method_names[i] != NULL; i++)
        if ((methods[i] = PyUnicode_InternFromString(method_names[i])) == NULL)
            return -1;
    return 0;
}

/* --- the functions for Python --- */

/* Call a function of the module that contains the twins. */
static PyObject *
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

/* Read an integer that is not negative. Return -1 without an exception if it is anything else. */
static Py_ssize_t
read_position(PyObject *number)
{
    return PyLong_Check(number) ? number_in(number) : -1;
}

/* Return what parse_head() returns, or NULL, without an exception if it is left to the twin. */
static PyObject *
parse(const unsigned char *data, Py_ssize_t size, PyObject *const *numbers)
{
    Py_ssize_t start = read_position(numbers[0]), end = read_position(numbers[1]);
    Py_ssize_t max_size = read_position(numbers[2]), max_fields = read_position(numbers[3]), available = end - start;
    const unsigned char *limit;
    struct head head;
    enum result result;

    if (start < 0 || available < 0 || end > size || max_size < 0 || max_fields < 0)
        return NULL;
    if (available > max_size)
        available = max_size;
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
    PyObject *result;

    (void)module;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "parse_head() takes a buffer and four int");
        return NULL;
    }
    if (PyByteArray_Check(args[0]))
        result = parse(
            (const unsigned char *)PyByteArray_AsString(args[0]), PyByteArray_Size(args[0]), args + 1);
    else {
        Py_buffer buffer;

        if (PyObject_GetBuffer(args[0], &buffer, PyBUF_SIMPLE) < 0)
            return NULL;
        result = parse(buffer.buf, buffer.len, args + 1);
        PyBuffer_Release(&buffer);
    }
    if (result == NULL && !PyErr_Occurred())
        result = call_twin(names._parse_head_python, args, count);
    return result;
}

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

/* Return a response, or NULL, without an exception if it is left to the twin. No other code runs meanwhile: nothing that
 * the garbage collector tracks is allocated. */
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
