/* SipHash-2-4 (Aumasson, Bernstein 2012): the keyed hash of every table whose keys a peer can choose. */
#ifndef TN_UTIL_SIPHASH_H
#define TN_UTIL_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

struct tn_hashkey {
    uint64_t k[2];
};

uint64_t tn_siphash(const struct tn_hashkey *key, const void *bytes, size_t len);

#endif
