/* What the C files of HTTP share. */

#ifndef SOCKJS_TORNADO_HTTP_H
#define SOCKJS_TORNADO_HTTP_H

#include "core.h"
#include "words.h"

#ifdef __GNUC__
#pragma GCC visibility push(hidden)
#endif

struct text {
    const unsigned char *start;
    Py_ssize_t size;
};

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

/* --- in http.c --- */

/* Return whether two texts of the same size differ in case only. */
int is_same(const unsigned char *text, const unsigned char *other, Py_ssize_t size);

/* Return whether a text is a name, in any case. */
int is_named(struct text text, const char *name);

/* Call a function of the module that contains the twins. */
PyObject *call_twin(PyObject *name, PyObject *const *args, Py_ssize_t count);

/* --- in handshake.c --- */

/* Compute what all handshakes share. */
void prepare_handshake(void);

/* Return the value of Sec-WebSocket-Accept for that of Sec-WebSocket-Key, or None if the key is invalid. */
PyObject *accept_key(struct text key);

/* --- in request_head.c --- */

/* Intern the usual methods. Return 0, or -1 with an exception set. */
int prepare_methods(void);

/* Return a RequestHead of `size` bytes. */
PyObject *new_head(const struct head *head, Py_ssize_t size);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#endif
