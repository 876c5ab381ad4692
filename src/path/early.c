#include "path/early.h"

#include <stdlib.h>
#include <string.h>

struct tn_early {
    struct tn_early_packet places[TN_EARLY_PLACES];
    bool ready[TN_EARLY_PLACES];
    size_t nready;
};

void tn_early_keep(struct tn_early **e, const struct tn_node_public *from, struct tn_derp_route route,
                   const uint8_t *packet, size_t len, uint64_t now_us)
{
    if (len > TN_EARLY_PACKET_MAX) return;
    if (!*e) *e = calloc(1, sizeof **e);
    if (!*e) return;
    size_t place = 0;
    for (size_t i = 1; i < TN_EARLY_PLACES; i++) /* a free place counts as the oldest */
        if ((*e)->places[i].until_us < (*e)->places[place].until_us) place = i;
    if ((*e)->ready[place]) (*e)->nready--;
    (*e)->ready[place] = false;
    struct tn_early_packet *p = &(*e)->places[place];
    *p = (struct tn_early_packet){.from = *from, .route = route, .until_us = now_us + TN_EARLY_KEEP_US,
                                  .len = (uint16_t)len};
    memcpy(p->bytes, packet, len);
}

void tn_early_free(struct tn_early *e) { free(e); }

void tn_early_known(struct tn_early *e, const struct tn_node_public *from)
{
    for (size_t i = 0; e && i < TN_EARLY_PLACES; i++) {
        if (e->places[i].until_us == 0 || e->ready[i] || !tn_node_public_eq(&e->places[i].from, from)) continue;
        e->ready[i] = true;
        e->nready++;
    }
}

bool tn_early_ready(const struct tn_early *e) { return e && e->nready > 0; }

bool tn_early_take(struct tn_early *e, struct tn_early_packet *out, uint64_t now_us)
{
    for (size_t i = 0; e && e->nready > 0 && i < TN_EARLY_PLACES; i++) {
        if (!e->ready[i]) continue;
        bool fresh = e->places[i].until_us > now_us;
        *out = e->places[i];
        e->places[i].until_us = 0;
        e->ready[i] = false;
        e->nready--;
        if (fresh) return true;
    }
    return false;
}
