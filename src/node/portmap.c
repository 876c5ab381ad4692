#include "node/portmap.h"

#include "node/portmap_try.h"
#include "node/tunmode.h"
#include "util/err.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SETTLE_US = 1000 * 1000,            /* after a change: addresses first, then routes, then the gateway is asked */
    RETRY_US = 600 * 1000 * 1000,       /* a gateway that does not help is asked again in ten minutes */
    RENEW_MIN_S = 60,
    ROUTES_BYTES = 64 * 1024,           /* of /proc/net/route, whose first line is the default route */
};

struct tn_portmap {
    struct tn_portmap_try *attempt; /* NULL: none under way */
    uv_poll_t *poll;
    bool again;                     /* the network changed meanwhile */
    struct tn_portmap_question q;   /* of the attempt, or of what we have */
    struct tn_portmap_answer have;
    uint64_t due_us;
};

/* ---- where the gateway is ---- */

/* The IPv4 default route of the least metric: "Iface Destination Gateway Flags RefCnt Use Metric Mask ...", in hex of the
 * machine's byte order. */
static bool find_gateway(struct tn_ip *out)
{
    FILE *f = fopen("/proc/net/route", "re");
    char line[256];
    unsigned long best = ~0UL;
    bool found = false;
    if (!f) return false;
    for (size_t read = 0; read < ROUTES_BYTES && fgets(line, sizeof line, f); read += strlen(line)) {
        unsigned int dst, gateway, flags, metric, mask;
        if (sscanf(line, "%*s %x %x %x %*s %*s %u %x", &dst, &gateway, &flags, &metric, &mask) != 5) continue;
        if (dst != 0 || mask != 0 || gateway == 0 || !(flags & 2) || metric >= best) continue; /* 2: RTF_GATEWAY */
        *out = tn_ip_from_bytes(&gateway, 4);
        best = metric;
        found = true;
    }
    fclose(f);
    return found;
}

/* Our address on the way to it; nothing is sent. */
static bool local_address(const struct tn_node *n, const struct tn_ip *gateway, struct tn_ip *out)
{
    struct sockaddr_storage ss;
    struct tn_addrport ap = {*gateway, TN_PCP_PORT};
    socklen_t len = tn_addrport_to_sockaddr(&ap, &ss);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    bool ok = tn_tunmode_mark_socket(n, fd) == 0 && connect(fd, (struct sockaddr *)&ss, len) == 0;
    len = sizeof ss;
    ok = ok && getsockname(fd, (struct sockaddr *)&ss, &len) == 0;
    close(fd);
    if (!ok || tn_addrport_from_sockaddr((struct sockaddr *)&ss, &ap) != 0) return false;
    *out = ap.ip;
    return true;
}

/* ---- an attempt ---- */

static void free_poll(uv_handle_t *h) { free(h); }

static void end_attempt(struct tn_portmap *m)
{
    if (m->poll) {
        uv_poll_stop(m->poll);
        uv_close((uv_handle_t *)m->poll, free_poll);
    }
    tn_portmap_try_free(m->attempt);
    m->poll = NULL;
    m->attempt = NULL;
}

static void tell(struct tn_node *n, uint64_t now_us)
{
    const struct tn_portmap *m = n->portmap;
    struct tn_path_portmap pm = {.outside = m->have.outside};
    pm.pcp = m->have.kind == TN_PORTMAP_PCP;
    pm.pmp = m->have.kind == TN_PORTMAP_PMP;
    pm.upnp = m->have.kind == TN_PORTMAP_UPNP;
    tn_path_set_portmap(n->path, &pm, now_us);
}

