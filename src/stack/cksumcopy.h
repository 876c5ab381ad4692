/* A copy and the Internet checksum of what was copied in one pass over the bytes. */
#ifndef TN_STACK_CKSUMCOPY_H
#define TN_STACK_CKSUMCOPY_H

#include <stddef.h>
#include <stdint.h>

/* Copies len bytes and returns sum plus theirs, unfolded, as tn_cksum_add does. No overlap. */
uint32_t tn_cksum_copy(uint32_t sum, void *to, const void *from, size_t len);

#endif
