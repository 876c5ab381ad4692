#include "dev/ctlconn.h"
#include "control/early.h"
#include "control/noise_conn.h"
#include "dev/admin.h"
#include "dev/h2.h"
#include "util/err.h"
#include "util/text.h"

#include <stdio.h>
#include <stdlib.h>

/* One ts2021 connection after its upgrade. */
struct noise {
    struct tn_dev_ctlport *port;
    struct tn_dev_sock *sock;
    struct tn_noise_conn *noise;
    struct tn_dev_h2 *h2;
    struct tn_list dirty;
    struct tn_dev_now now; /* of the input under way */
};

void tn_dev_ctlport_init(struct tn_dev_ctlport *p) { tn_list_init(&p->dirty); }

static void on_wake(void *arg)
{
    struct noise *n = arg;
    if (tn_list_empty(&n->dirty)) tn_list_push_back(&n->port->dirty, &n->dirty);
}

static int seal(struct noise *n, const void *bytes, size_t len)
{
    struct tn_buf records;
    tn_buf_init(&records, 2 * len + TN_NOISE_FRAME_MAX);
    int err = tn_noise_conn_seal(n->noise, bytes, len, &records);
    if (!err) err = tn_dev_sock_write(n->sock, tn_buf_data(&records), tn_buf_len(&records));
    tn_buf_fini(&records);
    return err;
}

/* Moves output while the socket takes it; the rest waits for drain. */
static void pump(struct noise *n, struct tn_dev_now now)
{
    tn_list_remove(&n->dirty);
    while (!tn_dev_sock_closing(n->sock) && tn_dev_sock_backlog(n->sock) < TN_DEV_SOCK_LOW) {
        const uint8_t *bytes;
        long len = tn_dev_h2_output(n->h2, &bytes, now);
        if (len == 0) break;
        if (len < 0 || seal(n, bytes, (size_t)len) != 0) {
            tn_dev_sock_close(n->sock);
            return;
        }
    }
    if (tn_dev_h2_finished(n->h2)) tn_dev_sock_finish(n->sock);
}

void tn_dev_ctlport_flush(struct tn_dev_ctlport *p, struct tn_dev_now now)
{
    while (!tn_list_empty(&p->dirty)) pump(TN_CONTAINER(p->dirty.next, struct noise, dirty), now);
}

static void on_request(void *arg, const char *method, const char *path, const uint8_t *body, size_t len,
                       struct tn_dev_reply *reply, struct tn_dev_now now)
{
    struct noise *n = arg;
    struct tn_dev_request req = {
        .machine = *tn_noise_conn_peer(n->noise), .method = method, .path = path, .body = body, .len = len};
    tn_dev_ctl_request(n->port->ctl, &req, reply, now);
}

static int on_plain(void *arg, const uint8_t *bytes, size_t len)
{
    struct noise *n = arg;
    return tn_dev_h2_input(n->h2, bytes, len, n->now);
}

static void noise_data(void *arg, const uint8_t *bytes, size_t len, struct tn_dev_now now)
{
    struct noise *n = arg;
    n->now = now;
    int err = tn_noise_conn_input(n->noise, bytes, len, on_plain, n);
    if (!err) return;
    tn_logf(n->port->log, TN_LOG_DEBUG, "dev", "control connection dropped: %s", tn_err_text(err));
    tn_dev_sock_close(n->sock);
}

static void noise_drain(void *arg, struct tn_dev_now now) { pump(arg, now); }

static void noise_closed(void *arg, struct tn_dev_now now)
{
    struct noise *n = arg;
    tn_list_remove(&n->dirty);
    tn_dev_h2_free(n->h2, now);
    tn_list_remove(&n->dirty); /* closing streams may have woken it */
    tn_noise_conn_free(n->noise);
    free(n);
}