static void concluded(struct tn_node *n, const struct tn_portmap_answer *a, uint64_t now_us)
{
    struct tn_portmap *m = n->portmap;
    char text[TN_ADDRPORT_STRLEN];
    bool same = a->kind == m->have.kind && tn_addrport_eq(&a->outside, &m->have.outside);
    m->have = *a;
    uint64_t renew_s = a->lifetime_s / 2 > RENEW_MIN_S ? a->lifetime_s / 2 : RENEW_MIN_S;
    m->due_us = now_us + (a->kind ? renew_s * 1000000 : RETRY_US);
    m->q.wanted = a->outside.port;
    if (!same && a->kind)
        tn_logf(&n->log, TN_LOG_INFO, "node", "the gateway maps %s to us (%s)", tn_addrport_format(&a->outside, text),
                tn_portmap_kind_name(n));
    if (!same) tell(n, now_us);
    if (m->again) m->due_us = now_us;
    m->again = false;
}

static void on_answer(uv_poll_t *p, int status, int events)
{
    struct tn_node *n = p->data;
    struct tn_portmap *m = n->portmap;
    struct tn_portmap_answer a;
    if (n->closing || !m->attempt || !tn_portmap_try_answer(m->attempt, &a)) return;
    end_attempt(m);
    concluded(n, &a, tn_node_now());
}

static int begin(struct tn_node *n)
{
    struct tn_portmap *m = n->portmap;
    m->q.first = m->have.kind;
    int err = tn_portmap_try_start(&m->q, &m->attempt);
    if (err) return err;
    m->poll = calloc(1, sizeof *m->poll);
    err = m->poll ? uv_poll_init(&n->loop, m->poll, tn_portmap_try_fd(m->attempt)) : TN_E_NOMEM;
    if (err) {
        free(m->poll);
        m->poll = NULL;
        end_attempt(m);
        return err;
    }
    m->poll->data = n;
    return uv_poll_start(m->poll, UV_READABLE, on_answer);
}

/* ---- life ---- */

int tn_portmap_new(struct tn_node *n)
{
    if (!n->config.port_mapping || !n->udp || !tn_udp_port4(n->udp)) return 0;
    struct tn_portmap *m = n->portmap = calloc(1, sizeof *m);
    if (!m) return TN_E_NOMEM;
    m->q.port = tn_udp_port4(n->udp);
    m->q.mark = tn_tunmode_mark(n);
    m->q.tunneled = n->config.exit_node && !n->config.exit_node_allow_lan;
    tn_rng_fill(&n->rng, m->q.nonce, sizeof m->q.nonce);
    m->due_us = tn_node_now() + SETTLE_US;
    return 0;
}

void tn_portmap_free(struct tn_node *n)
{
    struct tn_portmap *m = n->portmap;
    if (!m) return;
    end_attempt(m);
    tn_portmap_release(&m->q, &m->have);
    free(m);
    n->portmap = NULL;
}

void tn_portmap_network_changed(struct tn_node *n, uint64_t now_us)
{
    struct tn_portmap *m = n->portmap;
    if (!m) return;
    m->again = m->attempt != NULL;
    m->due_us = now_us + SETTLE_US;
}

void tn_portmap_timeout(struct tn_node *n, uint64_t now_us)
{
    struct tn_portmap *m = n->portmap;
    struct tn_ip gateway = {0}, local = {0};
    if (!m || m->attempt || now_us < m->due_us) return;
    m->due_us = now_us + RETRY_US;
    /* With a public address of our own there is nothing to map. */
    bool natted = find_gateway(&gateway) && local_address(n, &gateway, &local) && tn_ip_is_private(&local);
    bool moved = !tn_ip_eq(&gateway, &m->q.gateway) || !tn_ip_eq(&local, &m->q.local);
    if (moved && m->have.kind) { /* another network: what the old gateway gave is gone */
        m->have = (struct tn_portmap_answer){0};
        tell(n, now_us);
    }
    m->q.gateway = gateway;
    m->q.local = local;
    if (natted) (void)begin(n); /* when it can't be asked now, then at the next time */
}

uint64_t tn_portmap_next_deadline(const struct tn_node *n)
{
    return n->portmap && !n->portmap->attempt ? n->portmap->due_us : TN_NEVER;
}

const char *tn_portmap_kind_name(const struct tn_node *n)
{
    static const char *const names[] = {"", "PCP", "NAT-PMP", "UPnP"};
    return n->portmap ? names[n->portmap->have.kind] : "";
}
