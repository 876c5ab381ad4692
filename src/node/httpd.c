/* The life of a connection:
 *
 *   READ_HEAD --head--> READ_BODY --whole--> ANSWERING --response ended--> READ_HEAD, or CLOSED
 *
 * All bytes go through `in`; while a request is being answered they wait there. A handler that answers at once is
 * back in READ_HEAD when it returns, and the loop in `process` goes on; one that answers later leaves the rest of the
 * input to the next timeout call, which is due at once (`kick`), because only the owner knows the time.
 *
 * A defect in a request ends the connection after one error response: where its body would end is not to be trusted
 * (RFC 9112 section 6.3, request smuggling). */
#include "node/httpd.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/heap.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { HEAD_TIMEOUT_US = 15 * 1000000, BODY_TIMEOUT_US = 60 * 1000000, IDLE_TIMEOUT_US = 120 * 1000000 };
enum { PIECE = 16 * 1024 };      /* input is taken in pieces, so that `in` stays small under a large body */
enum { ONE_WRITE_MAX = 16 * 1024 }; /* head and body up to this go out together: one packet or two */
enum { RESPONSE_HEAD_MAX = 8 * 1024 };

enum state { READ_HEAD, READ_BODY, ANSWERING, CLOSED };

struct tn_httpd_req {
    struct tn_httpd *http;
    bool live, streaming, chunked;
    void (*canceled)(void *arg);
    void *cancel_arg;
    void (*on_drain)(void *arg);
    void *drain_arg;
};

struct tn_httpd {
    struct tn_httpd_config config;
    enum state state;
    struct tn_buf in, body;
    size_t body_limit;
    uint64_t now_us, deadline_us; /* now: of the latest call that told */
    struct tn_httpd_req req;
    /* The request under way. */
    uint8_t *head_bytes;
    char *text; /* method, path, query, host */
    struct tn_http1_head head;
    struct tn_httpd_request view;
    struct tn_http1_chunked chunk;
    uint64_t body_left;
    bool chunked, keep_alive, head_only, head_begun;
    /* The connection. */
    bool eof, backlog, paused, busy, kick;
};

