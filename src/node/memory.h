/* How much memory this process may use, and what of it TCP buffers may take when nobody says. */
#ifndef TN_NODE_MEMORY_H
#define TN_NODE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* The least of the machine's memory and the limits of the control groups (version 1 and 2) that this process is in.
 * root: "" for the machine, or a directory with proc/ and sys/ in it. 0: nothing is known. */
uint64_t tn_memory_limit(const char *root);
/* Bytes for the buffers of all TCP flows of a node that may use so much memory. */
size_t tn_memory_tcp_budget(uint64_t limit);

#endif
