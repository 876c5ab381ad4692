/* Packet filter rules (tailcfg.FilterRule), compiled once per netmap change. Follows Go's
 * wgengine/filter/{tailcfg,match}.go at 1.102.5.
 *
 * A rule lets packets of its protocols from any of its sources to any of its destination ports. There is no negation
 * and no order: rules only ever add permission. Therefore an entry that can't be read (a form of a future control
 * server) is left out and counted, as in Go, while a defect in the structure refuses the whole array: half-understood
 * rules are no rules. So do the legacy fields SrcBits and DstPorts[].Bits, which turned IPs into prefixes: ignoring
 * them would change what a rule means.
 *
 * Sources are sorted spans (binary search), so lists of thousands of peers stay cheap; rules and destinations are
 * walked, since the control server sends each node only what concerns it. A rule with CapGrant alone has no DstPorts
 * and matches nothing.
 *
 * One difference from Go: for ICMP, a "cap:" source counts only together with the rule's own destinations. */
#include "filter/rules.h"
#include "filter/ipset.h"
#include "util/err.h"
#include "wire/ip.h"

#include <stdlib.h>

enum { RULES_MAX = 1 << 16 };   /* a tailnet of ten thousand nodes gets some thousand */
enum { ENTRIES_MAX = 1 << 19 }; /* sources, destinations and caps of all rules: 32 MB at the very worst */
enum { TEXT_MAX = 1024 };       /* of one entry; capability names are the longest and under 100 */
enum { TWO_IPS_STRLEN = 2 * TN_IP_STRLEN };

struct dst {
    struct tn_span span;
    uint16_t first, last;
    uint8_t family;
};

struct rule {
    struct tn_ipset srcs;
    char **caps;
    struct dst *dsts;
    size_t ncaps, ndsts;
    uint8_t protos[256 / 8];
};

struct tn_rules {
    struct rule *rule;
    size_t n, entries, skipped;
};

/* One text of SrcIPs or DstPorts[].IP: up to two spans ("*" is both families). */
struct entry {
    int n;
    uint8_t family[2];
    struct tn_span span[2];
};

static int parse_cidr(const char *text, struct entry *e)
{
    struct tn_prefix p;
    struct tn_ip ip;
    char host[TN_IP_STRLEN];
    size_t len = (size_t)(strchr(text, '/') - text);
    if (tn_prefix_parse(text, &p) != 0) return TN_E_MALFORMED;
    memcpy(host, text, len); /* fits: tn_prefix_parse has taken it */
    host[len] = '\0';
    if (tn_ip_parse(host, &ip) != 0 || !tn_ip_eq(&ip, &p.ip)) return TN_E_MALFORMED; /* host bits set */
    *e = (struct entry){.n = 1, .family = {ip.family}, .span = {tn_prefix_span(&p)}};
    return 0;
}

static int parse_range(const char *text, const char *dash, struct entry *e)
{
    struct tn_ip a, b;
    char buf[TWO_IPS_STRLEN];
    size_t len = strlen(text), at = (size_t)(dash - text);
    if (len >= sizeof buf) return TN_E_MALFORMED;
    memcpy(buf, text, len + 1);
    buf[at] = '\0';
    if (tn_ip_parse(buf, &a) != 0 || tn_ip_parse(buf + at + 1, &b) != 0) return TN_E_MALFORMED;
    if (a.family != b.family || tn_ip_cmp(&a, &b) > 0) return TN_E_MALFORMED;
    *e = (struct entry){.n = 1, .family = {a.family}, .span = {{tn_ip_number(&a), tn_ip_number(&b)}}};
    return 0;
}

static int parse_entry(const char *text, struct entry *e)
{
    if (strcmp(text, "*") == 0) {
        *e = (struct entry){.n = 2, .family = {4, 6}, .span = {{0, UINT32_MAX}, {0, ~(tn_u128)0}}};
        return 0;
    }
    if (strchr(text, '/')) return parse_cidr(text, e);
    const char *dash = strchr(text, '-');
    if (dash) return parse_range(text, dash, e);
    struct tn_ip ip;
    if (tn_ip_parse(text, &ip) != 0) return TN_E_MALFORMED;
    *e = (struct entry){.n = 1, .family = {ip.family}, .span = {{tn_ip_number(&ip), tn_ip_number(&ip)}}};
    return 0;
}

