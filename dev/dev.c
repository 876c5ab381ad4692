/* Assembly: the state directory, the engines, the three ports, one timer. Everything runs on the caller's loop.
 *
 * Engines only queue output; a prepare handle moves it to the sockets before the loop sleeps and sets the timer to
 * the earliest deadline, so no engine is entered from within another. Stopping closes every handle; when the last
 * one is gone the engines are freed and done is called. */
#include "dev/dev.h"
#include "dev/ctlconn.h"
#include "dev/derpconn.h"
#include "dev/phantom.h"
#include "dev/state.h"
#include "dev/stunport.h"
#include "dev/tls.h"
#include "util/err.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EPHEMERAL_DEFAULT = 30, SWEEP = 5 /* seconds between looks for stuck connections */ };

struct tn_dev {
    uv_loop_t *loop;
    const struct tn_log *log;
    struct tn_rng rng;
    struct tn_dev_state state;
    struct tn_dev_registry registry;
    struct tn_dev_phantoms phantoms;
    struct tn_dev_tailnet tailnet;
    char *domain;
    char host[TN_IP_STRLEN], url[TN_ADDRPORT_STRLEN + 8], cert_name[TN_DEV_CERT_NAME_LEN];
    SSL_CTX *tls;
    struct tn_dev_ctl *ctl;
    struct tn_dev_derp *derp;
    struct tn_dev_ctlport ctlport;
    struct tn_dev_derpport derpport;
    struct tn_dev_web_server ctlweb, derpweb;
    struct tn_heap timers; /* of HTTP connections */
    struct tn_list webs;
    struct tn_dev_socks socks;
    struct tn_dev_timer sweep;
    struct tn_dev_listener control, derp_listener;
    struct tn_dev_stunport stun;
    uv_prepare_t prepare;
    uv_timer_t timer;
    size_t handles; /* open but for connections */
    bool stopping, registry_ready;
    void (*done)(void *arg);
    void *done_arg;
};

/* --- the loop --- */

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void run_due(struct tn_dev *d, struct tn_dev_now now)
{
    tn_dev_timers_run(&d->timers, NULL, now);
    tn_dev_ctl_timeout(d->ctl, now);
    tn_dev_derp_timeout(d->derp, now);
}

static void on_timer(uv_timer_t *t) { run_due(t->data, tn_dev_clock()); }

static void on_prepare(uv_prepare_t *h)
{
    struct tn_dev *d = h->data;
    struct tn_dev_now now = tn_dev_clock();
    tn_dev_ctlport_flush(&d->ctlport, now);
    tn_dev_derpport_flush(&d->derpport);
    uint64_t at = least(least(tn_dev_ctl_next_deadline(d->ctl), tn_dev_derp_next_deadline(d->derp)),
                        tn_heap_next(&d->timers));
    uv_update_time(d->loop);
    if (at == TN_NEVER) uv_timer_stop(&d->timer);
    else uv_timer_start(&d->timer, on_timer, at <= now.us ? 0 : (at - now.us) / 1000 + 1, 0);
}

static void on_sweep(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct tn_dev *d = TN_CONTAINER(timer, struct tn_dev, sweep);
    tn_dev_socks_sweep(&d->socks, now);
    if (d->socks.count) tn_timer_arm(&d->timers, &d->sweep.t, now.us + SWEEP * TN_DEV_SECOND);
}

/* A connection came: looks begin, and end with the last connection. */
static void begin_sweeping(struct tn_dev *d, struct tn_dev_now now)
{
    if (!tn_timer_armed(&d->sweep.t)) tn_timer_arm(&d->timers, &d->sweep.t, now.us + SWEEP * TN_DEV_SECOND);
}

/* --- the end --- */

static void free_engines(struct tn_dev *d)
{
    tn_dev_ctl_free(d->ctl);
    tn_dev_derp_free(d->derp);
    tn_dev_phantoms_fini(&d->phantoms);
    if (d->registry_ready) tn_dev_registry_fini(&d->registry);
    tn_heap_fini(&d->timers);
    SSL_CTX_free(d->tls);
    tn_dev_state_close(&d->state);
    free(d->domain);
}

/* libuv closes in no order to rely on, so both counts decide. */
static void end_if_over(void *arg)
{
    struct tn_dev *d = arg;
    if (!d->stopping || d->handles || d->socks.count) return;
    void (*done)(void *) = d->done;
    void *done_arg = d->done_arg;
    free_engines(d);
    free(d);
    if (done) done(done_arg);
}

