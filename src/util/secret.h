/* Secret text (auth keys, proxy credentials): a type without a formatter, kept out of core dumps where the kernel
 * allows, wiped on free by a call the compiler can't drop. Key types of fixed size live in crypto/keys.h. */
#ifndef TN_UTIL_SECRET_H
#define TN_UTIL_SECRET_H

#include <stdbool.h>
#include <stddef.h>

struct tn_secret; /* immutable bytes with a length; NUL bytes allowed */

enum { TN_SECRET_MAX = 64 * 1024 }; /* longer "secrets" are a wrong file */

void tn_wipe(void *mem, size_t len);
/* NULL when memory is short or len > TN_SECRET_MAX. The caller wipes its own copy. */
struct tn_secret *tn_secret_new(const void *bytes, size_t len);
void tn_secret_free(struct tn_secret *s); /* wipes; NULL is fine */
size_t tn_secret_len(const struct tn_secret *s);      /* NULL: 0 */
const char *tn_secret_bytes(const struct tn_secret *s); /* NUL-terminated view for the one place that sends it */
bool tn_secret_eq(const struct tn_secret *a, const struct tn_secret *b); /* constant time in the content */

#endif
