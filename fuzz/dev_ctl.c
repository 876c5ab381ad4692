/* The dev control server: bodies of register and map requests from two machines. Lines of the input are requests: the
 * first character says which path and machine, the rest is the body. */
#include "dev/ctl.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { REPLIES = 64 };

struct reply {
    struct tn_dev_reply reply;
    bool begun, over;
};

static void check(const struct reply *r)
{
    if (r->over) abort(); /* used after its end */
}

static void on_begin(struct tn_dev_reply *r, int status, const char *content_type)
{
    struct reply *f = (struct reply *)(void *)r;
    check(f);
    if (f->begun || status < 200 || status > 599) abort();
    f->begun = true;
}

static int on_write(struct tn_dev_reply *r, const void *bytes, size_t len)
{
    check((struct reply *)(void *)r);
    return ((struct reply *)(void *)r)->begun ? 0 : (abort(), 0);
}

static void on_end(struct tn_dev_reply *r)
{
    struct reply *f = (struct reply *)(void *)r;
    check(f);
    f->over = true;
    r->gone = NULL;
}

static size_t on_backlog(const struct tn_dev_reply *r) { return 0; }

static int on_save(void *ctx)
{
    json_t *dump = tn_dev_registry_dump(ctx);
    struct tn_dev_registry copy;
    uint64_t seed = 2;
    struct tn_rng rng = tn_rng_seeded(&seed);
    tn_dev_registry_init(&copy, &rng);
    if (!dump || tn_dev_registry_load(&copy, dump) != 0) abort(); /* what is saved must load */
    tn_dev_registry_fini(&copy);
    json_decref(dump);
    return 0;
}

static void request(struct tn_dev_ctl *c, const uint8_t *line, size_t len, struct reply *r, struct tn_dev_now *now)
{
    static const struct tn_dev_reply_ops ops = {on_begin, on_write, on_end, on_end, on_backlog};
    static const char *const paths[] = {"/machine/register", "/machine/map", "/machine/ping-response?id=0",
                                        "/machine/c2n/0"};
    *r = (struct reply){.reply.ops = &ops};
    struct tn_dev_request req = {.machine = {{(uint8_t)(line[0] >> 2 & 1)}}, .method = "POST",
                                 .path = paths[line[0] & 3], .body = line + 1, .len = len - 1};
    tn_dev_ctl_request(c, &req, &r->reply, *now);
    if (line[0] & 8) {
        now->us += 61 * TN_DEV_SECOND;
        now->unix_s += 61;
    }
    for (int i = 0; i < 100 && tn_dev_ctl_next_deadline(c) <= now->us; i++) tn_dev_ctl_timeout(c, *now);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct tn_dev_tailnet tailnet = {.domain = "t", .derp = {.host = "127.0.0.1", .cert_name = "x"}};
    uint64_t seed = 1;
    struct tn_dev_registry reg;
    struct tn_dev_now now = {.us = TN_DEV_SECOND, .unix_s = 1800000000};
    struct tn_dev_ctl *c;
    struct tn_dev_ctl_config cfg = {.registry = &reg, .tailnet = &tailnet, .base_url = "http://x",
                                    .auth_key = tn_secret_new("k", 1), .ephemeral_s = 30,
                                    .rng = tn_rng_seeded(&seed), .save = on_save, .ctx = &reg};
    static struct reply replies[REPLIES];
    size_t n = 0;
    tn_dev_registry_init(&reg, &cfg.rng);
    if (tn_dev_ctl_new(&cfg, now, &c) != 0) abort();
    while (size && n < REPLIES) {
        const uint8_t *nl = memchr(data, '\n', size);
        size_t len = nl ? (size_t)(nl - data) : size;
        if (len) request(c, data, len, &replies[n++], &now);
        data += nl ? len + 1 : len;
        size -= nl ? len + 1 : len;
    }
    for (size_t i = 0; i < n; i++) {
        void (*gone)(void *, struct tn_dev_now) = replies[i].reply.gone;
        if (gone && !replies[i].over) gone(replies[i].reply.holder, now);
    }
    tn_dev_ctl_free(c);
    tn_dev_registry_fini(&reg);
    tn_secret_free((struct tn_secret *)cfg.auth_key);
    return 0;
}