/* A field that is an array, or absent or null (both: empty); TN_E_MALFORMED for another type. */
static int array_field(const json_t *object, const char *name, const json_t **out)
{
    const json_t *v = json_object_get(object, name);
    *out = v && !json_is_null(v) ? v : NULL;
    return *out && !json_is_array(v) ? TN_E_MALFORMED : 0;
}

/* The text of a JSON string, NULL when it is none or can't be an entry. */
static const char *entry_text(const json_t *v)
{
    const char *text = json_string_value(v);
    return text && strlen(text) == json_string_length(v) ? text : NULL;
}

static int count_entry(struct tn_rules *all, size_t n)
{
    if (all->entries > ENTRIES_MAX - n) return TN_E_TOOBIG;
    all->entries += n;
    return 0;
}

static int add_cap(struct rule *r, const char *cap)
{
    char **caps = realloc(r->caps, (r->ncaps + 1) * sizeof *caps);
    if (!caps) return TN_E_NOMEM;
    r->caps = caps;
    caps[r->ncaps] = strdup(cap);
    return caps[r->ncaps] ? (r->ncaps++, 0) : TN_E_NOMEM;
}

static int compile_source(struct tn_rules *all, struct rule *r, const json_t *v)
{
    const char *text = entry_text(v);
    struct entry e;
    if (!text) return TN_E_MALFORMED;
    if (strlen(text) > TEXT_MAX) return TN_E_TOOBIG;
    int err = count_entry(all, 2);
    if (err) return err;
    if (strncmp(text, "cap:", 4) == 0) return text[4] ? add_cap(r, text + 4) : 0;
    if (parse_entry(text, &e) != 0) {
        all->skipped++;
        return 0;
    }
    for (int i = 0; i < e.n && !err; i++) err = tn_ipset_add(&r->srcs, e.family[i], e.span[i]);
    return err;
}

static int compile_sources(struct tn_rules *all, struct rule *r, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        int err = compile_source(all, r, json_array_get(list, i));
        if (err) return err;
    }
    tn_ipset_finish(&r->srcs);
    return 0;
}

static int port_field(const json_t *ports, const char *name, uint16_t *out)
{
    const json_t *v = json_object_get(ports, name);
    *out = 0;
    if (!v || json_is_null(v)) return 0;
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : -1;
    if (n < 0 || n > 65535) return TN_E_MALFORMED;
    *out = (uint16_t)n;
    return 0;
}

static int add_dst(struct tn_rules *all, struct rule *r, const struct dst *d)
{
    int err = count_entry(all, 1);
    if (err) return err;
    if ((r->ndsts & (r->ndsts - 1)) == 0) { /* full at each power of two */
        struct dst *dsts = realloc(r->dsts, (r->ndsts ? r->ndsts * 2 : 1) * sizeof *dsts);
        if (!dsts) return TN_E_NOMEM;
        r->dsts = dsts;
    }
    r->dsts[r->ndsts++] = *d;
    return 0;
}

static int compile_dst(struct tn_rules *all, struct rule *r, const json_t *v)
{
    struct dst d = {0};
    struct entry e;
    const json_t *bits = json_object_get(v, "Bits"), *ports = json_object_get(v, "Ports");
    const char *text = entry_text(json_object_get(v, "IP"));
    if (!json_is_object(v) || (bits && !json_is_null(bits)) || !text) return TN_E_MALFORMED;
    if (ports && !json_is_null(ports) && !json_is_object(ports)) return TN_E_MALFORMED;
    if (strlen(text) > TEXT_MAX) return TN_E_TOOBIG;
    int err = port_field(ports, "First", &d.first);
    if (!err) err = port_field(ports, "Last", &d.last);
    if (err) return err;
    if (parse_entry(text, &e) != 0) {
        all->skipped++;
        return 0;
    }
    for (int i = 0; i < e.n && !err; i++) {
        d.family = e.family[i];
        d.span = e.span[i];
        err = add_dst(all, r, &d);
    }
    return err;
}

static int compile_protos(struct rule *r, const json_t *list)
{
    static const uint8_t usual[] = {TN_IPPROTO_TCP, TN_IPPROTO_UDP, TN_IPPROTO_ICMP, TN_IPPROTO_ICMP6};
    for (size_t i = 0; i < sizeof usual && json_array_size(list) == 0; i++)
        r->protos[usual[i] / 8] |= (uint8_t)(1 << usual[i] % 8);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v)) return TN_E_MALFORMED;
        json_int_t n = json_integer_value(v);
        if (n >= 0 && n <= 255) r->protos[n / 8] |= (uint8_t)(1 << n % 8); /* others match nothing */
    }
    return 0;
}

