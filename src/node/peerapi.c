/* Who may do what:
 *   - a Host other than "peer" or one of our addresses with a port, an Origin or a Referer come from a browser that
 *     was lured here (DNS rebinding): refused before anything else;
 *   - names are resolved for peers of our own user, and for peers whose packets to the internet the filter would let
 *     through.
 *
 * What a query that fails gets: one that is no DNS query an HTTP error, one for a filtered name REFUSED, one whose
 * upstream fails SERVFAIL as a DNS answer. Go answers the last with HTTP 500, from which its clients make a SERVFAIL
 * all the same; saying it in DNS keeps the connection's other queries going and serves other clients as well. */
#include "node/peerapi.h"
#include "dns/dns.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/text.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char dns_type[] = "application/dns-message";
static const char security_headers[] =
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'; script-src 'none'; script-src-elem 'none'; "
    "script-src-attr 'none'; style-src 'unsafe-inline'\r\n"
    "X-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\n";
static const char page_top[] =
    "<!DOCTYPE html>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
enum { PAGE_MAX = 4096, QUERY_MAX = 4096 };

struct tn_peerapi {
    struct tn_peerapi_config config;
    struct tn_peerapi_stats stats;
};

struct tn_peerapi_conn {
    struct tn_peerapi *api;
    struct tn_httpd_config io; /* the owner's */
    struct tn_httpd *http;
    struct tn_ip remote;
    struct tn_peerapi_peer peer;
    /* The DNS query under way. */
    struct tn_httpd_req *req;
    void *lookup; /* the resolver's handle while it has not answered */
    uint8_t *query;
    size_t query_len;
};

static uint32_t crc32_ieee(const uint8_t *p, size_t len)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < len; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

uint16_t tn_peerapi_port(const struct tn_ip *own, unsigned attempt)
{
    uint8_t last[3];
    memcpy(last, own->b + tn_ip_len(own) - sizeof last, sizeof last);
    last[0] = (uint8_t)(last[0] + attempt);
    return (uint16_t)(0x8000 | (crc32_ieee(last, sizeof last) & 0xffff));
}

int tn_peerapi_new(const struct tn_peerapi_config *config, struct tn_peerapi **out)
{
    struct tn_peerapi *api = calloc(1, sizeof *api);
    if (!api) return TN_E_NOMEM;
    api->config = *config;
    *out = api;
    return 0;
}

void tn_peerapi_free(struct tn_peerapi *api) { free(api); }
void tn_peerapi_stats(const struct tn_peerapi *api, struct tn_peerapi_stats *out) { *out = api->stats; }

/* ---- requests ---- */

static bool host_is_ours(const struct tn_peerapi *api, const char *host)
{
    struct tn_addrport ap;
    if (strcmp(host, "peer") == 0) return true;
    return tn_addrport_parse(host, &ap) == 0 && api->config.is_own(api->config.ctx, &ap.ip);
}

static bool has_value(const struct tn_http1_head *head, const char *name)
{
    size_t len;
    return tn_http1_find(head, name, &len) && len > 0;
}

static bool request_is_valid(const struct tn_peerapi *api, const struct tn_httpd_request *r)
{
    return !has_value(r->head, "Referer") && !has_value(r->head, "Origin") && host_is_ours(api, r->host);
}

/* Signs of a browser, which Go's and our clients don't give. Only then are bytes spent on security headers. */
static bool from_browser(const struct tn_http1_head *head)
{
    size_t len, spaces = 0;
    const char *agent = tn_http1_find(head, "User-Agent", &len);
    for (size_t i = 0; agent && i < len; i++) spaces += agent[i] == ' ';
    return tn_http1_has_token(head, "Accept-Encoding", "deflate") || has_value(head, "Accept-Language") ||
           spaces > 2 || (agent && len >= 8 && memcmp(agent, "Mozilla/", 8) == 0);
}

static const char *escape_of(char c)
{
    switch (c) {
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '&': return "&amp;";
    case '"': return "&#34;";
    case '\'': return "&#39;";
    default: return NULL;
    }
}

static int put_escaped(struct tn_buf *b, const char *text)
{
    int err = 0;
    for (; *text && !err; text++) {
        const char *entity = escape_of(*text);
        err = entity ? tn_buf_append(b, entity, strlen(entity)) : tn_buf_append(b, text, 1);
    }
    return err;
}

