#include "node/localapi_exit.h"

#include "node/checkpage.h"
#include "node/checkup.h"
#include "node/exit.h"
#include "node/exitcheck.h"
#include "node/metrics.h"
#include "util/err.h"

#include <stdlib.h>
#include <string.h>

enum { METRICS_MAX = 16 * 1024 * 1024 }; /* 10,000 peers that all used the exit */

static void respond(struct tn_httpd_req *req, int status, json_t *o)
{
    char *text = o ? json_dumps(o, JSON_INDENT(1)) : NULL;
    json_decref(o);
    if (text) tn_httpd_respond(req, status, "application/json", NULL, text, strlen(text));
    else tn_httpd_error(req, 500, "out of memory");
    free(text);
}

static json_t *failures(const uint64_t failed[TN_EGRESS_FAIL_COUNT])
{
    json_t *o = json_object();
    for (int i = 1; i < TN_EGRESS_FAIL_COUNT; i++)
        if (failed[i]) json_object_set_new(o, tn_egress_fail_name((enum tn_egress_fail)i), json_integer((json_int_t)failed[i]));
    return o;
}

static json_t *proxy_object(const struct tn_egress_proxy_stats *s)
{
    static const char *const states[] = {"up", "down", "trying", "untried"};
    char url[300];
    uint64_t mean_us = s->opened ? s->latency_sum_us / s->opened : 0;
    return json_pack("{s:s s:s s:s s:i s:s s:s s:i s:i s:I s:I s:I s:f s:o}", "Name", s->name, "Group", s->group, "URL",
                     tn_proxy_describe(s->proxy, url), "Weight", (int)s->weight, "State", states[s->state], "Problem",
                     s->last_fail ? tn_egress_fail_text(s->last_fail) : "", "Flows", (int)s->flows, "Dialing", (int)s->dials,
                     "Opened", (json_int_t)s->opened, "BytesUp", (json_int_t)s->bytes_up, "BytesDown",
                     (json_int_t)s->bytes_down, "MeanDialMilliseconds", (double)mean_us / 1e3, "Failed", failures(s->failed));
}

json_t *tn_localapi_egress_object(struct tn_node *n)
{
    static const char *const modes[] = {"off", "host", "proxy"};
    struct tn_egress_stats es;
    struct tn_egress_proxy_stats s;
    char line[400];
    tn_egress_stats(n->egress, &es);
    json_t *proxies = json_array();
    for (size_t i = 0; tn_egress_proxy_at(n->egress, i, &s); i++) json_array_append_new(proxies, proxy_object(&s));
    const char *missing = n->config.advertise_exit_node && n->egress_missing ? n->egress_missing : "";
    return json_pack("{s:s s:s s:b s:b s:s s:s s:s s:o s:o s:O*}", "Mode", modes[tn_egress_mode(n->egress)], "Description",
                     tn_egress_describe(n->egress, line), "Advertised", n->config.advertise_exit_node, "Withdrawn", n->exit_withdrawn,
                     "Missing", missing, "Defect", n->config.exit.defect, "ConfigFile",
                     n->config.config_file ? n->config.config_file : "", "Failed", failures(es.failed), "Proxies", proxies, "Check",
                     tn_checkup_last(n));
}

void tn_localapi_get_egress(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    respond(req, 200, tn_localapi_egress_object(n));
}

/* The state after a change, or why it is off now. */
static void respond_change(struct tn_node *n, struct tn_httpd_req *req, int err, const char *why)
{
    if (err == TN_E_BUSY) tn_httpd_error(req, 409, why);
    else if (err) tn_httpd_error(req, 400, why[0] ? why : tn_err_text(err));
    else respond(req, 200, tn_localapi_egress_object(n));
}

static const struct {
    const char *key, *option;
    bool is_bool;
} changes[] = {{"ExitNames", "exit_names", true},          {"ExitEgress", "exit_egress", false},
               {"ExitProxy", "exit_proxy", false},         {"ExitProxyUDP", "exit_proxy_udp", true},
               {"ExitDNS", "exit_dns", false},             {"ExitDNSAAAA", "exit_dns_aaaa", false},
               {"AdvertiseRoutes", "advertise_routes", false}, {"AdvertiseExitNode", "advertise_exit_node", true},
               {"ExitCheck", "exit_check", false},         {"ExitWithdraw", "exit_withdraw", true}};

