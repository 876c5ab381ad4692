/* rtnetlink says that something changed; what it is now is read by getifaddrs(3), so that a lost message loses nothing.
 * Changes come in bursts (an address goes, one comes, the route follows) and are looked at when it has been quiet for a
 * moment, or after a second of noise.
 *
 * Only addresses that peers could reach us at count, and default routes of the main table: a container's bridge with a
 * new link-local address, or a route of our own making, is no change. The UDP sockets are bound to every address, so
 * they stay. */
#include "node/netwatch.h"

#include "node/portmap.h"
#include "node/tunmode.h"
#include "util/err.h"

#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ADDRS_MAX = 32,
    QUIET_US = 200 * 1000, NOISE_MAX_US = 1000 * 1000,
    MESSAGES_BYTES = 16 * 1024, /* the kernel's messages of one event are under 4 KiB */
    READS_MAX = 64,             /* a turn; more wait for the next */
};

struct tn_netwatch {
    int fd;
    uv_poll_t *poll;
    struct tn_ip addrs[ADDRS_MAX];
    size_t count;
    bool route_changed;
    uint64_t since_us, due_us; /* 0: nothing to look at */
};

/* ---- what the kernel says ---- */

static bool is_default_route(const struct nlmsghdr *h)
{
    const struct rtmsg *r = NLMSG_DATA(h);
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof *r)) return false;
    return r->rtm_dst_len == 0 && r->rtm_table == RT_TABLE_MAIN && (r->rtm_family == AF_INET || r->rtm_family == AF_INET6);
}

/* Whether the messages tell of something that may matter. */
static bool read_messages(struct tn_netwatch *l, const uint8_t *bytes, size_t len)
{
    bool any = false;
    int left = (int)len;
    for (const struct nlmsghdr *h = (const void *)bytes; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
        switch (h->nlmsg_type) {
        case RTM_NEWLINK: case RTM_DELLINK: case RTM_NEWADDR: case RTM_DELADDR: any = true; break;
        case RTM_NEWROUTE: case RTM_DELROUTE:
            if (!is_default_route(h)) break;
            any = l->route_changed = true;
            break;
        default: break;
        }
    }
    return any;
}

/* Reads what is there. Messages that were lost (ENOBUFS, a truncated one) count as a change. */
static bool drain(struct tn_netwatch *l)
{
    _Alignas(struct nlmsghdr) uint8_t bytes[MESSAGES_BYTES];
    bool any = false;
    for (int i = 0; i < READS_MAX; i++) {
        struct sockaddr_nl from = {0};
        struct iovec iov = {bytes, sizeof bytes};
        struct msghdr m = {.msg_name = &from, .msg_namelen = sizeof from, .msg_iov = &iov, .msg_iovlen = 1};
        ssize_t n = recvmsg(l->fd, &m, 0);
        if (n < 0 && errno == ENOBUFS) any = l->route_changed = true;
        if (n <= 0) break;
        if (from.nl_pid != 0) continue; /* another process: only the kernel is believed */
        any |= m.msg_flags & MSG_TRUNC ? (l->route_changed = true) : read_messages(l, bytes, (size_t)n);
    }
    return any;
}

static void on_readable(uv_poll_t *p, int status, int events)
{
    struct tn_node *n = p->data;
    struct tn_netwatch *l = n->netwatch;
    if (n->closing || !drain(l)) return;
    uint64_t now_us = tn_node_now();
    if (!l->since_us) l->since_us = now_us;
    uint64_t latest_us = l->since_us + NOISE_MAX_US;
    l->due_us = now_us + QUIET_US < latest_us ? now_us + QUIET_US : latest_us;
}

/* ---- what there is ---- */

static bool holds(const struct tn_ip *list, size_t n, const struct tn_ip *ip)
{
    for (size_t i = 0; i < n; i++)
        if (tn_ip_eq(&list[i], ip)) return true;
    return false;
}

