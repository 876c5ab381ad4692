#include "wire/wgmsg.h"
#include "util/cursor.h"
#include "util/err.h"

#include <string.h>

int tn_wgmsg_type(const uint8_t *bytes, size_t len)
{
    if (len < 4) return TN_E_MALFORMED;
    uint32_t type = tn_get_le32(bytes);
    bool fits = (type == TN_WGMSG_INITIATION && len == TN_WGMSG_INITIATION_LEN) ||
                (type == TN_WGMSG_RESPONSE && len == TN_WGMSG_RESPONSE_LEN) ||
                (type == TN_WGMSG_COOKIE && len == TN_WGMSG_COOKIE_LEN) ||
                (type == TN_WGMSG_DATA && len >= TN_WGMSG_DATA_MIN);
    return fits ? (int)type : TN_E_MALFORMED;
}

/* The lengths are fixed and were checked by tn_wgmsg_type, so the cursors below can't fail. */
static struct tn_rd body(const uint8_t *bytes, size_t len)
{
    struct tn_rd r = tn_rd_init(bytes, len);
    (void)tn_rd_take(&r, 4);
    return r;
}

static struct tn_wr begin(uint8_t *out, size_t len, enum tn_wgmsg_type type)
{
    struct tn_wr w = tn_wr_init(out, len);
    memset(out, 0, len);
    tn_wr_le32(&w, type);
    return w;
}

void tn_wgmsg_get_initiation(const uint8_t *bytes, struct tn_wgmsg_initiation *out)
{
    struct tn_rd r = body(bytes, TN_WGMSG_INITIATION_LEN);
    out->sender = tn_rd_le32(&r);
    tn_rd_bytes(&r, out->ephemeral, sizeof out->ephemeral);
    tn_rd_bytes(&r, out->sealed_static, sizeof out->sealed_static);
    tn_rd_bytes(&r, out->sealed_timestamp, sizeof out->sealed_timestamp);
}

void tn_wgmsg_get_response(const uint8_t *bytes, struct tn_wgmsg_response *out)
{
    struct tn_rd r = body(bytes, TN_WGMSG_RESPONSE_LEN);
    out->sender = tn_rd_le32(&r);
    out->receiver = tn_rd_le32(&r);
    tn_rd_bytes(&r, out->ephemeral, sizeof out->ephemeral);
    tn_rd_bytes(&r, out->sealed_nothing, sizeof out->sealed_nothing);
}

void tn_wgmsg_get_cookie(const uint8_t *bytes, struct tn_wgmsg_cookie *out)
{
    struct tn_rd r = body(bytes, TN_WGMSG_COOKIE_LEN);
    out->receiver = tn_rd_le32(&r);
    tn_rd_bytes(&r, out->nonce, sizeof out->nonce);
    tn_rd_bytes(&r, out->sealed_cookie, sizeof out->sealed_cookie);
}

void tn_wgmsg_get_data(const uint8_t *bytes, struct tn_wgmsg_data *out)
{
    out->receiver = tn_get_le32(bytes + 4);
    out->counter = tn_get_le64(bytes + 8);
}

uint32_t tn_wgmsg_sender(const uint8_t *bytes) { return tn_get_le32(bytes + 4); }

void tn_wgmsg_put_initiation(uint8_t out[TN_WGMSG_INITIATION_LEN], const struct tn_wgmsg_initiation *m)
{
    struct tn_wr w = begin(out, TN_WGMSG_INITIATION_LEN, TN_WGMSG_INITIATION);
    tn_wr_le32(&w, m->sender);
    tn_wr_bytes(&w, m->ephemeral, sizeof m->ephemeral);
    tn_wr_bytes(&w, m->sealed_static, sizeof m->sealed_static);
    tn_wr_bytes(&w, m->sealed_timestamp, sizeof m->sealed_timestamp);
}

void tn_wgmsg_put_response(uint8_t out[TN_WGMSG_RESPONSE_LEN], const struct tn_wgmsg_response *m)
{
    struct tn_wr w = begin(out, TN_WGMSG_RESPONSE_LEN, TN_WGMSG_RESPONSE);
    tn_wr_le32(&w, m->sender);
    tn_wr_le32(&w, m->receiver);
    tn_wr_bytes(&w, m->ephemeral, sizeof m->ephemeral);
    tn_wr_bytes(&w, m->sealed_nothing, sizeof m->sealed_nothing);
}

void tn_wgmsg_put_cookie(uint8_t out[TN_WGMSG_COOKIE_LEN], const struct tn_wgmsg_cookie *m)
{
    struct tn_wr w = begin(out, TN_WGMSG_COOKIE_LEN, TN_WGMSG_COOKIE);
    tn_wr_le32(&w, m->receiver);
    tn_wr_bytes(&w, m->nonce, sizeof m->nonce);
    tn_wr_bytes(&w, m->sealed_cookie, sizeof m->sealed_cookie);
}

void tn_wgmsg_put_data(uint8_t out[TN_WGMSG_DATA_HEADER], const struct tn_wgmsg_data *m)
{
    tn_put_le32(out, TN_WGMSG_DATA);
    tn_put_le32(out + 4, m->receiver);
    tn_put_le64(out + 8, m->counter);
}