static void serve_greeting(struct tn_peerapi_conn *c, struct tn_httpd_req *req, const char *extra)
{
    struct tn_buf page;
    char addr[TN_IP_STRLEN];
    tn_buf_init(&page, PAGE_MAX);
    int err = tn_buf_printf(&page, "%s<h1>Hello, ", page_top);
    if (!err) err = put_escaped(&page, c->peer.user);
    if (!err) err = tn_buf_printf(&page, " (%s)</h1>\nThis is a node of your tailnet. Your device is ",
                                  tn_ip_format(&c->remote, addr));
    if (!err) err = put_escaped(&page, c->peer.name);
    if (!err) err = tn_buf_printf(&page, ".\n%s", c->peer.same_user ? "<p>You are the owner of this node.\n" : "");
    if (err) tn_httpd_error(req, 500, "no memory");
    else tn_httpd_respond(req, 200, "text/html; charset=utf-8", extra, tn_buf_data(&page), tn_buf_len(&page));
    tn_buf_fini(&page);
}

/* ---- DNS ---- */

static void forget_query(struct tn_peerapi_conn *c)
{
    free(c->query);
    c->query = NULL;
    c->req = NULL;
    c->lookup = NULL;
}

static void respond_dns(struct tn_httpd_req *req, const uint8_t *answer, size_t len)
{
    tn_httpd_respond(req, 200, dns_type, NULL, answer, len);
}

/* An answer without records to the query at hand. */
static void respond_rcode(struct tn_httpd_req *req, const uint8_t *query, size_t len, int rcode)
{
    uint8_t out[512]; /* header and one question: at most 271 bytes */
    long n = tn_dns_make_error(query, len, rcode, out, sizeof out);
    if (n < 0) tn_httpd_error(req, 500, "DNS forwarding error");
    else respond_dns(req, out, (size_t)n);
}

static void on_answer(void *arg, int err, const uint8_t *answer, size_t len)
{
    struct tn_peerapi_conn *c = arg;
    struct tn_httpd_req *req = c->req;
    uint8_t *query = c->query;
    size_t query_len = c->query_len;
    c->query = NULL;
    forget_query(c);
    if (err) {
        c->api->stats.dns_failed++;
        respond_rcode(req, query, query_len, 2);
    } else {
        respond_dns(req, answer, len);
    }
    free(query);
}

static void on_cancel(void *arg)
{
    struct tn_peerapi_conn *c = arg;
    if (c->lookup) c->api->config.cancel(c->api->config.ctx, c->lookup);
    forget_query(c);
}

static bool may_resolve(const struct tn_peerapi_conn *c)
{
    const struct tn_peerapi_config *config = &c->api->config;
    return c->peer.same_user || config->may_reach_internet(config->ctx, &c->remote);
}

static bool name_is_filtered(const struct tn_peerapi *api, const uint8_t *query, size_t len)
{
    size_t n = 0;
    const char *const *set = api->config.filtered ? api->config.filtered(api->config.ctx, &n) : NULL;
    return n > 0 && tn_dns_name_filtered(query, len, set, n);
}

/* Takes over query (malloc'd). */
static void resolve(struct tn_peerapi_conn *c, struct tn_httpd_req *req, uint8_t *query, size_t len, uint64_t now_us)
{
    struct tn_peerapi *api = c->api;
    if (tn_dns_check_query(query, len) != 0) {
        tn_httpd_error(req, 400, "not a DNS query");
        free(query);
        return;
    }
    if (name_is_filtered(api, query, len)) {
        api->stats.dns_filtered++;
        respond_rcode(req, query, len, 5);
        free(query);
        return;
    }
    c->req = req;
    c->query = query;
    c->query_len = len;
    if (api->config.resolve(api->config.ctx, &c->remote, query, len, now_us, on_answer, c, &c->lookup) == 0) {
        tn_httpd_on_cancel(req, on_cancel, c);
        return;
    }
    api->stats.dns_failed++;
    respond_rcode(req, query, len, 2);
    forget_query(c);
}

static bool type_is_dns(const struct tn_http1_head *head)
{
    size_t len;
    const char *type = tn_http1_find(head, "Content-Type", &len);
    return type && len == sizeof dns_type - 1 && strncasecmp(type, dns_type, len) == 0;
}

/* The query of a GET, malloc'd; NULL with the defect in why. */
static uint8_t *query_of_get(const struct tn_httpd_request *r, size_t *len, const char **why)
{
    size_t cap = strlen(r->query) + 1; /* what decoding makes of it is never longer; the head's limit bounds it */
    char *text = malloc(cap);
    uint8_t *query = malloc(cap);
    long n = text && query ? tn_httpd_query_param(r->query, "dns", text, cap) : TN_E_NOMEM, got = -1;
    if (n > 0) got = tn_base64_decode(TN_BASE64_URL_RAW, text, (size_t)n, query, cap);
    *why = n == -1 || n == 0 ? "missing 'dns' parameter" : "invalid 'dns' base64 encoding";
    free(text);
    if (got >= 0) {
        *len = (size_t)got;
        return query;
    }
    free(query);
    return NULL;
}

