/* An HTTP/1.1 server connection: bounded heads, small answers, keep-alive, and the way out of HTTP (Upgrade).
 *
 * Requests have no body: one that announces bytes gets 413 and the connection ends. Official clients use HTTP/1 for
 * /key, /ts2021, /derp and probes only. One request at a time: pipelined ones wait their turn in a bounded buffer. */
#ifndef TN_DEV_WEB_H
#define TN_DEV_WEB_H

#include "dev/reply.h"
#include "dev/sock.h"
#include "util/list.h"
#include "wire/http1.h"

enum {
    TN_DEV_WEB_HEAD_MAX = 16 * 1024,
    TN_DEV_WEB_TIME = 30,          /* seconds from a connection's start to its first request, and idle between two */
    TN_DEV_WEB_ANSWER_MAX = 2 << 20,
};

struct tn_dev_web;

/* What serves a connection after it left HTTP. closed comes once, when the connection is gone. */
struct tn_dev_upgraded {
    void (*data)(void *arg, const uint8_t *bytes, size_t len, struct tn_dev_now now);
    void (*drain)(void *arg, struct tn_dev_now now);
    void (*closed)(void *arg, struct tn_dev_now now);
};

struct tn_dev_web_server {
    /* Must answer (tn_dev_web_answer), hand out a reply (tn_dev_web_reply) or upgrade. */
    void (*request)(void *arg, struct tn_dev_web *w, const struct tn_http1_head *head, struct tn_dev_now now);
    void *arg;
    struct tn_heap *timers;
    struct tn_list *all; /* every connection is linked here, so that the server can close them */
};

/* Takes the socket over. When memory is short it is closed. */
void tn_dev_web_new(const struct tn_dev_web_server *server, struct tn_dev_sock *s, struct tn_dev_now now);
/* The connection linked at l is to close. */
void tn_dev_web_close(struct tn_list *l);

/* extra: further header lines, each ending in CRLF, or "". HEAD gets no body. */
void tn_dev_web_answer(struct tn_dev_web *w, int status, const char *content_type, const char *extra,
                       const void *body, size_t len);
void tn_dev_web_text(struct tn_dev_web *w, int status, const char *text);
/* Sends these bytes, which are no HTTP answer of ours, as the connection's last. */
void tn_dev_web_last_words(struct tn_dev_web *w, const void *bytes, size_t len);
/* For an answer that comes later; sent when the reply ends. */
struct tn_dev_reply *tn_dev_web_reply(struct tn_dev_web *w);
/* Ends HTTP here; what came behind the head is delivered to up->data after request returns. Returns the socket, which
 * is up's to write to and close. */
struct tn_dev_sock *tn_dev_web_upgrade(struct tn_dev_web *w, const struct tn_dev_upgraded *up, void *arg);
/* Is the request's path (without query) this one? */
bool tn_dev_web_path_is(const struct tn_http1_head *head, const char *path);
bool tn_dev_web_method_is(const struct tn_http1_head *head, const char *method);

#endif
