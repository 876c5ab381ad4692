/* A rule's text and its meaning.
 *
 *   address  addresses and CIDR prefixes           1.2.3.0/24, 2a00::/16
 *   port     ports and ranges                      443, 8000-8999
 *   domain   names and all below them              example.com
 *   from     peers: name, tailnet address, stable ID; user@login; tag:name
 * A value list is separated by commas or blanks. Names are compared without case. A flow whose name is not known matches
 * no domain: a rule by domain steers, it is no lock, since a peer may resolve names as it likes. */
#include "egress/rule.h"
#include "util/err.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

enum { VALUES_MAX = 4096, WORD_MAX = 255 }; /* per rule and kind: a country's prefixes; a domain name's length */

static int refuse(char why[128], const char *text)
{
    snprintf(why, 128, "%s", text);
    return TN_E_INVAL;
}

/* Room for one more of `size` bytes; grows by doubling. */
static void *one_more(void *list, size_t n, size_t size)
{
    if (n & (n - 1) || n == 0) return n == 0 ? malloc(size) : list;
    return realloc(list, 2 * n * size);
}

static int add_address(struct tn_egress_rule *r, const char *word, char why[128])
{
    struct tn_prefix p;
    if (tn_prefix_parse(word, &p) != 0) return refuse(why, "not an address or prefix such as 1.2.3.0/24");
    struct tn_prefix *list = one_more(r->prefixes, r->nprefixes, sizeof p);
    if (!list) return TN_E_NOMEM;
    r->prefixes = list;
    r->prefixes[r->nprefixes++] = p;
    return 0;
}

static int parse_port(const char **at, uint16_t *out)
{
    unsigned v = 0, digits = 0;
    for (; isdigit((unsigned char)**at) && digits < 6; (*at)++, digits++) v = v * 10 + (unsigned)(**at - '0');
    if (digits == 0 || v < 1 || v > 65535) return TN_E_MALFORMED;
    *out = (uint16_t)v;
    return 0;
}

static int add_port(struct tn_egress_rule *r, const char *word, char why[128])
{
    struct tn_portrange range;
    bool ok = parse_port(&word, &range.first) == 0;
    range.last = range.first;
    if (ok && *word == '-') {
        word++;
        ok = parse_port(&word, &range.last) == 0;
    }
    if (!ok || *word || range.last < range.first) return refuse(why, "not a port or range such as 8000-8999");
    struct tn_portrange *list = one_more(r->ports, r->nports, sizeof range);
    if (!list) return TN_E_NOMEM;
    r->ports = list;
    r->ports[r->nports++] = range;
    return 0;
}

/* "example.com", "*.example.com" and ".example.com" are the same: the name and all below it. */
static int add_domain(struct tn_egress_rule *r, const char *word, char why[128])
{
    if (word[0] == '*' && word[1] == '.') word++;
    if (word[0] == '.') word++;
    size_t len = strlen(word);
    if (len && word[len - 1] == '.') len--;
    if (len == 0) return refuse(why, "not a domain such as example.com");
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)word[i];
        bool dot_ok = c == '.' && i > 0 && word[i - 1] != '.';
        if (!isalnum(c) && c != '-' && c != '_' && !dot_ok) return refuse(why, "not a domain such as example.com");
    }
    char **list = one_more(r->domains, r->ndomains, sizeof *list);
    if (!list) return TN_E_NOMEM;
    r->domains = list;
    char *copy = strndup(word, len);
    if (!copy) return TN_E_NOMEM;
    for (char *c = copy; *c; c++) *c = (char)tolower((unsigned char)*c);
    r->domains[r->ndomains++] = copy;
    return 0;
}

static int add_source(struct tn_egress_rule *r, const char *word, char why[128])
{
    struct tn_egress_from from = {.kind = TN_EGRESS_FROM_PEER};
    if (strncmp(word, "tag:", 4) == 0) from.kind = TN_EGRESS_FROM_TAG;
    else if (strchr(word, '@')) from.kind = TN_EGRESS_FROM_USER;
    struct tn_egress_from *list = one_more(r->from, r->nfrom, sizeof from);
    if (!list) return TN_E_NOMEM;
    r->from = list;
    if (!(from.value = strdup(word))) return TN_E_NOMEM;
    r->from[r->nfrom++] = from;
    return 0;
}