const char *tn_httpd_status_text(int status)
{
    static const struct { int status; const char *text; } known[] = {
        {100, "Continue"}, {101, "Switching Protocols"}, {200, "OK"}, {201, "Created"}, {202, "Accepted"},
        {204, "No Content"}, {206, "Partial Content"}, {301, "Moved Permanently"}, {302, "Found"},
        {304, "Not Modified"},
        {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"}, {409, "Conflict"}, {412, "Precondition Failed"}, {413, "Content Too Large"},
        {415, "Unsupported Media Type"}, {416, "Range Not Satisfiable"}, {417, "Expectation Failed"},
        {429, "Too Many Requests"}, {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"},
        {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"}, {504, "Gateway Timeout"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].text;
    return "";
}

int tn_httpd_new(const struct tn_httpd_config *config, uint64_t now_us, struct tn_httpd **out)
{
    struct tn_httpd *h = calloc(1, sizeof *h);
    if (!h) return TN_E_NOMEM;
    h->config = *config;
    if (!h->config.head_timeout_us) h->config.head_timeout_us = HEAD_TIMEOUT_US;
    if (!h->config.body_timeout_us) h->config.body_timeout_us = BODY_TIMEOUT_US;
    if (!h->config.idle_timeout_us) h->config.idle_timeout_us = IDLE_TIMEOUT_US;
    tn_buf_init(&h->in, TN_HTTPD_AHEAD_MAX);
    h->req.http = h;
    h->now_us = now_us;
    h->deadline_us = now_us + h->config.head_timeout_us;
    *out = h;
    return 0;
}

static void drop_request(struct tn_httpd *h)
{
    free(h->head_bytes);
    free(h->text);
    tn_buf_fini(&h->body);
    h->head_bytes = NULL;
    h->text = NULL;
}

void tn_httpd_free(struct tn_httpd *h)
{
    if (!h) return;
    assert(!h->busy);
    h->state = CLOSED;
    if (h->req.live) {
        h->req.live = false;
        if (h->req.canceled) h->req.canceled(h->req.cancel_arg);
    }
    drop_request(h);
    tn_buf_fini(&h->in);
    free(h);
}

static void shut(struct tn_httpd *h)
{
    if (h->state == CLOSED) return;
    h->state = CLOSED;
    h->deadline_us = TN_NEVER;
    h->kick = false;
    tn_buf_fini(&h->in);
    if (h->config.on_close) h->config.on_close(h->config.ctx);
}

static int put(struct tn_httpd *h, const void *bytes, size_t len)
{
    if (h->state == CLOSED) return TN_E_CLOSED;
    if (len == 0) return h->backlog;
    int got = h->config.write(h->config.ctx, bytes, len);
    if (got > 0) h->backlog = true;
    if (got < 0) shut(h);
    return got;
}

/* ---- requests ---- */

static int unhex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decodes percent escapes of [p, p+len) to out (at most len bytes and the NUL); the length, or TN_E_MALFORMED. */
static long unescape(const char *p, size_t len, bool plus, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        char c = p[i];
        if (c == '%') {
            int hi = i + 2 < len ? unhex(p[i + 1]) : -1, lo = i + 2 < len ? unhex(p[i + 2]) : -1;
            if (hi < 0 || lo < 0 || (hi | lo) == 0) return TN_E_MALFORMED;
            c = (char)(hi << 4 | lo);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        out[n++] = c;
    }
    out[n] = '\0';
    return (long)n;
}

long tn_httpd_query_param(const char *query, const char *name, char *out, size_t cap)
{
    size_t want = strlen(name);
    for (const char *p = query, *next; *p; p = next) {
        size_t len = strcspn(p, "&");
        next = p[len] ? p + len + 1 : p + len;
        const char *eq = memchr(p, '=', len);
        size_t key = eq ? (size_t)(eq - p) : len;
        if (key != want || memcmp(p, name, want) != 0) continue;
        size_t value = eq ? len - key - 1 : 0;
        if (value >= cap) return TN_E_NOSPC;
        return unescape(p + len - value, value, true, out);
    }
    return -1;
}

static char *keep(char **at, const char *p, size_t len)
{
    char *start = *at;
    if (len) memcpy(start, p, len);
    start[len] = '\0';
    *at = start + len + 1;
    return start;
}

/* Splits the target into authority (absolute form only), path and query. False when it is none of a request's
 * forms. */
static bool split_target(const struct tn_http1_head *head, const char **host, size_t *host_len, const char **path,
                         size_t *path_len)
{
    const char *p = head->target, *end = p + head->target_len;
    *host = tn_http1_find(head, "Host", host_len);
    if (!*host) *host_len = 0;
    if (head->target_len > 7 && strncasecmp(p, "http://", 7) == 0) {
        const char *slash = memchr(p + 7, '/', (size_t)(end - p - 7));
        *host = p + 7;
        *host_len = (size_t)((slash ? slash : end) - *host);
        p = slash ? slash : "/";
        if (!slash) end = p + 1;
        if (*host_len == 0) return false;
    }
    *path = p;
    *path_len = (size_t)(end - p);
    return *p == '/' || (*path_len == 1 && *p == '*');
}

/* Fills h->view from h->head. 0 or the HTTP status of the refusal. */
static int read_target(struct tn_httpd *h)
{
    const char *host, *path;
    size_t host_len, len;
    if (!split_target(&h->head, &host, &host_len, &path, &len)) return 400;
    h->text = malloc(h->head.method_len + len + 1 + host_len + 4);
    if (!h->text) return 500;
    char *at = h->text;
    const char *mark = memchr(path, '?', len);
    size_t path_len = mark ? (size_t)(mark - path) : len;
    h->view = (struct tn_httpd_request){.head = &h->head};
    h->view.method = keep(&at, h->head.method, h->head.method_len);
    h->view.query = keep(&at, mark ? mark + 1 : "", mark ? len - path_len - 1 : 0);
    h->view.host = keep(&at, host, host_len);
    h->view.path = at;
    return unescape(path, path_len, false, at) < 0 ? 400 : 0;
}

static size_t count_headers(const struct tn_http1_head *head, const char *name)
{
    size_t n = 0;
    for (size_t i = 0; i < head->nheaders; i++)
        n += head->headers[i].name_len == strlen(name) && strncasecmp(head->headers[i].name, name, strlen(name)) == 0;
    return n;
}

/* How the body is framed. 0 or the HTTP status of the refusal. */
static int read_framing(struct tn_httpd *h)
{
    size_t te_len, te = count_headers(&h->head, "Transfer-Encoding");
    int64_t length = tn_http1_content_length(&h->head);
    if (length < -1 || (te && (length >= 0 || h->head.minor == 0))) return 400;
    if (te) {
        const char *coding = tn_http1_find(&h->head, "Transfer-Encoding", &te_len);
        if (te > 1 || te_len != 7 || strncasecmp(coding, "chunked", 7) != 0) return 501;
    }
    h->chunked = te > 0;
    h->chunk = (struct tn_http1_chunked){0};
    h->body_left = length > 0 ? (uint64_t)length : 0;
    h->body_limit = h->config.body_limit ? h->config.body_limit(h->config.ctx, &h->view) : TN_HTTPD_BODY_MAX;
    return h->body_left > h->body_limit ? 413 : 0;
}

static int read_expect(struct tn_httpd *h)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    size_t len;
    const char *expect = tn_http1_find(&h->head, "Expect", &len);
    if (!expect || h->head.minor == 0) return 0;
    if (len != 12 || strncasecmp(expect, "100-continue", 12) != 0) return 417;
    if ((h->chunked || h->body_left) && tn_buf_len(&h->in) == 0) put(h, go_on, sizeof go_on - 1);
    return 0;
}

static void set_persistence(struct tn_httpd *h)
{
    bool close = tn_http1_has_token(&h->head, "Connection", "close");
    h->keep_alive = !close && (h->head.minor > 0 || tn_http1_has_token(&h->head, "Connection", "keep-alive"));
    h->head_only = h->head.method_len == 4 && memcmp(h->head.method, "HEAD", 4) == 0;
}

/* A response that no handler gives; the end of the connection. */
static void refuse(struct tn_httpd *h, int status)
{
    h->keep_alive = false;
    h->req = (struct tn_httpd_req){.http = h, .live = true};
    tn_httpd_error(&h->req, status, tn_httpd_status_text(status));
}

/* Takes a head that is complete in `in`. 0 or the HTTP status of the refusal. */
static int take_head(struct tn_httpd *h, size_t len)
{
    drop_request(h);
    h->head_bytes = malloc(len);
    if (!h->head_bytes) return 500;
    memcpy(h->head_bytes, tn_buf_data(&h->in), len);
    tn_buf_consume(&h->in, len);
    if (tn_http1_parse_request(h->head_bytes, len, TN_HTTPD_HEAD_MAX, &h->head) != (long)len) return 400;
    size_t hosts = count_headers(&h->head, "Host");
    set_persistence(h);
    if (hosts > 1 || (hosts == 0 && h->head.minor > 0)) return 400;
    int status = read_target(h);
    if (!status) status = read_framing(h);
    if (!status) status = read_expect(h);
    return status;
}

/* True when a head was taken. */
static bool read_head(struct tn_httpd *h)
{
    if (tn_buf_len(&h->in) == 0) return false;
    if (!h->head_begun) h->deadline_us = h->now_us + h->config.head_timeout_us;
    h->head_begun = true;
    h->head_only = false;
    h->head.minor = 1; /* for the response to a head that can't be read */
    long n = tn_http1_parse_request(tn_buf_data(&h->in), tn_buf_len(&h->in), TN_HTTPD_HEAD_MAX, &h->head);
    if (n == 0) return false;
    int status = n == TN_E_TOOBIG ? 431 : n < 0 ? 400 : take_head(h, (size_t)n);
    if (h->state == CLOSED) return false;
    if (status) {
        refuse(h, status);
        return false;
    }
    tn_buf_init(&h->body, h->body_limit);
    h->state = READ_BODY;
    h->deadline_us = h->now_us + h->config.body_timeout_us;
    return true;
}

/* Moves payload from in to body. 1: the body is whole, 0: more is needed, or the negated status of the refusal. */
static int read_chunks(struct tn_httpd *h)
{
    while (tn_buf_len(&h->in) > 0 && !h->chunk.done) {
        const uint8_t *data;
        size_t len;
        long used = tn_http1_dechunk(&h->chunk, tn_buf_data(&h->in), tn_buf_len(&h->in), &data, &len);
        if (used < 0) return -400;
        int err = tn_buf_append(&h->body, data, len);
        if (err) return err == TN_E_TOOBIG ? -413 : -500;
        tn_buf_consume(&h->in, (size_t)used);
    }
    return h->chunk.done;
}

static int read_counted(struct tn_httpd *h)
{
    size_t n = tn_buf_len(&h->in) < h->body_left ? tn_buf_len(&h->in) : (size_t)h->body_left;
    if (tn_buf_append(&h->body, tn_buf_data(&h->in), n) != 0) return -500;
    if (n) tn_buf_consume(&h->in, n);
    h->body_left -= n;
    return h->body_left == 0;
}

/* True when a whole request was handed out. */
static bool read_body(struct tn_httpd *h)
{
    int got = h->chunked ? read_chunks(h) : read_counted(h);
    if (got < 0) refuse(h, -got);
    if (got <= 0) return false;
    h->state = ANSWERING;
    h->deadline_us = TN_NEVER;
    h->req = (struct tn_httpd_req){.http = h, .live = true};
    h->view.body = tn_buf_data(&h->body);
    h->view.body_len = tn_buf_len(&h->body);
    h->config.handle(h->config.ctx, &h->req, &h->view, h->now_us);
    drop_request(h); /* answered or not: what the handler keeps it has copied */
    return true;
}

/* Everything that can be done with the bytes that are there. */
static void process(struct tn_httpd *h)
{
    bool more = true;
    if (h->busy) return;
    h->busy = true;
    h->kick = false;
    while (more && !h->backlog && (h->state == READ_HEAD || h->state == READ_BODY))
        more = h->state == READ_HEAD ? read_head(h) : read_body(h);
    /* Nothing can complete it. */
    if (h->eof && !h->backlog && (h->state == READ_HEAD || h->state == READ_BODY)) shut(h);
    h->busy = false;
}

/* The owner may read again once little is waiting. */
static void maybe_resume(struct tn_httpd *h)
{
    if (!h->paused || h->state == CLOSED || tn_buf_len(&h->in) > PIECE) return;
    h->paused = false;
    if (h->config.on_resume) h->config.on_resume(h->config.ctx);
}

int tn_httpd_input(struct tn_httpd *h, const void *bytes, size_t len, uint64_t now_us)
{
    const uint8_t *p = bytes;
    h->now_us = now_us;
    while (len > 0 && h->state != CLOSED) {
        size_t n = len < PIECE ? len : PIECE;
        if (tn_buf_append(&h->in, p, n) != 0) {
            shut(h);
            return TN_E_TOOBIG;
        }
        p += n;
        len -= n;
        process(h);
    }
    bool stuck = h->state == ANSWERING || h->backlog;
    h->paused = h->state != CLOSED && stuck && tn_buf_len(&h->in) > 0;
    return h->paused;
}

void tn_httpd_eof(struct tn_httpd *h, uint64_t now_us)
{
    h->now_us = now_us;
    h->eof = true;
    if (h->state != CLOSED) process(h);
}

void tn_httpd_drained(struct tn_httpd *h, uint64_t now_us)
{
    h->now_us = now_us;
    h->backlog = false;
    if (h->req.live && h->req.streaming && h->req.on_drain) h->req.on_drain(h->req.drain_arg);
    if (h->state != CLOSED) process(h);
    maybe_resume(h);
}

void tn_httpd_timeout(struct tn_httpd *h, uint64_t now_us)
{
    h->now_us = now_us;
    if (h->kick) {
        process(h);
        maybe_resume(h);
    }
    if (h->state == CLOSED || h->deadline_us > now_us) return;
    if (h->state == READ_BODY || (h->state == READ_HEAD && h->head_begun)) refuse(h, 408);
    else shut(h); /* idle */
}

uint64_t tn_httpd_next_deadline(const struct tn_httpd *h) { return h->kick ? 0 : h->deadline_us; }

/* ---- responses ---- */

void tn_httpd_on_cancel(struct tn_httpd_req *req, void (*canceled)(void *arg), void *arg)
{
    assert(req->live);
    req->canceled = canceled;
    req->cancel_arg = arg;
}

/* The response is out: on to the next request, or to the end. */
static void finish(struct tn_httpd *h)
{
    h->req.live = false;
    if (h->state == CLOSED) return;
    if (!h->keep_alive) {
        shut(h);
        return;
    }
    h->state = READ_HEAD;
    h->head_begun = false;
    h->deadline_us = h->now_us + h->config.idle_timeout_us;
    h->kick = !h->busy && (tn_buf_len(&h->in) > 0 || h->eof);
    maybe_resume(h);
}

static bool has_no_body(int status) { return status < 200 || status == 204 || status == 304; }

/* The head up to the framing lines, without the empty line. */
static int put_head(struct tn_buf *out, int status, const char *type, const char *extra)
{
    int err = tn_buf_printf(out, "HTTP/1.1 %d %s\r\n", status, tn_httpd_status_text(status));
    if (!err && type) err = tn_buf_printf(out, "Content-Type: %s\r\n", type);
    if (!err && extra) err = tn_buf_printf(out, "%s", extra);
    return err;
}

static int put_persistence(struct tn_httpd *h, struct tn_buf *out)
{
    if (!h->keep_alive) return tn_buf_printf(out, "Connection: close\r\n\r\n");
    return tn_buf_printf(out, h->head.minor == 0 ? "Connection: keep-alive\r\n\r\n" : "\r\n");
}

void tn_httpd_respond(struct tn_httpd_req *req, int status, const char *type, const char *extra, const void *body,
                      size_t len)
{
    struct tn_httpd *h = req->http;
    struct tn_buf out;
    assert(req->live && !req->streaming);
    bool silent = has_no_body(status), send = len > 0 && !silent && !h->head_only;
    bool together = send && len <= ONE_WRITE_MAX;
    tn_buf_init(&out, RESPONSE_HEAD_MAX + ONE_WRITE_MAX);
    int err = put_head(&out, status, type, extra);
    if (!err && !silent) err = tn_buf_printf(&out, "Content-Length: %zu\r\n", len);
    if (!err) err = put_persistence(h, &out);
    if (!err && together) err = tn_buf_append(&out, body, len);
    if (err) shut(h);
    else if (put(h, tn_buf_data(&out), tn_buf_len(&out)) >= 0 && send && !together) put(h, body, len);
    tn_buf_fini(&out);
    finish(h);
}

void tn_httpd_error(struct tn_httpd_req *req, int status, const char *text)
{
    char line[512];
    int n = snprintf(line, sizeof line, "%s\n", text);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    tn_httpd_respond(req, status, "text/plain; charset=utf-8", "X-Content-Type-Options: nosniff\r\n", line, len);
}

void tn_httpd_stream_start(struct tn_httpd_req *req, int status, const char *type, const char *extra,
                           void (*on_drain)(void *arg), void *arg)
{
    struct tn_httpd *h = req->http;
    struct tn_buf out;
    assert(req->live && !req->streaming && !has_no_body(status));
    req->streaming = true;
    req->chunked = h->head.minor > 0;
    req->on_drain = on_drain;
    req->drain_arg = arg;
    if (!req->chunked) h->keep_alive = false; /* the close is the end of the body */
    tn_buf_init(&out, RESPONSE_HEAD_MAX);
    int err = put_head(&out, status, type, extra);
    if (!err && req->chunked) err = tn_buf_printf(&out, "Transfer-Encoding: chunked\r\n");
    if (!err) err = put_persistence(h, &out);
    if (err) shut(h);
    else put(h, tn_buf_data(&out), tn_buf_len(&out));
    tn_buf_fini(&out);
}

int tn_httpd_stream_write(struct tn_httpd_req *req, const void *bytes, size_t len)
{
    struct tn_httpd *h = req->http;
    char size[32];
    assert(req->live && req->streaming);
    if (len == 0 || h->head_only) return h->state == CLOSED ? TN_E_CLOSED : h->backlog;
    if (!req->chunked) return put(h, bytes, len);
    int n = snprintf(size, sizeof size, "%zx\r\n", len);
    int err = put(h, size, (size_t)n);
    if (err >= 0) err = put(h, bytes, len);
    return err >= 0 ? put(h, "\r\n", 2) : err;
}

void tn_httpd_stream_end(struct tn_httpd_req *req)
{
    struct tn_httpd *h = req->http;
    assert(req->live && req->streaming);
    if (req->chunked && !h->head_only) put(h, "0\r\n\r\n", 5);
    finish(h);
}
