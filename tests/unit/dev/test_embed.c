/* The whole server on a loop of ours, in a network namespace of its own: starts, hostile and ordinary connections,
 * ends.
 *
 * The test is its own client: blocking sockets to loopback, with the loop turned in between. */
#include "support.h"
#include "../../../dev/dev.c"
#include "../../../dev/sock.c"
#include "control/early.h"
#include "control/noise_conn.h"
#include "crypto/tls.h"
#include "util/text.h"
#include "wire/derp.h"
#include "wire/stun.h"

#include <dirent.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TURNS = 5000 }; /* of a millisecond at most: more is a hang */

static uv_loop_t loop;
static struct tn_dev *dev;
static char dir[64], why[512];
static bool stopped;

static bool own_namespace(void)
{
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return false;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    bool ok = fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &ifr) == 0;
    close(fd);
    return ok;
}

static void on_stopped(void *arg) { *(bool *)arg = true; }

static struct tn_dev_options options(void)
{
    return (struct tn_dev_options){.listen = "127.0.0.1:0", .state_dir = dir, .auth_key = "embedded"};
}

static int setup(void **state)
{
    snprintf(dir, sizeof dir, "/tmp/tn-dev-embed-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    struct tn_dev_options o = options();
    stopped = false;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(tn_dev_start(&loop, &o, &dev, why, sizeof why), 0);
    return 0;
}

static void remove_dir(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char file[400];
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        unlink(file);
    }
    if (d) closedir(d);
    rmdir(path);
}

static int teardown(void **state)
{
    tn_dev_stop(dev, on_stopped, &stopped);
    uv_run(&loop, UV_RUN_DEFAULT); /* returns when no handle is left */
    assert_true(stopped);
    assert_int_equal(uv_loop_close(&loop), 0);
    remove_dir(dir);
    return 0;
}

static uint16_t control_port(void) { return (uint16_t)atoi(strrchr(tn_dev_url(dev), ':') + 1); }

static void turn(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    uv_run(&loop, UV_RUN_NOWAIT);
    poll(&p, fd >= 0, 1);
}

