#include "control/upgrade.h"
#include "control/noise_conn.h"
#include "util/buf.h"
#include "util/err.h"
#include "util/text.h"
#include "wire/http1.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UPGRADE_NAME "tailscale-control-protocol"

enum {
    HEAD_MAX = 16 * 1024,
    READ_MAX = 256 * 1024,      /* what one read may bring behind the head */
    OUTPUT_MAX = 8 * 1024 * 1024, /* several of the largest requests at once */
    TEXT_MAX = 256,
};

struct tn_upgrade {
    const struct tn_upgrade_events *events;
    void *arg;
    struct tn_stream *stream;
    struct tn_noise_conn *noise;
    uint8_t init[TN_NOISE_INIT_LEN];
    char *authority;
    struct tn_buf head;   /* until the 101 */
    struct tn_buf output; /* sealed, not yet written */
    bool switched, announced, over;
    uint64_t now_us; /* of the call under way, for callbacks beneath the Noise engine */
};

static void end(struct tn_upgrade *u, int err, const char *text)
{
    if (u->over) return;
    u->over = true;
    if (u->stream) tn_stream_close(u->stream);
    u->stream = NULL;
    u->events->closed(u->arg, u, err, text, u->now_us);
}

static void announce(struct tn_upgrade *u)
{
    if (u->announced || !tn_noise_conn_established(u->noise)) return;
    u->announced = true;
    u->events->established(u->arg, u, u->now_us);
}

static int on_plain(void *arg, const uint8_t *bytes, size_t len)
{
    struct tn_upgrade *u = arg;
    announce(u);
    return u->events->plain(u->arg, bytes, len, u->now_us);
}

static void noise_input(struct tn_upgrade *u, const uint8_t *bytes, size_t len)
{
    char text[TEXT_MAX];
    int err = tn_noise_conn_input(u->noise, bytes, len, on_plain, u);
    if (err == 0) {
        announce(u);
        return;
    }
    if (err == TN_E_REFUSED) { /* not to be taken for a refused connection */
        err = TN_E_PROTO;
        snprintf(text, sizeof text, "the server refused the handshake: %s", tn_noise_conn_refusal(u->noise));
    } else snprintf(text, sizeof text, "%s: %s", u->announced ? "control connection" : "handshake", tn_err_text(err));
    end(u, err, text);
}

static int check_head(const struct tn_http1_head *h, char text[TEXT_MAX])
{
    size_t len;
    const char *value = tn_http1_find(h, "Upgrade", &len);
    if (h->status != 101) {
        snprintf(text, TEXT_MAX, "unexpected HTTP status %d instead of the upgrade", h->status);
        return TN_E_HTTP;
    }
    if (!value || len != strlen(UPGRADE_NAME) || memcmp(value, UPGRADE_NAME, len) != 0) {
        snprintf(text, TEXT_MAX, "the server switched to another protocol");
        return TN_E_PROTO;
    }
    return 0;
}

/* Bytes until the 101; what comes in the same read already belongs to Noise. */
static void head_input(struct tn_upgrade *u, const uint8_t *bytes, size_t len)
{
    char text[TEXT_MAX] = "the upgrade's answer is not HTTP";
    struct tn_http1_head h;
    int err = tn_buf_append(&u->head, bytes, len);
    long used = err ? err : tn_http1_parse_response(tn_buf_data(&u->head), tn_buf_len(&u->head), HEAD_MAX, &h);
    if (used == 0) return;
    err = used < 0 ? (int)used : check_head(&h, text);
    if (err) {
        end(u, err, text);
        return;
    }
    u->switched = true;
    struct tn_buf rest = u->head;
    tn_buf_init(&u->head, 0);
    if (tn_buf_len(&rest) > (size_t)used) noise_input(u, tn_buf_data(&rest) + used, tn_buf_len(&rest) - (size_t)used);
    tn_buf_fini(&rest);
}

static void on_data(void *arg, struct tn_stream *s, const uint8_t *bytes, size_t len, uint64_t now_us)
{
    struct tn_upgrade *u = arg;
    u->now_us = now_us;
    if (u->switched) noise_input(u, bytes, len);
    else head_input(u, bytes, len);
}

static void on_open(void *arg, struct tn_stream *s, uint64_t now_us)
{
    struct tn_upgrade *u = arg;
    char init[TN_BASE64_LEN(TN_NOISE_INIT_LEN)], request[TN_WEBURL_HOST + 512];
    u->now_us = now_us;
    tn_base64_encode(TN_BASE64_STD, u->init, sizeof u->init, init);
    int len = snprintf(request, sizeof request,
                       "POST /ts2021 HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: upgrade\r\n"
                       "Upgrade: " UPGRADE_NAME "\r\nX-Tailscale-Handshake: %s\r\n\r\n",
                       u->authority, init);
    int err = tn_stream_write(s, request, (size_t)len);
    if (err < 0) end(u, err, tn_err_text(err));
}

static void on_close(void *arg, int err, uint64_t now_us)
{
    struct tn_upgrade *u = arg;
    u->stream = NULL;
    u->now_us = now_us;
    end(u, err, err == TN_E_EOF ? "the server closed the connection" : tn_err_text(err));
}

static const struct tn_stream_events stream_events = {on_open, on_data, NULL, on_close};

int tn_upgrade_start(const struct tn_upgrade_spec *spec, const struct tn_upgrade_events *events, void *arg,
                     struct tn_upgrade **out)
{
    struct tn_upgrade *u = calloc(1, sizeof *u);
    if (!u) return TN_E_NOMEM;
    u->events = events;
    u->arg = arg;
    tn_buf_init(&u->head, HEAD_MAX + READ_MAX);
    tn_buf_init(&u->output, OUTPUT_MAX);
    u->authority = strdup(spec->authority);
    int err = u->authority ? 0 : TN_E_NOMEM;
    if (!err) err = tn_noise_conn_initiate(spec->machine, spec->server, spec->version, spec->rng, u->init, &u->noise);
    struct tn_dial_spec dial = {
        .host = spec->host,
        .port = spec->port,
        .tls = spec->tls,
        .verify = TN_VERIFY_INSECURE,
        .timeout_us = spec->timeout_us,
    };
    if (!err) err = tn_dialer_dial(spec->dialer, &dial, &stream_events, u, &u->stream);
    if (err) tn_upgrade_free(u);
    else *out = u;
    return err;
}

void tn_upgrade_free(struct tn_upgrade *u)
{
    if (!u) return;
    if (u->stream) tn_stream_close(u->stream);
    tn_noise_conn_free(u->noise);
    tn_buf_fini(&u->head);
    tn_buf_fini(&u->output);
    free(u->authority);
    free(u);
}

int tn_upgrade_send(struct tn_upgrade *u, const uint8_t *bytes, size_t len)
{
    if (u->over) return TN_E_CLOSED;
    return tn_noise_conn_seal(u->noise, bytes, len, &u->output);
}

int tn_upgrade_flush(struct tn_upgrade *u)
{
    if (u->over) return TN_E_CLOSED;
    if (tn_buf_len(&u->output) == 0) return 0;
    int err = tn_stream_write(u->stream, tn_buf_data(&u->output), tn_buf_len(&u->output));
    tn_buf_consume(&u->output, tn_buf_len(&u->output));
    return err < 0 ? err : 0;
}
