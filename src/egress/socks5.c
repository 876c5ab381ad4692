/* SOCKS5 CONNECT, the client's side (RFC 1928, user/password per RFC 1929), without sockets.
 *
 *   we      05 01 M                  one method: 02 with credentials, else 00. Offering both would let a proxy,
 *                                    or somebody in between, talk us into an unauthenticated (shared) service.
 *   proxy   05 M | 05 FF
 *   we      01 ulen user plen pass   only after 05 02
 *   proxy   01 00 | 01 xx
 *   we      05 01 00 ATYP ADDR PORT  ATYP 1 or 4, or 3 where the proxy is told names
 *   proxy   05 REP RSV ATYP BND.ADDR BND.PORT
 *
 * UDP ASSOCIATE is the same with 03 for 01 and zeros for the destination; then the bound address is the relay's.
 *
 * Otherwise the bound address is of no use to us and may be of any kind whatever we asked with; a proxy that answers an IPv4
 * request with an IPv6 or domain bound address is right. When REP says no, the rest may be junk or missing: the
 * verdict falls at the second byte. RSV is ignored. Bytes after the reply are the destination's.
 *
 *   REP                         failure
 *   1 general, 2 ruleset        PROXY_REFUSED
 *   3 network, 4 host           UNREACHABLE
 *   5 refused                   REFUSED
 *   6 TTL expired               TIMEOUT (proxies say it when their connect timed out)
 *   7 command, 8 address type   PROXY_REFUSED (8: a proxy without IPv6)
 *   9 and above, unassigned     PROXY_REFUSED */
#include "egress/handshake.h"
#include "util/cursor.h"

#include <stdlib.h>

enum {
    VERSION = 5, AUTH_VERSION = 1, CMD_CONNECT = 1, CMD_ASSOCIATE = 3,
    METHOD_NONE = 0, METHOD_USERPASS = 2, METHOD_NONE_ACCEPTABLE = 0xff,
    ATYP_V4 = 1, ATYP_NAME = 3, ATYP_V6 = 4,
};
enum { REP_ADDRESS_TYPE = 8 };
enum { OUT_MAX = 3 + 255 + 255 }; /* the user/password message is the longest we send */
enum { REPLY_MAX = 4 + 1 + 255 + 2 };

enum socks5_state { AWAIT_METHOD, AWAIT_AUTH, AWAIT_REPLY, FINISHED };

struct tn_socks5 {
    const struct tn_proxy *proxy;
    struct tn_addrport dst;
    bool greet_only;
    char name[TN_HANDSHAKE_NAME_MAX + 1]; /* "": the address */
    uint8_t command;
    enum socks5_state state;
    uint16_t out_off, out_len, in_len;
    uint8_t in[REPLY_MAX];
    uint8_t out[OUT_MAX];
};

static void put_greeting(struct tn_socks5 *s)
{
    s->out[0] = VERSION;
    s->out[1] = 1;
    s->out[2] = s->proxy->has_auth ? METHOD_USERPASS : METHOD_NONE;
    s->out_len = 3;
}

static void put_auth(struct tn_socks5 *s)
{
    size_t ulen = tn_secret_len(s->proxy->user), plen = tn_secret_len(s->proxy->pass);
    struct tn_wr w = tn_wr_init(s->out, sizeof s->out);
    tn_wr_u8(&w, AUTH_VERSION);
    tn_wr_u8(&w, (uint8_t)ulen);
    tn_wr_bytes(&w, tn_secret_bytes(s->proxy->user), ulen & 0xff);
    tn_wr_u8(&w, (uint8_t)plen);
    tn_wr_bytes(&w, tn_secret_bytes(s->proxy->pass), plen & 0xff);
    s->out_off = 0;
    s->out_len = (uint16_t)tn_wr_len(&w);
}

static void put_request(struct tn_socks5 *s)
{
    tn_wipe(s->out, sizeof s->out);
    struct tn_wr w = tn_wr_init(s->out, sizeof s->out);
    tn_wr_u8(&w, VERSION);
    tn_wr_u8(&w, s->command);
    tn_wr_u8(&w, 0);
    size_t len = strlen(s->name);
    tn_wr_u8(&w, len ? ATYP_NAME : s->dst.ip.family == 4 ? ATYP_V4 : ATYP_V6);
    if (len) tn_wr_u8(&w, (uint8_t)len);
    if (len) tn_wr_bytes(&w, s->name, len);
    else tn_wr_bytes(&w, s->dst.ip.b, tn_ip_len(&s->dst.ip));
    tn_wr_be16(&w, s->dst.port);
    s->out_off = 0;
    s->out_len = (uint16_t)tn_wr_len(&w);
}

struct tn_socks5 *tn_socks5_new(const struct tn_proxy *proxy, const struct tn_addrport *dst, const char *name)
{
    struct tn_socks5 *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->proxy = proxy;
    s->greet_only = !dst;
    if (dst) s->dst = *dst;
    size_t len = name ? strlen(name) : 0;
    if (len < sizeof s->name) memcpy(s->name, name ? name : "", len + 1);
    s->command = CMD_CONNECT;
    put_greeting(s);
    return s;
}