static int dial(uint16_t port)
{
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static void say(int fd, const void *bytes, size_t len)
{
    const char *p = bytes;
    for (int i = 0; len && i < TURNS; i++) {
        ssize_t n = send(fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return; /* the server has had enough */
        if (n > 0) {
            p += n;
            len -= (size_t)n;
        }
        turn(-1);
    }
}

/* Reads until the connection ends (returns true) or at least want bytes came. */
static bool hear(int fd, char *out, size_t cap, size_t *have, size_t want)
{
    for (int i = 0; i < TURNS && *have < want; i++) {
        ssize_t n = recv(fd, out + *have, cap - 1 - *have, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno == ECONNRESET)) return true;
        if (n > 0) *have += (size_t)n;
        else turn(fd);
        out[*have] = '\0';
    }
    assert_true(*have >= want); /* else it hangs */
    return false;
}

/* Everything the server says to these bytes until it closes. */
static const char *answer_to(uint16_t port, const void *bytes, size_t len)
{
    static char out[1 << 17];
    size_t have = 0;
    out[0] = '\0';
    int fd = dial(port);
    say(fd, bytes, len);
    shutdown(fd, SHUT_WR);
    assert_true(hear(fd, out, sizeof out, &have, SIZE_MAX));
    close(fd);
    return out;
}

static void expect_status(const char *request, const char *status)
{
    char want[32];
    snprintf(want, sizeof want, "HTTP/1.1 %s", status);
    const char *got = answer_to(control_port(), request, strlen(request));
    if (strncmp(got, want, strlen(want)) != 0) print_message("%s: %.80s\n", request, got);
    assert_memory_equal(got, want, strlen(want));
}

static void plain_http(void **state)
{
    expect_status("GET /key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200");
    /* The absolute form. */
    expect_status("GET http://x:8080/key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200");
    expect_status("GET HTTPS://x/key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "200");
    expect_status("GET http://x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404");
    expect_status("GET http:/key HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404");
    expect_status("GET /health HTTP/1.0\r\n\r\n", "200");
    expect_status("GET /nothing HTTP/1.1\r\nConnection: close\r\n\r\n", "404");
    expect_status("nonsense\r\n\r\n", "400");
    expect_status("GET /health HTTP/1.0\r\n\r\nwhat follows the last request\r\n\r\n", "200");
    expect_status("GET /key HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "413");
    expect_status("GET /key HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "413");
    expect_status("POST /ts2021 HTTP/1.1\r\nConnection: close\r\n\r\n", "400");
    expect_status("GET /ts2021 HTTP/1.1\r\nConnection: close\r\n\r\n", "405");
    expect_status("GET /a/0000 HTTP/1.1\r\nConnection: close\r\n\r\n", "404");
    expect_status("HEAD /a/0000 HTTP/1.1\r\nConnection: close\r\n\r\n", "405");
    expect_status("GET /dev/nodes HTTP/1.1\r\nConnection: close\r\n\r\n", "401");
    expect_status("GET /dev/nodes HTTP/1.1\r\nAuthorization: Bearer embedde\r\nConnection: close\r\n\r\n", "401");
    expect_status("GET /dev/nodes HTTP/1.1\r\nAuthorization: Bearer embedded\r\nConnection: close\r\n\r\n", "200");
    /* Three at once, in order. */
    const char *three = "GET /health HTTP/1.1\r\n\r\nGET /nothing HTTP/1.1\r\n\r\nGET /health HTTP/1.0\r\n\r\n";
    const char *got = answer_to(control_port(), three, strlen(three)), *second = strstr(got, "HTTP/1.1 404");
    assert_memory_equal(got, "HTTP/1.1 200", 12);
    assert_non_null(second);
    assert_non_null(strstr(second, "HTTP/1.1 200"));
    /* A head without end. */
    static char endless[40000];
    memset(endless, 'x', sizeof endless);
    memcpy(endless, "GET / HTTP/1.1\r\nA: ", 19);
    assert_memory_equal(answer_to(control_port(), endless, sizeof endless), "HTTP/1.1 431", 12);
}

static size_t upgrade_request(const void *init, size_t len, char *out, size_t cap)
{
    char text[512];
    tn_base64_encode(TN_BASE64_STD, init, len, text);
    return (size_t)snprintf(out, cap,
                            "POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\n"
                            "Connection: upgrade\r\nX-Tailscale-Handshake: %s\r\nContent-Length: 0\r\n\r\n",
                            text);
}

static struct tn_machine_public server_key(void)
{
    static const char get[] = "GET /key HTTP/1.0\r\n\r\n";
    struct tn_machine_public key;
    char text[TN_KEY_STRLEN];
    const char *at = strstr(answer_to(control_port(), get, sizeof get - 1), "\"publicKey\":\"");
    assert_non_null(at);
    snprintf(text, sizeof text, "%.69s", at + 13);
    assert_int_equal(tn_machine_public_parse(text, &key), 0);
    return key;
}

/* The upgrade is answered by 101 and then a Noise error with these words. */
static void expect_refusal(const void *init, size_t len, const char *words)
{
    char request[1024];
    size_t n = upgrade_request(init, len, request, sizeof request);
    const char *got = answer_to(control_port(), request, n), *body = strstr(got, "\r\n\r\n");
    assert_memory_equal(got, "HTTP/1.1 101", 12);
    assert_non_null(body);
    assert_int_equal(body[4], 3);
    assert_int_equal((size_t)(uint8_t)body[6], strlen(words));
    assert_string_equal(body + 7, words);
}

static void noise_refusals(void **state)
{
    struct tn_rng rng = tn_rng_system();
    struct tn_machine_private machine;
    struct tn_machine_public server = server_key(), other = {{9}};
    uint8_t init[TN_NOISE_INIT_LEN];
    struct tn_noise_conn *n;
    tn_machine_private_generate(&machine, &rng);
    assert_int_equal(tn_noise_conn_initiate(&machine, &other, 119, &rng, init, &n), 0);
    expect_refusal(init, sizeof init, "the handshake was made for another server key");
    tn_noise_conn_free(n);
    assert_int_equal(tn_noise_conn_initiate(&machine, &server, TN_DEV_CAPVER_MIN - 1, &rng, init, &n), 0);
    expect_refusal(init, sizeof init, "unsupported client version");
    tn_noise_conn_free(n);
    assert_int_equal(tn_noise_conn_initiate(&machine, &server, 119, &rng, init, &n), 0);
    expect_refusal(init, sizeof init - 1, "wrong handshake initiation");
    expect_refusal(init, 0, "wrong handshake initiation");
    init[40] ^= 1;
    expect_refusal(init, sizeof init, "the handshake was made for another server key");
    tn_noise_conn_free(n);
    expect_status("POST /ts2021 HTTP/1.1\r\nUpgrade: tailscale-control-protocol\r\nConnection: close\r\n"
                  "X-Tailscale-Handshake: ???\r\n\r\n",
                  "400");
    expect_status("POST /ts2021 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: close\r\n"
                  "X-Tailscale-Handshake: AAAA\r\n\r\n",
                  "400");
}

/* --- a client of the control protocol --- */

struct client {
    int fd;
    struct tn_noise_conn *noise;
    struct tn_early early;
    nghttp2_session *h2;
    struct tn_buf out;
    int status;
    char body[8192];
    size_t len;
    bool ended, dead;
};

static ssize_t h2_send(nghttp2_session *s, const uint8_t *bytes, size_t len, int flags, void *user)
{
    struct client *c = user;
    return tn_noise_conn_seal(c->noise, bytes, len, &c->out) == 0 ? (ssize_t)len : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int h2_header(nghttp2_session *s, const nghttp2_frame *f, const uint8_t *name, size_t nlen,
                     const uint8_t *value, size_t vlen, uint8_t flags, void *user)
{
    struct client *c = user;
    if (nlen == 7 && memcmp(name, ":status", 7) == 0) c->status = atoi((const char *)value);
    return 0;
}

static int h2_chunk(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *data, size_t len, void *user)
{
    struct client *c = user;
    size_t n = len < sizeof c->body - 1 - c->len ? len : sizeof c->body - 1 - c->len;
    memcpy(c->body + c->len, data, n);
    c->len += n;
    c->body[c->len] = '\0';
    return 0;
}

static int h2_closed(nghttp2_session *s, int32_t id, uint32_t code, void *user)
{
    ((struct client *)user)->ended = true;
    return 0;
}

static int on_h2(void *arg, const uint8_t *bytes, size_t len)
{
    struct client *c = arg;
    return nghttp2_session_mem_recv(c->h2, bytes, len) == (ssize_t)len ? 0 : TN_E_PROTO;
}

static int on_plain(void *arg, const uint8_t *bytes, size_t len)
{
    struct client *c = arg;
    return tn_early_input(&c->early, bytes, len, on_h2, c);
}

static void open_client(struct client *c)
{
    struct tn_rng rng = tn_rng_system();
    struct tn_machine_private machine;
    struct tn_machine_public server = server_key();
    uint8_t init[TN_NOISE_INIT_LEN];
    char request[1024], head[4096];
    size_t have = 0;
    *c = (struct client){.fd = dial(control_port())};
    tn_buf_init(&c->out, 8 << 20);
    tn_machine_private_generate(&machine, &rng);
    assert_int_equal(tn_noise_conn_initiate(&machine, &server, 119, &rng, init, &c->noise), 0);
    nghttp2_session_callbacks *cb;
    nghttp2_session_callbacks_new(&cb);
    nghttp2_session_callbacks_set_send_callback(cb, h2_send);
    nghttp2_session_callbacks_set_on_header_callback(cb, h2_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, h2_chunk);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, h2_closed);
    assert_int_equal(nghttp2_session_client_new(&c->h2, cb, c), 0);
    nghttp2_session_callbacks_del(cb);
    assert_int_equal(nghttp2_submit_settings(c->h2, 0, NULL, 0), 0); /* before the answer to the server's */
    say(c->fd, request, upgrade_request(init, sizeof init, request, sizeof request));
    static const char end[] = "\r\n\r\n";
    char *at = NULL;
    while (!at) {
        assert_false(hear(c->fd, head, sizeof head, &have, have + 1));
        at = strstr(head, end);
    }
    at += 4;
    assert_int_equal(tn_noise_conn_input(c->noise, at, have - (size_t)(at - head), on_plain, c), 0);
}

static void close_client(struct client *c)
{
    nghttp2_session_del(c->h2);
    tn_noise_conn_free(c->noise);
    tn_buf_fini(&c->out);
    close(c->fd);
}

/* Turns both sides until the request's stream has ended or the connection is dead. */
static void settle(struct client *c)
{
    for (int i = 0; i < TURNS && !c->ended && !c->dead; i++) {
        char bytes[65536];
        if (tn_noise_conn_established(c->noise)) nghttp2_session_send(c->h2);
        if (tn_buf_len(&c->out)) say(c->fd, tn_buf_data(&c->out), tn_buf_len(&c->out));
        tn_buf_fini(&c->out);
        ssize_t n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) c->dead = true;
        else if (n > 0) assert_int_equal(tn_noise_conn_input(c->noise, bytes, (size_t)n, on_plain, c), 0);
        else turn(c->fd);
    }
    assert_true(c->ended || c->dead);
}

struct text {
    const char *at;
    size_t left;
};

static ssize_t read_body(nghttp2_session *s, int32_t id, uint8_t *buf, size_t cap, uint32_t *flags,
                         nghttp2_data_source *source, void *user)
{
    struct text *t = source->ptr;
    size_t n = t->left < cap ? t->left : cap;
    memcpy(buf, t->at, n);
    t->at += n;
    t->left -= n;
    if (!t->left) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

static int request(struct client *c, const char *method, const char *path, const char *body, size_t len)
{
    struct text t = {body, len};
#define NV(n, v) {(uint8_t *)(n), (uint8_t *)(v), strlen(n), strlen(v), 0}
    nghttp2_nv nv[] = {NV(":method", method), NV(":scheme", "https"), NV(":authority", "x"), NV(":path", path)};
    nghttp2_data_provider p = {.source.ptr = &t, .read_callback = read_body};
    c->status = 0;
    c->len = 0;
    c->ended = false;
    assert_true(nghttp2_submit_request(c->h2, NULL, nv, 4, len ? &p : NULL, NULL) > 0);
    settle(c);
    return c->status;
}

static void control_over_http2(void **state)
{
    struct client c;
    open_client(&c);
    assert_int_equal(request(&c, "POST", "/machine/register", "{}", 2), 400);
    assert_true(c.early.done);
    assert_int_equal(request(&c, "GET", "/machine/nothing", "", 0), 404);
    assert_int_equal(request(&c, "HEAD", "/machine/ping-response?id=1", "", 0), 404);
    assert_int_equal(c.len, 0);
    char *body = malloc(TN_DEV_BODY_MAX + 1); /* bodies have a limit, the connection survives it */
    memset(body, ' ', TN_DEV_BODY_MAX + 1);
    assert_int_equal(request(&c, "POST", "/machine/map", body, TN_DEV_BODY_MAX + 1), 413);
    free(body);
    char path[1024];
    memset(path, 'x', sizeof path - 1);
    path[0] = '/';
    path[sizeof path - 1] = '\0';
    assert_int_equal(request(&c, "GET", path, "", 0), 400);
    assert_int_equal(request(&c, "POST", "/machine/set-dns", "{}", 2), 501);

    char register_body[512], key[TN_KEY_STRLEN];
    struct tn_node_public k = nkey(1);
    int len = snprintf(register_body, sizeof register_body,
                       "{\"Version\": 119, \"NodeKey\": \"%s\", \"Hostinfo\": {\"Hostname\": \"embedded\"}, "
                       "\"Auth\": {\"AuthKey\": \"embedded\"}}",
                       tn_node_public_format(&k, key));
    assert_int_equal(request(&c, "POST", "/machine/register", register_body, (size_t)len), 200);
    assert_non_null(strstr(c.body, "\"MachineAuthorized\":true"));
    assert_int_equal(tn_dev_node_count(dev), 1);
    /* Another connection is another machine: the key is not its own. */
    struct client other;
    open_client(&other);
    char map_body[256];
    len = snprintf(map_body, sizeof map_body, "{\"Version\": 119, \"NodeKey\": \"%s\"}", key);
    assert_int_equal(request(&other, "POST", "/machine/map", map_body, (size_t)len), 404);
    assert_int_equal(request(&c, "POST", "/machine/map", map_body, (size_t)len), 200);
    assert_non_null(strstr(c.body + 4, "embedded.tailnet.test.")); /* behind the length */
    close_client(&other);
    close_client(&c);
}

static void garbage_inside_noise(void **state)
{
    struct client c;
    open_client(&c);
    static const char garbage[] = "this is not the HTTP/2 preface at all, is it";
    tn_noise_conn_seal(c.noise, garbage, sizeof garbage, &c.out);
    say(c.fd, tn_buf_data(&c.out), tn_buf_len(&c.out));
    char out[65536];
    size_t have = 0;
    assert_true(hear(c.fd, out, sizeof out, &have, SIZE_MAX)); /* closed */
    close_client(&c);
    open_client(&c); /* a record that does not decrypt */
    say(c.fd, "\x04\x00\x20""0123456789012345678901234567890123456789", 35);
    have = 0;
    assert_true(hear(c.fd, out, sizeof out, &have, SIZE_MAX));
    close_client(&c);
}

/* --- DERP over TLS, by our own TLS client --- */

struct tls {
    int fd;
    struct tn_tls_ctx *ctx;
    struct tn_tls *t;
};

static void tls_flush(struct tls *s)
{
    const uint8_t *out;
    size_t n = tn_tls_output(s->t, &out);
    if (!n) return;
    say(s->fd, out, n);
    tn_tls_output_consume(s->t, n);
}

static void tls_feed(struct tls *s)
{
    char bytes[16384];
    ssize_t n = recv(s->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n > 0) assert_int_equal(tn_tls_input(s->t, bytes, (size_t)n), 0);
    else turn(s->fd);
}

static void tls_open(struct tls *s)
{
    struct tn_dial_spec spec = {.host = "127.0.0.1", .tls = true, .verify = TN_VERIFY_SHA256};
    assert_int_equal(tn_hex_decode(tn_dev_cert_name(dev) + 11, spec.sha256, 32), 0); /* the pin */
    s->fd = dial(tn_dev_derp_port(dev));
    s->ctx = tn_tls_ctx_new();
    assert_int_equal(tn_tls_new(s->ctx, &spec, &s->t), 0);
    int err = TN_E_AGAIN;
    for (int i = 0; i < TURNS && err == TN_E_AGAIN; i++) {
        err = tn_tls_handshake(s->t);
        tls_flush(s);
        if (err == TN_E_AGAIN) tls_feed(s);
    }
    assert_int_equal(err, 0);
}

static void tls_write(struct tls *s, const void *bytes, size_t len)
{
    assert_int_equal(tn_tls_write(s->t, bytes, len), 0);
    tls_flush(s);
}

static void tls_read(struct tls *s, char *out, size_t cap, size_t *have, size_t want)
{
    for (int i = 0; i < TURNS && *have < want; i++) {
        long n = tn_tls_read(s->t, out + *have, cap - *have);
        if (n > 0) *have += (size_t)n;
        else if (n == TN_E_AGAIN) tls_feed(s);
        else break;
    }
    assert_true(*have >= want);
}

static void tls_close(struct tls *s)
{
    tn_tls_free(s->t);
    tn_tls_ctx_free(s->ctx);
    close(s->fd);
}

static void derp_starts(void **state)
{
    static const char *const heads[] = {"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n",
                                        "GET /derp HTTP/1.1\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
                                        "Derp-Fast-Start: 1\r\n\r\n"};
    for (int fast = 0; fast < 2; fast++) {
        struct tls s;
        uint8_t key[32];
        char out[4096];
        size_t have = 0;
        tls_open(&s);
        assert_true(tn_tls_derp_meta(s.t, key)); /* the metacertificate is in the chain */
        tls_write(&s, heads[fast], strlen(heads[fast]));
        tls_read(&s, out, sizeof out - 1, &have, 45);
        out[have] = '\0';
        const char *frames = out;
        if (!fast) {
            assert_memory_equal(out, "HTTP/1.1 101", 12);
            char hex[65];
            assert_non_null(strstr(out, tn_hex_encode(key, 32, hex)));
            frames = strstr(out, "\r\n\r\n") + 4;
            tls_read(&s, out, sizeof out, &have, (size_t)(frames - out) + 45);
        }
        struct tn_derp_frame f;
        assert_int_equal(tn_derp_frame_split((const uint8_t *)frames, 45, 4096, &f), 45);
        assert_int_equal(f.type, TN_DERP_SERVER_KEY);
        assert_int_equal(tn_derp_frame_parse(&f), 0);
        assert_memory_equal(f.key, key, 32);
        if (fast) { /* a bad greeting ends it */
            tls_write(&s, "\x02\x00\x00\x00\x00", 5);
            long n = TN_E_AGAIN;
            for (int i = 0; i < TURNS && n == TN_E_AGAIN; i++) {
                n = tn_tls_read(s.t, out, sizeof out);
                char bytes[4096];
                ssize_t got = recv(s.fd, bytes, sizeof bytes, MSG_DONTWAIT);
                if (got == 0) break;
                if (got > 0) tn_tls_input(s.t, bytes, (size_t)got);
                else turn(s.fd);
            }
            assert_int_not_equal(n, 0);
        }
        tls_close(&s);
    }
}

static void tls_is_needed(void **state)
{
    static const char get[] = "GET /derp HTTP/1.1\r\n\r\n";
    const char *got = answer_to(tn_dev_derp_port(dev), get, sizeof get - 1);
    assert_true(strncmp(got, "HTTP", 4) != 0);
}

/* --- clients that do not read --- */

static void not_reading(void **state)
{
    static const char one[] = "GET /key HTTP/1.1\r\n\r\n";
    static char many[2000 * (sizeof one - 1)];
    int fd = dial(control_port());
    char out[4096];
    size_t at = 0, sent = 0;
    for (size_t i = 0; i < sizeof many; i += sizeof one - 1) memcpy(many + i, one, sizeof one - 1);
    turn(-1);
    assert_int_equal(dev->socks.count, 1);
    struct tn_dev_sock *s = TN_CONTAINER(dev->socks.all.next, struct tn_dev_sock, link);
    /* Until its answers have filled the buffers of both ends and wait in the server. */
    for (int i = 0; i < TURNS && tn_dev_sock_backlog(s) < TN_DEV_SOCK_LOW && sent < 64 << 20; i++) {
        ssize_t n = send(fd, many + at, sizeof many - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0) {
            sent += (size_t)n;
            at = (at + (size_t)n) % sizeof many;
        }
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(dev->socks.count, 1);
    assert_true(tn_dev_sock_backlog(s) >= TN_DEV_SOCK_LOW);
    assert_true(tn_dev_sock_backlog(s) < TN_DEV_SOCK_LOW + 64 * 1024);
    struct tn_dev_now now = tn_dev_clock();
    tn_dev_socks_sweep(&dev->socks, now); /* sees some progress, or none yet */
    assert_int_equal(dev->socks.count, 1);
    now.us += (TN_DEV_SOCK_STALL + 1) * TN_DEV_SECOND;
    tn_dev_socks_sweep(&dev->socks, now);
    for (int i = 0; i < TURNS && dev->socks.count; i++) turn(-1);
    assert_int_equal(dev->socks.count, 0);
    while (recv(fd, out, sizeof out, MSG_DONTWAIT) > 0) {}
    close(fd);
}

static void stun(void **state)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(tn_dev_stun_port(dev)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, self;
    socklen_t len = sizeof self;
    uint8_t req[TN_STUN_REQUEST_LEN], txid[TN_STUN_TXID_LEN] = "transaction", got[TN_STUN_TXID_LEN], buf[2048] = {0};
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    getsockname(fd, (struct sockaddr *)&self, &len);
    tn_stun_request_put(req, txid);
    for (size_t n = 0; n < sizeof req; n++) send(fd, req, n, 0); /* cut ones are ignored */
    send(fd, buf, sizeof buf, 0);
    send(fd, req, sizeof req, 0);
    ssize_t n = -1;
    for (int i = 0; i < TURNS && n < 0; i++) {
        turn(fd);
        n = recv(fd, buf, sizeof buf, MSG_DONTWAIT);
    }
    struct tn_addrport seen;
    assert_true(n > 0);
    assert_int_equal(tn_stun_response_parse(buf, (size_t)n, got, &seen), 0);
    assert_memory_equal(got, txid, sizeof txid);
    assert_int_equal(seen.port, ntohs(self.sin_port));
    close(fd);
}

/* --- starts that fail, ends with work under way --- */

static void refused_starts(void **state)
{
    struct tn_dev *two;
    char url[64], other[80];
    struct tn_dev_options o = options();
    assert_int_equal(tn_dev_start(&loop, &o, &two, why, sizeof why), TN_E_BUSY);
    snprintf(other, sizeof other, "%s-two", dir);
    o.state_dir = other;
    snprintf(url, sizeof url, "%s", tn_dev_url(dev) + 7);
    o.listen = url;
    assert_int_equal(tn_dev_start(&loop, &o, &two, why, sizeof why), TN_E_ADDRINUSE);
    assert_non_null(strstr(why, url));
    turn(-1);
    static const char *const bad[] = {"", "localhost:1", "1.2.3.4", "1.2.3.4:70000", ":80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        o.listen = bad[i];
        assert_int_equal(tn_dev_start(&loop, &o, &two, why, sizeof why), TN_E_INVAL);
    }
    o = options();
    o.state_dir = NULL;
    assert_int_equal(tn_dev_start(&loop, &o, &two, why, sizeof why), TN_E_INVAL);
    o = options();
    static const char *const domains[] = {"Upper.test", ".x", "x.", "a..b", "-a", "a_b"};
    for (size_t i = 0; i < sizeof domains / sizeof *domains; i++) {
        o.domain = domains[i];
        assert_int_equal(tn_dev_start(&loop, &o, &two, why, sizeof why), TN_E_INVAL);
    }
    remove_dir(other);
}

static void two_in_one_process(void **state)
{
    struct tn_dev *two;
    bool two_stopped = false;
    char other[80];
    struct tn_dev_options o = options();
    snprintf(other, sizeof other, "%s-two", dir);
    o.state_dir = other;
    assert_int_equal(tn_dev_start(&loop, &o, &two, why, sizeof why), 0);
    assert_string_not_equal(tn_dev_url(dev), tn_dev_url(two));
    tn_dev_stop(two, on_stopped, &two_stopped);
    for (int i = 0; i < TURNS && !two_stopped; i++) turn(-1);
    assert_true(two_stopped);
    expect_status("GET /health HTTP/1.0\r\n\r\n", "200"); /* the other lives on */
    remove_dir(other);
}

static int left_open[8];

/* teardown stops the server with all of these open. */
static void ends_with_connections(void **state)
{
    static struct client c;
    struct tls s;
    int n = 0;
    left_open[n++] = dial(control_port()); /* says nothing */
    left_open[n] = dial(control_port());
    say(left_open[n++], "GET /ke", 7);
    left_open[n] = dial(tn_dev_derp_port(dev)); /* half a TLS handshake */
    say(left_open[n++], "\x16\x03\x01\x02\x00\x01", 6);
    tls_open(&s);
    tls_write(&s, "GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n", 38);
    open_client(&c);
    char register_body[512], key[TN_KEY_STRLEN], map_body[256];
    struct tn_node_public k = nkey(1);
    int len = snprintf(register_body, sizeof register_body,
                       "{\"Version\": 119, \"NodeKey\": \"%s\", \"Hostinfo\": {}, "
                       "\"Auth\": {\"AuthKey\": \"embedded\"}}",
                       tn_node_public_format(&k, key));
    assert_int_equal(request(&c, "POST", "/machine/register", register_body, (size_t)len), 200);
    len = snprintf(map_body, sizeof map_body, "{\"Version\": 119, \"NodeKey\": \"%s\", \"Stream\": true}", key);
    struct text t = {map_body, (size_t)len};
    nghttp2_nv nv[] = {NV(":method", "POST"), NV(":scheme", "https"), NV(":authority", "x"),
                       NV(":path", "/machine/map")};
    nghttp2_data_provider p = {.source.ptr = &t, .read_callback = read_body};
    c.status = 0;
    c.len = 0;
    nghttp2_submit_request(c.h2, NULL, nv, 4, &p, NULL);
    for (int i = 0; i < TURNS && c.len < 100; i++) {
        c.ended = false;
        nghttp2_session_send(c.h2);
        if (tn_buf_len(&c.out)) say(c.fd, tn_buf_data(&c.out), tn_buf_len(&c.out));
        tn_buf_fini(&c.out);
        char bytes[65536];
        ssize_t got = recv(c.fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got > 0) assert_int_equal(tn_noise_conn_input(c.noise, bytes, (size_t)got, on_plain, &c), 0);
        turn(c.fd);
    }
    assert_int_equal(c.status, 200);
    assert_true(c.len >= 100); /* a map stream is open */
    left_open[n++] = dup(c.fd);
    left_open[n++] = dup(s.fd);
    close_client(&c);
    tls_close(&s);
    turn(-1);
}

static int teardown_open(void **state)
{
    int rc = teardown(state);
    for (size_t i = 0; i < sizeof left_open / sizeof *left_open; i++)
        if (left_open[i]) close(left_open[i]);
    return rc;
}

int main(void)
{
    if (!own_namespace()) {
        puts("skip: this machine forbids network namespaces");
        return 77;
    }
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(plain_http),    CASE(noise_refusals), CASE(control_over_http2), CASE(garbage_inside_noise),
        CASE(derp_starts),   CASE(tls_is_needed),  CASE(not_reading), CASE(stun),               CASE(refused_starts),
        CASE(two_in_one_process), cmocka_unit_test_setup_teardown(ends_with_connections, setup, teardown_open)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
