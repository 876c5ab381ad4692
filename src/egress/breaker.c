#include "egress/breaker.h"

enum tn_breaker_state tn_breaker_says(const struct tn_breaker *b, uint64_t now_us)
{
    if (b->state == TN_BREAKER_CLOSED) return TN_BREAKER_CLOSED;
    return now_us >= b->until_us ? TN_BREAKER_TRIAL : TN_BREAKER_OPEN;
}

void tn_breaker_try(struct tn_breaker *b, uint64_t now_us)
{
    if (b->state == TN_BREAKER_CLOSED) return;
    b->state = TN_BREAKER_TRIAL;
    b->until_us = now_us + TN_BREAKER_TRIAL_US;
}

bool tn_breaker_success(struct tn_breaker *b)
{
    bool changed = b->state != TN_BREAKER_CLOSED;
    *b = (struct tn_breaker){0};
    return changed;
}

static uint64_t pause_us(const struct tn_breaker *b)
{
    uint64_t us = b->auth ? TN_BREAKER_AUTH_FIRST_US : TN_BREAKER_FIRST_US;
    uint64_t max_us = b->auth ? TN_BREAKER_AUTH_MAX_US : TN_BREAKER_MAX_US;
    for (int i = 0; i < b->opens && us < max_us; i++) us *= 2;
    return us < max_us ? us : max_us;
}

bool tn_breaker_failure(struct tn_breaker *b, bool auth, uint64_t now_us)
{
    if (b->state == TN_BREAKER_OPEN) return false;
    if (b->state == TN_BREAKER_CLOSED && !auth && ++b->fails < TN_BREAKER_FAILS) return false;
    b->state = TN_BREAKER_OPEN;
    b->auth = auth;
    b->until_us = now_us + pause_us(b);
    if (b->opens < 16) b->opens++;
    b->fails = 0;
    return true;
}
