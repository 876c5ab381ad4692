/* A tailnet in a box: control server, DERP server with TLS and STUN server on one libuv loop.
 *
 * For demos and tests, and strict: what a real server refuses is refused here. Official clients join it as well as
 * our own nodes. One tailnet, one user; everything it knows lives in one state directory.
 *
 * Embedding: tn_dev_start on a loop of yours, tn_dev_stop and let the loop run until done was called. Everything
 * happens on the loop's thread. As everywhere with libuv, the process should ignore SIGPIPE. Not for the public
 * Internet: control is plain HTTP, as testcontrol and headscale serve it behind a proxy (Noise inside it
 * authenticates all that matters). */
#ifndef TN_DEV_DEV_H
#define TN_DEV_DEV_H

#include "util/log.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

struct tn_dev;

/* Zero means the default throughout; strings are copied where they are kept. */
struct tn_dev_options {
    const char *listen;    /* control, "IP:port"; default 127.0.0.1:8080; port 0: any free one */
    const char *state_dir; /* required; made (0700) if missing */
    const char *derp_listen; /* default: listen's IP, its port plus one (0: any) */
    const char *stun_listen; /* UDP; default: the same address and port number as DERP */
    const char *advertise;   /* IP that clients dial; default: listen's IP, or for 0.0.0.0 the first of the host */
    const char *auth_key;    /* this key is accepted; default: the state directory's, made on first use */
    const char *domain;      /* MagicDNS suffix; default "tailnet.test" */
    bool refuse_exit_nodes;  /* do not put advertised 0.0.0.0/0 and ::/0 into AllowedIPs */
    bool refuse_routes;      /* nor other advertised routes */
    bool insecure_derp;      /* InsecureForTests in the DERP map instead of the certificate's pin */
    bool derp_admits_all;    /* serve DERP to keys outside the tailnet as well */
    unsigned ephemeral_s;    /* seconds after which a disconnected ephemeral node is removed; default 30 */
    unsigned phantoms;       /* nodes that nobody is behind (phantom.h) */
    unsigned churn_ms;       /* one of them changes each so many milliseconds; 0: never */
    const struct tn_log *log; /* borrowed; NULL: silence */
};

/* 0 and *out, or a code with one line in why (never empty then): a bad address, a port in use, state that is
 * unreadable (left as it is) or locked by another process. On failure the loop must be run once more, so that handles
 * close. */
int tn_dev_start(uv_loop_t *loop, const struct tn_dev_options *options, struct tn_dev **out, char *why,
                 size_t whylen);
/* Saves, closes every connection and handle, frees, then calls done (may be NULL) from the loop. */
void tn_dev_stop(struct tn_dev *d, void (*done)(void *arg), void *arg);

/* Borrowed until tn_dev_stop. */
const char *tn_dev_url(const struct tn_dev *d);      /* "http://127.0.0.1:8080": the login server */
const char *tn_dev_auth_key(const struct tn_dev *d); /* a secret: for a person or a test, never for a log */
const char *tn_dev_domain(const struct tn_dev *d);
uint16_t tn_dev_derp_port(const struct tn_dev *d);
uint16_t tn_dev_stun_port(const struct tn_dev *d);
const char *tn_dev_cert_name(const struct tn_dev *d); /* "sha256-raw:<hex>" */
size_t tn_dev_node_count(const struct tn_dev *d);

/* The foreground server: own loop, facts and then the line "ready" on stdout, log lines on stderr, until SIGINT or
 * SIGTERM. Returns an exit status. */
int tn_dev_main(const struct tn_dev_options *options);
/* The same from arguments (argv[0] is skipped): "tailnet dev" and the test program share it. */
int tn_dev_command(int argc, char **argv);

#endif
