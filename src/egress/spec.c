/* What a policy is made of: put together by whoever reads settings, checked here, never changed afterwards. */
#include "egress/egress.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>

struct tn_egress_spec *tn_egress_spec_new(enum tn_egress_mode mode)
{
    struct tn_egress_spec *s = calloc(1, sizeof *s);
    if (s) s->mode = mode;
    return s;
}

void tn_egress_spec_free(struct tn_egress_spec *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->nproxies; i++) tn_proxy_free(s->proxies[i].proxy);
    for (size_t i = 0; i < s->nrules; i++) tn_egress_rule_fini(&s->rules[i]);
    free(s->proxies);
    free(s->rules);
    free(s);
}

struct tn_egress_proxy *tn_egress_spec_proxy(struct tn_egress_spec *s)
{
    if (s->nproxies == TN_EGRESS_PROXIES_MAX) return NULL;
    struct tn_egress_proxy *list = realloc(s->proxies, (s->nproxies + 1) * sizeof *list);
    if (!list) return NULL;
    s->proxies = list;
    list[s->nproxies] = (struct tn_egress_proxy){0};
    return &list[s->nproxies++];
}

struct tn_egress_rule *tn_egress_spec_rule(struct tn_egress_spec *s)
{
    if (s->nrules == TN_EGRESS_RULES_MAX) return NULL;
    struct tn_egress_rule *list = realloc(s->rules, (s->nrules + 1) * sizeof *list);
    if (!list) return NULL;
    s->rules = list;
    list[s->nrules] = (struct tn_egress_rule){0};
    return &list[s->nrules++];
}

static void *copy_list(const void *list, size_t n, size_t size)
{
    size_t room = 1; /* as rule.c grows them: room for a power of two */
    while (room < n) room *= 2;
    void *copy = malloc(room * size);
    if (copy && n) memcpy(copy, list, n * size);
    return copy;
}

static bool copy_rule(struct tn_egress_rule *to, const struct tn_egress_rule *from)
{
    memcpy(to->use, from->use, sizeof to->use);
    if (from->nprefixes && !(to->prefixes = copy_list(from->prefixes, from->nprefixes, sizeof *to->prefixes))) return false;
    to->nprefixes = from->nprefixes;
    if (from->nports && !(to->ports = copy_list(from->ports, from->nports, sizeof *to->ports))) return false;
    to->nports = from->nports;
    if (from->ndomains && !(to->domains = copy_list(NULL, 0, from->ndomains * 2 * sizeof *to->domains))) return false;
    for (; to->ndomains < from->ndomains; to->ndomains++)
        if (!(to->domains[to->ndomains] = strdup(from->domains[to->ndomains]))) return false;
    if (from->nfrom && !(to->from = copy_list(NULL, 0, from->nfrom * 2 * sizeof *to->from))) return false;
    for (; to->nfrom < from->nfrom; to->nfrom++) {
        to->from[to->nfrom].kind = from->from[to->nfrom].kind;
        if (!(to->from[to->nfrom].value = strdup(from->from[to->nfrom].value))) return false;
    }
    return true;
}

struct tn_egress_spec *tn_egress_spec_copy(const struct tn_egress_spec *s)
{
    struct tn_egress_spec *copy = tn_egress_spec_new(s->mode);
    bool ok = copy != NULL;
    for (size_t i = 0; ok && i < s->nproxies; i++) {
        struct tn_egress_proxy *p = tn_egress_spec_proxy(copy);
        if (p) *p = s->proxies[i];
        if (p) p->proxy = s->proxies[i].proxy ? tn_proxy_copy(s->proxies[i].proxy) : NULL;
        ok = p && p->proxy;
    }
    for (size_t i = 0; ok && i < s->nrules; i++) {
        struct tn_egress_rule *r = tn_egress_spec_rule(copy);
        ok = r && copy_rule(r, &s->rules[i]);
    }
    if (ok) return copy;
    tn_egress_spec_free(copy);
    return NULL;
}

static int refuse(char why[200], const char *what, const char *name)
{
    snprintf(why, 200, what, name);
    return TN_E_POLICY;
}

/* Names stand in rules, status, metrics and logs. */
static bool is_name(const char *s)
{
    for (const char *c = s; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9') || strchr("-_.", *c))) return false;
    return *s && strcmp(s, "block") != 0;
}

static int check_proxy(const struct tn_egress_spec *s, size_t i, char why[200])
{
    const struct tn_egress_proxy *p = &s->proxies[i];
    if (!is_name(p->name) || (*p->group && !is_name(p->group)))
        return refuse(why, "proxy %s: names are of letters, digits, '-', '_' and '.', and none is block", p->name);
    if (!p->proxy) return refuse(why, "proxy %s: its URL is missing", p->name);
    if (p->weight > TN_EGRESS_WEIGHT_MAX) return refuse(why, "proxy %s: its weight is not from 1 to 64", p->name);
    for (size_t j = 0; j < s->nproxies; j++) {
        if (j < i && !strcmp(p->name, s->proxies[j].name)) return refuse(why, "two proxies are called %s", p->name);
        if (!strcmp(p->group, s->proxies[j].name)) return refuse(why, "a group is called like the proxy %s", p->group);
    }
    return 0;
}

static bool is_there(const struct tn_egress_spec *s, const char *use)
{
    if (!strcmp(use, "block")) return true;
    for (size_t i = 0; i < s->nproxies; i++)
        if (!strcmp(use, s->proxies[i].name) || !strcmp(use, s->proxies[i].group)) return true;
    return false;
}

int tn_egress_spec_check(const struct tn_egress_spec *s, char why[200])
{
    why[0] = '\0';
    if (s->mode != TN_EGRESS_OFF && s->mode != TN_EGRESS_HOST && s->mode != TN_EGRESS_PROXY)
        return refuse(why, "there is no such %s", "mode");
    if (s->mode == TN_EGRESS_PROXY && s->nproxies == 0) return refuse(why, "a proxy is missing%s", "");
    if (s->mode == TN_EGRESS_HOST && s->nrules) return refuse(why, "rules are for proxies, but the mode is host%s", "");
    for (size_t i = 0; i < s->nproxies; i++) {
        int err = check_proxy(s, i, why);
        if (err) return err;
    }
    for (size_t i = 0; i < s->nrules; i++) {
        const char *use = s->rules[i].use;
        if (!*use) return refuse(why, "a rule does not say what to use%s", "");
        if (!is_there(s, use)) return refuse(why, "a rule uses %s, which is neither a proxy nor a group", use);
    }
    return 0;
}
