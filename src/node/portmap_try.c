/* PCP by our own codec (no library in Debian speaks it), NAT-PMP by libnatpmp, UPnP by miniupnpc; the first that works.
 *
 * Only the default gateway is believed: PCP and NAT-PMP by connected sockets, UPnP by looking only at devices whose
 * description is at the gateway's address, so that no other machine of the network can send us elsewhere. */
#include "node/portmap_try.h"

#include "util/cursor.h"
#include "util/err.h"
#include "util/thread.h"

#include <arpa/inet.h>
#include <miniupnpc/miniupnpc.h>
#include <miniupnpc/upnpcommands.h>
#include <miniupnpc/upnperrors.h>
#include <natpmp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LIFETIME_S = 7200,
    PCP_TRIES = 3, PCP_WAIT_MS = 250,
    PMP_ROUNDS = 3,         /* 250, 500, 1000 ms; the library itself would go on for a minute */
    UPNP_SEARCH_MS = 1000,
    STACK = 512 * 1024,     /* miniupnpc parses XML and HTTP on the stack in buffers of a few KiB */
};

/* Shared by the owner and the thread; whoever lets go last frees. */
struct tn_portmap_try {
    atomic_int refs;
    atomic_bool done;
    int fd;
    struct tn_portmap_question q;
    struct tn_portmap_answer a; /* written by the thread before done */
};

static void unref(struct tn_portmap_try *t)
{
    if (atomic_fetch_sub(&t->refs, 1) != 1) return;
    close(t->fd);
    free(t);
}

/* ---- PCP ---- */

/* In TUN mode with an exit node the gateway's own address would lead into the tunnel. */
static int mark(int fd, const struct tn_portmap_question *q)
{
    return q->mark ? setsockopt(fd, SOL_SOCKET, SO_MARK, &q->mark, sizeof q->mark) : 0;
}

