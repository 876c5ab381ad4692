/* HTTP/1.x message heads and chunked bodies, per RFC 9110 section 5 and RFC 9112 sections 2 to 7.
 *
 * The head parser keeps no state: it is called again with all bytes so far. It works line by line and judges each
 * line as soon as its end is there, and control bytes even before, so that a peer of another protocol (a SOCKS or TLS
 * server where HTTP was expected) is found out at its first bytes and not by a timeout.
 *
 * Strictness follows what request smuggling teaches: no whitespace before a header's colon, no folded lines, no
 * control bytes, Content-Length in digits only, chunk lines ended by CRLF only. */
#include "wire/http1.h"
#include "util/err.h"

#include <string.h>
#include <strings.h>

/* RFC 9112 section 2.2: a server ignores at least one empty line before a request. */
enum { LEADING_EMPTY_MAX = 4 };
enum { CHUNK_LINE_MAX = 256 };       /* size and extensions: nobody sends extensions in earnest */
enum { CHUNK_TRAILERS_MAX = 8192 };  /* all trailer lines together */
enum { CHUNK_DIGITS_MAX = 15 };      /* 2^60 bytes: sums of such sizes don't overflow */

static bool is_tchar(uint8_t c)
{
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) return true;
    return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static bool is_digit(uint8_t c) { return c >= '0' && c <= '9'; }
static bool is_blank(uint8_t c) { return c == ' ' || c == '\t'; }

static bool all_token(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!is_tchar((uint8_t)p[i])) return false;
    return len > 0;
}

/* A view of one line without its end. next is where the following line starts. */
struct line {
    const char *p;
    size_t len, next;
};

/* 1 and the line at `at`, 0 when its end is not there yet, TN_E_MALFORMED for control bytes in it. */
static int take_line(const uint8_t *bytes, size_t len, size_t at, struct line *out)
{
    for (size_t i = at; i < len; i++) {
        uint8_t c = bytes[i];
        if (c >= ' ' && c != 0x7f) continue;
        if (c == '\t') continue;
        bool crlf = c == '\r';
        if (crlf && i + 1 == len) return 0;
        if (c != '\n' && !(crlf && bytes[i + 1] == '\n')) return TN_E_MALFORMED;
        *out = (struct line){.p = (const char *)bytes + at, .len = i - at, .next = i + (crlf ? 2 : 1)};
        return 1;
    }
    return 0;
}

/* "HTTP/1.d" at exactly these eight bytes: the digit, or -1. */
static int version_minor(const char *p, size_t len)
{
    return len == 8 && memcmp(p, "HTTP/1.", 7) == 0 && is_digit((uint8_t)p[7]) ? p[7] - '0' : -1;
}

static int parse_status_line(const struct line *l, struct tn_http1_head *h)
{
    if (l->len < 12 || l->p[8] != ' ' || (l->len > 12 && l->p[12] != ' ')) return TN_E_MALFORMED;
    h->minor = version_minor(l->p, 8);
    if (h->minor < 0) return TN_E_MALFORMED;
    for (int i = 9; i < 12; i++) {
        if (!is_digit((uint8_t)l->p[i])) return TN_E_MALFORMED;
        h->status = h->status * 10 + (l->p[i] - '0');
    }
    if (h->status < 100) return TN_E_MALFORMED;
    size_t skip = l->len > 12 ? 13 : 12; /* the reason and its space may be missing: some proxies do that */
    h->reason = l->p + skip;
    h->reason_len = l->len - skip;
    return 0;
}

static int parse_request_line(const struct line *l, struct tn_http1_head *h)
{
    const char *sp = memchr(l->p, ' ', l->len);
    if (!sp || !all_token(l->p, (size_t)(sp - l->p))) return TN_E_MALFORMED;
    const char *end = l->p + l->len, *target = sp + 1;
    const char *sp2 = memchr(target, ' ', (size_t)(end - target));
    if (!sp2 || sp2 == target || memchr(target, '\t', (size_t)(sp2 - target))) return TN_E_MALFORMED;
    h->minor = version_minor(sp2 + 1, (size_t)(end - sp2 - 1));
    if (h->minor < 0) return TN_E_MALFORMED;
    h->method = l->p;
    h->method_len = (size_t)(sp - l->p);
    h->target = target;
    h->target_len = (size_t)(sp2 - target);
    return 0;
}

