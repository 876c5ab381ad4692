#include "util/thread.h"

#include <signal.h>

static int start(pthread_t *out, int detach_state, void *(*fn)(void *arg), void *arg, size_t stack)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int err = pthread_attr_init(&attr);
    if (err) return -err;
    pthread_attr_setstacksize(&attr, stack);
    pthread_attr_setdetachstate(&attr, detach_state);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    err = pthread_create(out, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -err;
}

int tn_thread_start(pthread_t *out, void *(*fn)(void *arg), void *arg, size_t stack)
{
    return start(out, PTHREAD_CREATE_JOINABLE, fn, arg, stack);
}

int tn_thread_detached(void *(*fn)(void *arg), void *arg, size_t stack)
{
    pthread_t thread;
    return start(&thread, PTHREAD_CREATE_DETACHED, fn, arg, stack);
}
