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

/* Process a block of SHA-1 (RFC 3174). */
static void
hash_block(uint32_t state[5], const unsigned char *block)
{
    static const uint32_t constants[] = {0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
    uint32_t words[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    int i;

    for (i = 0; i < 16; i++, block += 4)
        words[i] = (uint32_t)block[0] << 24 | (uint32_t)block[1] << 16 | (uint32_t)block[2] << 8 | block[3];
    for (; i < 80; i++)
        words[i] = rotate(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    for (i = 0; i < 80; i++) {
        uint32_t mixed = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
        uint32_t next = rotate(a, 5) + mixed + e + words[i] + constants[i / 20];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

/* Return the index of a base64 digit, or -1. */
static int
digit_value(unsigned char byte)
{
    const char *found = byte ? strchr(digits, byte) : NULL;

    return found == NULL ? -1 : (int)(found - digits);
}

PyObject *
accept_key(struct text key)
{
    uint32_t state[] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char blocks[2 * BLOCK_SIZE] = {0}, digest[DIGEST_SIZE + 1];
    const Py_ssize_t size = KEY_SIZE + sizeof guid - 1;
    char accept[ACCEPT_SIZE];
    int i;

    /* The base64 of 16 bytes. */
    if (key.size != KEY_SIZE || key.start[22] != '=' || key.start[23] != '=')
        Py_RETURN_NONE;
    for (i = 0; i < 22; i++)
        if (digit_value(key.start[i]) < 0)
            Py_RETURN_NONE;
    memcpy(blocks, key.start, KEY_SIZE);
    memcpy(blocks + KEY_SIZE, guid, sizeof guid - 1);
    blocks[size] = 0x80;
    /* The number of bits. */
    blocks[2 * BLOCK_SIZE - 2] = (unsigned char)(8 * size >> 8);
    blocks[2 * BLOCK_SIZE - 1] = (unsigned char)(8 * size);
    hash_block(state, blocks);
    hash_block(state, blocks + BLOCK_SIZE);
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
