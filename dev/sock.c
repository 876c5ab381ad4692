#include "dev/sock.h"
#include "util/buf.h"
#include "util/err.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { READ_CHUNK = 64 * 1024, BACKLOG = 128, IDLE_PROBE = 60 /* seconds until the kernel asks a silent peer */ };

struct tn_dev_sock {
    uv_tcp_t tcp;
    uv_write_t write;
    SSL *ssl;
    struct tn_dev_sock_events events;
    void *arg;
    struct tn_dev_socks *socks;
    struct tn_buf queue;   /* to be written next */
    struct tn_buf sending; /* with the kernel now */
    bool writing, closing, finishing;
    size_t unsent;          /* of sending, when last looked at */
    uint64_t progress_us;   /* when that last changed */
    struct tn_list link;
    char *chunk; /* the read buffer, while a read is under way */
};

struct tn_dev_now tn_dev_clock(void)
{
    return (struct tn_dev_now){.us = uv_hrtime() / 1000, .unix_s = (int64_t)time(NULL)};
}

static void on_closed(uv_handle_t *handle)
{
    struct tn_dev_sock *s = handle->data;
    if (s->events.closed) s->events.closed(s->arg, tn_dev_clock());
    SSL_free(s->ssl);
    tn_buf_fini(&s->queue);
    tn_buf_fini(&s->sending);
    free(s->chunk);
    struct tn_dev_socks *all = s->socks;
    tn_list_remove(&s->link);
    free(s);
    if (--all->count == 0) all->none_left(all->arg);
}

bool tn_dev_sock_closing(const struct tn_dev_sock *s) { return s->closing || s->finishing; }

void tn_dev_sock_close(struct tn_dev_sock *s)
{
    if (s->closing) return;
    s->closing = true;
    uv_close((uv_handle_t *)&s->tcp, on_closed);
}

static void flush(struct tn_dev_sock *s);

static void on_written(uv_write_t *req, int status)
{
    struct tn_dev_sock *s = req->data;
    s->writing = false;
    tn_buf_fini(&s->sending);
    if (s->closing) return;
    if (status < 0) {
        tn_dev_sock_close(s);
        return;
    }
    flush(s);
    if (s->writing || s->closing) return;
    if (s->finishing) tn_dev_sock_close(s);
    else if (s->events.drain) s->events.drain(s->arg, tn_dev_clock());
}

static void flush(struct tn_dev_sock *s)
{
    if (s->writing || s->closing || tn_buf_len(&s->queue) == 0) return;
    s->sending = s->queue;
    tn_buf_init(&s->queue, TN_DEV_SOCK_QUEUE_MAX);
    uv_buf_t b = uv_buf_init((char *)tn_buf_data(&s->sending), (unsigned)tn_buf_len(&s->sending));
    s->writing = true;
    s->unsent = b.len;
    s->progress_us = uv_hrtime() / 1000;
    if (uv_write(&s->write, (uv_stream_t *)&s->tcp, &b, 1, on_written) == 0) return;
    s->writing = false;
    tn_dev_sock_close(s);
}

static int enqueue(struct tn_dev_sock *s, const void *bytes, size_t len)
{
    if (tn_buf_append(&s->queue, bytes, len) == 0) return 0;
    tn_dev_sock_close(s);
    return TN_E_CLOSED;
}

/* Moves what TLS wants to send into the queue. */
static int take_ciphertext(struct tn_dev_sock *s)
{
    BIO *out = SSL_get_wbio(s->ssl);
    char *bytes;
    long len = BIO_get_mem_data(out, &bytes);
    int err = len > 0 ? enqueue(s, bytes, (size_t)len) : 0;
    if (len > 0) (void)BIO_reset(out);
    if (!err) flush(s);
    return err;
}

int tn_dev_sock_write(struct tn_dev_sock *s, const void *bytes, size_t len)
{
    if (s->closing || s->finishing) return TN_E_CLOSED;
    if (len == 0) return 0;
    if (!s->ssl) {
        int err = enqueue(s, bytes, len);
        if (!err) flush(s);
        return err;
    }
    size_t put;
    ERR_clear_error();
    if (SSL_write_ex(s->ssl, bytes, len, &put) != 1 || put != len) { /* a memory BIO takes all of it */
        tn_dev_sock_close(s);
        return TN_E_TLS;
    }
    return take_ciphertext(s);
}

void tn_dev_socks_sweep(struct tn_dev_socks *socks, struct tn_dev_now now)
{
    TN_LIST_EACH (l, &socks->all) {
        struct tn_dev_sock *s = TN_CONTAINER(l, struct tn_dev_sock, link);
        size_t unsent = uv_stream_get_write_queue_size((uv_stream_t *)&s->tcp);
        if (!s->writing || s->closing) continue;
        if (unsent != s->unsent) {
            s->unsent = unsent;
            s->progress_us = now.us;
        } else if (now.us - s->progress_us >= TN_DEV_SOCK_STALL * TN_DEV_SECOND) {
            tn_dev_sock_close(s);
        }
    }
}

