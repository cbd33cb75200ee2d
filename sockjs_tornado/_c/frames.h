/* What frames and JSON have in common in both directions. Inline: each byte of a message goes through it. */

#ifndef SOCKJS_TORNADO_FRAMES_H
#define SOCKJS_TORNADO_FRAMES_H

#include "core.h"
#include "words.h"

/* RFC 6455, section 5.2: the first byte of a final text frame, and the mask bit of the second byte. */
enum { FINAL_TEXT = 0x81, MASKED = 0x80 };

/* Return by how many bytes JSON escapes make an ASCII byte longer. */
static inline int
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
static inline Py_ssize_t
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

#endif
