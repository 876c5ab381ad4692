/* Bytes of a client into the HTTP server. The first byte says how they are cut and how the handler answers; a handler
 * that answers at once must see the same requests and say the same, whatever the cut. */
#include "node/httpd.c"

enum { INPUT_MAX = 1 << 15, OUT_MAX = 1 << 22 };

struct side {
    struct tn_buf out;
    unsigned mode, closes;
    struct tn_httpd_req *req;
};

static void gone(void *arg) { ((struct side *)arg)->req = NULL; }

static void answer(struct tn_httpd_req *req, const struct tn_httpd_request *r)
{
    tn_httpd_respond(req, r->body_len % 2 ? 200 : 404, "text/plain", NULL, r->path, strlen(r->path));
}

static void on_request(void *ctx, struct tn_httpd_req *req, const struct tn_httpd_request *r, uint64_t now_us)
{
    struct side *s = ctx;
    char param[64];
    if (strlen(r->path) > TN_HTTPD_HEAD_MAX || r->body_len > 4096 || s->req) abort();
    (void)tn_httpd_query_param(r->query, "a", param, sizeof param);
    if (s->mode == 0) {
        answer(req, r);
    } else if (s->mode == 1) {
        s->req = req;
        tn_httpd_on_cancel(req, gone, s);
    } else {
        tn_httpd_stream_start(req, 200, NULL, NULL, NULL, NULL);
        tn_httpd_stream_write(req, r->body, r->body_len);
        tn_httpd_stream_end(req);
    }
}

static size_t limit_of(void *ctx, const struct tn_httpd_request *r) { return 4096; }

static int write_out(void *ctx, const void *bytes, size_t len)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n"; /* sent or not as the body was there or not */
    struct side *s = ctx;
    if (len == sizeof go_on - 1 && memcmp(bytes, go_on, len) == 0) return 0;
    if (tn_buf_append(&s->out, bytes, len) != 0) abort();
    return 0;
}

static void on_end(void *ctx)
{
    if (((struct side *)ctx)->closes++) abort();
}

static void run(struct side *s, const uint8_t *bytes, size_t len, size_t step)
{
    struct tn_httpd_config config = {.handle = on_request, .body_limit = limit_of, .write = write_out,
                                     .on_close = on_end, .ctx = s};
    struct tn_httpd *h;
    tn_buf_init(&s->out, OUT_MAX);
    if (tn_httpd_new(&config, 0, &h) != 0) abort();
    for (size_t at = 0; at < len; at += step) {
        if (tn_httpd_input(h, bytes + at, len - at < step ? len - at : step, at) < 0) break;
        if (s->req && at / step % 2) {
            struct tn_httpd_req *req = s->req;
            s->req = NULL;
            tn_httpd_error(req, 500, "later");
        }
        if (tn_httpd_next_deadline(h) == 0) tn_httpd_timeout(h, at);
    }
    tn_httpd_eof(h, len);
    /* an end without an answer to come is an end */
    if (!s->req && !s->closes && tn_httpd_next_deadline(h) != 0) abort();
    tn_httpd_timeout(h, (uint64_t)1 << 40);
    tn_httpd_free(h);
    if (s->req) abort(); /* not told */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > INPUT_MAX) return 0;
    struct side whole = {.mode = data[0] % 3}, cut = whole;
    run(&whole, data + 1, size - 1, size);
    run(&cut, data + 1, size - 1, 1 + data[0] / 3 % 32);
    size_t said = tn_buf_len(&cut.out);
    if (whole.mode == 0 && tn_buf_len(&whole.out) != said) abort();
    if (whole.mode == 0 && said && memcmp(tn_buf_data(&whole.out), tn_buf_data(&cut.out), said) != 0) abort();
    tn_buf_fini(&whole.out);
    tn_buf_fini(&cut.out);
    return 0;
}