size_t tn_dev_sock_backlog(const struct tn_dev_sock *s) { return tn_buf_len(&s->queue) + tn_buf_len(&s->sending); }

void tn_dev_sock_finish(struct tn_dev_sock *s)
{
    if (s->closing || s->finishing) return;
    if (s->ssl && SSL_is_init_finished(s->ssl)) {
        SSL_shutdown(s->ssl);
        if (take_ciphertext(s) != 0) return;
    }
    s->finishing = true;
    if (!s->writing) tn_dev_sock_close(s);
}

static void deliver_tls(struct tn_dev_sock *s, const char *bytes, size_t len)
{
    ERR_clear_error();
    if (BIO_write(SSL_get_rbio(s->ssl), bytes, (int)len) != (int)len) {
        tn_dev_sock_close(s);
        return;
    }
    uint8_t plain[16 * 1024];
    while (!s->closing && !s->finishing) {
        size_t n;
        int rc = SSL_read_ex(s->ssl, plain, sizeof plain, &n);
        if (rc == 1) {
            s->events.data(s->arg, plain, n, tn_dev_clock());
            continue;
        }
        int why = SSL_get_error(s->ssl, rc);
        if (take_ciphertext(s) != 0) return; /* handshake answers, and an alert before the end */
        if (why == SSL_ERROR_WANT_READ) return;
        tn_dev_sock_finish(s);
        return;
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct tn_dev_sock *s = handle->data;
    s->chunk = malloc(READ_CHUNK);
    *buf = uv_buf_init(s->chunk, s->chunk ? READ_CHUNK : 0);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct tn_dev_sock *s = stream->data;
    char *chunk = s->chunk;
    s->chunk = NULL;
    if (n < 0) tn_dev_sock_close(s);
    else if (n > 0 && !s->finishing && !s->closing) {
        if (s->ssl) deliver_tls(s, chunk, (size_t)n);
        else s->events.data(s->arg, (uint8_t *)chunk, (size_t)n, tn_dev_clock());
    }
    free(chunk);
}

void tn_dev_sock_own(struct tn_dev_sock *s, const struct tn_dev_sock_events *events, void *arg)
{
    s->events = *events;
    s->arg = arg;
}

static bool start_tls(struct tn_dev_sock *s, SSL_CTX *ctx)
{
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
    s->ssl = in && out ? SSL_new(ctx) : NULL;
    if (!s->ssl) {
        BIO_free(in);
        BIO_free(out);
        return false;
    }
    BIO_set_mem_eof_return(in, -1);
    SSL_set_bio(s->ssl, in, out);
    SSL_set_accept_state(s->ssl);
    return true;
}

static void on_connection(uv_stream_t *server, int status)
{
    struct tn_dev_listener *l = server->data;
    struct tn_dev_sock *s = status == 0 ? calloc(1, sizeof *s) : NULL;
    if (!s) return;
    if (uv_tcp_init(server->loop, &s->tcp) != 0) {
        free(s);
        return;
    }
    s->socks = l->socks;
    tn_list_push_back(&s->socks->all, &s->link);
    s->tcp.data = s->write.data = s;
    tn_buf_init(&s->queue, TN_DEV_SOCK_QUEUE_MAX);
    tn_buf_init(&s->sending, TN_DEV_SOCK_QUEUE_MAX);
    bool ok = ++l->socks->count <= TN_DEV_SOCKS_MAX;
    ok = uv_accept(server, (uv_stream_t *)&s->tcp) == 0 && ok;
    if (ok && l->tls) ok = start_tls(s, l->tls);
    if (!ok) {
        tn_dev_sock_close(s);
        return;
    }
    uv_tcp_nodelay(&s->tcp, 1);
    uv_tcp_keepalive(&s->tcp, 1, IDLE_PROBE);
    l->accept(l->arg, s, tn_dev_clock());
    if (!s->closing && (!s->events.data || uv_read_start((uv_stream_t *)&s->tcp, on_alloc, on_read) != 0))
        tn_dev_sock_close(s);
}

/* libuv's codes are negated errno values on Linux, and so are ours. */
int tn_dev_listen(uv_loop_t *loop, const struct tn_addrport *at, struct tn_dev_listener *l, struct tn_addrport *bound)
{
    struct sockaddr_storage ss;
    tn_addrport_to_sockaddr(at, &ss);
    int rc = uv_tcp_init(loop, &l->tcp);
    if (rc != 0) return rc;
    l->tcp.data = l;
    l->open = true;
    rc = uv_tcp_bind(&l->tcp, (struct sockaddr *)&ss, 0);
    if (rc == 0) rc = uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection);
    int len = sizeof ss;
    if (rc == 0) rc = uv_tcp_getsockname(&l->tcp, (struct sockaddr *)&ss, &len);
    if (rc == 0) return tn_addrport_from_sockaddr((struct sockaddr *)&ss, bound);
    return rc;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct tn_dev_listener *l = handle->data;
    l->closed(l->arg);
}

void tn_dev_listener_close(struct tn_dev_listener *l)
{
    l->open = false;
    uv_close((uv_handle_t *)&l->tcp, on_listener_closed);
}
