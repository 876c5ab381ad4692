/* Egress: the only code of this project that may open a socket for forwarded traffic, and what decides whether it
 * may.
 *
 * The policy is one of OFF, HOST, PROXY. The default is OFF; an invalid proxy setting is OFF; nothing ever falls
 * from PROXY to HOST. In HOST and PROXY mode a guard refuses special-purpose destinations (IANA registries), the
 * node's own and attached addresses, tailnet addresses and the proxy's endpoint, also in their embedded forms
 * (v4-mapped, 6to4, NAT64, Teredo, 4via6). This room links libc, libuv, src/util and src/wire's HTTP head parser,
 * no TLS and no cryptography. */
#ifndef TN_EGRESS_EGRESS_H
#define TN_EGRESS_EGRESS_H

#include "util/ip.h"
#include "util/log.h"
#include "util/secret.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uv.h>

struct tn_egress;
struct tn_egress_conn;

enum tn_egress_mode { TN_EGRESS_OFF, TN_EGRESS_HOST, TN_EGRESS_PROXY };

enum tn_proxy_scheme { TN_PROXY_SOCKS5, TN_PROXY_HTTP };

/* A parsed proxy URL. Credentials (user name too) are secrets. */
struct tn_proxy {
    enum tn_proxy_scheme scheme;
    char host[256]; /* name or address literal, without brackets */
    uint16_t port;
    bool has_auth;
    struct tn_secret *user, *pass;
};
/* "socks5://[user[:pass]@]host:port" or "http://...", percent-encoding in credentials; the port is required, none
 * is guessed. Rejects what can't be sent (SOCKS5: user or pass over 255 bytes, empty user; HTTP: ':' in the user),
 * paths, queries, unknown schemes, control characters. why: one line that names the defect and never the
 * credentials. */
int tn_proxy_parse(const char *url, size_t len, struct tn_proxy **out, char why[128]);
void tn_proxy_free(struct tn_proxy *p); /* wipes */
/* "socks5://host:port" without credentials, for status; returns buf. */
const char *tn_proxy_describe(const struct tn_proxy *p, char buf[300]);

/* Why a dial failed: counters, status, and what the peer gets. */
#define TN_EGRESS_FAIL_MAP(X)                                                                                     \
    X(OFF, "egress is off")                                                                                       \
    X(GUARD, "destination is not public")                                                                         \
    X(LIMIT, "too many flows or dials")                                                                           \
    X(FDS, "out of descriptors or memory")                                                                        \
    X(REFUSED, "connection refused")                                                                              \
    X(UNREACHABLE, "unreachable")                                                                                 \
    X(TIMEOUT, "timed out")                                                                                       \
    X(PROXY_CONNECT, "proxy not reachable")                                                                       \
    X(PROXY_TIMEOUT, "proxy did not answer in time")                                                              \
    X(PROXY_AUTH, "proxy did not accept the credentials")                                                         \
    X(PROXY_PROTOCOL, "proxy broke the protocol")                                                                 \
    X(PROXY_REFUSED, "proxy refused the destination")                                                             \
    X(PROXY_CLOSED, "proxy closed the connection")                                                                \
    X(PROXY_NAME, "proxy name not resolved")                                                                      \
    X(CANCELED, "canceled")
enum tn_egress_fail {
    TN_EGRESS_OK,
#define TN_EGRESS_FAIL_ENUM(name, text) TN_EGRESS_FAIL_##name,
    TN_EGRESS_FAIL_MAP(TN_EGRESS_FAIL_ENUM)
#undef TN_EGRESS_FAIL_ENUM
    TN_EGRESS_FAIL_COUNT
};
const char *tn_egress_fail_text(enum tn_egress_fail f);
const char *tn_egress_fail_name(enum tn_egress_fail f); /* lower case, for metrics: "proxy_auth" */

struct tn_egress_limits { /* 0: the default */
    unsigned max_flows, max_dials, max_flows_per_peer, max_dials_per_peer;
    uint64_t connect_timeout_us, handshake_timeout_us; /* total per phase: 10 s and 20 s */
};

struct tn_egress_config {
    uv_loop_t *loop;
    const struct tn_log *log;
    struct tn_egress_limits limits;
    uint32_t mark; /* SO_MARK of every socket; 0: none. One that can't be marked is not used */
};

int tn_egress_new(const struct tn_egress_config *config, struct tn_egress **out);
/* Closes every connection at once without callbacks; done is called from the loop when libuv has let go of all
 * handles. */
void tn_egress_free(struct tn_egress *e, void (*done)(void *arg), void *arg);