static void one_less(void *arg)
{
    struct tn_dev *d = arg;
    d->handles--;
    end_if_over(d);
}

static void on_handle_closed(uv_handle_t *h) { one_less(h->data); }

static void close_all(struct tn_dev *d)
{
    d->stopping = true;
    TN_LIST_EACH (l, &d->webs) tn_dev_web_close(l);
    if (d->control.open) tn_dev_listener_close(&d->control);
    if (d->derp_listener.open) tn_dev_listener_close(&d->derp_listener);
    if (d->stun.open) tn_dev_stunport_close(&d->stun);
    uv_close((uv_handle_t *)&d->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&d->timer, on_handle_closed);
}

void tn_dev_stop(struct tn_dev *d, void (*done)(void *arg), void *arg)
{
    if (d->stopping) return;
    d->done = done;
    d->done_arg = arg;
    if (tn_dev_ctl_dirty(d->ctl) && tn_dev_state_save_nodes(&d->state, &d->registry) != 0)
        tn_logf(d->log, TN_LOG_ERROR, "dev", "the node registry was not saved");
    close_all(d);
}

/* --- the start --- */

static int save_hook(void *ctx)
{
    struct tn_dev *d = ctx;
    return tn_dev_state_save_nodes(&d->state, &d->registry);
}

static bool admit_all_hook(void *ctx, const struct tn_node_public *key) { return true; }

static bool admit_hook(void *ctx, const struct tn_node_public *key)
{
    struct tn_dev *d = ctx;
    return tn_dev_ctl_admits(d->ctl, key, tn_dev_clock());
}

static void accept_control(void *arg, struct tn_dev_sock *s, struct tn_dev_now now)
{
    struct tn_dev *d = arg;
    begin_sweeping(d, now);
    tn_dev_web_new(&d->ctlweb, s, now);
}

static void accept_derp(void *arg, struct tn_dev_sock *s, struct tn_dev_now now)
{
    struct tn_dev *d = arg;
    begin_sweeping(d, now);
    tn_dev_web_new(&d->derpweb, s, now);
}

struct addresses {
    struct tn_addrport control, derp, stun;
    bool derp_given, stun_given;
    struct tn_ip advertise;
};

/* The first address of the host that others can reach; loopback when there is none. */
static struct tn_ip host_address(void)
{
    uv_interface_address_t *list;
    int n;
    struct tn_ip found = tn_ip4(127, 0, 0, 1);
    if (uv_interface_addresses(&list, &n) != 0) return found;
    for (int i = 0; i < n; i++) {
        struct tn_addrport ap;
        if (list[i].is_internal || tn_addrport_from_sockaddr((struct sockaddr *)&list[i].address, &ap) != 0) continue;
        if (ap.ip.family != 4) continue;
        found = ap.ip;
        break;
    }
    uv_free_interface_addresses(list, n);
    return found;
}

static bool unspecified(const struct tn_ip *ip)
{
    static const uint8_t zero[16];
    return memcmp(ip->b, zero, sizeof zero) == 0;
}

static int parse_addresses(const struct tn_dev_options *o, struct addresses *a, char *why, size_t whylen)
{
    const char *listen = o->listen ? o->listen : "127.0.0.1:8080";
    *a = (struct addresses){.derp_given = o->derp_listen, .stun_given = o->stun_listen};
    const char *bad = NULL;
    if (tn_addrport_parse(listen, &a->control) != 0) bad = listen;
    if (!bad && o->derp_listen && tn_addrport_parse(o->derp_listen, &a->derp) != 0) bad = o->derp_listen;
    if (!bad && o->stun_listen && tn_addrport_parse(o->stun_listen, &a->stun) != 0) bad = o->stun_listen;
    if (!bad && o->advertise && tn_ip_parse(o->advertise, &a->advertise) != 0) bad = o->advertise;
    if (bad) {
        snprintf(why, whylen, "'%s' is not an address (IP:port to listen, an IP to advertise)", bad);
        return TN_E_INVAL;
    }
    if (!o->advertise) a->advertise = unspecified(&a->control.ip) ? host_address() : a->control.ip;
    return 0;
}

