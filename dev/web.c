#include "dev/web.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/list.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

struct tn_dev_web {
    struct tn_dev_sock *sock;
    struct tn_dev_web_server server;
    struct tn_list link;
    struct tn_buf in;
    struct tn_dev_timer idle;
    bool is_head, keep_alive;
    bool answering; /* a request was handed over and is not answered */
    const struct tn_dev_upgraded *up;
    void *up_arg;
    struct tn_dev_reply reply; /* for the answer that comes later */
    int status;
    char content_type[64];
    struct tn_buf out;
};

static const char *reason(int status)
{
    static const struct {
        int status;
        const char *text;
    } known[] = {{101, "Switching Protocols"}, {200, "OK"}, {204, "No Content"}, {400, "Bad Request"},
                 {401, "Unauthorized"}, {404, "Not Found"}, {405, "Method Not Allowed"}, {410, "Gone"},
                 {413, "Content Too Large"}, {426, "Upgrade Required"}, {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"}, {504, "Gateway Timeout"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].status == status) return known[i].text;
    return "Unknown";
}

bool tn_dev_web_method_is(const struct tn_http1_head *head, const char *method)
{
    return head->method_len == strlen(method) && memcmp(head->method, method, head->method_len) == 0;
}

bool tn_dev_web_path_is(const struct tn_http1_head *head, const char *path)
{
    const char *q = memchr(head->target, '?', head->target_len);
    size_t len = q ? (size_t)(q - head->target) : head->target_len;
    return len == strlen(path) && memcmp(head->target, path, len) == 0;
}

/* "http://host/path" becomes "/path": servers take the absolute form as well (RFC 9112 section 3.2.2), and some clients send
 * it. */
static void to_origin_form(struct tn_http1_head *head)
{
    size_t skip = head->target_len > 8 && strncasecmp(head->target, "https://", 8) == 0 ? 8 : 7;
    if (head->target_len < skip || (skip == 7 && strncasecmp(head->target, "http://", 7) != 0)) return;
    const char *slash = memchr(head->target + skip, '/', head->target_len - skip);
    if (!slash) return; /* no path of ours */
    head->target_len -= (size_t)(slash - head->target);
    head->target = slash;
}

static void arm_idle(struct tn_dev_web *w, struct tn_dev_now now)
{
    tn_timer_arm(w->server.timers, &w->idle.t, now.us + TN_DEV_WEB_TIME * TN_DEV_SECOND);
}

static void idle_fire(struct tn_dev_timer *timer, void *engine, struct tn_dev_now now)
{
    tn_dev_sock_close(TN_CONTAINER(timer, struct tn_dev_web, idle)->sock);
}

void tn_dev_web_answer(struct tn_dev_web *w, int status, const char *content_type, const char *extra,
                       const void *body, size_t len)
{
    struct tn_buf head;
    tn_buf_init(&head, TN_DEV_WEB_HEAD_MAX);
    int err = tn_buf_printf(&head, "HTTP/1.1 %d %s\r\n%s", status, reason(status), extra);
    if (!err && status != 204)
        err = tn_buf_printf(&head, "Content-Type: %s\r\nContent-Length: %zu\r\n", content_type, len);
    if (!err) err = tn_buf_printf(&head, "%s\r\n", w->keep_alive ? "" : "Connection: close\r\n");
    if (!err) err = tn_dev_sock_write(w->sock, tn_buf_data(&head), tn_buf_len(&head));
    if (!err && !w->is_head && status != 204) err = tn_dev_sock_write(w->sock, body, len);
    tn_buf_fini(&head);
    w->answering = false;
    if (err) tn_dev_sock_close(w->sock);
    else if (!w->keep_alive) tn_dev_sock_finish(w->sock);
    else arm_idle(w, tn_dev_clock());
}

void tn_dev_web_text(struct tn_dev_web *w, int status, const char *text)
{
    tn_dev_web_answer(w, status, "text/plain; charset=utf-8", "", text, strlen(text));
}

void tn_dev_web_last_words(struct tn_dev_web *w, const void *bytes, size_t len)
{
    w->keep_alive = false;
    w->answering = false;
    if (tn_dev_sock_write(w->sock, bytes, len) == 0) tn_dev_sock_finish(w->sock);
}

static void fail(struct tn_dev_web *w, int status, const char *text)
{
    w->keep_alive = false;
    tn_dev_web_text(w, status, text);
}

/* --- the answer that comes later --- */

static struct tn_dev_web *web_of(struct tn_dev_reply *r) { return TN_CONTAINER(r, struct tn_dev_web, reply); }

static void later_begin(struct tn_dev_reply *r, int status, const char *content_type)
{
    struct tn_dev_web *w = web_of(r);
    w->status = status;
    snprintf(w->content_type, sizeof w->content_type, "%s", content_type);
}

static int later_write(struct tn_dev_reply *r, const void *bytes, size_t len)
{
    return tn_buf_append(&web_of(r)->out, bytes, len);
}

static void next_requests(struct tn_dev_web *w, struct tn_dev_now now);

static void later_end(struct tn_dev_reply *r)
{
    struct tn_dev_web *w = web_of(r);
    r->gone = NULL;
    tn_dev_web_answer(w, w->status, w->content_type, "", tn_buf_data(&w->out), tn_buf_len(&w->out));
    tn_buf_fini(&w->out);
    next_requests(w, tn_dev_clock());
}

static void later_abort(struct tn_dev_reply *r)
{
    r->gone = NULL;
    tn_dev_sock_close(web_of(r)->sock);
}

static size_t later_backlog(const struct tn_dev_reply *r) { return 0; }

struct tn_dev_reply *tn_dev_web_reply(struct tn_dev_web *w)
{
    static const struct tn_dev_reply_ops ops = {later_begin, later_write, later_end, later_abort, later_backlog};
    tn_timer_stop(w->server.timers, &w->idle.t); /* who answers later has a deadline of its own */
    w->reply = (struct tn_dev_reply){.ops = &ops};
    return &w->reply;
}

/* --- requests --- */

struct tn_dev_sock *tn_dev_web_upgrade(struct tn_dev_web *w, const struct tn_dev_upgraded *up, void *arg)
{
    tn_timer_stop(w->server.timers, &w->idle.t);
    w->up = up;
    w->up_arg = arg;
    w->answering = false;
    return w->sock;
}

static bool wants_body(const struct tn_http1_head *head)
{
    return tn_http1_is_chunked(head) || (tn_http1_content_length(head) != 0 && tn_http1_content_length(head) != -1);
}

static void one_request(struct tn_dev_web *w, const struct tn_http1_head *head, struct tn_dev_now now)
{
    w->is_head = tn_dev_web_method_is(head, "HEAD");
    w->keep_alive = head->minor >= 1 && !tn_http1_has_token(head, "Connection", "close");
    w->answering = true;
    if (wants_body(head)) fail(w, 413, "no body is expected here");
    else w->server.request(w->server.arg, w, head, now);
}

/* Who does not read the answers is asked no further questions of: the rest waits for drain. */
static bool may_go_on(const struct tn_dev_web *w)
{
    return !w->up && !w->answering && !tn_dev_sock_closing(w->sock) && tn_dev_sock_backlog(w->sock) < TN_DEV_SOCK_LOW;
}

static void next_requests(struct tn_dev_web *w, struct tn_dev_now now)
{
    while (may_go_on(w) && tn_buf_len(&w->in)) {
        struct tn_http1_head head;
        long n = tn_http1_parse_request(tn_buf_data(&w->in), tn_buf_len(&w->in), TN_DEV_WEB_HEAD_MAX, &head);
        if (n == 0) return;
        if (n < 0) {
            fail(w, n == TN_E_TOOBIG ? 431 : 400, "bad request");
            tn_buf_fini(&w->in);
            return;
        }
        to_origin_form(&head);
        one_request(w, &head, now);
        tn_buf_consume(&w->in, (size_t)n);
    }
    if (!w->up || !tn_buf_len(&w->in) || tn_dev_sock_closing(w->sock)) return;
    struct tn_buf rest = w->in;
    tn_buf_init(&w->in, rest.max);
    w->up->data(w->up_arg, tn_buf_data(&rest), tn_buf_len(&rest), now);
    tn_buf_fini(&rest);
}

static void on_data(void *arg, const uint8_t *bytes, size_t len, struct tn_dev_now now)
{
    struct tn_dev_web *w = arg;
    if (w->up) {
        w->up->data(w->up_arg, bytes, len, now);
        return;
    }
    if (tn_buf_append(&w->in, bytes, len) != 0) {
        tn_dev_sock_close(w->sock);
        return;
    }
    next_requests(w, now);
}

static void on_drain(void *arg, struct tn_dev_now now)
{
    struct tn_dev_web *w = arg;
    if (w->up) w->up->drain(w->up_arg, now);
    else next_requests(w, now);
}

static void on_closed(void *arg, struct tn_dev_now now)
{
    struct tn_dev_web *w = arg;
    if (w->reply.gone) w->reply.gone(w->reply.holder, now);
    if (w->up) w->up->closed(w->up_arg, now);
    tn_timer_stop(w->server.timers, &w->idle.t);
    tn_list_remove(&w->link);
    tn_buf_fini(&w->in);
    tn_buf_fini(&w->out);
    free(w);
}

void tn_dev_web_new(const struct tn_dev_web_server *server, struct tn_dev_sock *s, struct tn_dev_now now)
{
    static const struct tn_dev_sock_events events = {on_data, on_drain, on_closed};
    struct tn_dev_web *w = calloc(1, sizeof *w);
    if (!w) {
        tn_dev_sock_close(s);
        return;
    }
    *w = (struct tn_dev_web){.sock = s, .server = *server, .idle.fire = idle_fire};
    /* A head, and a read's worth of what follows an upgrade. */
    tn_buf_init(&w->in, TN_DEV_WEB_HEAD_MAX + 128 * 1024);
    tn_buf_init(&w->out, TN_DEV_WEB_ANSWER_MAX);
    tn_list_push_back(server->all, &w->link);
    tn_dev_sock_own(s, &events, w);
    arm_idle(w, now);
}

void tn_dev_web_close(struct tn_list *l) { tn_dev_sock_close(TN_CONTAINER(l, struct tn_dev_web, link)->sock); }
