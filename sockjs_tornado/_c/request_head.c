/* The result of parse_head(): RequestHead. */

#include "http.h"

#include <stddef.h>
#include <structmember.h>

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

PyObject *
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

/* Return the value of the only field of a name; its start is NULL if there are none or several. */
static struct text
only_value(RequestHead *self, const char *name)
{
    struct text text = {(const unsigned char *)name, (Py_ssize_t)strlen(name)};
    Py_ssize_t index = find_field(self, 0, text);

    if (index < self->count && find_field(self, index + 1, text) == self->count)
        return text_at(self, self->fields[index].value, self->fields[index].value_size);
    text.start = NULL;
    text.size = 0;
    return text;
}

/* Return whether the only field of a name has a value, in any case. */
static int
has_value(RequestHead *self, const char *name, const char *value)
{
    struct text text = only_value(self, name);

    return text.start != NULL && is_named(text, value);
}

static PyObject *
accept_handshake(RequestHead *self, PyObject *ignored)
{
    static const char subprotocols[] = "sec-websocket-protocol";
    struct text name = {(const unsigned char *)subprotocols, sizeof subprotocols - 1}, key;

    (void)ignored;
    if (!has_value(self, "upgrade", "websocket") || !has_value(self, "sec-websocket-version", "13")
        || !(has_value(self, "connection", "upgrade") || has_value(self, "connection", "keep-alive, upgrade"))
        || find_field(self, 0, name) < self->count)
        Py_RETURN_NONE;
    key = only_value(self, "sec-websocket-key");
    return key.start == NULL ? Py_NewRef(Py_None) : accept_key(key);
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
    {"accept_handshake", (PyCFunction)(void (*)(void))accept_handshake, METH_NOARGS,
     "accept_handshake($self, /)\n--\n\n"},
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
prepare_methods(void)
{
    int i;

    for (i = 0; method_names[i] != NULL; i++)
        if ((methods[i] = PyUnicode_InternFromString(method_names[i])) == NULL)
            return -1;
    return 0;
}