/* Takes the proxy (may be NULL). PROXY without a proxy, or a mode out of range, sets OFF and returns TN_E_POLICY.
 * Established flows stay; dials under way end with CANCELED. */
int tn_egress_set_policy(struct tn_egress *e, enum tn_egress_mode mode, struct tn_proxy *proxy);
enum tn_egress_mode tn_egress_mode(const struct tn_egress *e);
/* One line for status: the mode, the proxy without credentials, or which setting is missing. */
const char *tn_egress_describe(const struct tn_egress *e, char buf[400]);
/* Addresses the guard refuses beyond the registries: the node's tailnet addresses. Attached prefixes and the host's
 * own addresses are read by the guard itself per dial (cached 1 s); when they can't be read the dial is refused. */
int tn_egress_set_own(struct tn_egress *e, const struct tn_ip *addrs, size_t n);

struct tn_egress_events {
    /* The upstream is connected (for a proxy: it said the destination is). */
    void (*on_open)(void *arg, struct tn_egress_conn *c);
    /* The dial failed; the connection is gone. Never called before tn_egress_dial has returned. */
    void (*on_fail)(void *arg, enum tn_egress_fail why);
    void (*on_readable)(void *arg, struct tn_egress_conn *c);
    void (*on_writable)(void *arg, struct tn_egress_conn *c);
    /* The connection broke (an RST) after its end of stream was read and while nothing is wanted for writing, so
     * that no read or write would tell. err: TN_E_RESET or another negative code. May be NULL. */
    void (*on_error)(void *arg, struct tn_egress_conn *c, int err);
};

/* What a flow is dialed for. FORWARD: a peer's exit flow. RESOLVER: src/dns asking its upstream on behalf of peers: the
 * same policy, counted apart. CHECK: the operator asks what address the world sees. SUBNET: a peer's flow to a prefix
 * that this node routes: never by a proxy, refused for what is public. */
enum tn_egress_purpose { TN_EGRESS_FORWARD, TN_EGRESS_RESOLVER, TN_EGRESS_CHECK, TN_EGRESS_SUBNET };

/* Where a flow is to go and for whom. Borrowed during the call only. */
struct tn_egress_target {
    struct tn_addrport dst;
    /* The name for which proxied DNS lately gave this peer dst.ip, and only this one; NULL: none, or ambiguous. Lower
     * case, without a dot at the end. For rules by domain, and for proxies that are told names. */
    const char *name;
    uint64_t peer; /* its node ID: the limits per peer, sticky choice of a proxy, rules by source; 0: nobody */
    enum tn_egress_purpose purpose;
};

/* ev is kept by reference and must outlive the connection. Callbacks come from the loop, and may call anything here
 * on any connection, tn_egress_close on their own included.
 * Returns 0 and *out, or a TN_EGRESS_FAIL as a positive number when it is refused at once. */
int tn_egress_dial(struct tn_egress *e, const struct tn_egress_target *to, const struct tn_egress_events *ev, void *arg,
                   struct tn_egress_conn **out);

/* Hands the connection to another owner: its events come there from now on. */
void tn_egress_set_events(struct tn_egress_conn *c, const struct tn_egress_events *ev, void *arg);
/* After on_open. Which events are wanted; at first none. */
enum { TN_EGRESS_WANT_READ = 1, TN_EGRESS_WANT_WRITE = 2 };
void tn_egress_want(struct tn_egress_conn *c, int events);
/* Bytes (> 0), 0 at end of stream, TN_E_AGAIN, TN_E_RESET and other negative codes. Bytes that came with the proxy's
 * answer come first. */
long tn_egress_readv(struct tn_egress_conn *c, const struct iovec *iov, int n);
long tn_egress_writev(struct tn_egress_conn *c, const struct iovec *iov, int n);
int tn_egress_shutdown(struct tn_egress_conn *c); /* half-close: no more writing */
/* Ends it from any state, also while dialing. reset: as RST (SO_LINGER 0). No callback afterwards. */
void tn_egress_close(struct tn_egress_conn *c, bool reset);

struct tn_egress_stats {
    unsigned flows, dials; /* now; those of RESOLVER are not in it */
    uint64_t opened, bytes_up, bytes_down, failed[TN_EGRESS_FAIL_COUNT];
    /* Health: what was last wrong with the proxy itself. OK at first and after a policy change, after a proxied
     * dial that succeeded, and after one for which the proxy reported on the destination (refused, unreachable,
     * timed out). */
    enum tn_egress_fail last_proxy_fail;
};
void tn_egress_stats(const struct tn_egress *e, struct tn_egress_stats *out);

/* Would the guard let this destination through? For tests and status. */
bool tn_egress_allowed(struct tn_egress *e, const struct tn_addrport *dst);

#endif
