/* Threads of ours: with every signal blocked, since the application's handlers are not ours to run. */
#ifndef TN_UTIL_THREAD_H
#define TN_UTIL_THREAD_H

#include <pthread.h>
#include <stddef.h>

/* Runs fn(arg) on a thread with a stack of so many bytes, to be joined. 0 or a negative errno. */
int tn_thread_start(pthread_t *out, void *(*fn)(void *arg), void *arg, size_t stack);
/* The same on a detached one: for what can only be asked in a blocking way. */
int tn_thread_detached(void *(*fn)(void *arg), void *arg, size_t stack);

#endif
