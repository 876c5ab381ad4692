#include "wire/stun.h"
#include "util/cursor.h"
#include "util/err.h"

enum { HEADER_LEN = 20, FINGERPRINT_LEN = 8, COOKIE = 0x2112a442, FINGERPRINT_XOR = 0x5354554e };
enum { BINDING_REQUEST = 0x0001, BINDING_SUCCESS = 0x0101 };
enum {
    ATTR_MAPPED_ADDRESS = 0x0001, ATTR_XOR_MAPPED_ADDRESS = 0x0020,
    ATTR_XOR_MAPPED_ADDRESS_ALT = 0x8020, /* drafts of RFC 5389 numbered it so, and servers still send it */
    ATTR_SOFTWARE = 0x8022, ATTR_FINGERPRINT = 0x8028,
};

static const char software[] = "tailnode"; /* eight bytes: no padding */

/* CRC-32 of RFC 1952 by half bytes: requests are 40 bytes and rare, so sixteen constants do. */
static uint32_t crc32_of(const uint8_t *p, size_t len)
{
    static const uint32_t table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < len; i++) {
        crc = table[(crc ^ p[i]) & 15] ^ crc >> 4;
        crc = table[(crc ^ p[i] >> 4) & 15] ^ crc >> 4;
    }
    return ~crc;
}

bool tn_stun_looks_like(const uint8_t *bytes, size_t len)
{
    return len >= HEADER_LEN && (bytes[0] & 0xc0) == 0 && tn_get_be32(bytes + 4) == COOKIE;
}

static void put_header(struct tn_wr *w, uint16_t type, size_t attrs_len, const uint8_t txid[12])
{
    tn_wr_be16(w, type);
    tn_wr_be16(w, (uint16_t)attrs_len);
    tn_wr_be32(w, COOKIE);
    tn_wr_bytes(w, txid, TN_STUN_TXID_LEN);
}

void tn_stun_request_put(uint8_t out[TN_STUN_REQUEST_LEN], const uint8_t txid[TN_STUN_TXID_LEN])
{
    struct tn_wr w = tn_wr_init(out, TN_STUN_REQUEST_LEN);
    put_header(&w, BINDING_REQUEST, TN_STUN_REQUEST_LEN - HEADER_LEN, txid);
    tn_wr_be16(&w, ATTR_SOFTWARE);
    tn_wr_be16(&w, sizeof software - 1);
    tn_wr_bytes(&w, software, sizeof software - 1);
    uint32_t crc = crc32_of(out, tn_wr_len(&w));
    tn_wr_be16(&w, ATTR_FINGERPRINT);
    tn_wr_be16(&w, 4);
    tn_wr_be32(&w, crc ^ FINGERPRINT_XOR);
}

/* The next attribute; false at the end or when it does not fit (then r has failed). */
static bool next_attr(struct tn_rd *r, uint16_t *type, struct tn_rd *value)
{
    if (tn_rd_left(r) == 0) return false;
    *type = tn_rd_be16(r);
    size_t len = tn_rd_be16(r);
    *value = tn_rd_sub(r, len);
    tn_rd_take(r, (4 - len % 4) % 4);
    return tn_rd_ok(r);
}

int tn_stun_request_parse(const uint8_t *bytes, size_t len, uint8_t txid[TN_STUN_TXID_LEN])
{
    if (!tn_stun_looks_like(bytes, len) || tn_get_be16(bytes) != BINDING_REQUEST) return TN_E_MALFORMED;
    struct tn_rd r = tn_rd_init(bytes + HEADER_LEN, len - HEADER_LEN), value;
    bool ours = false;
    uint16_t type = 0;
    uint32_t fingerprint = 0;
    while (next_attr(&r, &type, &value)) {
        size_t n = tn_rd_left(&value);
        const uint8_t *v = tn_rd_take(&value, n);
        if (type == ATTR_SOFTWARE) ours |= n == sizeof software - 1 && memcmp(v, software, n) == 0;
        if (type == ATTR_FINGERPRINT && n == 4) fingerprint = tn_get_be32(v);
    }
    if (!tn_rd_ok(&r)) return TN_E_MALFORMED;
    if (!ours || type != ATTR_FINGERPRINT) return TN_E_UNSUPPORTED;
    if (fingerprint != (crc32_of(bytes, len - FINGERPRINT_LEN) ^ FINGERPRINT_XOR)) return TN_E_UNSUPPORTED;
    memcpy(txid, bytes + 8, TN_STUN_TXID_LEN);
    return 0;
}

