/* Gives memory back that start-up needed and the rest of the process's life does not. */
#ifndef TN_UTIL_TRIM_H
#define TN_UTIL_TRIM_H

#include <stddef.h>

/* Returns free heap pages to the kernel and unmaps the resident pages of program and library code, which come back
 * from the page cache, one by one, when that code runs again. Of a node with TLS two thirds of what is resident is
 * code that ran once (relocation, OpenSSL's set-up, self-tests). Only code mappings without private changes are
 * touched, so breakpoints and patched code stay. Takes about a millisecond (it reads /proc/self/smaps); for the quiet
 * after start-up. Returns the bytes of code that were resident. */
size_t tn_trim_memory(void);
/* The same for the code of one library or program, of which inside is an address (of a function, say). Takes a third
 * of a millisecond, however much memory the process has. */
size_t tn_trim_code(const void *inside);

#endif
