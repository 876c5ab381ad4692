/* Each server is asked from a socket of its own, and so from a random port; by TCP when the client came so. The first answer that
 * is one counts, whatever it says; refusals, silence and nonsense lead to the next server, and in the end to SERVFAIL. */
#include "node/magicask.h"

#include "dns/dns.h"
#include "node/exitdns.h"
#include "node/magicnames.h"
#include "util/buf.h"
#include "util/cursor.h"
#include "util/err.h"
#include "wire/dns.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TRY_US = 2 * 1000 * 1000 /* each server; stub resolvers give up after five */ };

struct tn_magicask {
    struct tn_node *node;
    uint8_t query[TN_MAGICASK_QUERY_MAX];
    size_t len;
    struct tn_addrport servers[TN_MAGIC_SERVERS_MAX];
    size_t nservers, at;
    bool tcp, sent;
    uint16_t id; /* at the server */
    int fd;
    uv_poll_t *poll;
    struct tn_buf in; /* a TCP server's answer */
    struct tn_exitdns_lookup *exit;
    uint64_t deadline_us;
    void (*done)(void *arg, const uint8_t *bytes, size_t len);
    void *arg;
};

static void free_poll(uv_handle_t *h) { free(h); }

static void close_socket(struct tn_magicask *a)
{
    if (a->poll) {
        uv_poll_stop(a->poll);
        uv_close((uv_handle_t *)a->poll, free_poll);
        a->poll = NULL;
    }
    if (a->fd >= 0) close(a->fd);
    a->fd = -1;
    tn_buf_fini(&a->in);
}

void tn_magicask_cancel(struct tn_magicask *a)
{
    close_socket(a);
    if (a->exit) tn_exitdns_cancel(a->exit);
    free(a);
}

/* len 0: none is deserved. */
static void finish(struct tn_magicask *a, const uint8_t *bytes, size_t len)
{
    void (*done)(void *, const uint8_t *, size_t) = a->done;
    void *arg = a->arg;
    tn_magicask_cancel(a);
    done(arg, bytes, len);
}

static void fail(struct tn_magicask *a)
{
    uint8_t out[TN_MAGICASK_QUERY_MAX];
    long n = tn_dns_make_error(a->query, a->len, TN_DNSMSG_SERVFAIL, out, sizeof out);
    finish(a, out, n > 0 ? (size_t)n : 0);
}

static void try_next(struct tn_magicask *a);

/* Is it the answer? Then it goes to the client under the ID that it knows. */
static bool take_answer(struct tn_magicask *a, uint8_t *bytes, size_t len)
{
    struct tn_dnsmsg answer, query;
    if (tn_dnsmsg_parse(bytes, len, &answer) != 0 || tn_dnsmsg_parse(a->query, a->len, &query) != 0) return false;
    if (answer.id != a->id || !tn_dnsmsg_answers(&answer, &query)) return false;
    tn_put_be16(bytes, query.id);
    finish(a, bytes, len);
    return true;
}

static void readable_udp(struct tn_magicask *a)
{
    static const int tries = 8; /* datagrams of others' making */
    uint8_t buf[TN_DNS_MAX];
    for (int i = 0; i < tries; i++) {
        ssize_t n = recv(a->fd, buf, sizeof buf, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n < 0) { /* refused */
            try_next(a);
            return;
        }
        if (take_answer(a, buf, (size_t)n)) return;
    }
}

static int send_tcp(struct tn_magicask *a)
{
    uint8_t out[2 + TN_MAGICASK_QUERY_MAX];
    tn_put_be16(out, (uint16_t)a->len);
    memcpy(out + 2, a->query, a->len);
    tn_put_be16(out + 2, a->id);
    a->sent = true;
    return send(a->fd, out, 2 + a->len, MSG_NOSIGNAL) == (ssize_t)(2 + a->len) ? 0 : -EIO; /* a fresh socket has room */
}

static void readable_tcp(struct tn_magicask *a)
{
    uint8_t buf[4096];
    ssize_t n = recv(a->fd, buf, sizeof buf, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || tn_buf_append(&a->in, buf, (size_t)n) != 0) {
        try_next(a);
        return;
    }
    size_t have = tn_buf_len(&a->in), want = have >= 2 ? 2u + tn_get_be16(tn_buf_data(&a->in)) : 2;
    if (have < want || have < 2) return;
    uint8_t *copy = malloc(want - 2 ? want - 2 : 1);
    if (copy) memcpy(copy, tn_buf_data(&a->in) + 2, want - 2);
    if (!copy || !take_answer(a, copy, want - 2)) try_next(a);
    free(copy);
}