static int each_word(struct tn_egress_rule *r, const char *value, char why[128],
                     int (*add)(struct tn_egress_rule *, const char *, char[128]))
{
    char word[WORD_MAX + 1];
    size_t count = 0;
    while (*(value += strspn(value, ", \t"))) {
        size_t len = strcspn(value, ", \t");
        if (len > WORD_MAX) return refuse(why, "a value is too long");
        if (++count > VALUES_MAX) return refuse(why, "too many values");
        memcpy(word, value, len);
        word[len] = '\0';
        int err = add(r, word, why);
        if (err == TN_E_NOMEM) snprintf(why, 128, "out of memory");
        if (err) return err;
        value += len;
    }
    /* "address =" with nothing behind it would be a rule that matches more than was meant. */
    return count ? 0 : refuse(why, "a value is missing");
}

int tn_egress_rule_set(struct tn_egress_rule *r, const char *key, const char *value, char why[128])
{
    why[0] = '\0';
    if (!strcmp(key, "address")) return each_word(r, value, why, add_address);
    if (!strcmp(key, "port")) return each_word(r, value, why, add_port);
    if (!strcmp(key, "domain")) return each_word(r, value, why, add_domain);
    if (!strcmp(key, "from")) return each_word(r, value, why, add_source);
    if (strcmp(key, "use") != 0) {
        refuse(why, "no such key in a rule");
        return TN_E_NOENT;
    }
    size_t len = strlen(value);
    if (len == 0 || len >= sizeof r->use) return refuse(why, "expected block, or the name of a proxy or a group");
    memcpy(r->use, value, len + 1);
    return 0;
}

void tn_egress_rule_fini(struct tn_egress_rule *r)
{
    for (size_t i = 0; i < r->ndomains; i++) free(r->domains[i]);
    for (size_t i = 0; i < r->nfrom; i++) free(r->from[i].value);
    free(r->prefixes);
    free(r->ports);
    free(r->domains);
    free(r->from);
    *r = (struct tn_egress_rule){0};
}

static bool address_matches(const struct tn_egress_rule *r, const struct tn_ip *ip)
{
    for (size_t i = 0; i < r->nprefixes; i++)
        if (tn_prefix_contains(&r->prefixes[i], ip)) return true;
    return r->nprefixes == 0;
}

static bool port_matches(const struct tn_egress_rule *r, uint16_t port)
{
    for (size_t i = 0; i < r->nports; i++)
        if (port >= r->ports[i].first && port <= r->ports[i].last) return true;
    return r->nports == 0;
}

static bool domain_matches(const struct tn_egress_rule *r, const char *name)
{
    if (r->ndomains == 0) return true;
    size_t len = name ? strlen(name) : 0;
    for (size_t i = 0; i < r->ndomains; i++) {
        size_t n = strlen(r->domains[i]);
        if (len < n || strcasecmp(name + len - n, r->domains[i]) != 0) continue;
        if (len == n || name[len - n - 1] == '.') return true;
    }
    return false;
}

bool tn_rule_is_for(const struct tn_egress_rule *r, uint64_t peer,
                    bool (*peer_is)(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value), void *ctx)
{
    for (size_t i = 0; i < r->nfrom; i++)
        if (peer && peer_is && peer_is(ctx, peer, r->from[i].kind, r->from[i].value)) return true;
    return r->nfrom == 0;
}

bool tn_rule_matches(const struct tn_egress_rule *r, const struct tn_rule_subject *s,
                     bool (*peer_is)(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value), void *ctx)
{
    return address_matches(r, &s->dst->ip) && port_matches(r, s->dst->port) && domain_matches(r, s->name) &&
           tn_rule_is_for(r, s->peer, peer_is, ctx);
}
