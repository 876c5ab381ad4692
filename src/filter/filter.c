/* The packet filter: what may come in from peers, and what our own packets open for replies. Semantics of Go's
 * wgengine/filter/filter.go and net/packet/packet.go at 1.102.5 (pre, runIn4, runIn6, Check), plus the PeerAPI bypass
 * of net/tstun/wrap.go.
 *
 * The order of decisions for an inbound packet:
 *   1. empty packets (WireGuard keepalives) pass; what the IP gate refuses is dropped;
 *   2. transport headers must be whole in the first piece, later fragments must begin behind any such header
 *      (RFC 1858), so that no port hides from the rules;
 *   3. multicast and link-local destinations are dropped, the cloud metadata address excepted (the egress guard
 *      refuses that one later);
 *   4. the destination must be ours: own addresses, advertised routes, the shrunk default route;
 *   5. by protocol: later fragments, ICMP echo replies and errors, TCP without SYN and TSMP pass; UDP and SCTP pass
 *      as replies; all else needs a rule.
 * With shields up, and for jailed peers, step 5 sees an empty rule set: answers still pass.
 *
 * Differences from Go, to the strict side: later fragments too must be for us; 255.255.255.255 counts as multicast;
 * loopback and all of fc00::/7 are taken out of a default route as well; TSMP in IPv6 fragments is dropped. And ICMP
 * type 12, parameter problem, is an error here; Go's constant for it is 0x12. */
#include "filter/filter.h"
#include "filter/flows.h"
#include "filter/ipset.h"
#include "filter/rules.h"
#include "util/cursor.h"
#include "util/err.h"
#include "util/rng.h"
#include "wire/ip.h"

#include <stdlib.h>

enum { OWN_MAX = 64 };            /* a node has two addresses, a service host some more */
enum { ROUTES_MAX = 16384 };      /* advertised prefixes */
enum { ATTACHED_MAX = 4096 };     /* interface addresses of the host */
enum { LATER_FRAGMENT_MIN = 80 }; /* the longest IPv4 header and a TCP header, in whole 8-byte blocks */
enum { FLAG_SYN = 0x02, FLAG_ACK = 0x10 };
enum { PROTO_RESERVED = 255, PROTO_HOPOPT = 0, PROTO_IGMP = 2 };
enum { ICMP_ECHO_MIN = 8 };

struct tn_filter {
    struct tn_rules *rules;
    struct tn_flows flows;
    struct tn_ipset local;
    struct tn_ip own[OWN_MAX];
    size_t nown;
    uint16_t peerapi4, peerapi6;
    bool shields;
};

struct tn_filter *tn_filter_new(void)
{
    struct tn_filter *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    if (tn_rules_compile(NULL, &f->rules) != 0) {
        free(f);
        return NULL;
    }
    struct tn_rng rng = tn_rng_system();
    struct tn_hashkey key;
    tn_rng_fill(&rng, &key, sizeof key);
    tn_flows_init(&f->flows, &key);
    return f;
}

void tn_filter_free(struct tn_filter *f)
{
    if (!f) return;
    tn_rules_free(f->rules);
    tn_flows_fini(&f->flows);
    tn_ipset_fini(&f->local);
    free(f);
}

int tn_filter_set_rules(struct tn_filter *f, const json_t *rules)
{
    struct tn_rules *fresh = NULL;
    int err = tn_rules_compile(rules, &fresh);
    if (err) {
        tn_rules_free(f->rules);
        f->rules = NULL; /* matches nothing */
        return err;
    }
    tn_rules_free(f->rules);
    f->rules = fresh;
    return 0;
}

size_t tn_filter_skipped(const struct tn_filter *f) { return f->rules ? tn_rules_skipped(f->rules) : 0; }
size_t tn_filter_rule_count(const struct tn_filter *f) { return f->rules ? tn_rules_count(f->rules) : 0; }

