/* Tests of eight bytes at once. */

#ifndef SOCKJS_TORNADO_WORDS_H
#define SOCKJS_TORNADO_WORDS_H

#include <stdint.h>
#include <string.h>

#define BYTES_OF(x) (UINT64_C(0x0101010101010101) * (x))
#define HIGH_BITS BYTES_OF(0x80)

/* A word that is nonzero if and only if one of the bytes is below `least`, which is at most 128. */
#define BELOW(word, least) (((word) - BYTES_OF(least)) & ~(word) & HIGH_BITS)

/* A word that is nonzero if and only if one of the bytes is zero. */
#define ZEROS(word) BELOW(word, 1)

#endif
