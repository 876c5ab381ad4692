#include "drive_dgram.h"

#include "egress/dgram.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { FLOWS = 64 };

struct flow {
    struct tn_dgram *d;
    int id;
};

static struct flow flows[FLOWS];

static void on_datagram(void *arg, const uint8_t *bytes, size_t len) { say("udp %d got %zu", ((struct flow *)arg)->id, len); }
static void on_error(void *arg, enum tn_dgram_error what) { say("udp %d error %d", ((struct flow *)arg)->id, (int)what); }
static void on_end(void *arg, enum tn_egress_fail why)
{
    struct flow *f = arg;
    f->d = NULL;
    say("udp %d end %s", f->id, tn_egress_fail_name(why));
}

static const struct tn_dgram_events events = {on_datagram, on_error, on_end};

static void open_flow(struct tn_egress *e, int id, const char *dst, uint64_t peer)
{
    struct tn_dgram_key k = {.src = {{4, {100, 64, 0, (uint8_t)peer}}, (uint16_t)(4000 + id)}, .peer = peer};
    assert(id >= 0 && id < FLOWS && tn_addrport_parse(dst, &k.dst) == 0);
    flows[id].id = id;
    int why = tn_dgram_open(e, &k, &events, &flows[id], &flows[id].d);
    if (why) {
        say("udp %d fail %s", id, tn_egress_fail_name((enum tn_egress_fail)why));
        return;
    }
    tn_dgram_send(flows[id].d, "hello", 5);
    say("udp %d sent", id);
}

bool drive_dgram(struct tn_egress *e, const char *verb, char *rest)
{
    if (!strcmp(verb, "proxyudp")) {
        tn_egress_set_proxy_udp(e, rest[0] == '1', false);
        say("proxyudp");
    } else if (!strcmp(verb, "udp")) {
        int id = atoi(strsep(&rest, " "));
        const char *dst = strsep(&rest, " ");
        open_flow(e, id, dst, strtoull(rest, NULL, 10));
    } else {
        return false;
    }
    return true;
}