static int gateway_socket(const struct tn_portmap_question *q)
{
    struct sockaddr_storage ss;
    struct tn_addrport to = {q->gateway, TN_PCP_PORT};
    socklen_t len = tn_addrport_to_sockaddr(&to, &ss);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && mark(fd, q) == 0 && connect(fd, (struct sockaddr *)&ss, len) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

static struct tn_pcp_map pcp_request(const struct tn_portmap_question *q, uint32_t lifetime_s)
{
    struct tn_pcp_map m = {.lifetime_s = lifetime_s, .client = q->local, .internal_port = q->port,
                           .external_port = q->wanted};
    memcpy(m.nonce, q->nonce, sizeof m.nonce);
    return m;
}

static bool try_pcp(const struct tn_portmap_question *q, struct tn_portmap_answer *a)
{
    uint8_t request[TN_PCP_MAP_LEN], reply[TN_PCP_MESSAGE_MAX];
    struct tn_pcp_map asked = pcp_request(q, LIFETIME_S), got;
    int fd = gateway_socket(q), err = TN_E_AGAIN;
    if (fd < 0) return false;
    tn_pcp_map_put(request, &asked);
    for (int i = 0; i < PCP_TRIES && err == TN_E_AGAIN; i++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (send(fd, request, sizeof request, 0) < 0) break;
        if (poll(&p, 1, PCP_WAIT_MS << i) <= 0) continue;
        ssize_t n = recv(fd, reply, sizeof reply, 0);
        if (n < 0) break; /* refused: nobody listens */
        err = tn_pcp_map_parse(reply, (size_t)n, &asked, &got);
        if (err == TN_E_MALFORMED) err = TN_E_AGAIN;
    }
    close(fd);
    if (err || !got.external_port || !got.lifetime_s) return false;
    *a = (struct tn_portmap_answer){TN_PORTMAP_PCP, {got.external_ip, got.external_port}, got.lifetime_s};
    return true;
}

/* ---- NAT-PMP ---- */

/* The answer to the request under way, which the library repeats. */
static bool wait_pmp(natpmp_t *n, uint16_t type, natpmpresp_t *resp)
{
    for (int i = 0; i < PMP_ROUNDS; i++) {
        struct timeval left;
        fd_set fds;
        if (n->s >= FD_SETSIZE || getnatpmprequesttimeout(n, &left) < 0) return false;
        FD_ZERO(&fds);
        FD_SET(n->s, &fds);
        if (select(n->s + 1, &fds, NULL, NULL, &left) < 0) return false;
        int r = readnatpmpresponseorretry(n, resp);
        if (r == 0) return resp->type == type && resp->resultcode == 0;
        if (r != NATPMP_TRYAGAIN) return false;
    }
    return false;
}

/* The library's socket is connected already, by a way that was chosen without the mark. */
static bool mark_pmp(const natpmp_t *n, const struct tn_portmap_question *q)
{
    const struct sockaddr none = {.sa_family = AF_UNSPEC};
    struct sockaddr_storage ss;
    struct tn_addrport to = {q->gateway, TN_PCP_PORT};
    socklen_t len = tn_addrport_to_sockaddr(&to, &ss);
    if (!q->mark) return true;
    return mark(n->s, q) == 0 && connect(n->s, &none, sizeof none) == 0 && connect(n->s, (struct sockaddr *)&ss, len) == 0;
}

static bool try_pmp(const struct tn_portmap_question *q, struct tn_portmap_answer *a)
{
    natpmp_t n;
    natpmpresp_t ip, map;
    in_addr_t gateway;
    memcpy(&gateway, q->gateway.b, sizeof gateway);
    if (initnatpmp(&n, 1, gateway) < 0) return false;
    bool ok = mark_pmp(&n, q) && sendpublicaddressrequest(&n) == 2 && wait_pmp(&n, NATPMP_RESPTYPE_PUBLICADDRESS, &ip);
    ok = ok && sendnewportmappingrequest(&n, NATPMP_PROTOCOL_UDP, q->port, q->wanted ? q->wanted : q->port, LIFETIME_S) == 12 &&
         wait_pmp(&n, NATPMP_RESPTYPE_UDPPORTMAPPING, &map);
    closenatpmp(&n);
    if (!ok || !map.pnu.newportmapping.mappedpublicport || !map.pnu.newportmapping.lifetime) return false;
    *a = (struct tn_portmap_answer){
        TN_PORTMAP_PMP,
        {tn_ip_from_bytes(&ip.pnu.publicaddress.addr, 4), map.pnu.newportmapping.mappedpublicport},
        map.pnu.newportmapping.lifetime};
    return true;
}

/* ---- UPnP ---- */

/* Is the URL's host the gateway? */
static bool leads_to(const char *url, const char *gateway)
{
    char prefix[TN_IP_STRLEN + 8];
    size_t len = (size_t)snprintf(prefix, sizeof prefix, "http://%s", gateway);
    return url && strncmp(url, prefix, len) == 0 && (url[len] == ':' || url[len] == '/');
}

/* Keeps the devices whose description is at the gateway. */
static struct UPNPDev *keep_gateway(struct UPNPDev *list, const char *gateway)
{
    struct UPNPDev *kept = NULL;
    while (list) {
        struct UPNPDev *dev = list;
        list = dev->pNext;
        dev->pNext = NULL; /* the library frees lists */
        if (leads_to(dev->descURL, gateway)) {
            dev->pNext = kept;
            kept = dev;
        } else {
            freeUPNPDevlist(dev);
        }
    }
    return kept;
}

static int find_igd(struct UPNPDev *list, struct UPNPUrls *urls, struct IGDdatas *data)
{
    char lan[64];
#if MINIUPNPC_API_VERSION >= 18
    char wan[64];
    return UPNP_GetValidIGD(list, urls, data, lan, sizeof lan, wan, sizeof wan);
#else
    return UPNP_GetValidIGD(list, urls, data, lan, sizeof lan);
#endif
}

static bool add_upnp(const struct UPNPUrls *urls, const struct IGDdatas *data, const char *lan,
                     const struct tn_portmap_question *q, struct tn_portmap_answer *a)
{
    char external[64] = "", port[8], outside[8], lifetime[16];
    struct tn_ip ip;
    const char *type = data->first.servicetype;
    uint16_t wanted = q->wanted ? q->wanted : q->port;
    if (UPNP_GetExternalIPAddress(urls->controlURL, type, external) != UPNPCOMMAND_SUCCESS) return false;
    if (tn_ip_parse(external, &ip) != 0 || ip.family != 4) return false;
    snprintf(port, sizeof port, "%u", q->port);
    snprintf(lifetime, sizeof lifetime, "%d", LIFETIME_S);
    for (int i = 0; i < 4; i++) { /* a port that another machine has is refused: three more, spread by the nonce */
        snprintf(outside, sizeof outside, "%u", wanted);
        int err = UPNP_AddPortMapping(urls->controlURL, type, outside, port, lan, "libtailnet", "UDP", NULL, lifetime);
        if (err == UPNPCOMMAND_SUCCESS) {
            *a = (struct tn_portmap_answer){TN_PORTMAP_UPNP, {ip, wanted}, LIFETIME_S};
            return true;
        }
        wanted = (uint16_t)(1024 + tn_get_be16(q->nonce + 2 * i) % (65536 - 1024));
    }
    return false;
}

static bool try_upnp(const struct tn_portmap_question *q, struct tn_portmap_answer *a)
{
    char gateway[TN_IP_STRLEN], lan[TN_IP_STRLEN];
    struct UPNPUrls urls;
    struct IGDdatas data;
    int err = 0;
    if (q->mark && q->tunneled) return false; /* the library's sockets can't be marked */
    tn_ip_format(&q->gateway, gateway);
    tn_ip_format(&q->local, lan);
    struct UPNPDev *list = keep_gateway(upnpDiscover(UPNP_SEARCH_MS, lan, NULL, 0, 0, 2, &err), gateway);
    if (!list) return false;
    int found = find_igd(list, &urls, &data);
    bool ok = found == 1 && leads_to(urls.controlURL, gateway) && add_upnp(&urls, &data, lan, q, a);
    if (found) FreeUPNPUrls(&urls);
    freeUPNPDevlist(list);
    return ok;
}

/* ---- the thread ---- */

static void *attempt(void *arg)
{
    struct tn_portmap_try *t = arg;
    static bool (*const ways[])(const struct tn_portmap_question *, struct tn_portmap_answer *) = {
        [TN_PORTMAP_PCP] = try_pcp, [TN_PORTMAP_PMP] = try_pmp, [TN_PORTMAP_UPNP] = try_upnp};
    bool ok = t->q.first && ways[t->q.first](&t->q, &t->a);
    for (int kind = TN_PORTMAP_PCP; kind <= TN_PORTMAP_UPNP && !ok; kind++) ok = ways[kind](&t->q, &t->a);
    atomic_store(&t->done, true);
    uint64_t one = 1;
    ssize_t ignored = write(t->fd, &one, sizeof one);
    (void)ignored;
    unref(t);
    return NULL;
}

int tn_portmap_try_start(const struct tn_portmap_question *q, struct tn_portmap_try **out)
{
    struct tn_portmap_try *t = calloc(1, sizeof *t);
    if (!t) return TN_E_NOMEM;
    t->q = *q;
    t->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_init(&t->refs, 2);
    int err = t->fd < 0 ? -errno : tn_thread_detached(attempt, t, STACK);
    if (err) {
        if (t->fd >= 0) close(t->fd);
        free(t);
        return err;
    }
    *out = t;
    return 0;
}

int tn_portmap_try_fd(const struct tn_portmap_try *t) { return t->fd; }

bool tn_portmap_try_answer(const struct tn_portmap_try *t, struct tn_portmap_answer *out)
{
    if (!atomic_load(&t->done)) return false;
    *out = t->a;
    return true;
}

void tn_portmap_try_free(struct tn_portmap_try *t)
{
    if (t) unref(t);
}

void tn_portmap_release(const struct tn_portmap_question *q, const struct tn_portmap_answer *a)
{
    uint8_t pcp[TN_PCP_MAP_LEN], pmp[12] = {0, 1}; /* NAT-PMP: version 0, map UDP; port 0 and lifetime 0: forget */
    struct tn_pcp_map m = pcp_request(q, 0);
    if (a->kind != TN_PORTMAP_PCP && a->kind != TN_PORTMAP_PMP) return; /* UPnP's ends with its lease */
    int fd = gateway_socket(q);
    if (fd < 0) return;
    tn_pcp_map_put(pcp, &m);
    pmp[4] = (uint8_t)(q->port >> 8);
    pmp[5] = (uint8_t)q->port;
    bool by_pcp = a->kind == TN_PORTMAP_PCP;
    ssize_t ignored = send(fd, by_pcp ? pcp : pmp, by_pcp ? sizeof pcp : sizeof pmp, MSG_DONTWAIT);
    (void)ignored;
    close(fd);
}