static uint8_t *query_of_post(const struct tn_httpd_request *r, size_t *len, const char **why)
{
    *why = type_is_dns(r->head) ? NULL : "unexpected Content-Type";
    if (*why) return NULL;
    uint8_t *query = malloc(r->body_len ? r->body_len : 1);
    *why = "no memory";
    if (query && r->body_len) memcpy(query, r->body, r->body_len);
    *len = r->body_len;
    return query;
}

static void serve_dns(struct tn_peerapi_conn *c, struct tn_httpd_req *req, const struct tn_httpd_request *r,
                      uint64_t now_us)
{
    size_t len = 0;
    const char *why = "bad HTTP method";
    uint8_t *query = NULL;
    c->api->stats.dns_queries++;
    if (!may_resolve(c)) {
        c->api->stats.dns_denied++;
        tn_httpd_error(req, 403, "DNS access denied");
        return;
    }
    if (strcmp(r->method, "GET") == 0) query = query_of_get(r, &len, &why);
    else if (strcmp(r->method, "POST") == 0) query = query_of_post(r, &len, &why);
    if (query) resolve(c, req, query, len, now_us);
    else tn_httpd_error(req, 400, why);
}

static void handle(void *ctx, struct tn_httpd_req *req, const struct tn_httpd_request *r, uint64_t now_us)
{
    struct tn_peerapi_conn *c = ctx;
    const char *extra = from_browser(r->head) ? security_headers : NULL;
    c->api->stats.requests++;
    if (!request_is_valid(c->api, r)) {
        c->api->stats.invalid++;
        tn_logf(c->api->config.log, TN_LOG_DEBUG, "peerapi", "invalid request for host %s", r->host);
        tn_httpd_error(req, 403, "invalid peerapi request");
    } else if (strcmp(r->path, "/dns-query") == 0) {
        serve_dns(c, req, r, now_us);
    } else if (strcmp(r->path, "/") != 0) {
        tn_httpd_error(req, 404, "unsupported peerapi path");
    } else if (strcmp(r->method, "GET") != 0 && strcmp(r->method, "HEAD") != 0) {
        tn_httpd_error(req, 405, "bad HTTP method");
    } else {
        serve_greeting(c, req, extra);
    }
}

/* Bodies are kept whole until they are answered, of many connections at a time: nobody gets more of our memory for them
 * than a DNS query needs. Go takes 256 KiB, which no query comes near. */
static size_t body_limit(void *ctx, const struct tn_httpd_request *r)
{
    return strcmp(r->path, "/dns-query") == 0 ? QUERY_MAX : 0;
}

/* ---- connections ---- */

static int forward_write(void *ctx, const void *bytes, size_t len)
{
    struct tn_peerapi_conn *c = ctx;
    return c->io.write(c->io.ctx, bytes, len);
}
static void forward_close(void *ctx)
{
    struct tn_peerapi_conn *c = ctx;
    if (c->io.on_close) c->io.on_close(c->io.ctx);
}
static void forward_resume(void *ctx)
{
    struct tn_peerapi_conn *c = ctx;
    if (c->io.on_resume) c->io.on_resume(c->io.ctx);
}

int tn_peerapi_conn_new(struct tn_peerapi *api, const struct tn_ip *remote, const struct tn_peerapi_peer *peer,
                        const struct tn_httpd_config *io, uint64_t now_us, struct tn_peerapi_conn **out)
{
    if (!peer) return TN_E_ACCES;
    struct tn_peerapi_conn *c = calloc(1, sizeof *c);
    if (!c) return TN_E_NOMEM;
    *c = (struct tn_peerapi_conn){.api = api, .io = *io, .remote = *remote, .peer = *peer};
    c->peer.user[sizeof c->peer.user - 1] = '\0';
    c->peer.name[sizeof c->peer.name - 1] = '\0';
    struct tn_httpd_config config = {.handle = handle, .body_limit = body_limit, .write = forward_write,
                                     .on_close = forward_close, .on_resume = forward_resume, .ctx = c};
    int err = tn_httpd_new(&config, now_us, &c->http);
    if (err) free(c);
    else *out = c;
    return err;
}

struct tn_httpd *tn_peerapi_conn_http(struct tn_peerapi_conn *c) { return c->http; }

void tn_peerapi_conn_free(struct tn_peerapi_conn *c)
{
    if (!c) return;
    tn_httpd_free(c->http);
    assert(!c->req);
    free(c);
}
