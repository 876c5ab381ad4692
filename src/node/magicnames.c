#include "node/magicnames.h"

#include "util/cursor.h"
#include "util/err.h"
#include "wire/dnsrr.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { TTL_S = 600, TYPE_PTR = 12, TYPE_ANY = 255, DNS_PORT = 53, NAME_AT = 0xc000 | TN_DNSMSG_HEADER };

/* Without the dot at the end. */
static size_t bare_len(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && name[n - 1] == '.' ? n - 1 : n;
}

static bool same_name(const char *name, const char *other)
{
    size_t n = bare_len(name);
    return n == bare_len(other) && strncasecmp(name, other, n) == 0;
}

/* Is name the suffix, or below it? An empty suffix holds all. */
static bool is_below(const char *name, const char *suffix)
{
    size_t n = bare_len(name), s = bare_len(suffix);
    if (s == 0) return true;
    return n >= s && strncasecmp(name + n - s, suffix, s) == 0 && (n == s || name[n - s - 1] == '.');
}

/* ---- answers ---- */

static void begin(struct tn_magic_verdict *v, const struct tn_dnsmsg *q, unsigned rcode)
{
    long n = tn_dnsmsg_put_empty(q, rcode, v->out, sizeof v->out);
    v->way = n > 0 ? TN_MAGIC_ANSWERED : TN_MAGIC_NONE;
    v->len = n > 0 ? (size_t)n : 0;
    if (n > 0) v->out[2] |= 4; /* AA */
}

static void put_record(struct tn_magic_verdict *v, uint16_t type, const void *data, size_t len)
{
    struct tn_wr w = tn_wr_init(v->out + v->len, sizeof v->out - v->len);
    tn_wr_be16(&w, NAME_AT);
    tn_wr_be16(&w, type);
    tn_wr_be16(&w, TN_DNSCLASS_IN);
    tn_wr_be32(&w, TTL_S);
    tn_wr_be16(&w, (uint16_t)len);
    tn_wr_bytes(&w, data, len);
    if (!tn_wr_ok(&w)) return; /* a node with that many addresses shows the first */
    v->len += tn_wr_len(&w);
    tn_put_be16(v->out + 6, (uint16_t)(tn_get_be16(v->out + 6) + 1));
}

static void put_address(struct tn_magic_verdict *v, const struct tn_dnsmsg *q, const struct tn_ip *ip)
{
    uint16_t type = ip->family == 4 ? TN_DNSTYPE_A : TN_DNSTYPE_AAAA;
    if (q->type == type || q->type == TYPE_ANY) put_record(v, type, ip->b, ip->family == 4 ? 4 : 16);
}

static const struct tn_netnode *node_at(const struct tn_netmap *m, size_t i)
{
    return i == 0 ? tn_netmap_self(m) : tn_netmap_peer_at(m, i - 1);
}

static const struct tn_netnode *node_named(const struct tn_netmap *m, const char *name)
{
    for (size_t i = 0; i <= tn_netmap_npeers(m); i++) {
        const struct tn_netnode *n = node_at(m, i);
        if (n && n->name && *n->name && same_name(n->name, name)) return n;
    }
    return NULL;
}

/* {"Name", "Type" (empty: by the value), "Value"}: false when none has this name. */
static bool put_extra(struct tn_magic_verdict *v, const json_t *config, const struct tn_dnsmsg *q, const char *name)
{
    size_t i;
    json_t *r;
    bool found = false;
    json_array_foreach (json_object_get(config, "ExtraRecords"), i, r) {
        const char *of = json_string_value(json_object_get(r, "Name")), *value = json_string_value(json_object_get(r, "Value"));
        struct tn_ip ip;
        if (!of || !value || !same_name(of, name) || tn_ip_parse(value, &ip) != 0) continue;
        if (!found) begin(v, q, 0);
        found = true;
        put_address(v, q, &ip);
    }
    return found;
}

/* ---- reverse names ---- */

static bool reverse4(const char *name, struct tn_ip *out)
{
    unsigned a, b, c, d;
    int end = 0;
    if (sscanf(name, "%3u.%3u.%3u.%3u.in-addr.arpa%n", &d, &c, &b, &a, &end) != 4 || end == 0 || name[end]) return false;
    if (a > 255 || b > 255 || c > 255 || d > 255) return false;
    *out = tn_ip4((uint8_t)a, (uint8_t)b, (uint8_t)c, (uint8_t)d);
    return true;
}

static bool reverse6(const char *name, struct tn_ip *out)
{
    *out = (struct tn_ip){.family = 6};
    for (int i = 0; i < 32; i++, name += 2) {
        static const char digits[] = "0123456789abcdef";
        const char *d = name[0] ? strchr(digits, name[0]) : NULL;
        if (!d || name[1] != '.') return false;
        out->b[15 - i / 2] |= (uint8_t)((d - digits) << (i % 2 ? 4 : 0));
    }
    return strcmp(name, "ip6.arpa") == 0;
}

