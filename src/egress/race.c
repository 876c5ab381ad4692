/* Several addresses of one proxy, tried side by side (after RFC 8305): the next is begun STAGGER_US after the one before it, or as
 * soon as that failed, and those that were begun go on. The first that stands carries the dial, and the others are closed before a
 * byte was sent. So an address that leads nowhere costs a quarter of a second once, and a slow one is still waited for.
 *
 * The newest attempt has the connection's descriptor; those before it are in `behind`. All are watched under the connection, and
 * an event does not say for which: the look is at all of them. */
#include "egress/private.h"
#include "egress/socket.h"
#include "util/err.h"

static void close_one(struct tn_egress_conn *c, int fd)
{
    tn_run_unwatch(c->e, fd);
    tn_socket_close(fd, false);
}

static void drop(struct tn_egress_conn *c, unsigned i)
{
    struct tn_dialing *d = c->dialing;
    d->nbehind--;
    for (; i < d->nbehind; i++) d->behind[i] = d->behind[i + 1];
}

void tn_race_leave(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    if (c->fd < 0) return;
    if (d->nbehind == TN_RACE_MAX - 1) { /* the one that had longest */
        close_one(c, d->behind[0].fd);
        drop(c, 0);
    }
    d->behind[d->nbehind++] = (struct tn_racer){c->fd, d->at};
    c->fd = -1;
}

bool tn_race_take_back(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    if (c->fd >= 0 || d->nbehind == 0) return c->fd >= 0;
    c->fd = d->behind[--d->nbehind].fd;
    d->at = d->behind[d->nbehind].at;
    return true;
}

void tn_race_end(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    while (d->nbehind > 0) close_one(c, d->behind[--d->nbehind].fd);
}

int tn_race_look(struct tn_egress_conn *c)
{
    struct tn_dialing *d = c->dialing;
    for (unsigned i = 0; i < d->nbehind;) {
        struct tn_racer r = d->behind[i];
        int err = tn_socket_connected(r.fd);
        if (err == TN_E_AGAIN) {
            i++;
            continue;
        }
        drop(c, i);
        if (err) {
            close_one(c, r.fd);
            continue;
        }
        tn_conn_close_fd(c, false);
        c->fd = r.fd;
        d->at = r.at;
        tn_race_end(c);
        return 0;
    }
    int err = tn_socket_connected(c->fd);
    if (err == 0) tn_race_end(c);
    return err;
}
