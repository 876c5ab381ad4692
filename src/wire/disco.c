#include "wire/disco.h"
#include "util/err.h"

static const uint8_t magic[TN_DISCO_MAGIC_LEN] = {0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac}; /* "TS" and a balloon emoji */
static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

bool tn_disco_looks_like(const uint8_t *bytes, size_t len)
{
    return len >= TN_DISCO_MIN_LEN && memcmp(bytes, magic, sizeof magic) == 0;
}

static struct tn_addrport read_address(struct tn_rd *r)
{
    uint8_t ip[16];
    struct tn_addrport ap = {0};
    tn_rd_bytes(r, ip, sizeof ip);
    if (memcmp(ip, mapped, sizeof mapped) == 0) ap.ip = tn_ip_from_bytes(ip + 12, 4);
    else ap.ip = tn_ip_from_bytes(ip, 6);
    ap.port = tn_rd_be16(r);
    return ap;
}

static void put_address(struct tn_wr *w, const struct tn_addrport *ap)
{
    if (ap->ip.family == 4) {
        tn_wr_bytes(w, mapped, sizeof mapped);
        tn_wr_bytes(w, ap->ip.b, 4);
    } else {
        tn_wr_bytes(w, ap->ip.b, 16);
    }
    tn_wr_be16(w, ap->port);
}

static void parse_ping(struct tn_rd *r, struct tn_disco_msg *m)
{
    m->txid = tn_rd_take(r, TN_DISCO_TXID_LEN);
    if (tn_rd_left(r) >= 32) m->node_key = tn_rd_take(r, 32);
    m->padding = tn_rd_left(r);
}

static void parse_call_me_maybe(struct tn_rd *r, struct tn_disco_msg *m)
{
    size_t left = tn_rd_left(r);
    if (m->version != 0 || left % TN_DISCO_ENDPOINT_LEN != 0) return;
    m->nendpoints = left / TN_DISCO_ENDPOINT_LEN;
    m->endpoints = tn_rd_take(r, left);
}

int tn_disco_parse(const uint8_t *bytes, size_t len, struct tn_disco_msg *out)
{
    struct tn_rd r = tn_rd_init(bytes, len);
    struct tn_disco_msg m = {0};
    m.type = tn_rd_u8(&r);
    m.version = tn_rd_u8(&r);
    if (!tn_rd_ok(&r)) return TN_E_MALFORMED;
    switch (m.type) {
    case TN_DISCO_PING: parse_ping(&r, &m); break;
    case TN_DISCO_PONG:
        m.txid = tn_rd_take(&r, TN_DISCO_TXID_LEN);
        m.src = read_address(&r);
        break;
    case TN_DISCO_CALL_ME_MAYBE: parse_call_me_maybe(&r, &m); break;
    default: return TN_E_UNSUPPORTED;
    }
    if (!tn_rd_ok(&r)) return TN_E_MALFORMED;
    *out = m;
    return 0;
}

struct tn_addrport tn_disco_endpoint(const struct tn_disco_msg *m, size_t i)
{
    struct tn_rd r = tn_rd_init(m->endpoints + i * TN_DISCO_ENDPOINT_LEN, TN_DISCO_ENDPOINT_LEN);
    return read_address(&r);
}

void tn_disco_header_put(struct tn_wr *w, const uint8_t sender[32])
{
    tn_wr_bytes(w, magic, sizeof magic);
    tn_wr_bytes(w, sender, 32);
}

static void put_type(struct tn_wr *w, enum tn_disco_type type)
{
    tn_wr_u8(w, (uint8_t)type);
    tn_wr_u8(w, 0);
}

void tn_disco_ping_put(struct tn_wr *w, const uint8_t txid[12], const uint8_t node_key[32], size_t padding)
{
    put_type(w, TN_DISCO_PING);
    tn_wr_bytes(w, txid, TN_DISCO_TXID_LEN);
    tn_wr_bytes(w, node_key, 32);
    tn_wr_zero(w, padding);
}

void tn_disco_pong_put(struct tn_wr *w, const uint8_t txid[12], const struct tn_addrport *src)
{
    put_type(w, TN_DISCO_PONG);
    tn_wr_bytes(w, txid, TN_DISCO_TXID_LEN);
    put_address(w, src);
}

void tn_disco_call_me_maybe_put(struct tn_wr *w, const struct tn_addrport *endpoints, size_t n)
{
    put_type(w, TN_DISCO_CALL_ME_MAYBE);
    for (size_t i = 0; i < n; i++) put_address(w, &endpoints[i]);
}