/* The random challenge of the early payload; clients do nothing with it. */
static int send_early(struct noise *n)
{
    struct tn_machine_private challenge;
    struct tn_machine_public public;
    char key[TN_KEY_STRLEN], json[160];
    uint8_t head[TN_EARLY_HEADER];
    tn_machine_private_generate(&challenge, &n->port->rng);
    tn_machine_public_of(&challenge, &public);
    tn_wipe(&challenge, sizeof challenge);
    tn_hex_encode(public.b, sizeof public.b, key);
    int len = snprintf(json, sizeof json, "{\"nodeKeyChallenge\":\"chalpub:%s\"}", key);
    tn_early_header(head, (uint32_t)len);
    int err = seal(n, head, sizeof head);
    return err ? err : seal(n, json, (size_t)len);
}

static const char upgraded[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\n"
                               "Connection: upgrade\r\n\r\n";

/* The handshake is refused after the 101, in Noise's own words, as controlbase.Server does. */
static void refuse(struct tn_dev_web *w, const char *text)
{
    struct tn_buf out;
    tn_buf_init(&out, TN_NOISE_FRAME_MAX);
    if (tn_buf_append(&out, upgraded, sizeof upgraded - 1) == 0 && tn_noise_refuse(text, &out) == 0)
        tn_dev_web_last_words(w, tn_buf_data(&out), tn_buf_len(&out));
    else tn_dev_web_text(w, 500, "out of memory");
    tn_buf_fini(&out);
}

static const struct tn_dev_upgraded noise_ops = {noise_data, noise_drain, noise_closed};
static const struct tn_dev_h2_events h2_events = {on_request, on_wake};

static struct noise *noise_new(struct tn_dev_ctlport *p, const uint8_t *init, size_t len,
                               uint8_t resp[TN_NOISE_RESP_LEN], int *err)
{
    struct noise *n = calloc(1, sizeof *n);
    *err = TN_E_NOMEM;
    if (!n) return NULL;
    n->port = p;
    tn_list_init(&n->dirty);
    *err = tn_noise_conn_respond(p->machine, &p->rng, init, len, resp, &n->noise);
    if (!*err && tn_noise_conn_version(n->noise) < TN_DEV_CAPVER_MIN) *err = TN_E_UNSUPPORTED;
    if (!*err) *err = tn_dev_h2_new(&h2_events, n, TN_DEV_BODY_MAX, &n->h2);
    if (!*err) return n;
    tn_noise_conn_free(n->noise);
    free(n);
    return NULL;
}

static const char *refusal(int err)
{
    switch (err) {
    case TN_E_UNSUPPORTED: return "unsupported client version";
    case TN_E_CRYPTO: return "the handshake was made for another server key";
    case TN_E_MALFORMED: return "wrong handshake initiation";
    default: return "internal error";
    }
}

static void upgrade(struct tn_dev_ctlport *p, struct tn_dev_web *w, const uint8_t *init, size_t len)
{
    uint8_t resp[TN_NOISE_RESP_LEN];
    int err;
    struct noise *n = noise_new(p, init, len, resp, &err);
    if (!n) {
        tn_logf(p->log, TN_LOG_DEBUG, "dev", "control handshake refused: %s", refusal(err));
        refuse(w, refusal(err));
        return;
    }
    n->sock = tn_dev_web_upgrade(w, &noise_ops, n);
    if (tn_dev_sock_write(n->sock, upgraded, sizeof upgraded - 1) != 0 ||
        tn_dev_sock_write(n->sock, resp, sizeof resp) != 0 || send_early(n) != 0)
        tn_dev_sock_close(n->sock);
    else on_wake(n); /* our SETTINGS */
}

static void serve_ts2021(struct tn_dev_ctlport *p, struct tn_dev_web *w, const struct tn_http1_head *head)
{
    size_t len;
    const char *text = tn_http1_find(head, "X-Tailscale-Handshake", &len);
    uint8_t init[256];
    long n = text ? tn_base64_decode(TN_BASE64_STD, text, len, init, sizeof init) : TN_E_MALFORMED;
    if (!tn_dev_web_method_is(head, "POST")) tn_dev_web_text(w, 405, "POST required");
    else if (!tn_http1_has_token(head, "Upgrade", "tailscale-control-protocol"))
        tn_dev_web_text(w, 400, "missing or unknown next protocol");
    else if (!text) tn_dev_web_text(w, 400, "missing handshake header");
    else if (n < 0) tn_dev_web_text(w, 400, "invalid handshake header");
    else upgrade(p, w, init, (size_t)n);
}

static void serve_key(struct tn_dev_ctlport *p, struct tn_dev_web *w)
{
    struct tn_machine_public public;
    char key[TN_KEY_STRLEN], body[3 * TN_KEY_STRLEN];
    tn_machine_public_of(p->machine, &public);
    /* The legacy key's protocol is not served: a zero key says so. */
    int len = snprintf(body, sizeof body, "{\"legacyPublicKey\":\"mkey:%064d\",\"publicKey\":\"%s\"}", 0,
                       tn_machine_public_format(&public, key));
    tn_dev_web_answer(w, 200, "application/json", "", body, (size_t)len);
}

static void serve_visit(struct tn_dev_ctlport *p, struct tn_dev_web *w, const struct tn_http1_head *head,
                        struct tn_dev_now now)
{
    char path[128], name[TN_DEV_LABEL_MAX + 1], text[TN_DEV_LABEL_MAX + 64];
    if (!tn_dev_web_method_is(head, "GET")) { /* a HEAD by a link preview is no login */
        tn_dev_web_text(w, 405, "GET required");
        return;
    }
    snprintf(path, sizeof path, "%.*s", (int)head->target_len, head->target);
    int err = tn_dev_ctl_visit(p->ctl, path, name, now);
    if (err == TN_E_NOENT) tn_dev_web_text(w, 404, "This login is unknown, was used already, or has expired.\n");
    else if (err) tn_dev_web_text(w, 500, "The login failed.\n");
    else {
        snprintf(text, sizeof text, "%s is logged in.\n", name);
        tn_dev_web_text(w, 200, text);
    }
}

/* What a challenge may consist of and how long it may be (handler.go:isChallengeChar). */
static bool challenge_ok(const char *text, size_t len)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:";
    for (size_t i = 0; i < len; i++)
        if (!text[i] || !strchr(allowed, text[i])) return false;
    return len > 0 && len <= 64;
}