static void on_event(uv_poll_t *p, int status, int events)
{
    struct tn_magicask *a = p->data;
    if (a->node->closing) return;
    if (!a->tcp) {
        readable_udp(a);
    } else if (status < 0) {
        try_next(a);
    } else if (!a->sent) {
        if (send_tcp(a) != 0 || uv_poll_start(p, UV_READABLE, on_event) != 0) try_next(a);
    } else {
        readable_tcp(a);
    }
}

static int begin_try(struct tn_magicask *a, const struct tn_addrport *to)
{
    struct sockaddr_storage ss;
    socklen_t len = tn_addrport_to_sockaddr(to, &ss);
    bool tcp = a->tcp;
    a->fd = socket(ss.ss_family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (a->fd < 0) return -errno;
    if (connect(a->fd, (struct sockaddr *)&ss, len) != 0 && errno != EINPROGRESS) return -errno;
    a->poll = calloc(1, sizeof *a->poll);
    int err = a->poll ? uv_poll_init(&a->node->loop, a->poll, a->fd) : TN_E_NOMEM;
    if (err) {
        free(a->poll);
        a->poll = NULL;
        return err;
    }
    a->poll->data = a;
    a->id = (uint16_t)tn_rng_u32(&a->node->rng);
    a->sent = !tcp;
    uint8_t out[TN_MAGICASK_QUERY_MAX];
    memcpy(out, a->query, a->len);
    tn_put_be16(out, a->id);
    if (!tcp && send(a->fd, out, a->len, MSG_NOSIGNAL) < 0) return -errno;
    return uv_poll_start(a->poll, tcp ? UV_WRITABLE : UV_READABLE, on_event);
}

static void try_next(struct tn_magicask *a)
{
    close_socket(a);
    tn_buf_init(&a->in, 2 + TN_DNS_MAX);
    while (a->at < a->nservers) {
        a->deadline_us = tn_node_now() + TRY_US;
        if (begin_try(a, &a->servers[a->at++]) == 0) return;
        close_socket(a);
    }
    fail(a);
}

static void exit_answered(void *arg, int err, const uint8_t *bytes, size_t len)
{
    struct tn_magicask *a = arg;
    a->exit = NULL;
    if (err) fail(a);
    else if (!a->tcp && len > tn_dns_udp_limit(a->query, a->len)) {
        uint8_t out[TN_MAGICASK_QUERY_MAX];
        long n = tn_dns_make_error(a->query, a->len, 0, out, sizeof out);
        if (n > 0) out[2] |= TN_DNSMSG_TC >> 8;
        finish(a, out, n > 0 ? (size_t)n : 0);
    } else {
        finish(a, bytes, len);
    }
}

struct tn_magicask *tn_magicask_start(const struct tn_magicask_config *config)
{
    struct tn_magicask *a = config->len <= TN_MAGICASK_QUERY_MAX ? calloc(1, sizeof *a) : NULL;
    if (!a) return NULL;
    a->node = config->node;
    a->fd = -1;
    a->tcp = config->tcp;
    a->done = config->done;
    a->arg = config->arg;
    a->len = config->len;
    memcpy(a->query, config->query, config->len);
    a->nservers = config->nservers < TN_MAGIC_SERVERS_MAX ? config->nservers : TN_MAGIC_SERVERS_MAX;
    if (a->nservers) memcpy(a->servers, config->servers, a->nservers * sizeof *a->servers);
    tn_buf_init(&a->in, 2 + TN_DNS_MAX);
    bool asked = config->exit && tn_exitdns_ask(a->node, a->query, a->len, exit_answered, a, &a->exit) == 0;
    a->deadline_us = asked ? TN_NEVER : 0; /* exitdns has its own; else the first server is asked, or it fails, in the next turn */
    if (config->exit) a->nservers = 0;
    return a;
}

void tn_magicask_timeout(struct tn_magicask *a, uint64_t now_us)
{
    if (a->deadline_us <= now_us) try_next(a);
}

uint64_t tn_magicask_deadline(const struct tn_magicask *a) { return a->deadline_us; }