static int compile_rule(struct tn_rules *all, struct rule *r, const json_t *v)
{
    const json_t *srcs, *dsts, *protos, *bits;
    if (!json_is_object(v)) return TN_E_MALFORMED;
    if (array_field(v, "SrcIPs", &srcs) || array_field(v, "DstPorts", &dsts) || array_field(v, "IPProto", &protos) ||
        array_field(v, "SrcBits", &bits) || json_array_size(bits) > 0)
        return TN_E_MALFORMED;
    int err = compile_protos(r, protos);
    if (!err) err = compile_sources(all, r, srcs);
    for (size_t i = 0; i < json_array_size(dsts) && !err; i++) err = compile_dst(all, r, json_array_get(dsts, i));
    return err;
}

void tn_rules_free(struct tn_rules *r)
{
    if (!r) return;
    for (size_t i = 0; i < r->n; i++) {
        struct rule *one = &r->rule[i];
        tn_ipset_fini(&one->srcs);
        for (size_t c = 0; c < one->ncaps; c++) free(one->caps[c]);
        free(one->caps);
        free(one->dsts);
    }
    free(r->rule);
    free(r);
}

int tn_rules_compile(const json_t *json, struct tn_rules **out)
{
    bool absent = !json || json_is_null(json);
    size_t n = absent ? 0 : json_array_size(json);
    if (!absent && !json_is_array(json)) return TN_E_MALFORMED;
    if (n > RULES_MAX) return TN_E_TOOBIG;
    struct tn_rules *all = calloc(1, sizeof *all);
    if (!all) return TN_E_NOMEM;
    all->rule = n ? calloc(n, sizeof *all->rule) : NULL;
    int err = n && !all->rule ? TN_E_NOMEM : 0;
    for (size_t i = 0; i < n && !err; i++) {
        all->n++;
        err = compile_rule(all, &all->rule[i], json_array_get(json, i));
    }
    if (err) tn_rules_free(all);
    else *out = all;
    return err;
}

size_t tn_rules_skipped(const struct tn_rules *r) { return r->skipped; }
size_t tn_rules_count(const struct tn_rules *r) { return r->n; }

static bool has_proto(const struct rule *r, uint8_t proto) { return r->protos[proto / 8] & (1 << proto % 8); }

static bool has_source(const struct rule *r, const struct tn_rules_query *q, bool caps)
{
    if (tn_ipset_has(&r->srcs, &q->src)) return true;
    if (!caps || !q->peer || !q->peer->has_cap) return false;
    for (size_t i = 0; i < r->ncaps; i++)
        if (q->peer->has_cap(q->peer->ctx, r->caps[i])) return true;
    return false;
}

/* Is there a destination whose ports hold first..last? */
static bool has_dst(const struct rule *r, const struct tn_rules_query *q, uint16_t first, uint16_t last)
{
    tn_u128 dst = tn_ip_number(&q->dst);
    for (size_t i = 0; i < r->ndsts; i++) {
        const struct dst *d = &r->dsts[i];
        bool ports = d->first <= first && last <= d->last;
        if (ports && d->family == q->dst.family && tn_span_has(&d->span, dst)) return true;
    }
    return false;
}

static bool has_dst_ip(const struct rule *r, const struct tn_rules_query *q)
{
    tn_u128 dst = tn_ip_number(&q->dst);
    for (size_t i = 0; i < r->ndsts; i++)
        if (r->dsts[i].family == q->dst.family && tn_span_has(&r->dsts[i].span, dst)) return true;
    return false;
}

bool tn_rules_match(const struct tn_rules *r, const struct tn_rules_query *q)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct rule *one = &r->rule[i];
        if (one->ndsts && has_proto(one, q->proto) && has_source(one, q, true) && has_dst(one, q, q->port, q->port))
            return true;
    }
    return false;
}

bool tn_rules_match_ips(const struct tn_rules *r, const struct tn_rules_query *q)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct rule *one = &r->rule[i];
        if (one->ndsts && has_source(one, q, true) && has_dst_ip(one, q)) return true;
    }
    return false;
}

bool tn_rules_match_portless(const struct tn_rules *r, const struct tn_rules_query *q)
{
    for (size_t i = 0; i < r->n; i++) {
        const struct rule *one = &r->rule[i];
        if (one->ndsts && has_proto(one, q->proto) && has_source(one, q, false) && has_dst(one, q, 0, 65535))
            return true;
    }
    return false;
}
