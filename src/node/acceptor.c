#include "node/acceptor.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PAUSE_MS = 100,
    TAKES_PER_EVENT = 64,
};

static void readable(uv_poll_t *p, int status, int events);

static void listen_again(uv_timer_t *t)
{
    struct tn_acceptor *a = t->data;
    uv_poll_start(&a->poll, UV_READABLE, readable);
}

/* What can't be taken would wake us again at once. */
static void pause_it(struct tn_acceptor *a)
{
    uv_poll_stop(&a->poll);
    uv_timer_start(&a->again, listen_again, PAUSE_MS, 0);
}

static void readable(uv_poll_t *p, int status, int events)
{
    struct tn_acceptor *a = p->data;
    for (int i = 0; i < TAKES_PER_EVENT && !uv_is_closing((uv_handle_t *)p); i++) {
        int fd = accept4(a->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
        if (fd < 0) {
            if (errno != EAGAIN) pause_it(a);
            return;
        }
        if (a->take(a->arg, fd)) continue;
        close(fd);
        pause_it(a);
        return;
    }
}

int tn_acceptor_start(struct tn_acceptor *a, uv_loop_t *loop, int fd, bool (*take)(void *arg, int fd), void (*closed)(void *arg),
                      void *arg)
{
    *a = (struct tn_acceptor){.fd = fd, .take = take, .closed = closed, .arg = arg};
    int err = uv_poll_init(loop, &a->poll, fd);
    if (err) {
        close(fd);
        return err;
    }
    uv_timer_init(loop, &a->again);
    a->handles = 2;
    a->poll.data = a->again.data = a;
    uv_poll_start(&a->poll, UV_READABLE, readable);
    return 0;
}

static void gone(uv_handle_t *h)
{
    struct tn_acceptor *a = h->data;
    if (--a->handles > 0) return;
    close(a->fd);
    a->closed(a->arg);
}

void tn_acceptor_stop(struct tn_acceptor *a)
{
    uv_poll_stop(&a->poll);
    uv_close((uv_handle_t *)&a->poll, gone);
    uv_close((uv_handle_t *)&a->again, gone);
}
