/* The server's side of the opening handshake of websockets (RFC 6455, section 4.2): accept_key(). */

#include "http.h"

enum { KEY_SIZE = 24, DIGEST_SIZE = 20, ACCEPT_SIZE = 28, BLOCK_SIZE = 64 };

static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static uint32_t
rotate(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

/* Expand a block of 64 bytes to the words of the 80 rounds of SHA-1 (RFC 3174, section 6.1). */
static void
expand(uint32_t words[80], const unsigned char *block)
{
    int i;

    for (i = 0; i < 16; i++, block += 4)
        words[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (; i < 80; i++)
        words[i] = rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
}

/* Five rounds at once, so that each variable has its role again. */
#define ROUND(a, b, c, d, e, i, mix, constant) \
    e += rotate(a, 5) + mix(b, c, d) + words[i] + constant; \
    b = rotate(b, 30);
#define TWENTY_ROUNDS(first, mix, constant) \
    for (i = first; i < first + 20; i += 5) { \
        ROUND(a, b, c, d, e, i, mix, constant) \
        ROUND(e, a, b, c, d, i + 1, mix, constant) \
        ROUND(d, e, a, b, c, i + 2, mix, constant) \
        ROUND(c, d, e, a, b, i + 3, mix, constant) \
        ROUND(b, c, d, e, a, i + 4, mix, constant) \
    }
#define CHOOSE(b, c, d) (d ^ (b & (c ^ d)))
#define PARITY(b, c, d) (b ^ c ^ d)
#define MAJORITY(b, c, d) ((b & c) | (d & (b | c)))

static void
hash_words(uint32_t state[5], const uint32_t words[80])
{
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    int i;

    TWENTY_ROUNDS(0, CHOOSE, 0x5A827999)
    TWENTY_ROUNDS(20, PARITY, 0x6ED9EBA1)
    TWENTY_ROUNDS(40, MAJORITY, 0x8F1BBCDC)
    TWENTY_ROUNDS(60, PARITY, 0xCA62C1D6)
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

static int
is_digit(unsigned char byte)
{
    return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9')
        || byte == '+' || byte == '/';
}

/* The words of the second block, which consists of padding, and is the same for all keys. */
static uint32_t padding[80];

void
prepare_handshake(void)
{
    const unsigned bits = 8 * (KEY_SIZE + sizeof guid - 1);
    unsigned char block[BLOCK_SIZE] = {0};

    block[BLOCK_SIZE - 2] = (unsigned char)(bits >> 8);
    block[BLOCK_SIZE - 1] = (unsigned char)bits;
    expand(padding, block);
}

PyObject *
accept_key(struct text key)
{
    uint32_t state[] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0}, words[80];
    unsigned char block[BLOCK_SIZE] = {0}, digest[DIGEST_SIZE + 1];
    char accept[ACCEPT_SIZE];
    int i;

    /* The base64 of 16 bytes. */
    if (key.size != KEY_SIZE || key.start[22] != '=' || key.start[23] != '=')
        Py_RETURN_NONE;
    for (i = 0; i < 22; i++)
        if (!is_digit((unsigned char)key.start[i]))
            Py_RETURN_NONE;
    memcpy(block, key.start, KEY_SIZE);
    memcpy(block + KEY_SIZE, guid, sizeof guid - 1);
    block[KEY_SIZE + sizeof guid - 1] = 0x80;
    expand(words, block);
    hash_words(state, words);
    hash_words(state, padding);
    for (i = 0; i < DIGEST_SIZE; i++)
        digest[i] = (unsigned char)(state[i / 4] >> (24 - i % 4 * 8));
    digest[DIGEST_SIZE] = 0;
    for (i = 0; i < ACCEPT_SIZE; i++) {
        const unsigned char *three = digest + i / 4 * 3;
        uint32_t bits = (uint32_t)three[0] << 16 | (uint32_t)three[1] << 8 | three[2];
        accept[i] = digits[bits >> (18 - i % 4 * 6) & 63];
    }
    accept[ACCEPT_SIZE - 1] = '=';
    return PyUnicode_FromStringAndSize(accept, ACCEPT_SIZE);
}