size_t tn_stun_response_put(uint8_t out[TN_STUN_RESPONSE_MAX], const uint8_t txid[TN_STUN_TXID_LEN],
                            const struct tn_addrport *addr)
{
    size_t ip_len = tn_ip_len(&addr->ip);
    if (ip_len == 0) return 0;
    struct tn_wr w = tn_wr_init(out, TN_STUN_RESPONSE_MAX);
    put_header(&w, BINDING_SUCCESS, 8 + ip_len, txid);
    tn_wr_be16(&w, ATTR_XOR_MAPPED_ADDRESS);
    tn_wr_be16(&w, (uint16_t)(4 + ip_len));
    tn_wr_u8(&w, 0);
    tn_wr_u8(&w, addr->ip.family == 4 ? 1 : 2);
    tn_wr_be16(&w, addr->port ^ (COOKIE >> 16));
    /* The mask is the cookie and the transaction id, which stand side by side in the header. */
    for (size_t i = 0; i < ip_len; i++) tn_wr_u8(&w, addr->ip.b[i] ^ out[4 + i]);
    return tn_wr_len(&w);
}

/* MAPPED-ADDRESS, unmasked with mask (16 bytes) when it is the XOR form. Fails the cursor on a bad value. */
static struct tn_addrport read_address(struct tn_rd *r, const uint8_t *mask)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    struct tn_addrport ap = {0};
    uint8_t bytes[16] = {0};
    tn_rd_u8(r);
    uint8_t family = tn_rd_u8(r);
    ap.port = tn_rd_be16(r);
    size_t len = family == 1 ? 4 : family == 2 ? 16 : 0;
    if (len == 0) r->failed = true;
    tn_rd_bytes(r, bytes, len);
    if (!tn_rd_ok(r)) return ap;
    if (mask) {
        ap.port ^= COOKIE >> 16;
        for (size_t i = 0; i < len; i++) bytes[i] ^= mask[i];
    }
    if (len == 16 && memcmp(bytes, mapped, sizeof mapped) == 0) ap.ip = tn_ip_from_bytes(bytes + 12, 4);
    else ap.ip = tn_ip_from_bytes(bytes, len == 4 ? 4 : 6);
    return ap;
}

int tn_stun_response_parse(const uint8_t *bytes, size_t len, uint8_t txid[TN_STUN_TXID_LEN],
                           struct tn_addrport *addr)
{
    if (!tn_stun_looks_like(bytes, len) || tn_get_be16(bytes) != BINDING_SUCCESS) return TN_E_MALFORMED;
    struct tn_rd all = tn_rd_init(bytes + HEADER_LEN, len - HEADER_LEN);
    struct tn_rd r = tn_rd_sub(&all, tn_get_be16(bytes + 2)), value; /* bytes behind the message are ignored */
    struct tn_addrport xored = {0}, plain = {0};
    uint16_t type;
    while (next_attr(&r, &type, &value)) {
        if (type == ATTR_XOR_MAPPED_ADDRESS || type == ATTR_XOR_MAPPED_ADDRESS_ALT)
            xored = read_address(&value, bytes + 4);
        else if (type == ATTR_MAPPED_ADDRESS) plain = read_address(&value, NULL);
        if (!tn_rd_ok(&value)) return TN_E_MALFORMED;
    }
    if (!tn_rd_ok(&r)) return TN_E_MALFORMED;
    if (xored.ip.family == 0) xored = plain;
    if (xored.ip.family == 0) return TN_E_MALFORMED;
    memcpy(txid, bytes + 8, TN_STUN_TXID_LEN);
    *addr = xored;
    return 0;
}
