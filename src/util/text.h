/* Text helpers: hex and base64 both ways, and a strdup that says when it fails. */
#ifndef TN_UTIL_TEXT_H
#define TN_UTIL_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* out has 2*len+1 bytes; lowercase. Returns out. Not constant-time: for public values. */
char *tn_hex_encode(const void *bytes, size_t len, char *out);
/* Exactly 2*len hex digits (either case) and then the NUL; TN_E_MALFORMED otherwise, out untouched. */
int tn_hex_decode(const char *text, void *out, size_t len);

enum tn_base64 { TN_BASE64_STD, TN_BASE64_URL_RAW }; /* padded standard alphabet | unpadded URL alphabet */
#define TN_BASE64_LEN(n) (((n) + 2) / 3 * 4 + 1)     /* including the NUL */
char *tn_base64_encode(enum tn_base64 kind, const void *bytes, size_t len, char *out);
/* Strict about alphabet and padding. Returns the length, TN_E_MALFORMED, or TN_E_NOSPC over cap. */
long tn_base64_decode(enum tn_base64 kind, const char *text, size_t textlen, void *out, size_t cap);

#endif
