/* Reads tailcfg.DERPMap (tailscale.com v1.102.5 tailcfg/derpmap.go) and applies the dial and certificate rules of
 * derp/derphttp/derphttp_client.go (dialNode, tlsClient) and net/netcheck/netcheck.go (nodeAddrPort).
 *
 * Host and node names end up in HTTP heads and TLS hellos, so control characters make the map malformed. */
#include "path/derpmap.h"
#include "util/err.h"
#include "util/text.h"
#include "wire/stun.h"

#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 255, DERP_PORT = 443 };

static void free_node(struct tn_derp_node *n)
{
    free(n->name);
    free(n->host);
    free(n->cert_name);
}

static void free_region(struct tn_derp_region *r)
{
    for (size_t i = 0; i < r->nnodes; i++) free_node(&r->nodes[i]);
    free(r->nodes);
    free(r->code);
}

void tn_derp_map_free(struct tn_derp_map *m)
{
    if (!m) return;
    for (size_t i = 0; i < m->nregions; i++) free_region(&m->regions[i]);
    free(m->regions);
    free(m);
}

/* word: no spaces and ASCII only, for what is looked up or sent as a host. Other texts may hold any printable
 * bytes. */
static int take_text(const json_t *obj, const char *name, bool word, char **out)
{
    const json_t *v = json_object_get(obj, name);
    const char *text = "";
    if (v && !json_is_null(v)) {
        if (!json_is_string(v)) return TN_E_MALFORMED;
        text = json_string_value(v);
        if (json_string_length(v) > TEXT_MAX || strlen(text) != json_string_length(v)) return TN_E_MALFORMED;
    }
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f || (word && (*p == ' ' || *p & 0x80))) return TN_E_MALFORMED;
    *out = strdup(text);
    return *out ? 0 : TN_E_NOMEM;
}

static int take_bool(const json_t *obj, const char *name, bool *out)
{
    const json_t *v = json_object_get(obj, name);
    if (v && !json_is_null(v) && !json_is_boolean(v)) return TN_E_MALFORMED;
    *out = json_is_true(v);
    return 0;
}

static int take_port(const json_t *obj, const char *name, int min, int *out)
{
    const json_t *v = json_object_get(obj, name);
    *out = 0;
    if (!v || json_is_null(v)) return 0;
    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > 65535) return TN_E_MALFORMED;
    *out = (int)json_integer_value(v);
    return 0;
}

/* "" = by name, an address of the family, anything else = not this family (Go: ParseAddr fails, nothing is
 * dialed). */
static int take_ip(const json_t *obj, const char *name, int family, struct tn_ip *out, bool *off)
{
    char *text;
    struct tn_ip ip;
    int err = take_text(obj, name, true, &text);
    if (err) return err;
    if (*text && tn_ip_parse(text, &ip) == 0 && (family == 0 || ip.family == family)) *out = ip;
    else *off = *text != '\0';
    free(text);
    return 0;
}

static void read_pin(struct tn_derp_node *n)
{
    static const char prefix[] = "sha256-raw:";
    if (strncmp(n->cert_name, prefix, sizeof prefix - 1) != 0) return;
    n->pinned = tn_hex_decode(n->cert_name + sizeof prefix - 1, n->sha256, sizeof n->sha256) == 0;
    n->bad_pin = !n->pinned;
}