static bool domain_ok(const char *domain)
{
    size_t label = 0, len = strlen(domain);
    if (len == 0 || len > 190) return false;
    for (const char *p = domain; *p; p++) {
        bool alnum = isalnum((unsigned char)*p) && !isupper((unsigned char)*p);
        if (*p == '.' ? label == 0 : !alnum && (*p != '-' || label == 0)) return false;
        label = *p == '.' ? 0 : label + 1;
        if (label > 63) return false;
    }
    return label != 0;
}

static int open_ports(struct tn_dev *d, struct addresses *a, char *why, size_t whylen)
{
    struct tn_addrport bound;
    char text[TN_ADDRPORT_STRLEN];
    d->control = (struct tn_dev_listener){.socks = &d->socks, .accept = accept_control, .closed = one_less, .arg = d};
    d->derp_listener = (struct tn_dev_listener){
        .tls = d->tls, .socks = &d->socks, .accept = accept_derp, .closed = one_less, .arg = d};
    d->stun.closed = one_less;
    d->stun.arg = d;

    const struct tn_addrport *at = &a->control;
    int err = tn_dev_listen(d->loop, at, &d->control, &bound);
    d->handles += d->control.open;
    if (err) goto fail;
    bound.ip = a->advertise;
    snprintf(d->url, sizeof d->url, "http://%s", tn_addrport_format(&bound, text));

    at = &a->derp;
    if (!a->derp_given) {
        a->derp = (struct tn_addrport){a->control.ip, a->control.port ? (uint16_t)(a->control.port + 1) : 0};
        if (a->control.port == UINT16_MAX) a->derp.port = 0;
    }
    err = tn_dev_listen(d->loop, at, &d->derp_listener, &bound);
    d->handles += d->derp_listener.open;
    if (err) goto fail;
    d->tailnet.derp.derp_port = bound.port;

    at = &a->stun;
    if (!a->stun_given) a->stun = (struct tn_addrport){a->derp.ip, bound.port};
    err = tn_dev_stunport_open(d->loop, at, &d->stun, &bound);
    d->handles += d->stun.open;
    if (err) goto fail;
    d->tailnet.derp.stun_port = bound.port;
    return 0;
fail:
    snprintf(why, whylen, "cannot listen on %s: %s", tn_addrport_format(at, text), tn_err_text(err));
    return err;
}

static int start_engines(struct tn_dev *d, const struct tn_dev_options *o)
{
    struct tn_dev_now now = tn_dev_clock();
    struct tn_dev_ctl_config cc = {.registry = &d->registry,
                                   .tailnet = &d->tailnet,
                                   .base_url = d->url,
                                   .auth_key = d->state.auth_key,
                                   .ephemeral_s = o->ephemeral_s ? o->ephemeral_s : EPHEMERAL_DEFAULT,
                                   .rng = d->rng,
                                   .log = d->log,
                                   .save = save_hook,
                                   .ctx = d};
    struct tn_dev_derp_config dc = {.key = d->state.derp,
                                    .rng = d->rng,
                                    .admit = o->derp_admits_all ? admit_all_hook : admit_hook,
                                    .ctx = d,
                                    .wake = tn_dev_derpport_wake,
                                    .expire = tn_dev_derpport_expire};
    int err = tn_dev_ctl_new(&cc, now, &d->ctl);
    if (!err) err = tn_dev_derp_new(&dc, &d->derp);
    tn_wipe(&dc.key, sizeof dc.key);
    return err;
}

static void wire_ports(struct tn_dev *d)
{
    d->ctlport = (struct tn_dev_ctlport){.ctl = d->ctl,
                                         .registry = &d->registry,
                                         .tailnet = &d->tailnet,
                                         .auth_key = d->state.auth_key,
                                         .machine = &d->state.machine,
                                         .rng = d->rng,
                                         .log = d->log};
    d->derpport = (struct tn_dev_derpport){.derp = d->derp, .log = d->log};
    tn_node_public_of(&d->state.derp, &d->derpport.key);
    tn_dev_ctlport_init(&d->ctlport);
    tn_dev_derpport_init(&d->derpport);
    d->ctlweb = (struct tn_dev_web_server){
        .request = tn_dev_ctlport_request, .arg = &d->ctlport, .timers = &d->timers, .all = &d->webs};
    d->derpweb = (struct tn_dev_web_server){
        .request = tn_dev_derpport_request, .arg = &d->derpport, .timers = &d->timers, .all = &d->webs};
}

