/* A helper thread for what can only be asked in a blocking way. */
#ifndef TN_UTIL_THREAD_H
#define TN_UTIL_THREAD_H

#include <stddef.h>

/* Runs fn(arg) on a detached thread with a stack of so many bytes and every signal blocked: the application's handlers are
 * not ours to run. 0 or a negative errno. */
int tn_thread_detached(void *(*fn)(void *arg), void *arg, size_t stack);

#endif