static size_t collect(const struct tn_node *n, struct tn_ip addrs[ADDRS_MAX])
{
    size_t count = 0;
    struct ifaddrs *list;
    if (getifaddrs(&list) != 0) return 0;
    for (struct ifaddrs *i = list; i && count < ADDRS_MAX; i = i->ifa_next) {
        struct tn_addrport ap;
        bool up = (i->ifa_flags & IFF_UP) && (i->ifa_flags & IFF_RUNNING);
        if (tn_tunmode_is_device(n, i->ifa_name)) continue;
        if (!i->ifa_addr || !up || tn_addrport_from_sockaddr(i->ifa_addr, &ap) != 0) continue;
        if (tn_ip_is_loopback(&ap.ip) || tn_ip_is_link_local(&ap.ip) || tn_ip_is_tailnet(&ap.ip)) continue;
        if (!holds(addrs, count, &ap.ip)) addrs[count++] = ap.ip;
    }
    freeifaddrs(list);
    return count;
}

static size_t count_missing(const struct tn_ip *of, size_t nof, const struct tn_ip *in, size_t nin)
{
    size_t missing = 0;
    for (size_t i = 0; i < nof; i++) missing += !holds(in, nin, &of[i]);
    return missing;
}

static void tell(struct tn_node *n, uint64_t now_us)
{
    struct tn_netwatch *l = n->netwatch;
    uint16_t port4 = n->udp ? tn_udp_port4(n->udp) : 0, port6 = n->udp ? tn_udp_port6(n->udp) : 0;
    tn_path_set_local(n->path, l->addrs, l->count, port4, port6, now_us);
}

static void look(struct tn_node *n, uint64_t now_us)
{
    struct tn_netwatch *l = n->netwatch;
    struct tn_ip addrs[ADDRS_MAX];
    size_t count = collect(n, addrs);
    size_t gone = count_missing(l->addrs, l->count, addrs, count), come = count_missing(addrs, count, l->addrs, l->count);
    bool route = l->route_changed;
    l->since_us = l->due_us = 0;
    l->route_changed = false;
    if (!gone && !come && !route) return;
    tn_logf(&n->log, TN_LOG_INFO, "node", "the network changed: %zu addresses came, %zu went%s", come, gone,
            route ? ", another default route" : "");
    memcpy(l->addrs, addrs, count * sizeof *addrs);
    l->count = count;
    tell(n, now_us);
    tn_path_link_changed(n->path, now_us);
    tn_portmap_network_changed(n, now_us);
    if (gone || route) tn_control_reconnect(n->control, now_us); /* its connection may hang on what went */
}

/* ---- life ---- */

static int listen_to_kernel(void)
{
    struct sockaddr_nl sa = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR |
                                                                   RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0) return -errno;
    if (bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0) return fd;
    int err = -errno;
    close(fd);
    return err;
}

static int watch(struct tn_node *n)
{
    struct tn_netwatch *l = n->netwatch;
    l->poll = calloc(1, sizeof *l->poll);
    if (!l->poll) return TN_E_NOMEM;
    int err = uv_poll_init(&n->loop, l->poll, l->fd);
    if (err) {
        free(l->poll);
        l->poll = NULL;
        return err;
    }
    l->poll->data = n;
    return uv_poll_start(l->poll, UV_READABLE, on_readable);
}

int tn_netwatch_new(struct tn_node *n)
{
    n->netwatch = calloc(1, sizeof *n->netwatch);
    if (!n->netwatch) return TN_E_NOMEM;
    n->netwatch->fd = listen_to_kernel();
    int err = n->netwatch->fd >= 0 ? watch(n) : 0;
    if (n->netwatch->fd < 0)
        tn_logf(&n->log, TN_LOG_WARN, "node", "changes of the network won't be noticed: netlink: %s",
                tn_err_text(n->netwatch->fd));
    n->netwatch->count = collect(n, n->netwatch->addrs); /* after the socket is open: no change in between is missed */
    tell(n, tn_node_now());
    return err;
}

static void free_poll(uv_handle_t *h) { free(h); }

void tn_netwatch_free(struct tn_node *n)
{
    struct tn_netwatch *l = n->netwatch;
    if (!l) return;
    if (l->poll) {
        uv_poll_stop(l->poll);
        uv_close((uv_handle_t *)l->poll, free_poll);
    }
    if (l->fd >= 0) close(l->fd);
    free(l);
    n->netwatch = NULL;
}

void tn_netwatch_timeout(struct tn_node *n, uint64_t now_us)
{
    if (n->netwatch && n->netwatch->due_us && now_us >= n->netwatch->due_us) look(n, now_us);
}

uint64_t tn_netwatch_next_deadline(const struct tn_node *n)
{
    return n->netwatch && n->netwatch->due_us ? n->netwatch->due_us : TN_NEVER;
}