/* What needs no loop: state, certificate, registry. */
static int prepare_state(struct tn_dev *d, const struct tn_dev_options *o, const struct addresses *a, char *why,
                         size_t whylen)
{
    struct tn_dev_now now = tn_dev_clock();
    int err = tn_dev_state_open(&d->state, o->state_dir, &a->advertise, o->auth_key, now.unix_s, &d->rng, why,
                                whylen);
    if (err) return err;
    tn_dev_registry_init(&d->registry, &d->rng);
    d->registry_ready = true;
    err = tn_dev_state_load_nodes(&d->state, &d->registry, why, whylen);
    if (err) return err;
    err = tn_dev_phantoms_init(&d->phantoms, &d->registry, o->phantoms, &d->rng, now.unix_s);
    if (err) {
        snprintf(why, whylen, "cannot make %u phantoms: %s", o->phantoms, tn_err_text(err));
        return err;
    }
    struct tn_node_public derp_key;
    tn_node_public_of(&d->state.derp, &derp_key);
    err = tn_dev_tls_new(d->state.pem, d->state.pem_len, &derp_key, now.unix_s, &d->tls, d->cert_name);
    if (err) snprintf(why, whylen, "cannot set up TLS with %s/derp.pem", o->state_dir);
    tn_ip_format(&a->advertise, d->host);
    d->tailnet = (struct tn_dev_tailnet){
        .domain = d->domain,
        .derp = {.host = d->host, .cert_name = d->cert_name, .insecure = o->insecure_derp},
        .refuse_exit_nodes = o->refuse_exit_nodes,
        .refuse_routes = o->refuse_routes};
    return err;
}

static int start_loop_handles(struct tn_dev *d)
{
    int err = uv_prepare_init(d->loop, &d->prepare);
    if (err) return err;
    err = uv_timer_init(d->loop, &d->timer);
    assert(err == 0); /* it cannot fail */
    d->prepare.data = d->timer.data = d;
    d->handles = 2;
    return 0;
}

int tn_dev_start(uv_loop_t *loop, const struct tn_dev_options *o, struct tn_dev **out, char *why, size_t whylen)
{
    struct addresses a;
    const char *domain = o->domain ? o->domain : "tailnet.test";
    snprintf(why, whylen, "%s", tn_err_text(TN_E_NOMEM));
    int err = parse_addresses(o, &a, why, whylen);
    if (err) return err;
    if (!o->state_dir || !*o->state_dir || !domain_ok(domain)) {
        snprintf(why, whylen, "%s",
                 domain_ok(domain) ? "no state directory is given" : "the domain is not a lowercase DNS name");
        return TN_E_INVAL;
    }
    struct tn_dev *d = calloc(1, sizeof *d);
    if (!d) return TN_E_NOMEM;
    d->loop = loop;
    d->log = o->log;
    d->rng = tn_rng_system();
    d->state.lock = -1;
    d->domain = strdup(domain);
    tn_heap_init(&d->timers);
    tn_list_init(&d->webs);
    d->socks = (struct tn_dev_socks){.none_left = end_if_over, .arg = d};
    tn_list_init(&d->socks.all);
    d->sweep.fire = on_sweep;
    err = d->domain ? prepare_state(d, o, &a, why, whylen) : TN_E_NOMEM;
    if (!err) err = start_loop_handles(d);
    if (err) {
        free_engines(d);
        free(d);
        return err;
    }
    err = open_ports(d, &a, why, whylen);
    if (!err) err = start_engines(d, o);
    if (err) {
        close_all(d);
        return err;
    }
    wire_ports(d);
    tn_dev_phantoms_start(&d->phantoms, d->ctl, &d->timers, (uint64_t)o->churn_ms * 1000, tn_dev_clock());
    uv_prepare_start(&d->prepare, on_prepare);
    *out = d;
    return 0;
}

const char *tn_dev_url(const struct tn_dev *d) { return d->url; }
const char *tn_dev_auth_key(const struct tn_dev *d) { return tn_secret_bytes(d->state.auth_key); }
const char *tn_dev_domain(const struct tn_dev *d) { return d->domain; }
uint16_t tn_dev_derp_port(const struct tn_dev *d) { return d->tailnet.derp.derp_port; }
uint16_t tn_dev_stun_port(const struct tn_dev *d) { return d->tailnet.derp.stun_port; }
const char *tn_dev_cert_name(const struct tn_dev *d) { return d->cert_name; }
size_t tn_dev_node_count(const struct tn_dev *d) { return d->registry.count; }
