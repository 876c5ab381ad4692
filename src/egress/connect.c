/* HTTP CONNECT, the client's side (RFC 9110 section 9.3.6, Basic per RFC 7617), without sockets.
 *
 * One request is sent: CONNECT host:port (IPv6 in brackets) with Host and, when there are credentials,
 * Proxy-Authorization at once, since a proxy that has them set wants them on every connection. Then response heads
 * are read:
 *   1xx (not 101)   interim: skipped, any mix of them, within the budget below
 *   2xx             the tunnel begins right after the head; Content-Length and Transfer-Encoding mean nothing here
 *   407, 401        PROXY_AUTH (tinyproxy says 401 to a wrong password); nothing is sent again
 *   500, 502, 503   UNREACHABLE: the proxy could not reach the destination (squid 503, tinyproxy 500, others 502)
 *   504, 408        TIMEOUT
 *   any other       PROXY_REFUSED, redirects included: they are never followed
 * Without a destination it is a question for the proxy itself, OPTIONS * that must not be passed on (RFC 9110 sections 7.6.2 and
 * 9.3.7): any final answer but 407 and 401 is DONE, since even an error is from a proxy that works.
 *
 * All heads together have HEAD_MAX bytes. HTTP/1.0 and HTTP/1.1 are accepted, and lines that end in a bare LF; what
 * is not a status line fails at its first wrong byte. Reason phrases are never shown to anybody. */
#include "egress/handshake.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/text.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    HEAD_MAX = 8192,  /* interim responses included; squid's and nginx' heads are under 2 KiB even with error texts */
    INTERIM_MAX = 16, /* nobody sends more than a few */
};

struct tn_httpconnect {
    char *out; /* the request, wiped and freed when it is sent */
    size_t out_off, out_len;
    struct tn_buf in;
    size_t budget; /* of HEAD_MAX, not yet used up by interim responses */
    unsigned interim;
    bool probe; /* no destination */
};

static size_t basic_len(const struct tn_proxy *p)
{
    return TN_BASE64_LEN(tn_secret_len(p->user) + 1 + tn_secret_len(p->pass));
}

/* base64(user ":" pass) into out[basic_len]. */
static int put_basic(const struct tn_proxy *p, char *out)
{
    size_t ulen = tn_secret_len(p->user), plen = tn_secret_len(p->pass);
    char *plain = malloc(ulen + 1 + plen);
    if (!plain) return TN_E_NOMEM;
    memcpy(plain, tn_secret_bytes(p->user), ulen);
    plain[ulen] = ':';
    memcpy(plain + ulen + 1, tn_secret_bytes(p->pass), plen);
    tn_base64_encode(TN_BASE64_STD, plain, ulen + 1 + plen, out);
    tn_wipe(plain, ulen + 1 + plen);
    free(plain);
    return 0;
}

static void host_of(const struct tn_proxy *p, char *out, size_t cap)
{
    bool v6 = strchr(p->host, ':') != NULL;
    snprintf(out, cap, "%s%.253s%s:%u", v6 ? "[" : "", p->host, v6 ? "]" : "", (unsigned)p->port);
}