/* What a default route never includes. */
static const struct tn_prefix never_in_default[] = {
    {{4, {192, 168}}, 16}, {{4, {172, 16}}, 12}, {{4, {10}}, 8}, /* RFC 1918 */
    {{4, {127}}, 8},                                              /* loopback */
    {{4, {169, 254}}, 16},                                        /* link-local */
    {{4, {224}}, 4},                                              /* multicast */
    {{4, {100, 64}}, 10},                                         /* tailnets */
    {{6, {[15] = 1}}, 128},                                       /* loopback */
    {{6, {0xfe, 0x80}}, 10},                                      /* link-local */
    {{6, {0xff}}, 8},                                             /* multicast */
    {{6, {0xfc}}, 7},                                             /* unique local, tailnets among them */
};

/* Go skips addresses without a subnet and those of a tailnet interface. */
static bool attached_counts(const struct tn_prefix *p)
{
    return p->bits < tn_ip_bits(&p->ip) && !tn_ip_is_tailnet(&p->ip);
}

/* Adds the default route of one family, less the attached subnets, plus the host's own addresses, less
 * never_in_default. */
static int add_default(struct tn_ipset *local, const struct tn_prefix *route, const struct tn_prefix *attached,
                       size_t n)
{
    struct tn_ipset set = {0};
    int err = tn_ipset_add_prefix(&set, route);
    for (size_t i = 0; i < n && !err; i++)
        if (attached[i].ip.family == route->ip.family && attached_counts(&attached[i]))
            err = tn_ipset_remove_prefix(&set, &attached[i]);
    for (size_t i = 0; i < n && !err; i++) {
        struct tn_prefix host = {attached[i].ip, (uint8_t)tn_ip_bits(&attached[i].ip)};
        if (host.ip.family == route->ip.family && attached_counts(&attached[i]))
            err = tn_ipset_add_prefix(&set, &host);
    }
    for (size_t i = 0; i < sizeof never_in_default / sizeof *never_in_default && !err; i++)
        if (never_in_default[i].ip.family == route->ip.family)
            err = tn_ipset_remove_prefix(&set, &never_in_default[i]);
    const struct tn_spans *spans = route->ip.family == 4 ? &set.v4 : &set.v6;
    for (size_t i = 0; i < spans->n && !err; i++) err = tn_ipset_add(local, route->ip.family, spans->at[i]);
    tn_ipset_fini(&set);
    return err;
}

int tn_filter_set_local(struct tn_filter *f, const struct tn_ip *own, size_t nown, const struct tn_prefix *routes,
                        size_t nroutes, const struct tn_prefix *attached, size_t nattached)
{
    if (nown > OWN_MAX || nroutes > ROUTES_MAX || nattached > ATTACHED_MAX) return TN_E_TOOBIG;
    struct tn_ipset local = {0};
    int err = 0;
    for (size_t i = 0; i < nown && !err; i++)
        err = tn_ipset_add_prefix(&local, &(struct tn_prefix){own[i], (uint8_t)tn_ip_bits(&own[i])});
    for (size_t i = 0; i < nroutes && !err; i++)
        err = routes[i].bits == 0 ? add_default(&local, &routes[i], attached, nattached)
                                  : tn_ipset_add_prefix(&local, &routes[i]);
    if (err) {
        tn_ipset_fini(&local);
        return err;
    }
    tn_ipset_finish(&local);
    tn_ipset_fini(&f->local);
    f->local = local;
    f->nown = nown;
    for (size_t i = 0; i < nown; i++) f->own[i] = own[i];
    return 0;
}

void tn_filter_set_shields(struct tn_filter *f, bool up) { f->shields = up; }

void tn_filter_set_peerapi_ports(struct tn_filter *f, uint16_t port4, uint16_t port6)
{
    f->peerapi4 = port4;
    f->peerapi6 = port6;
}

static bool is_own(const struct tn_filter *f, const struct tn_ip *ip)
{
    for (size_t i = 0; i < f->nown; i++)
        if (tn_ip_eq(&f->own[i], ip)) return true;
    return false;
}