static int parse_header_line(const struct line *l, struct tn_http1_head *h)
{
    const char *colon = memchr(l->p, ':', l->len);
    if (!colon || !all_token(l->p, (size_t)(colon - l->p))) return TN_E_MALFORMED;
    if (h->nheaders == TN_HTTP1_HEADERS_MAX) return TN_E_TOOBIG;
    const char *v = colon + 1, *end = l->p + l->len;
    while (v < end && is_blank((uint8_t)*v)) v++;
    while (end > v && is_blank((uint8_t)end[-1])) end--;
    h->headers[h->nheaders++] = (struct tn_http1_header){
        .name = l->p, .name_len = (size_t)(colon - l->p), .value = v, .value_len = (size_t)(end - v)};
    return 0;
}

/* Can these bytes still become a status line? */
static bool maybe_status_line(const uint8_t *bytes, size_t len)
{
    return memcmp(bytes, "HTTP/1.", len < 7 ? len : 7) == 0;
}

static long parse_head(const uint8_t *bytes, size_t len, size_t max, bool response, struct tn_http1_head *out)
{
    struct tn_http1_head h = {.is_response = response};
    size_t have = len < max ? len : max, at = 0;
    bool started = false;
    int empty = 0;
    if (response && have > 0 && !maybe_status_line(bytes, have)) return TN_E_MALFORMED;
    for (;;) {
        struct line l;
        int got = take_line(bytes, have, at, &l);
        if (got < 0) return got;
        if (got == 0) return len >= max ? TN_E_TOOBIG : 0; /* a full buffer without an end can't become a head */
        at = l.next;
        int err = 0;
        if (l.len == 0 && started) break;
        if (l.len == 0) err = ++empty > LEADING_EMPTY_MAX ? TN_E_MALFORMED : 0;
        else if (started) err = parse_header_line(&l, &h);
        else err = response ? parse_status_line(&l, &h) : parse_request_line(&l, &h);
        if (err) return err;
        started = started || l.len > 0;
    }
    *out = h;
    return (long)at;
}

long tn_http1_parse_request(const uint8_t *bytes, size_t len, size_t max, struct tn_http1_head *out)
{
    return parse_head(bytes, len, max, false, out);
}

long tn_http1_parse_response(const uint8_t *bytes, size_t len, size_t max, struct tn_http1_head *out)
{
    return parse_head(bytes, len, max, true, out);
}

static bool name_is(const struct tn_http1_header *hd, const char *name)
{
    return hd->name_len == strlen(name) && strncasecmp(hd->name, name, hd->name_len) == 0;
}

const char *tn_http1_find(const struct tn_http1_head *h, const char *name, size_t *len)
{
    for (size_t i = 0; i < h->nheaders; i++) {
        if (!name_is(&h->headers[i], name)) continue;
        if (len) *len = h->headers[i].value_len;
        return h->headers[i].value;
    }
    return NULL;
}

/* The next comma-separated element of [*p, end) without blanks around it; false at the end. */
static bool next_element(const char **p, const char *end, const char **el, size_t *len)
{
    if (*p > end) return false;
    const char *start = *p, *comma = start < end ? memchr(start, ',', (size_t)(end - start)) : NULL;
    const char *stop = comma ? comma : end;
    *p = stop + 1;
    while (start < stop && is_blank((uint8_t)*start)) start++;
    while (stop > start && is_blank((uint8_t)stop[-1])) stop--;
    *el = start;
    *len = (size_t)(stop - start);
    return true;
}

bool tn_http1_has_token(const struct tn_http1_head *h, const char *name, const char *token)
{
    size_t want = strlen(token);
    for (size_t i = 0; i < h->nheaders; i++) {
        const struct tn_http1_header *hd = &h->headers[i];
        if (!name_is(hd, name)) continue;
        const char *p = hd->value, *end = p + hd->value_len, *el;
        size_t len;
        while (next_element(&p, end, &el, &len))
            if (len == want && strncasecmp(el, token, len) == 0) return true;
    }
    return false;
}

static int64_t parse_length(const char *p, size_t len)
{
    int64_t v = 0;
    if (len == 0) return TN_E_MALFORMED;
    for (size_t i = 0; i < len; i++) {
        if (!is_digit((uint8_t)p[i])) return TN_E_MALFORMED;
        int d = p[i] - '0';
        if (v > (INT64_MAX - d) / 10) return TN_E_MALFORMED;
        v = v * 10 + d;
    }
    return v;
}

int64_t tn_http1_content_length(const struct tn_http1_head *h)
{
    int64_t length = -1;
    for (size_t i = 0; i < h->nheaders; i++) {
        const struct tn_http1_header *hd = &h->headers[i];
        if (!name_is(hd, "Content-Length")) continue;
        const char *p = hd->value, *end = p + hd->value_len, *el;
        size_t len;
        while (next_element(&p, end, &el, &len)) { /* "5, 5" is what a proxy makes of the header sent twice */
            int64_t v = parse_length(el, len);
            if (v < 0 || (length >= 0 && v != length)) return TN_E_MALFORMED;
            length = v;
        }
    }
    return length;
}

