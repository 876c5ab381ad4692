#include "util/text.h"
#include "util/err.h"

#include <string.h>

char *tn_hex_encode(const void *bytes, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *p = bytes;
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * len] = '\0';
    return out;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int tn_hex_decode(const char *text, void *out, size_t len)
{
    if (strlen(text) != 2 * len) return TN_E_MALFORMED;
    for (size_t i = 0; i < 2 * len; i++)
        if (nibble(text[i]) < 0) return TN_E_MALFORMED;
    uint8_t *p = out;
    for (size_t i = 0; i < len; i++) p[i] = (uint8_t)(nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]));
    return 0;
}

static const char alphabet_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char alphabet_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

char *tn_base64_encode(enum tn_base64 kind, const void *bytes, size_t len, char *out)
{
    const char *a = kind == TN_BASE64_STD ? alphabet_std : alphabet_url;
    const uint8_t *p = bytes;
    char *o = out;
    for (; len >= 3; len -= 3, p += 3) {
        *o++ = a[p[0] >> 2];
        *o++ = a[(p[0] & 3) << 4 | p[1] >> 4];
        *o++ = a[(p[1] & 15) << 2 | p[2] >> 6];
        *o++ = a[p[2] & 63];
    }
    if (len > 0) {
        uint8_t second = len == 2 ? p[1] : 0;
        *o++ = a[p[0] >> 2];
        *o++ = a[(p[0] & 3) << 4 | second >> 4];
        if (len == 2) *o++ = a[(second & 15) << 2];
        if (kind == TN_BASE64_STD)
            for (size_t i = len; i < 3; i++) *o++ = '=';
    }
    *o = '\0';
    return out;
}

long tn_base64_decode(enum tn_base64 kind, const char *text, size_t textlen, void *out, size_t cap)
{
    const char *a = kind == TN_BASE64_STD ? alphabet_std : alphabet_url;
    if (kind == TN_BASE64_STD) {
        if (textlen % 4 != 0) return TN_E_MALFORMED;
        for (int i = 0; i < 2 && textlen > 0 && text[textlen - 1] == '='; i++) textlen--;
    }
    if (textlen % 4 == 1) return TN_E_MALFORMED;
    if (textlen * 3 / 4 > cap) return TN_E_NOSPC;
    uint8_t *o = out;
    uint32_t bits = 0;
    int have = 0;
    for (size_t i = 0; i < textlen; i++) {
        const char *at = text[i] ? strchr(a, text[i]) : NULL;
        if (!at) return TN_E_MALFORMED;
        bits = bits << 6 | (uint32_t)(at - a);
        have += 6;
        if (have >= 8) {
            have -= 8;
            *o++ = (uint8_t)(bits >> have);
        }
    }
    if (bits & ((1u << have) - 1)) return TN_E_MALFORMED; /* non-canonical trailing bits */
    return o - (uint8_t *)out;
}