/* Bytes that the first piece of a packet must hold of its transport header. */
static size_t header_min(const struct tn_ippkt *p)
{
    bool v4 = p->dst.family == 4;
    switch (p->proto) {
    case TN_IPPROTO_TCP: return 20;
    case TN_IPPROTO_UDP: return 8;
    case TN_IPPROTO_SCTP: return 12;
    case TN_IPPROTO_TSMP: return 7;
    case TN_IPPROTO_ICMP: return v4 ? 4 : 0; /* of the other family it is a protocol like any other */
    case TN_IPPROTO_ICMP6: return v4 ? 0 : 4;
    case PROTO_IGMP: return v4 ? 8 : 0;
    default: return 0;
    }
}

static enum tn_filter_reason check_pieces(const struct tn_ippkt *p)
{
    if (p->frag_off) return p->frag_off < LATER_FRAGMENT_MIN ? TN_FILTER_FRAGMENT : TN_FILTER_OK;
    if (p->l4_len < header_min(p)) return p->has_frag ? TN_FILTER_FRAGMENT : TN_FILTER_MALFORMED;
    if (p->proto == TN_IPPROTO_TSMP && p->has_frag) return TN_FILTER_FRAGMENT;
    if (p->proto == PROTO_HOPOPT || p->proto == PROTO_RESERVED) return TN_FILTER_PROTO;
    return TN_FILTER_OK;
}

bool tn_filter_takes(const struct tn_filter *f, const struct tn_ip *dst)
{
    return is_own(f, dst) || tn_ipset_has(&f->local, dst);
}

static enum tn_filter_reason check_dst(const struct tn_filter *f, const struct tn_ip *dst)
{
    static const struct tn_ip metadata = {4, {169, 254, 169, 254}}, broadcast = {4, {255, 255, 255, 255}};
    if (tn_ip_is_multicast(dst) || tn_ip_eq(dst, &broadcast)) return TN_FILTER_MULTICAST;
    if (tn_ip_is_link_local(dst) && !tn_ip_eq(dst, &metadata)) return TN_FILTER_LINK_LOCAL;
    return tn_filter_takes(f, dst) ? TN_FILTER_OK : TN_FILTER_NOT_OURS;
}

/* Echo replies and errors, with a whole ICMP header. */
static bool icmp_answer(const struct tn_ippkt *p)
{
    if (p->l4_len < ICMP_ECHO_MIN) return false;
    uint8_t type = p->l4[0], code = p->l4[1];
    if (p->proto == TN_IPPROTO_ICMP) return (type == 0 && code == 0) || type == 3 || type == 11 || type == 12;
    return (type == 129 && code == 0) || (type >= 1 && type <= 4);
}

static bool is_icmp(uint8_t proto, const struct tn_ip *ip)
{
    return proto == (ip->family == 4 ? TN_IPPROTO_ICMP : TN_IPPROTO_ICMP6);
}

static bool has_ports(uint8_t proto)
{
    return proto == TN_IPPROTO_TCP || proto == TN_IPPROTO_UDP || proto == TN_IPPROTO_SCTP;
}

static enum tn_filter_reason match_rules(const struct tn_filter *f, const struct tn_rules_query *q)
{
    bool ok = false;
    if (f->shields || (q->peer && q->peer->jailed)) return TN_FILTER_SHIELDS;
    if (!f->rules) return TN_FILTER_ACL;
    if (is_icmp(q->proto, &q->dst)) ok = tn_rules_match_ips(f->rules, q);
    else if (has_ports(q->proto)) ok = tn_rules_match(f->rules, q);
    else ok = tn_rules_match_portless(f->rules, q);
    return ok ? TN_FILTER_OK : TN_FILTER_ACL;
}

static struct tn_flow_key flow_key(uint8_t proto, const struct tn_ip *src, uint16_t sport, const struct tn_ip *dst,
                                   uint16_t dport)
{
    struct tn_flow_key k = {.sport = sport, .dport = dport, .proto = proto, .family = src->family};
    memcpy(k.src, src->b, sizeof k.src);
    memcpy(k.dst, dst->b, sizeof k.dst);
    return k;
}

