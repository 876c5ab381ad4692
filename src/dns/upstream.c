#include "dns/upstream.h"
#include "dns/doh.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

/* ---- DNS over HTTPS behind the common face ---- */

struct over_https {
    struct tn_dns_upstream u;
    struct tn_doh *doh;
};

static struct tn_doh *doh_of(const struct tn_dns_upstream *u)
{
    return ((const struct over_https *)(const void *)u)->doh;
}

static int https_ask(struct tn_dns_upstream *u, uint64_t peer, const uint8_t *query, size_t len, uint64_t now_us, tn_dns_answer_fn *answer,
                     void *arg, void **handle)
{
    struct tn_doh_query *q;
    int err = tn_doh_ask(doh_of(u), peer, query, len, now_us, answer, arg, &q);
    if (!err) *handle = q;
    return err;
}

static void https_cancel(struct tn_dns_upstream *u, void *handle) { tn_doh_cancel(handle); }
static void https_timeout(struct tn_dns_upstream *u, uint64_t now_us) { tn_doh_timeout(doh_of(u), now_us); }
static uint64_t https_next_deadline(const struct tn_dns_upstream *u) { return tn_doh_next_deadline(doh_of(u)); }
static void https_reset(struct tn_dns_upstream *u) { tn_doh_reset(doh_of(u)); }
static int https_health(const struct tn_dns_upstream *u, const char **text) { return tn_doh_health(doh_of(u), text); }
static void https_free(struct tn_dns_upstream *u)
{
    tn_doh_free(doh_of(u));
    free(u);
}

static const struct tn_dns_upstream_ops https_ops = {https_ask,   https_cancel, https_timeout, https_next_deadline,
                                                     https_reset, https_health, https_free};

static int https_new(const struct tn_dns_config *config, const char *url, struct tn_dns_upstream **out)
{
    struct tn_doh_config dc = {.url = url, .egress = config->egress, .tls = config->tls, .log = config->log,
                               .rng = config->rng, .peer = config->peer};
    struct over_https *h = calloc(1, sizeof *h);
    if (!h) return TN_E_NOMEM;
    h->u.ops = &https_ops;
    int err = tn_doh_new(&dc, &h->doh);
    if (err) free(h);
    else *out = &h->u;
    return err;
}

int tn_dns_upstream_new(const struct tn_dns_config *config, const char *url, size_t len, struct tn_dns_upstream **out)
{
    char copy[TN_DNS_URL_MAX];
    enum tn_dns_form form;
    struct tn_addrport addr;
    int err = tn_dns_url_read(url, len, copy, &form, &addr);
    if (err) return err;
    switch (form) {
    case TN_DNS_FORM_TCP: return tn_dns_tcp_new(config, &addr, out);
    case TN_DNS_FORM_UDP: return tn_dns_udp_new(config, &addr, out);
    case TN_DNS_FORM_HTTPS: break;
    }
    return https_new(config, copy, out);
}
