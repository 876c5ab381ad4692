/* HTTP/1.x message heads (RFC 9112), incremental and bounded, for every user of HTTP/1 here: control upgrade, DERP
 * upgrade, CONNECT proxies, PeerAPI, LocalAPI, c2n. Heads only: bodies are the caller's. */
#ifndef TN_WIRE_HTTP1_H
#define TN_WIRE_HTTP1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TN_HTTP1_HEADERS_MAX = 64 }; /* more is hostile or a mistake */

struct tn_http1_header {
    const char *name, *value; /* views into the head; not NUL-terminated */
    size_t name_len, value_len;
};
struct tn_http1_head {
    bool is_response;
    int minor;                      /* HTTP/1.minor */
    int status;                     /* responses */
    const char *reason, *method, *target;
    size_t reason_len, method_len, target_len;
    struct tn_http1_header headers[TN_HTTP1_HEADERS_MAX];
    size_t nheaders;
};

/* Looks for a complete head in bytes. Returns its length including the empty line (> 0), 0 when more bytes are
 * needed, or TN_E_MALFORMED / TN_E_TOOBIG (more than max bytes without an end, or too many headers). Lines end in
 * CRLF; a bare LF is accepted as a line end (RFC 9112 section 2.2). NUL and bare CR are malformed; obs-fold is
 * malformed. */
long tn_http1_parse_request(const uint8_t *bytes, size_t len, size_t max, struct tn_http1_head *out);
long tn_http1_parse_response(const uint8_t *bytes, size_t len, size_t max, struct tn_http1_head *out);
/* Header by name (ASCII case-insensitive): the value's view, or NULL. */
const char *tn_http1_find(const struct tn_http1_head *h, const char *name, size_t *len);
/* Does the (comma-separated) header hold this token, case-insensitively? */
bool tn_http1_has_token(const struct tn_http1_head *h, const char *name, const char *token);
/* Content-Length: >= 0, -1 absent, TN_E_MALFORMED for conflicting, signed or overflowing values. */
int64_t tn_http1_content_length(const struct tn_http1_head *h);
bool tn_http1_is_chunked(const struct tn_http1_head *h);

/* Chunked bodies, incremental: consumes input, returns bytes used; data and data_len are a view of payload found in
 * them (may be empty). State starts zeroed. done is set after the last chunk and its trailers. TN_E_MALFORMED. */
struct tn_http1_chunked {
    uint64_t left;
    int state;
    unsigned line_len;
    bool done;
};
long tn_http1_dechunk(struct tn_http1_chunked *c, const uint8_t *bytes, size_t len, const uint8_t **data,
                      size_t *data_len);

#endif
