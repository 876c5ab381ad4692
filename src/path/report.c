/* What a look at the network found, for people who ask (tailnet netcheck). */
#include "path/internal.h"
#include "util/err.h"

#include <stdlib.h>

enum { WAITERS_MAX = 16 };

struct waiter {
    struct tn_list link;
    uint64_t check; /* told when this check is over: the first that began after the question */
    void (*done)(void *arg, const struct tn_path_report *r, uint64_t now_us);
    void *arg;
};

static void fill_in(const struct tn_path *p, struct tn_path_report *out)
{
    const struct tn_netcheck_report *r = p->report;
    out->udp = r->udp;
    out->ipv4 = r->ipv4;
    out->ipv6 = r->ipv6;
    out->mapping_varies = r->mapping_varies;
    if (r->nglobals[0]) out->global4 = r->globals[0][0].addr;
    if (r->nglobals[1]) out->global6 = r->globals[1][0].addr;
    for (size_t i = 0; out->regions && i < r->nregions; i++)
        out->regions[out->nregions++] =
            (struct tn_path_region_latency){r->regions[i].region, tn_path_region_code(p, r->regions[i].region),
                                            r->regions[i].v4_us, r->regions[i].v6_us};
}

void tn_path_report_tell(struct tn_path *p, uint64_t now_us)
{
    struct tn_list telling; /* apart, since done may ask again */
    tn_list_init(&telling);
    TN_LIST_EACH(l, &p->waiters) {
        if (TN_CONTAINER(l, struct waiter, link)->check > p->checks) continue;
        tn_list_remove(l);
        tn_list_push_back(&telling, l);
        p->nwaiters--;
    }
    if (tn_list_empty(&telling)) return;
    struct tn_path_report r = {.home = tn_derp_set_home_region(p->derp), .mapping_varies = -1, .portmap = p->portmap,
                               .os_has_ipv6 = p->local_known && p->port6};
    r.regions = p->report ? calloc(p->report->nregions + 1, sizeof *r.regions) : NULL; /* NULL: told without */
    if (p->report) fill_in(p, &r);
    for (struct tn_list *l; (l = tn_list_pop_front(&telling));) {
        struct waiter *w = TN_CONTAINER(l, struct waiter, link);
        w->done(w->arg, &r, now_us);
        free(w);
    }
    free(r.regions);
}

int tn_path_netcheck(struct tn_path *p, void (*done)(void *arg, const struct tn_path_report *r, uint64_t now_us),
                     void *arg, uint64_t now_us)
{
    if (!p->started || !p->map) return TN_E_NOTCONN;
    if (p->nwaiters == WAITERS_MAX) return TN_E_LIMIT;
    struct waiter *w = malloc(sizeof *w);
    if (!w) return TN_E_NOMEM;
    *w = (struct waiter){.check = p->checks + 1, .done = done, .arg = arg};
    tn_list_push_back(&p->waiters, &w->link);
    p->nwaiters++;
    tn_path_check_request(p, true, now_us);
    return 0;
}

void tn_path_report_free(struct tn_path *p)
{
    for (struct tn_list *l; (l = tn_list_pop_front(&p->waiters));) {
        struct waiter *w = TN_CONTAINER(l, struct waiter, link);
        w->done(w->arg, NULL, 0);
        free(w);
    }
}