void tn_dev_no_content(struct tn_dev_web *w, const struct tn_http1_head *head)
{
    size_t len;
    const char *challenge = tn_http1_find(head, "X-Tailscale-Challenge", &len);
    char extra[256] = "";
    if (challenge && challenge_ok(challenge, len))
        snprintf(extra, sizeof extra, "X-Tailscale-Response: response %.*s\r\n", (int)len, challenge);
    tn_dev_web_answer(w, 204, "", extra, "", 0);
}

static bool starts(const struct tn_http1_head *head, const char *prefix)
{
    size_t len = strlen(prefix);
    return head->target_len >= len && memcmp(head->target, prefix, len) == 0;
}

void tn_dev_ctlport_request(void *arg, struct tn_dev_web *w, const struct tn_http1_head *head, struct tn_dev_now now)
{
    struct tn_dev_ctlport *p = arg;
    if (tn_dev_web_path_is(head, "/ts2021")) serve_ts2021(p, w, head);
    else if (tn_dev_web_path_is(head, "/key")) serve_key(p, w);
    else if (tn_dev_web_path_is(head, "/generate_204")) tn_dev_no_content(w, head);
    else if (tn_dev_web_path_is(head, "/health")) tn_dev_web_text(w, 200, "ok\n");
    else if (starts(head, "/a/")) serve_visit(p, w, head, now);
    else if (starts(head, "/dev/")) tn_dev_admin(p, w, head, now);
    else tn_dev_web_text(w, 404, "not found\n");
}
