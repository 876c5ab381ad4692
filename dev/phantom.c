#include "dev/phantom.h"
#include "util/err.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    CAP = 130,             /* a capability version of the present */
    PORT = 41641,
    ONLINE_OF_TEN = 7,     /* at first */
    SEEN_BEFORE = 86400,   /* seconds: when the offline ones were last there */
    KEY_LIFE = 180 * 86400,
};

/* What an official Linux node says of itself, about as long. */
static json_t *hostinfo(const char *hostname, unsigned version, uint64_t number)
{
    char release[32], log_id[65];
    snprintf(release, sizeof release, "1.%u.2-t0123456789ab", version);
    snprintf(log_id, sizeof log_id, "%064llx", (unsigned long long)number);
    int port = 30000 + (int)(number % 30000);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:[{s:s, s:i}, {s:s, s:i}, {s:s, s:i}]}",
                     "IPNVersion", release, "BackendLogID", log_id, "OS", "linux", "OSVersion", "6.12.43", "Package", "tsnet",
                     "Distro", "debian", "DistroVersion", "13", "Hostname", hostname, "Machine", "x86_64", "GoArch", "amd64",
                     "GoVersion", "go1.26.1", "Userspace", 1, "Services", "Proto", "peerapi4", "Port", port, "Proto",
                     "peerapi6", "Port", port, "Proto", "peerapi-dns-proxy", "Port", 1);
}

/* A public address, another one behind its router, and one of each in IPv6. */
static json_t *endpoints(struct tn_dev_phantoms *p)
{
    uint32_t x = tn_rng_u32(&p->rng);
    unsigned a = x >> 24, b = x >> 16 & 255, c = x >> 8 & 255, d = 1 + (x & 127);
    char text[4][64];
    snprintf(text[0], sizeof text[0], "198.%u.%u.%u:%u", 18 + (a & 1), b, c, 1024 + (x & 0x7fff));
    snprintf(text[1], sizeof text[1], "10.%u.%u.%u:%d", b, c, d, PORT);
    snprintf(text[2], sizeof text[2], "[2001:db8:%x:%x::%x]:%d", b << 8 | c, a, d, PORT);
    snprintf(text[3], sizeof text[3], "172.17.0.%u:%d", d, PORT);
    return json_pack("[s, s, s, s]", text[0], text[1], text[2], text[3]);
}

static void renew_endpoints(struct tn_dev_phantoms *p, struct tn_dev_node *n)
{
    json_t *e = endpoints(p);
    if (e) tn_dev_node_set_endpoints(p->registry, n, e);
    json_decref(e);
}

static void renew_disco(struct tn_dev_phantoms *p, struct tn_dev_node *n)
{
    struct tn_disco_public disco;
    tn_rng_fill(&p->rng, disco.b, sizeof disco.b);
    tn_dev_node_set_disco(p->registry, n, &disco);
}

static int set_hostinfo(struct tn_dev_phantoms *p, struct tn_dev_node *n, unsigned version)
{
    json_t *h = hostinfo(n->name, version, (uint64_t)n->id);
    if (!h) return TN_E_NOMEM;
    tn_dev_node_set_hostinfo(p->registry, n, h);
    json_decref(h);
    return 0;
}

static int make(struct tn_dev_phantoms *p, int64_t unix_s, struct tn_dev_node **out)
{
    struct tn_machine_public machine;
    struct tn_node_public key;
    struct tn_dev_node *n;
    char name[32];
    tn_rng_fill(&p->rng, machine.b, sizeof machine.b);
    tn_rng_fill(&p->rng, key.b, sizeof key.b);
    snprintf(name, sizeof name, "phantom-%05llu", (unsigned long long)p->made);
    int err = tn_dev_registry_add(p->registry, &machine, &key, name, unix_s, &n);
    if (err) return err;
    bool online = p->made++ % 10 < ONLINE_OF_TEN;
    n->phantom = true;
    tn_dev_node_set_home_derp(p->registry, n, TN_DEV_REGION);
    tn_dev_node_set_cap(p->registry, n, CAP);
    tn_dev_node_set_expiry(p->registry, n, unix_s + KEY_LIFE - (int64_t)tn_rng_below(&p->rng, KEY_LIFE / 2));
    tn_dev_node_set_online(p->registry, n, online, online ? unix_s : unix_s - SEEN_BEFORE);
    renew_disco(p, n);
    renew_endpoints(p, n);
    err = set_hostinfo(p, n, 100);
    if (err) tn_dev_registry_remove(p->registry, n);
    else *out = n;
    return err;
}

int tn_dev_phantoms_init(struct tn_dev_phantoms *p, struct tn_dev_registry *r, size_t count, const struct tn_rng *rng,
                         int64_t unix_s)
{
    *p = (struct tn_dev_phantoms){.registry = r, .rng = *rng};
    if (count == 0) return 0;
    if (count > TN_DEV_PHANTOMS_MAX) return TN_E_INVAL;
    p->all = calloc(count, sizeof *p->all);
    if (!p->all) return TN_E_NOMEM;
    int err = 0;
    while (!err && p->count < count) {
        err = make(p, unix_s, &p->all[p->count]);
        p->count += !err;
    }
    if (err) tn_dev_phantoms_fini(p);
    return err;
}

void tn_dev_phantoms_fini(struct tn_dev_phantoms *p)
{
    free(p->all);
    p->all = NULL;
    p->count = 0;
}

/* One goes and another comes in its place. When memory is short it only goes. */
static void replace(struct tn_dev_phantoms *p, size_t i, int64_t unix_s)
{
    tn_dev_registry_remove(p->registry, p->all[i]);
    if (make(p, unix_s, &p->all[i]) != 0) p->all[i] = p->all[--p->count];
}

void tn_dev_phantoms_churn(struct tn_dev_phantoms *p, int64_t unix_s)
{
    if (p->count == 0) return;
    size_t i = (size_t)tn_rng_below(&p->rng, p->count);
    struct tn_dev_node *n = p->all[i];
    switch (p->churned++ % 7) {
    case 0:
    case 3: tn_dev_node_set_online(p->registry, n, !n->online, unix_s); break;
    case 1: renew_endpoints(p, n); break;
    case 2: renew_disco(p, n); break;
    case 4: (void)set_hostinfo(p, n, 101 + (unsigned)(p->churned % 1000)); break;
    case 5: tn_dev_node_set_expiry(p->registry, n, n->expiry + KEY_LIFE); break;
    case 6: replace(p, i, unix_s); break;
    }
}

static void churn_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    struct tn_dev_phantoms *p = TN_CONTAINER(timer, struct tn_dev_phantoms, churn);
    tn_dev_phantoms_churn(p, now.unix_s);
    tn_dev_changed(p->ctl, now);
    p->next_us += p->period_us; /* who counts seconds knows how many there were */
    tn_timer_arm(p->timers, &p->churn.t, p->next_us);
}

void tn_dev_phantoms_start(struct tn_dev_phantoms *p, struct tn_dev_ctl *ctl, struct tn_heap *timers, uint64_t period_us,
                           struct tn_dev_now now)
{
    p->ctl = ctl;
    p->timers = timers;
    p->period_us = period_us;
    p->churn.fire = churn_fire;
    p->next_us = now.us + period_us;
    if (p->count && period_us) tn_timer_arm(timers, &p->churn.t, p->next_us);
}