static int read_node(const json_t *j, struct tn_derp_node *n)
{
    int err, stun_port, derp_port;
    bool bad_stun_ip = false;
    if (!json_is_object(j)) return TN_E_MALFORMED;
    if ((err = take_text(j, "Name", false, &n->name)) || (err = take_text(j, "HostName", true, &n->host)) ||
        (err = take_text(j, "CertName", true, &n->cert_name)) || (err = take_ip(j, "IPv4", 4, &n->ip4, &n->no4)) ||
        (err = take_ip(j, "IPv6", 6, &n->ip6, &n->no6)) ||
        (err = take_ip(j, "STUNTestIP", 0, &n->stun_ip, &bad_stun_ip)) ||
        (err = take_port(j, "STUNPort", -65535, &stun_port)) || (err = take_port(j, "DERPPort", 0, &derp_port)) ||
        (err = take_bool(j, "STUNOnly", &n->stun_only)) || (err = take_bool(j, "InsecureForTests", &n->insecure)))
        return err;
    struct tn_ip literal;
    if (tn_ip_parse(n->host, &literal) == 0) { /* a host that is an address needs no lookup and has no other family */
        if (n->ip4.family == 0 && literal.family == 4) n->ip4 = literal;
        else if (n->ip4.family == 0) n->no4 = true;
        if (n->ip6.family == 0 && literal.family == 6) n->ip6 = literal;
        else if (n->ip6.family == 0) n->no6 = true;
    }
    n->no_stun = stun_port < 0 || bad_stun_ip;
    n->stun_port = stun_port > 0 ? (uint16_t)stun_port : TN_STUN_PORT;
    n->derp_port = derp_port ? (uint16_t)derp_port : DERP_PORT;
    n->test_node = n->stun_ip.family != 0 || tn_ip_is_loopback(&n->ip4);
    read_pin(n);
    return 0;
}

static int read_nodes(const json_t *nodes, struct tn_derp_region *r)
{
    if (!nodes || json_is_null(nodes)) return 0;
    if (!json_is_array(nodes)) return TN_E_MALFORMED;
    if (json_array_size(nodes) > TN_DERP_NODES_MAX) return TN_E_TOOBIG;
    r->nodes = calloc(json_array_size(nodes) + 1, sizeof *r->nodes);
    if (!r->nodes) return TN_E_NOMEM;
    for (size_t i = 0; i < json_array_size(nodes); i++) {
        const json_t *j = json_array_get(nodes, i);
        if (json_is_null(j)) continue;
        int err = read_node(j, &r->nodes[r->nnodes++]);
        if (err) return err;
    }
    return 0;
}

static int read_id(const char *key, int *out)
{
    char *end;
    if (*key < '1' || *key > '9') return TN_E_MALFORMED;
    long id = strtol(key, &end, 10);
    if (*end || id > TN_DERP_REGION_ID_MAX) return TN_E_MALFORMED;
    *out = (int)id;
    return 0;
}

static int read_region(const char *key, const json_t *j, struct tn_derp_region *r)
{
    int err;
    r->score = 1;
    if (!json_is_object(j)) return TN_E_MALFORMED;
    if ((err = read_id(key, &r->id)) || (err = take_text(j, "RegionCode", false, &r->code)) ||
        (err = take_bool(j, "Avoid", &r->avoid)) || (err = take_bool(j, "NoMeasureNoHome", &r->no_home)))
        return err;
    return read_nodes(json_object_get(j, "Nodes"), r);
}

static int by_id(const void *a, const void *b)
{
    return ((const struct tn_derp_region *)a)->id - ((const struct tn_derp_region *)b)->id;
}

static int read_regions(const json_t *regions, struct tn_derp_map *m)
{
    const char *key;
    json_t *j;
    if (!json_is_object(regions)) return TN_E_MALFORMED;
    if (json_object_size(regions) > TN_DERP_REGIONS_MAX) return TN_E_TOOBIG;
    m->regions = calloc(json_object_size(regions) + 1, sizeof *m->regions);
    if (!m->regions) return TN_E_NOMEM;
    json_object_foreach((json_t *)regions, key, j) {
        if (json_is_null(j)) continue; /* a region that control took away */
        int err = read_region(key, j, &m->regions[m->nregions++]);
        if (err) return err;
    }
    qsort(m->regions, m->nregions, sizeof *m->regions, by_id);
    for (size_t i = 1; i < m->nregions; i++) /* "1" and "01" can't both be, but equal keys must not slip in */
        if (m->regions[i - 1].id == m->regions[i].id) return TN_E_MALFORMED;
    return 0;
}