/* Every key is known and fits, or nothing of it is done. */
static bool check_patch(const json_t *o)
{
    const json_t *cut = json_object_get(o, "Cut");
    size_t known = cut != NULL;
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const json_t *v = json_object_get(o, changes[i].key);
        if (v && (changes[i].is_bool ? !json_is_boolean(v) : !json_is_string(v))) return false;
        known += v != NULL;
    }
    return json_is_object(o) && known == json_object_size(o) && known > 0 && (!cut || json_is_boolean(cut));
}

static const char *text_of(const json_t *v)
{
    return json_is_boolean(v) ? (json_is_true(v) ? "true" : "false") : json_string_value(v);
}

void tn_localapi_patch_egress(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    json_t *o = json_loadb((const char *)r->body, r->body_len, JSON_REJECT_DUPLICATES, NULL);
    struct tn_setting said[sizeof changes / sizeof *changes];
    size_t n_said = 0;
    char why[200] = "";
    if (!check_patch(o)) {
        json_decref(o);
        tn_httpd_error(req, 400, "expected ExitProxy, ExitEgress, ExitNames, ExitProxyUDP, ExitDNS, ExitDNSAAAA, AdvertiseRoutes, "
                                 "AdvertiseExitNode, ExitCheck, ExitWithdraw, Cut");
        return;
    }
    bool cut = json_is_true(json_object_get(o, "Cut"));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const json_t *v = json_object_get(o, changes[i].key);
        if (v) said[n_said++] = (struct tn_setting){changes[i].option, text_of(v)};
    }
    int err = tn_exit_set(n, said, n_said, cut, why);
    json_decref(o);
    respond_change(n, req, err, why);
}

static bool wants(const struct tn_httpd_request *r, const char *param)
{
    char value[8];
    return tn_httpd_query_param(r->query, param, value, sizeof value) > 0 && !strcmp(value, "true");
}

void tn_localapi_egress_reload(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    char why[200] = "";
    int err = tn_exit_reload(n, wants(r, "cut"), why);
    respond_change(n, req, err, why);
}

void tn_localapi_egress_rotate(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    char peer[256];
    struct tn_ip ip;
    struct tn_npeer *p = NULL;
    if (tn_httpd_query_param(r->query, "peer", peer, sizeof peer) > 0) {
        if (tn_ip_parse(peer, &ip) == 0 || tn_node_resolve(n, peer, 0, &ip) == 0) p = tn_node_peer_by_addr(n, &ip);
        if (!p) {
            tn_httpd_error(req, 404, "no such peer");
            return;
        }
    }
    if (tn_exit_rotate(n, p ? (uint64_t)p->id : 0) != 0) {
        tn_httpd_error(req, 500, "out of memory");
        return;
    }
    respond(req, 200, json_object());
}

struct check_call {
    struct tn_node *node;
    struct tn_httpd_req *req;
    bool of_page; /* of another page than the node's own check asks: no news about that */
};

static void checked(void *arg, json_t *result)
{
    struct check_call *c = arg;
    struct tn_httpd_req *req = c->req;
    if (!c->of_page) tn_checkup_took(c->node, result);
    free(c);
    respond(req, 200, result);
}

static void check_client_gone(void *arg)
{
    struct check_call *c = arg;
    tn_exitcheck_cancel(c->node);
    free(c);
}

void tn_localapi_egress_check(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    char url[600] = "";
    (void)tn_httpd_query_param(r->query, "url", url, sizeof url);
    struct tn_checkpage page;
    struct check_call *c = calloc(1, sizeof *c);
    int err = c ? 0 : TN_E_NOMEM;
    if (!err && *url) err = tn_checkpage_parse(url, &page);
    if (!err) {
        tn_checkup_yield(n);
        err = tn_exitcheck_start(n, *url || !n->config.exit_check ? url : n->config.exit_check, checked, c);
    }
    if (err) {
        free(c);
        tn_httpd_error(req, err == TN_E_INVAL ? 400 : err == TN_E_BUSY ? 409 : 500,
                       err == TN_E_INVAL ? "the URL is not http:// or https:// with an IP address as host" : tn_err_text(err));
        return;
    }
    *c = (struct check_call){.node = n, .req = req, .of_page = *url != '\0'};
    tn_httpd_on_cancel(req, check_client_gone, c);
}

void tn_localapi_metrics(struct tn_node *n, struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    struct tn_buf out;
    tn_buf_init(&out, METRICS_MAX);
    if (tn_metrics_write(n, &out) == 0)
        tn_httpd_respond(req, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, tn_buf_data(&out), tn_buf_len(&out));
    else tn_httpd_error(req, 500, "out of memory");
    tn_buf_fini(&out);
}