bool tn_http1_is_chunked(const struct tn_http1_head *h)
{
    bool chunked = false;
    for (size_t i = 0; i < h->nheaders; i++) {
        const struct tn_http1_header *hd = &h->headers[i];
        if (!name_is(hd, "Transfer-Encoding")) continue;
        const char *p = hd->value, *end = p + hd->value_len, *el;
        size_t len;
        while (next_element(&p, end, &el, &len)) chunked = len == 7 && strncasecmp(el, "chunked", 7) == 0;
    }
    return chunked;
}

enum chunk_state {
    CHUNK_SIZE, CHUNK_EXT, CHUNK_SIZE_LF, CHUNK_DATA, CHUNK_DATA_CR, CHUNK_DATA_LF, CHUNK_TRAILER_START,
    CHUNK_TRAILER, CHUNK_TRAILER_LF, CHUNK_END_LF, CHUNK_BAD,
};

static int hex_value(uint8_t c)
{
    if (is_digit(c)) return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* One byte of a size line, in CHUNK_SIZE (line_len counts digits) or CHUNK_EXT. */
static int size_line_byte(struct tn_http1_chunked *c, uint8_t b)
{
    int digit = hex_value(b);
    if (c->state == CHUNK_SIZE && digit >= 0) {
        if (c->line_len++ == CHUNK_DIGITS_MAX) return TN_E_MALFORMED;
        c->left = c->left << 4 | (uint64_t)digit;
        return 0;
    }
    if (c->line_len == 0) return TN_E_MALFORMED;
    if (b == '\r') {
        c->state = CHUNK_SIZE_LF;
        return 0;
    }
    if (c->state == CHUNK_SIZE && b != ';' && !is_blank(b)) return TN_E_MALFORMED;
    if ((b < ' ' && b != '\t') || b == 0x7f || c->line_len++ > CHUNK_LINE_MAX) return TN_E_MALFORMED;
    c->state = CHUNK_EXT;
    return 0;
}

static int trailer_byte(struct tn_http1_chunked *c, uint8_t b)
{
    if (c->line_len++ > CHUNK_TRAILERS_MAX) return TN_E_MALFORMED;
    if (b == '\r') c->state = c->state == CHUNK_TRAILER_START ? CHUNK_END_LF : CHUNK_TRAILER_LF;
    else if ((b < ' ' && b != '\t') || b == 0x7f) return TN_E_MALFORMED;
    else c->state = CHUNK_TRAILER;
    return 0;
}

static int expect(struct tn_http1_chunked *c, uint8_t b, uint8_t want, enum chunk_state next)
{
    c->state = next;
    return b == want ? 0 : TN_E_MALFORMED;
}

/* One byte that is not payload. */
static int framing_byte(struct tn_http1_chunked *c, uint8_t b)
{
    int err;
    switch ((enum chunk_state)c->state) {
    case CHUNK_SIZE:
    case CHUNK_EXT: return size_line_byte(c, b);
    case CHUNK_SIZE_LF:
        c->line_len = 0;
        return expect(c, b, '\n', c->left ? CHUNK_DATA : CHUNK_TRAILER_START);
    case CHUNK_DATA_CR: return expect(c, b, '\r', CHUNK_DATA_LF);
    case CHUNK_DATA_LF: return expect(c, b, '\n', CHUNK_SIZE);
    case CHUNK_TRAILER_START:
    case CHUNK_TRAILER: return trailer_byte(c, b);
    case CHUNK_TRAILER_LF: return expect(c, b, '\n', CHUNK_TRAILER_START);
    case CHUNK_END_LF:
        err = expect(c, b, '\n', CHUNK_END_LF);
        c->done = err == 0;
        return err;
    case CHUNK_DATA:
    case CHUNK_BAD: break;
    }
    return TN_E_MALFORMED;
}

long tn_http1_dechunk(struct tn_http1_chunked *c, const uint8_t *bytes, size_t len, const uint8_t **data,
                      size_t *data_len)
{
    *data = bytes;
    *data_len = 0;
    for (size_t i = 0; i < len && !c->done; i++) {
        if (c->state == CHUNK_DATA) {
            size_t n = len - i < c->left ? len - i : (size_t)c->left;
            *data = bytes + i;
            *data_len = n;
            c->left -= n;
            if (c->left == 0) c->state = CHUNK_DATA_CR;
            return (long)(i + n);
        }
        int err = framing_byte(c, bytes[i]);
        if (err) {
            c->state = CHUNK_BAD; /* stays failed, whatever comes next */
            return err;
        }
        if (c->done) return (long)(i + 1);
    }
    return c->done ? 0 : (long)len;
}