static int put_request(struct tn_httpconnect *h, const struct tn_proxy *p, const struct tn_addrport *dst, const char *name)
{
    static const char field[] = "Proxy-Authorization: Basic ";
    char to[TN_HANDSHAKE_NAME_MAX + 10];
    size_t cap = 2 * sizeof to + 128 + (p->has_auth ? sizeof field + basic_len(p) : 0);
    h->out = malloc(cap);
    if (!h->out) return TN_E_NOMEM;
    if (!dst) host_of(p, to, sizeof to);
    else if (name) snprintf(to, sizeof to, "%.*s:%u", TN_HANDSHAKE_NAME_MAX, name, (unsigned)dst->port);
    else tn_addrport_format(dst, to);
    size_t n = dst ? (size_t)snprintf(h->out, cap, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", to, to)
                   : (size_t)snprintf(h->out, cap, "OPTIONS * HTTP/1.1\r\nHost: %s\r\nMax-Forwards: 0\r\nConnection: close\r\n", to);
    if (p->has_auth) {
        memcpy(h->out + n, field, sizeof field - 1);
        n += sizeof field - 1;
        if (put_basic(p, h->out + n) != 0) return TN_E_NOMEM;
        n += basic_len(p) - 1;
        memcpy(h->out + n, "\r\n", 2);
        n += 2;
    }
    memcpy(h->out + n, "\r\n", 2);
    h->out_len = n + 2;
    return 0;
}

struct tn_httpconnect *tn_httpconnect_new(const struct tn_proxy *proxy, const struct tn_addrport *dst, const char *name)
{
    struct tn_httpconnect *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    tn_buf_init(&h->in, HEAD_MAX);
    h->budget = HEAD_MAX;
    h->probe = !dst;
    if (put_request(h, proxy, dst, name) != 0) {
        tn_httpconnect_free(h);
        return NULL;
    }
    return h;
}

static void drop_request(struct tn_httpconnect *h)
{
    if (!h->out) return;
    tn_wipe(h->out, h->out_len);
    free(h->out);
    h->out = NULL;
    h->out_off = h->out_len = 0;
}

void tn_httpconnect_free(struct tn_httpconnect *h)
{
    if (!h) return;
    drop_request(h);
    tn_buf_fini(&h->in);
    free(h);
}

const uint8_t *tn_httpconnect_output(const struct tn_httpconnect *h, size_t *len)
{
    *len = h->out_len - h->out_off;
    return h->out ? (const uint8_t *)h->out + h->out_off : (const uint8_t *)"";
}

void tn_httpconnect_sent(struct tn_httpconnect *h, size_t n)
{
    h->out_off += n;
    if (h->out_off >= h->out_len) drop_request(h);
}

static int verdict(int status)
{
    if (status >= 200 && status < 300) return TN_HANDSHAKE_DONE;
    switch (status) {
    case 401:
    case 407: return TN_EGRESS_FAIL_PROXY_AUTH;
    case 500:
    case 502:
    case 503: return TN_EGRESS_FAIL_UNREACHABLE;
    case 408:
    case 504: return TN_EGRESS_FAIL_TIMEOUT;
    case 101: return TN_EGRESS_FAIL_PROXY_PROTOCOL; /* we asked for no upgrade */
    default: return status < 200 || status > 599 ? TN_EGRESS_FAIL_PROXY_PROTOCOL : TN_EGRESS_FAIL_PROXY_REFUSED;
    }
}

/* Judges the heads that are complete. On DONE *tail is how many bytes at the end of the buffer are the tunnel's. */
static int on_bytes(struct tn_httpconnect *h, size_t *tail)
{
    struct tn_http1_head head;
    for (;;) {
        long n = tn_http1_parse_response(tn_buf_data(&h->in), tn_buf_len(&h->in), h->budget, &head);
        if (n < 0) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
        if (n == 0) return TN_HANDSHAKE_MORE;
        bool interim = head.status >= 100 && head.status < 200 && head.status != 101;
        if (!interim) {
            *tail = tn_buf_len(&h->in) - (size_t)n;
            int r = verdict(head.status);
            return h->probe && r != TN_EGRESS_FAIL_PROXY_AUTH && r != TN_EGRESS_FAIL_PROXY_PROTOCOL ? TN_HANDSHAKE_DONE : r;
        }
        if (++h->interim > INTERIM_MAX) return TN_EGRESS_FAIL_PROXY_PROTOCOL;
        h->budget -= (size_t)n;
        tn_buf_consume(&h->in, (size_t)n);
        if (tn_buf_len(&h->in) == 0) return h->budget ? TN_HANDSHAKE_MORE : TN_EGRESS_FAIL_PROXY_PROTOCOL;
    }
}

/* Bytes are taken up to HEAD_MAX in the buffer and given back by count when they turn out to be the tunnel's: those
 * of this call only, because earlier calls ended with an unfinished head. */
int tn_httpconnect_input(struct tn_httpconnect *h, const uint8_t *bytes, size_t len, size_t *used)
{
    *used = 0;
    if (len == 0) return TN_HANDSHAKE_MORE;
    if (h->out) return TN_EGRESS_FAIL_PROXY_PROTOCOL; /* an answer to what was not fully asked is none */
    while (*used < len) {
        size_t room = HEAD_MAX - tn_buf_len(&h->in), n = len - *used < room ? len - *used : room, tail = 0;
        if (tn_buf_append(&h->in, bytes + *used, n) != 0) return TN_EGRESS_FAIL_FDS;
        *used += n;
        int r = on_bytes(h, &tail);
        if (r == TN_HANDSHAKE_DONE) *used -= tail;
        if (r != TN_HANDSHAKE_MORE) return r;
    }
    return TN_HANDSHAKE_MORE;
}
