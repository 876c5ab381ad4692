#include "util/resolve.h"
#include "util/err.h"
#include "util/thread.h"

#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { STACK = 256 * 1024 }; /* glibc's resolver with nss modules stays well under this */

/* Shared by the owner and the thread; whoever lets go last frees. The thread writes err, addrs and count before it sets
 * done; the owner reads them only after. */
struct tn_resolve {
    atomic_int refs;
    atomic_bool done;
    int fd, err;
    size_t count;
    struct tn_addrport addrs[TN_RESOLVE_MAX];
    uint16_t port;
    char host[256];
};

static void unref(struct tn_resolve *r)
{
    if (atomic_fetch_sub(&r->refs, 1) != 1) return;
    close(r->fd);
    free(r);
}

static void *lookup(void *arg)
{
    struct tn_resolve *r = arg;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list = NULL;
    int gai = getaddrinfo(r->host, NULL, &hints, &list);
    for (struct addrinfo *ai = gai == 0 ? list : NULL; ai && r->count < TN_RESOLVE_MAX; ai = ai->ai_next) {
        struct tn_addrport *ap = &r->addrs[r->count];
        if (tn_addrport_from_sockaddr(ai->ai_addr, ap) != 0) continue;
        ap->port = r->port;
        r->count++;
    }
    if (gai == 0) freeaddrinfo(list);
    if (r->count == 0) r->err = TN_E_DNS;
    atomic_store(&r->done, true);
    uint64_t one = 1;
    ssize_t ignored = write(r->fd, &one, sizeof one); /* an eventfd of ours with room: can't fail */
    (void)ignored;
    unref(r);
    return NULL;
}

int tn_resolve_start(const char *host, uint16_t port, struct tn_resolve **out)
{
    size_t len = strlen(host);
    struct tn_resolve *r = calloc(1, sizeof *r);
    if (!r) return TN_E_NOMEM;
    if (len == 0 || len >= sizeof r->host) {
        free(r);
        return TN_E_INVAL;
    }
    memcpy(r->host, host, len + 1);
    r->port = port;
    r->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->fd < 0) {
        int err = -errno;
        free(r);
        return err;
    }
    atomic_init(&r->refs, 2);
    int err = tn_thread_detached(lookup, r, STACK);
    if (err) {
        close(r->fd);
        free(r);
        return err;
    }
    *out = r;
    return 0;
}

int tn_resolve_fd(const struct tn_resolve *r) { return r->fd; }

int tn_resolve_result(struct tn_resolve *r, struct tn_addrport *addrs, size_t cap)
{
    if (!atomic_load(&r->done)) return TN_E_AGAIN;
    if (r->err) return r->err;
    size_t n = r->count < cap ? r->count : cap;
    memcpy(addrs, r->addrs, n * sizeof *addrs);
    return (int)n;
}

void tn_resolve_free(struct tn_resolve *r)
{
    if (r) unref(r);
}
