#include "dev/derpconn.h"
#include "dev/ctlconn.h"
#include "util/err.h"
#include "util/text.h"
#include "wire/derp.h"

#include <stdio.h>
#include <stdlib.h>

struct conn {
    struct tn_dev_derpport *port;
    struct tn_dev_sock *sock;
    struct tn_dev_derp_client *client;
    struct tn_list dirty;
};

void tn_dev_derpport_init(struct tn_dev_derpport *p) { tn_list_init(&p->dirty); }

void tn_dev_derpport_wake(void *conn)
{
    struct conn *c = conn;
    if (tn_list_empty(&c->dirty)) tn_list_push_back(&c->port->dirty, &c->dirty);
}

void tn_dev_derpport_expire(void *conn) { tn_dev_sock_close(((struct conn *)conn)->sock); }

/* Frames stay in the client's own queues, where the oldest are dropped, until the socket takes them. */
static void pump(struct conn *c)
{
    tn_list_remove(&c->dirty);
    while (!tn_dev_sock_closing(c->sock) && tn_dev_sock_backlog(c->sock) < TN_DEV_SOCK_LOW) {
        struct tn_dev_derp_frame *f = tn_dev_derp_take(c->client);
        if (!f) return;
        tn_dev_sock_write(c->sock, f->bytes, f->len);
        free(f);
    }
}

void tn_dev_derpport_flush(struct tn_dev_derpport *p)
{
    while (!tn_list_empty(&p->dirty)) pump(TN_CONTAINER(p->dirty.next, struct conn, dirty));
}

static void on_data(void *arg, const uint8_t *bytes, size_t len, struct tn_dev_now now)
{
    struct conn *c = arg;
    int err = tn_dev_derp_input(c->client, bytes, len, now);
    if (!err) return;
    tn_logf(c->port->log, TN_LOG_DEBUG, "derp", "connection dropped: %s", tn_err_text(err));
    tn_dev_sock_close(c->sock);
}

static void on_drain(void *arg, struct tn_dev_now now) { pump(arg); }

static void on_closed(void *arg, struct tn_dev_now now)
{
    struct conn *c = arg;
    tn_dev_derp_client_free(c->client);
    tn_list_remove(&c->dirty);
    free(c);
}

static int say_switching(struct conn *c)
{
    char key[65], text[256];
    int len = snprintf(text, sizeof text,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
                       "Derp-Version: %d\r\nDerp-Public-Key: %s\r\n\r\n",
                       TN_DERP_VERSION, tn_hex_encode(c->port->key.b, sizeof c->port->key.b, key));
    return tn_dev_sock_write(c->sock, text, (size_t)len);
}

static void upgrade(struct tn_dev_derpport *p, struct tn_dev_web *w, bool fast, struct tn_dev_now now)
{
    static const struct tn_dev_upgraded ops = {on_data, on_drain, on_closed};
    struct conn *c = calloc(1, sizeof *c);
    if (!c) {
        tn_dev_web_text(w, 500, "out of memory");
        return;
    }
    c->port = p;
    tn_list_init(&c->dirty);
    if (tn_dev_derp_client_new(p->derp, c, now, &c->client) != 0) {
        tn_list_remove(&c->dirty);
        free(c);
        tn_dev_web_text(w, 500, "out of memory");
        return;
    }
    c->sock = tn_dev_web_upgrade(w, &ops, c);
    if (!fast) say_switching(c);
}

static void serve_derp(struct tn_dev_derpport *p, struct tn_dev_web *w, const struct tn_http1_head *head,
                       struct tn_dev_now now)
{
    size_t len;
    const char *fast = tn_http1_find(head, "Derp-Fast-Start", &len);
    if (!tn_dev_web_method_is(head, "GET") && !tn_dev_web_method_is(head, "POST")) /* derper takes any; clients use these */
        tn_dev_web_text(w, 405, "GET required\n");
    else if (!tn_http1_has_token(head, "Upgrade", "derp"))
        tn_dev_web_text(w, 426, "DERP requires connection upgrade\n");
    else upgrade(p, w, fast && len == 1 && *fast == '1', now);
}

static void serve_probe(struct tn_dev_web *w, const struct tn_http1_head *head)
{
    if (tn_dev_web_method_is(head, "GET") || tn_dev_web_method_is(head, "HEAD"))
        tn_dev_web_answer(w, 200, "text/plain", "Access-Control-Allow-Origin: *\r\n", "", 0);
    else tn_dev_web_text(w, 405, "bogus probe method\n");
}

void tn_dev_derpport_request(void *arg, struct tn_dev_web *w, const struct tn_http1_head *head, struct tn_dev_now now)
{
    struct tn_dev_derpport *p = arg;
    if (tn_dev_web_path_is(head, "/derp")) serve_derp(p, w, head, now);
    else if (tn_dev_web_path_is(head, "/derp/latency-check") || tn_dev_web_path_is(head, "/derp/probe"))
        serve_probe(w, head);
    else if (tn_dev_web_path_is(head, "/generate_204")) tn_dev_no_content(w, head);
    else tn_dev_web_text(w, 404, "not found\n");
}
