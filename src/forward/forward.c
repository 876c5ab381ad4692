/* The forwarder's life, its switch and its figures. */
#include "egress/subnet.h"
#include "forward/private.h"
#include "util/err.h"

#include <stdlib.h>

uint64_t tn_forward_now(const struct tn_forward *f)
{
    return f->config.now ? f->config.now(f->config.ctx) : uv_hrtime() / 1000;
}

bool tn_forward_is_subnet(const struct tn_forward *f, const struct tn_addrport *dst)
{
    struct tn_addrport real;
    return tn_egress_is_subnet(f->config.egress, dst, &real);
}

struct tn_forward *tn_forward_new(const struct tn_forward_config *config)
{
    struct tn_forward *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->config = *config;
    tn_list_init(&f->flows);
    tn_list_init(&f->opening);
    tn_gate_init(f, config->rng.fill ? config->rng : tn_rng_system());
    tn_dflows_init(f);
    return f;
}

void tn_forward_free(struct tn_forward *f)
{
    if (!f) return;
    uint64_t now_us = tn_forward_now(f);
    f->enabled = false;
    tn_flow_drop_all(f, now_us);
    tn_gate_drop_all(f, now_us);
    tn_dflows_drop_all(f);
    tn_egress_set_batch(f->config.egress, NULL, NULL);
    tn_gate_fini(f);
    tn_dflows_fini(f);
    free(f);
}

/* Datagrams that are read together leave together: neighbours of one flow as a train. */
static void on_batch(void *ctx, bool begins)
{
    struct tn_forward *f = ctx;
    if (begins) tn_stack_batch_begin(f->stack);
    else tn_stack_batch_end(f->stack, tn_forward_now(f));
}

void tn_forward_set_stack(struct tn_forward *f, struct tn_stack *st)
{
    f->stack = st;
    tn_egress_set_batch(f->config.egress, on_batch, f);
}

void tn_forward_set_enabled(struct tn_forward *f, bool on, uint64_t now_us)
{
    if (f->enabled == on) return;
    f->enabled = on;
    tn_logf(f->config.log, TN_LOG_INFO, "forward", on ? "on" : "off");
    if (on) return;
    tn_gate_drop_all(f, now_us);
    tn_flow_drop_all(f, now_us);
    tn_dflows_drop_all(f);
}

void tn_forward_drop_gone(struct tn_forward *f, bool (*gone)(void *ctx, const struct tn_ip *dst, bool subnet), void *ctx,
                          uint64_t now_us)
{
    struct tn_gone g = {gone, ctx};
    tn_gate_drop_gone(f, &g, now_us);
    tn_flow_drop_gone(f, &g, now_us);
    tn_dflows_drop_gone(f, &g);
}

void tn_forward_peer_gone(struct tn_forward *f, uint64_t peer, uint64_t now_us)
{
    tn_gate_drop_peer(f, peer, now_us);
    tn_flow_drop_peer(f, peer, now_us);
    tn_dflows_drop_peer(f, peer);
}

void tn_forward_timeout(struct tn_forward *f, uint64_t now_us)
{
    tn_gate_timeout(f, now_us);
    tn_dflows_timeout(f, now_us);
}

uint64_t tn_forward_next_deadline(const struct tn_forward *f)
{
    uint64_t held = tn_heap_next(&f->timers), idle = tn_dflows_next_deadline(f);
    return held < idle ? held : idle;
}

void tn_forward_stats(const struct tn_forward *f, struct tn_forward_stats *out) { *out = f->stats; }