struct tn_socks5 *tn_socks5_new_associate(const struct tn_proxy *proxy)
{
    static const struct tn_addrport unknown = {.ip = {.family = 4}}; /* from where we will send: zeros, RFC 1928 section 6 */
    struct tn_socks5 *s = tn_socks5_new(proxy, &unknown, NULL);
    if (s) s->command = CMD_ASSOCIATE;
    return s;
}

void tn_socks5_bound(const struct tn_socks5 *s, struct tn_addrport *out)
{
    *out = (struct tn_addrport){0};
    if (s->state != FINISHED || s->in[3] == ATYP_NAME) return;
    uint8_t family = s->in[3] == ATYP_V4 ? 4 : 6;
    out->ip = tn_ip_from_bytes(s->in + 4, family);
    out->port = tn_get_be16(s->in + 4 + tn_ip_len(&out->ip));
}

void tn_socks5_free(struct tn_socks5 *s)
{
    if (!s) return;
    tn_wipe(s, sizeof *s);
    free(s);
}

const uint8_t *tn_socks5_output(const struct tn_socks5 *s, size_t *len)
{
    *len = (size_t)(s->out_len - s->out_off);
    return s->out + s->out_off;
}

void tn_socks5_sent(struct tn_socks5 *s, size_t n)
{
    s->out_off = (uint16_t)(s->out_off + n);
    if (s->out_off < s->out_len) return;
    tn_wipe(s->out, s->out_len);
    s->out_off = s->out_len = 0;
}

static int authenticated(struct tn_socks5 *s)
{
    s->state = s->greet_only ? FINISHED : AWAIT_REPLY;
    if (s->greet_only) return TN_HANDSHAKE_DONE;
    put_request(s);
    return TN_HANDSHAKE_MORE;
}

bool tn_socks5_asked(const struct tn_socks5 *s) { return s->state >= AWAIT_REPLY; }

bool tn_socks5_no_ipv6(const struct tn_socks5 *s)
{
    bool v6 = s->command == CMD_CONNECT && !s->name[0] && s->dst.ip.family == 6;
    return v6 && s->state == AWAIT_REPLY && s->in[0] == VERSION && s->in[1] == REP_ADDRESS_TYPE;
}

static int on_method(struct tn_socks5 *s)
{
    if (s->in[0] != VERSION) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
    uint8_t method = s->in[1];
    if (method == METHOD_NONE_ACCEPTABLE) return TN_EGRESS_FAIL_PROXY_AUTH;
    if (method != (s->proxy->has_auth ? METHOD_USERPASS : METHOD_NONE)) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
    if (method != METHOD_USERPASS) return authenticated(s);
    put_auth(s);
    s->state = AWAIT_AUTH;
    return TN_HANDSHAKE_MORE;
}

static int on_auth(struct tn_socks5 *s)
{
    if (s->in[0] != AUTH_VERSION) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
    return s->in[1] != 0 ? (int)TN_EGRESS_FAIL_PROXY_AUTH : authenticated(s);
}

static int fail_of_rep(uint8_t rep)
{
    switch (rep) {
    case 3:
    case 4: return TN_EGRESS_FAIL_UNREACHABLE;
    case 5: return TN_EGRESS_FAIL_REFUSED;
    case 6: return TN_EGRESS_FAIL_TIMEOUT;
    default: return TN_EGRESS_FAIL_PROXY_REFUSED;
    }
}

/* How long the reply is as far as its first bytes tell; 0 for an address type that does not exist. */
static size_t reply_len(const struct tn_socks5 *s)
{
    if (s->in_len < 5) return 5;
    switch (s->in[3]) {
    case ATYP_V4: return 4 + 4 + 2;
    case ATYP_V6: return 4 + 16 + 2;
    case ATYP_NAME: return 4 + 1 + (size_t)s->in[4] + 2;
    default: return 0;
    }
}

static int on_reply(struct tn_socks5 *s)
{
    if (s->in[0] != VERSION) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
    if (s->in[1] != 0) return fail_of_rep(s->in[1]);
    size_t want = reply_len(s);
    if (want == 0) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
    if (s->in_len < want) return TN_HANDSHAKE_MORE;
    s->state = FINISHED;
    return TN_HANDSHAKE_DONE;
}

/* How many bytes the next decision needs. Never more than the message has, so that nothing of the tunnel is taken. */
static size_t need(const struct tn_socks5 *s)
{
    if (s->state != AWAIT_REPLY || s->in_len < 2) return 2;
    return reply_len(s);
}

int tn_socks5_input(struct tn_socks5 *s, const uint8_t *bytes, size_t len, size_t *used)
{
    *used = 0;
    while (s->state != FINISHED) {
        size_t want = need(s) - s->in_len, n = len - *used < want ? len - *used : want;
        if (n) memcpy(s->in + s->in_len, bytes + *used, n);
        s->in_len = (uint16_t)(s->in_len + n);
        *used += n;
        if (n < want) return TN_HANDSHAKE_MORE;
        /* An answer to what was not fully asked is no answer. */
        if (s->out_len > s->out_off) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
        enum socks5_state before = s->state;
        int r = before == AWAIT_METHOD ? on_method(s) : before == AWAIT_AUTH ? on_auth(s) : on_reply(s);
        if (r != TN_HANDSHAKE_MORE) return r;
        if (s->state != before) s->in_len = 0;
    }
    return TN_HANDSHAKE_DONE;
}