static bool is_reply(struct tn_filter *f, const struct tn_ippkt *p)
{
    struct tn_flow_key k = flow_key(p->proto, &p->src, tn_get_be16(p->l4), &p->dst, tn_get_be16(p->l4 + 2));
    return tn_flows_seen(&f->flows, &k);
}

static bool to_peerapi(const struct tn_filter *f, const struct tn_ippkt *p)
{
    uint16_t port = p->dst.family == 4 ? f->peerapi4 : f->peerapi6;
    return port && p->proto == TN_IPPROTO_TCP && tn_get_be16(p->l4 + 2) == port && is_own(f, &p->dst);
}

static enum tn_filter_reason decide(struct tn_filter *f, const struct tn_ippkt *p, const struct tn_filter_peer *peer)
{
    if (p->frag_off || p->proto == TN_IPPROTO_TSMP) return TN_FILTER_OK;
    if (is_icmp(p->proto, &p->dst) && icmp_answer(p)) return TN_FILTER_OK;
    if (p->proto == TN_IPPROTO_TCP && (p->l4[13] & (FLAG_SYN | FLAG_ACK)) != FLAG_SYN) return TN_FILTER_OK;
    if ((p->proto == TN_IPPROTO_UDP || p->proto == TN_IPPROTO_SCTP) && is_reply(f, p)) return TN_FILTER_OK;
    struct tn_rules_query q = {.src = p->src, .dst = p->dst, .proto = p->proto, .peer = peer};
    if (has_ports(p->proto)) q.port = tn_get_be16(p->l4 + 2);
    enum tn_filter_reason why = match_rules(f, &q);
    return why != TN_FILTER_OK && to_peerapi(f, p) ? TN_FILTER_OK : why;
}

enum tn_verdict tn_filter_in(struct tn_filter *f, const uint8_t *packet, size_t len,
                             const struct tn_filter_peer *peer, enum tn_filter_reason *why)
{
    struct tn_ippkt p;
    *why = TN_FILTER_OK;
    if (len == 0) return TN_ACCEPT; /* WireGuard keepalive */
    if (tn_ippkt_parse(packet, len, &p) != 0) *why = TN_FILTER_MALFORMED;
    else if ((*why = check_pieces(&p)) == TN_FILTER_OK && (*why = check_dst(f, &p.dst)) == TN_FILTER_OK)
        *why = decide(f, &p, peer);
    return *why == TN_FILTER_OK ? TN_ACCEPT : TN_DROP;
}

void tn_filter_out(struct tn_filter *f, const uint8_t *packet, size_t len)
{
    struct tn_ippkt p;
    if (len < 20) return;
    uint8_t first = packet[0] >> 4 == 4 ? packet[9] : packet[6];
    if (first == TN_IPPROTO_TCP) return; /* most packets; needs no state */
    if (tn_ippkt_parse(packet, len, &p) != 0 || p.frag_off) return;
    if ((p.proto != TN_IPPROTO_UDP && p.proto != TN_IPPROTO_SCTP) || p.l4_len < header_min(&p)) return;
    struct tn_flow_key k = flow_key(p.proto, &p.dst, tn_get_be16(p.l4 + 2), &p.src, tn_get_be16(p.l4));
    tn_flows_note(&f->flows, &k);
}

bool tn_filter_would_accept(const struct tn_filter *f, const struct tn_ip *src, const struct tn_ip *dst,
                            uint16_t port, uint8_t ipproto, const struct tn_filter_peer *peer)
{
    if (src->family != dst->family || check_dst(f, dst) != TN_FILTER_OK) return false;
    struct tn_rules_query q = {.src = *src, .dst = *dst, .port = port, .proto = ipproto, .peer = peer};
    return match_rules(f, &q) == TN_FILTER_OK;
}