/* Go: a nil HomeParams or RegionScore means no change, an empty RegionScore resets; scores <= 0 are ignored. */
static const json_t *scores_of(const json_t *json, bool *malformed)
{
    const json_t *home = json_object_get(json, "HomeParams");
    const json_t *scores = json_object_get(home, "RegionScore");
    *malformed = (home && !json_is_null(home) && !json_is_object(home)) ||
                 (scores && !json_is_null(scores) && !json_is_object(scores));
    return json_is_object(scores) ? scores : NULL;
}

static int check_scores(const json_t *scores)
{
    const char *key;
    json_t *j;
    int id;
    json_object_foreach((json_t *)scores, key, j)
        if (read_id(key, &id) != 0 || !json_is_number(j)) return TN_E_MALFORMED;
    return 0;
}

static struct tn_derp_region *find(const struct tn_derp_map *m, int id)
{
    size_t lo = 0, hi = m ? m->nregions : 0;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (m->regions[mid].id == id) return &m->regions[mid];
        if (m->regions[mid].id < id) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

static void apply_scores(struct tn_derp_map *m, const json_t *scores)
{
    const char *key;
    json_t *j;
    int id;
    for (size_t i = 0; i < m->nregions; i++) m->regions[i].score = 1;
    json_object_foreach((json_t *)scores, key, j) {
        struct tn_derp_region *r = read_id(key, &id) == 0 ? find(m, id) : NULL;
        if (r && json_number_value(j) > 0) r->score = json_number_value(j);
    }
}

/* What connections showed of a region that did not change. */
static void keep_learned(struct tn_derp_map *m, const struct tn_derp_map *old)
{
    for (size_t i = 0; i < m->nregions; i++) {
        struct tn_derp_region *r = &m->regions[i];
        const struct tn_derp_region *was = find(old, r->id);
        for (size_t k = 0; tn_derp_region_equal(r, was) && k < r->nnodes; k++) {
            r->nodes[k].learned4 = was->nodes[k].learned4;
            r->nodes[k].learned6 = was->nodes[k].learned6;
        }
    }
}

static void keep_scores(struct tn_derp_map *m, const struct tn_derp_map *old)
{
    for (size_t i = 0; i < m->nregions; i++) {
        const struct tn_derp_region *r = find(old, m->regions[i].id);
        if (r) m->regions[i].score = r->score;
    }
}

int tn_derp_map_parse(const json_t *json, struct tn_derp_map *old, struct tn_derp_map **out)
{
    bool malformed;
    if (!json_is_object(json)) return TN_E_MALFORMED;
    const json_t *scores = scores_of(json, &malformed), *regions = json_object_get(json, "Regions");
    if (malformed || check_scores(scores) != 0) return TN_E_MALFORMED;
    if ((!regions || json_is_null(regions)) && old) {
        if (scores) apply_scores(old, scores);
        *out = NULL;
        return 0;
    }
    struct tn_derp_map *m = calloc(1, sizeof *m);
    if (!m) return TN_E_NOMEM;
    int err = regions && !json_is_null(regions) ? read_regions(regions, m) : 0;
    if (err) {
        tn_derp_map_free(m);
        return err;
    }
    if (scores) apply_scores(m, scores);
    else keep_scores(m, old);
    keep_learned(m, old);
    *out = m;
    return 0;
}

const struct tn_derp_region *tn_derp_map_find(const struct tn_derp_map *m, int id) { return find(m, id); }

static bool node_equal(const struct tn_derp_node *a, const struct tn_derp_node *b)
{
    return strcmp(a->name, b->name) == 0 && strcmp(a->host, b->host) == 0 &&
           strcmp(a->cert_name, b->cert_name) == 0 &&
           tn_ip_eq(&a->ip4, &b->ip4) && tn_ip_eq(&a->ip6, &b->ip6) && a->no4 == b->no4 && a->no6 == b->no6 &&
           tn_ip_eq(&a->stun_ip, &b->stun_ip) && a->no_stun == b->no_stun && a->stun_port == b->stun_port &&
           a->derp_port == b->derp_port && a->stun_only == b->stun_only && a->insecure == b->insecure;
}

bool tn_derp_region_equal(const struct tn_derp_region *a, const struct tn_derp_region *b)
{
    if (!a || !b) return a == b;
    if (a->id != b->id || a->avoid != b->avoid || a->no_home != b->no_home || a->nnodes != b->nnodes) return false;
    if (strcmp(a->code, b->code) != 0) return false;
    for (size_t i = 0; i < a->nnodes; i++)
        if (!node_equal(&a->nodes[i], &b->nodes[i])) return false;
    return true;
}

bool tn_derp_map_equal(const struct tn_derp_map *a, const struct tn_derp_map *b)
{
    if (!a || !b || a->nregions != b->nregions) return a == b;
    for (size_t i = 0; i < a->nregions; i++)
        if (!tn_derp_region_equal(&a->regions[i], &b->regions[i]) || a->regions[i].score != b->regions[i].score)
            return false;
    return true;
}

bool tn_derp_region_eligible(const struct tn_derp_region *r)
{
    if (r->no_home) return false;
    for (size_t i = 0; i < r->nnodes; i++)
        if (!r->nodes[i].stun_only) return true;
    return false;
}

bool tn_derp_node_dial(const struct tn_derp_node *n, bool prefer6, struct tn_addrport addrs[2],
                       struct tn_dial_spec *spec)
{
    size_t count = 0;
    if (n->stun_only || n->bad_pin || (n->no4 && n->no6) || !*n->host) return false;
    const struct tn_ip *order[2] = {prefer6 ? &n->ip6 : &n->ip4, prefer6 ? &n->ip4 : &n->ip6};
    for (int i = 0; i < 2; i++)
        if (order[i]->family) addrs[count++] = (struct tn_addrport){.ip = *order[i], .port = n->derp_port};
    *spec = (struct tn_dial_spec){.host = n->host, .addrs = count ? addrs : NULL, .naddrs = count,
                                  .port = n->derp_port, .tls = true};
    /* A CertName wins over InsecureForTests, as in Go, unless it only repeats the host. */
    bool named = *n->cert_name && strcmp(n->cert_name, n->host) != 0;
    if (n->pinned) {
        spec->verify = TN_VERIFY_SHA256;
        memcpy(spec->sha256, n->sha256, sizeof spec->sha256);
    } else if (named) {
        spec->verify_name = n->cert_name;
    } else if (n->insecure) {
        spec->verify = TN_VERIFY_INSECURE;
    }
    return true;
}

bool tn_derp_map_learn(struct tn_derp_map *m, int region, const char *node_name, const struct tn_ip *ip)
{
    struct tn_derp_region *r = find(m, region);
    for (size_t i = 0; r && i < r->nnodes; i++) {
        struct tn_derp_node *n = &r->nodes[i];
        const struct tn_ip *given = ip->family == 4 ? &n->ip4 : &n->ip6;
        struct tn_ip *learned = ip->family == 4 ? &n->learned4 : &n->learned6;
        bool off = ip->family == 4 ? n->no4 : n->no6;
        if (strcmp(n->name, node_name) != 0 || given->family || off || tn_ip_eq(learned, ip)) continue;
        *learned = *ip;
        return true;
    }
    return false;
}

bool tn_derp_node_stun(const struct tn_derp_node *n, int family, struct tn_addrport *out)
{
    const struct tn_ip *ip = family == 4 ? &n->ip4 : &n->ip6;
    if (n->stun_ip.family) ip = &n->stun_ip;
    else if (ip->family == 0) ip = family == 4 ? &n->learned4 : &n->learned6;
    if (n->no_stun || ip->family != family) return false;
    *out = (struct tn_addrport){.ip = *ip, .port = n->stun_port};
    return true;
}