static size_t put_wire_name(const char *name, uint8_t out[TN_DNSMSG_NAME_MAX])
{
    size_t len = 0, left = bare_len(name);
    while (left > 0) {
        size_t label = strcspn(name, ".");
        if (label > left) label = left;
        if (label == 0 || label > 63 || len + label + 2 > TN_DNSMSG_NAME_MAX) return 0;
        out[len++] = (uint8_t)label;
        memcpy(out + len, name, label);
        len += label;
        name += label;
        left -= label;
        if (left > 0) name++, left--;
    }
    out[len++] = 0;
    return len;
}

/* False: not an address of the tailnet's ranges. */
static bool answer_reverse(const struct tn_netmap *m, const struct tn_dnsmsg *q, const char *name, struct tn_magic_verdict *v)
{
    struct tn_ip ip;
    if ((!reverse4(name, &ip) && !reverse6(name, &ip)) || !tn_ip_is_tailnet(&ip)) return false;
    for (size_t i = 0; i <= tn_netmap_npeers(m); i++) {
        const struct tn_netnode *n = node_at(m, i);
        for (size_t a = 0; n && a < n->naddresses; a++) {
            uint8_t wire[TN_DNSMSG_NAME_MAX];
            if (!tn_ip_eq(&n->addresses[a].ip, &ip) || !n->name) continue;
            size_t len = put_wire_name(n->name, wire);
            begin(v, q, 0);
            if (q->type == TYPE_PTR && len > 1) put_record(v, TYPE_PTR, wire, len);
            return true;
        }
    }
    begin(v, q, TN_DNSMSG_NXDOMAIN);
    return true;
}

/* ---- who is to be asked ---- */

/* [{"Addr": "IP" or "IP:PORT"}, ...]; URLs (DNS over HTTPS) are left out. */
static void take_servers(const json_t *list, struct tn_magic_verdict *v)
{
    size_t i;
    json_t *r;
    json_array_foreach ((json_t *)(uintptr_t)list, i, r) {
        const char *text = json_string_value(json_object_get(r, "Addr"));
        struct tn_addrport *s = &v->servers[v->nservers];
        if (!text || v->nservers == TN_MAGIC_SERVERS_MAX) continue;
        *s = (struct tn_addrport){.port = DNS_PORT};
        if (tn_ip_parse(text, &s->ip) == 0 || tn_addrport_parse(text, s) == 0) v->nservers++;
    }
}

/* The longest suffix of Routes; NULL: none holds the name. */
static const json_t *route_of(const json_t *config, const char *name)
{
    const char *suffix;
    json_t *servers;
    const json_t *best = NULL;
    size_t longest = 0;
    json_object_foreach (json_object_get(config, "Routes"), suffix, servers) {
        if (!is_below(name, suffix) || (best && strlen(suffix) <= longest)) continue;
        best = servers;
        longest = strlen(suffix);
    }
    return best;
}

static void forward(const json_t *config, const struct tn_dnsmsg *q, const char *name, struct tn_magic_verdict *v)
{
    const json_t *route = route_of(config, name);
    if (route && json_array_size(route) == 0) { /* ours, and not found */
        begin(v, q, TN_DNSMSG_NXDOMAIN);
        return;
    }
    take_servers(route ? route : json_object_get(config, "Resolvers"), v);
    if (route && v->nservers == 0) begin(v, q, TN_DNSMSG_SERVFAIL); /* none that we can ask, and nobody else may be */
    else v->way = v->nservers ? TN_MAGIC_SERVERS : TN_MAGIC_DEFAULT;
}

void tn_magicnames_ask(const struct tn_netmap *m, const uint8_t *query, size_t len, struct tn_magic_verdict *v)
{
    struct tn_dnsmsg q;
    char name[TN_DNSMSG_TEXT_MAX];
    const json_t *config = tn_netmap_dns_config(m);
    v->way = TN_MAGIC_NONE;
    v->len = v->nservers = 0;
    if (tn_dnsmsg_parse(query, len, &q) != 0 || q.flags & TN_DNSMSG_QR) return;
    tn_dnsmsg_name_text(&q, name);
    if (q.class != TN_DNSCLASS_IN || (q.flags & 0x7800) != 0) { /* other classes, other opcodes */
        begin(v, &q, TN_DNSMSG_REFUSED);
        return;
    }
    const struct tn_netnode *n = json_is_true(json_object_get(config, "Proxied")) ? node_named(m, name) : NULL;
    if (n) {
        begin(v, &q, 0);
        for (size_t i = 0; i < n->naddresses; i++) put_address(v, &q, &n->addresses[i].ip);
        return;
    }
    if (put_extra(v, config, &q, name) || answer_reverse(m, &q, name, v)) return;
    forward(config, &q, name, v);
}

void tn_magicnames_search(const struct tn_netmap *m, char *out, size_t cap)
{
    size_t i, used = 0;
    json_t *d;
    out[0] = '\0';
    json_array_foreach (json_object_get(tn_netmap_dns_config(m), "Domains"), i, d) {
        const char *domain = json_string_value(d);
        size_t len = domain ? bare_len(domain) : 0;
        if (len == 0 || strpbrk(domain, " \t\r\n") || used + len + 2 > cap) continue;
        used += (size_t)snprintf(out + used, cap - used, "%s%.*s", used ? " " : "", (int)len, domain);
    }
}
