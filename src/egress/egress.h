/* Egress: the only code of this project that may open a socket for forwarded traffic, and what decides whether it
 * may.
 *
 * The policy is one of OFF, HOST, PROXY. The default is OFF; an invalid proxy setting is OFF; nothing ever falls
 * from PROXY to HOST. In PROXY mode rules choose by destination and source which of the proxies a flow may use, and
 * among those the peer's own comes first as long as it works. A policy is never changed, only replaced as a whole:
 * what began under it ends under it. In HOST and PROXY mode a guard refuses special-purpose destinations (IANA registries), the
 * node's own and attached addresses, tailnet addresses and the proxy's endpoint, also in their embedded forms
 * (v4-mapped, 6to4, NAT64, Teredo, 4via6). This room links libc, libuv, src/util and src/wire's HTTP head parser,
 * no TLS and no cryptography. */
#ifndef TN_EGRESS_EGRESS_H
#define TN_EGRESS_EGRESS_H

#include "util/ip.h"
#include "util/log.h"
#include "util/secret.h"
#include "util/siphash.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uv.h>

struct tn_egress;
struct tn_egress_conn;

enum tn_egress_mode { TN_EGRESS_OFF, TN_EGRESS_HOST, TN_EGRESS_PROXY };

enum tn_proxy_scheme { TN_PROXY_SOCKS5, TN_PROXY_HTTP };

/* How this host goes to a proxy: by a network interface, from an address of ours per family, with a mark for the host's routing.
 * All zero: as the host routes. */
struct tn_proxy_bind {
    char device[16];       /* "": any */
    struct tn_ip from[2];  /* IPv4, IPv6. family 0: not said; if the other one is, this family is not used */
    uint32_t mark;         /* SO_MARK, beside what tn_egress_config says; 0: none */
};

/* A parsed proxy URL. Credentials (user name too) are secrets. */
struct tn_proxy {
    enum tn_proxy_scheme scheme;
    bool tls;       /* https: the way to the proxy is encrypted, its certificate verified */
    char host[256]; /* name or address literal, without brackets */
    uint16_t port;
    bool has_auth;
    bool templated; /* user or password have {peer}, {user} or {epoch} in them (template.c) */
    struct tn_secret *user, *pass;
    bool pinned;    /* by the proxy's certificate instead of the system's authorities */
    uint8_t pin[32]; /* SHA-256 of its DER */
    struct tn_proxy_bind bind; /* not of the URL */
};
/* "socks5://[user[:pass]@]host:port", "http://..." or "https://...", percent-encoding in credentials; the port is
 * required, none is guessed. Rejects what can't be sent (SOCKS5: user or pass over 255 bytes, empty user; HTTP: ':' in
 * the user), paths, queries, unknown schemes, control characters. {peer}, {user} and {epoch} in the credentials are
 * filled in per flow; in the user another word in braces is an error (write %7B for a brace). why: one line that names
 * the defect and never the credentials. */
int tn_proxy_parse(const char *url, size_t len, struct tn_proxy **out, char why[128]);
/* An address of ours, one of each family, an interface's name, or addresses and a name, separated by blanks.
 * out->mark stays. false: none such. */
bool tn_proxy_bind_parse(const char *text, struct tn_proxy_bind *out);
/* 1 to 2^32 - 1, decimal or 0x and hexadecimal. false: none such. */
bool tn_proxy_mark_parse(const char *text, uint32_t *out);
struct tn_proxy *tn_proxy_copy(const struct tn_proxy *p); /* NULL: no memory */
bool tn_proxy_eq(const struct tn_proxy *a, const struct tn_proxy *b);
void tn_proxy_free(struct tn_proxy *p); /* wipes */
/* "socks5://host:port" without credentials, for status; returns buf. */
const char *tn_proxy_describe(const struct tn_proxy *p, char buf[300]);

/* ---- what a policy is made of ---- */

enum {
    TN_EGRESS_PROXIES_MAX = 64, /* a set of them is one word */
    TN_EGRESS_RULES_MAX = 1024, /* walked for each dial */
    TN_EGRESS_NAME_MAX = 64,
    TN_EGRESS_WEIGHT_MAX = 64,
};

struct tn_egress_proxy {
    char name[TN_EGRESS_NAME_MAX], group[TN_EGRESS_NAME_MAX]; /* group "": of none */
    unsigned weight;    /* share of peers, 1..64; 0 is 1 */
    unsigned max_flows; /* at once, dials among them; 0: no limit of its own */
    bool names;         /* tell it the destination's name instead of the address where the name is known */
    struct tn_proxy *proxy;
};

struct tn_portrange {
    uint16_t first, last;
};
enum tn_egress_source { TN_EGRESS_FROM_PEER, TN_EGRESS_FROM_USER, TN_EGRESS_FROM_TAG };
struct tn_egress_from {
    enum tn_egress_source kind;
    char *value;
};
struct tn_egress_rule { /* all zero: matches everything */
    struct tn_prefix *prefixes;
    struct tn_portrange *ports;
    char **domains;
    struct tn_egress_from *from;
    size_t nprefixes, nports, ndomains, nfrom;
    char use[TN_EGRESS_NAME_MAX]; /* a proxy, a group, or "block" */
};
/* One line of a rule: address, port, domain, from, use. TN_E_NOENT: no such key, TN_E_INVAL, TN_E_NOMEM; why says. */
int tn_egress_rule_set(struct tn_egress_rule *r, const char *key, const char *value, char why[128]);
void tn_egress_rule_fini(struct tn_egress_rule *r);

/* The first rule that matches decides; with rules, a flow that none matches is refused. Without rules every flow may use
 * every proxy. Rules are for PROXY mode only. */
struct tn_egress_spec {
    enum tn_egress_mode mode;
    struct tn_egress_proxy *proxies;
    struct tn_egress_rule *rules;
    size_t nproxies, nrules;
};
struct tn_egress_spec *tn_egress_spec_new(enum tn_egress_mode mode);
struct tn_egress_spec *tn_egress_spec_copy(const struct tn_egress_spec *s);
void tn_egress_spec_free(struct tn_egress_spec *s);
/* A new entry to be filled in; NULL: no memory, or as many as there may be. Earlier pointers die. */
struct tn_egress_proxy *tn_egress_spec_proxy(struct tn_egress_spec *s);
struct tn_egress_rule *tn_egress_spec_rule(struct tn_egress_spec *s);
/* 0, or TN_E_POLICY and one line of why: names that are doubled or not there, numbers out of range, PROXY without a
 * proxy, rules or proxies without PROXY. */
int tn_egress_spec_check(const struct tn_egress_spec *s, char why[200]);

/* Why a dial failed: counters, status, and what the peer gets. */
#define TN_EGRESS_FAIL_MAP(X)                                                                                     \
    X(OFF, "egress is off")                                                                                       \
    X(GUARD, "destination is not public")                                                                         \
    X(LIMIT, "too many flows or dials")                                                                           \
    X(FDS, "out of descriptors or memory")                                                                        \
    X(PORTS, "no local port is free")                                                                              \
    X(REFUSED, "connection refused")                                                                              \
    X(UNREACHABLE, "unreachable")                                                                                 \
    X(TIMEOUT, "timed out")                                                                                       \
    X(PROXY_CONNECT, "proxy not reachable")                                                                       \
    X(PROXY_BIND, "proxy's mark or bind not to be had")                                                            \
    X(PROXY_TIMEOUT, "proxy did not answer in time")                                                              \
    X(PROXY_AUTH, "proxy did not accept the credentials")                                                         \
    X(PROXY_PROTOCOL, "proxy broke the protocol")                                                                 \
    X(PROXY_REFUSED, "proxy refused the destination")                                                             \
    X(PROXY_CLOSED, "proxy closed the connection")                                                                \
    X(PROXY_NAME, "proxy name not resolved")                                                                      \
    X(PROXY_TLS, "proxy certificate or TLS not accepted")                                                         \
    X(PROXY_DOWN, "no proxy is usable")                                                                           \
    X(RULE, "blocked by a rule")                                                                                  \
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

/* What the node knows of peers. Members may be NULL: nobody is anything. Called inside tn_egress_dial. */
struct tn_egress_peers {
    bool (*is)(void *ctx, uint64_t peer, enum tn_egress_source kind, const char *value);
    uint64_t (*user)(void *ctx, uint64_t peer); /* a number that identifies its user; 0: none */
    void *ctx;
};

/* TLS to a proxy, done by somebody else: an engine over memory, as src/crypto/tls.h has it. All calls on the loop. */
struct tn_egress_tls {
    void *(*open)(void *ctx, const struct tn_proxy *proxy); /* NULL: no memory */
    void (*free)(void *tls);
    int (*input)(void *tls, const void *bytes, size_t len); /* ciphertext; all of it is taken. 0 or a negative code */
    int (*handshake)(void *tls);                            /* 0: done; TN_E_AGAIN; else failed for good */
    long (*read)(void *tls, void *buf, size_t cap);         /* > 0; TN_E_AGAIN; TN_E_EOF after an orderly end; failed */
    int (*write)(void *tls, const void *bytes, size_t len); /* all of it; 0 or failed */
    void (*shutdown)(void *tls);
    size_t (*output)(void *tls, const uint8_t **bytes); /* pending ciphertext, borrowed */
    void (*consume)(void *tls, size_t len);
    const char *(*error)(void *tls); /* one line, never NULL */
    void *ctx;
};

struct tn_egress_config {
    uv_loop_t *loop;
    const struct tn_log *log;
    struct tn_egress_limits limits;
    uint32_t mark; /* SO_MARK of every socket; 0: none. One that can't be marked is not used */
    struct tn_egress_peers peers;
    const struct tn_egress_tls *tls; /* kept by reference; NULL: https proxies fail */
    struct tn_hashkey key;           /* secret and lasting: names of sessions at the proxy are made with it */
    bool no_breaker;                 /* every dial tries, whatever the proxy did before; no probes either */
};

int tn_egress_new(const struct tn_egress_config *config, struct tn_egress **out);
/* Closes every connection at once without callbacks; done is called from the loop when libuv has let go of all
 * handles. */
void tn_egress_free(struct tn_egress *e, void (*done)(void *arg), void *arg);

/* Takes the spec (NULL: OFF as for one that is not valid). A spec that is not valid sets OFF and returns TN_E_POLICY.
 * What a proxy has learned (addresses, health, figures) stays with it when the new spec has it too. Established flows
 * stay, or end as broken (RESET) with cut; dials under way begin anew under the new policy, or end with CANCELED when
 * it is not PROXY as before. */
int tn_egress_set(struct tn_egress *e, struct tn_egress_spec *spec, bool cut);
/* A spec of one proxy (taken, may be NULL), which is called "proxy". */
int tn_egress_set_policy(struct tn_egress *e, enum tn_egress_mode mode, struct tn_proxy *proxy);
/* New sessions at the proxies for this peer, or for all (0): what {peer}, {user} and {epoch} give changes. */
int tn_egress_rotate(struct tn_egress *e, uint64_t peer);
/* How often that was done, and the same said anew after a restart. TN_E_NOMEM. */
uint32_t tn_egress_epoch(struct tn_egress *e, uint64_t peer);
int tn_egress_set_epoch(struct tn_egress *e, uint64_t peer, uint32_t epoch);
/* The peer is gone for good: its figures are forgotten (not how often it was rotated: a session that was given up does not come
 * back with it). Its flows are the caller's to end. */
void tn_egress_forget_peer(struct tn_egress *e, uint64_t peer);
/* Does it matter to the proxies for which peer a flow is: sessions of its own, rules by source, more than one proxy to choose
 * from? */
bool tn_egress_by_peer(const struct tn_egress *e);
/* PROXY mode: is there a proxy that is not known to be down? */
bool tn_egress_usable(const struct tn_egress *e);
/* on_health is called when a proxy goes down or is back, also from inside a call to here, and asks this room for
 * its state at most. While there is one, proxies are probed also when nobody uses the exit. NULL ends it. */
void tn_egress_watch(struct tn_egress *e, void (*on_health)(void *ctx), void *ctx);
/* Has IPv6 a way for this peer, as far as it can be known? HOST mode: with a route to the internet (looked up once a second at
 * most). PROXY mode: by the rules, to a proxy that did not say lately that it does not know such addresses. */
bool tn_egress_has_ipv6(struct tn_egress *e, uint64_t peer);
/* The same for UDP. PROXY mode: by a SOCKS5 proxy, where UDP ASSOCIATE is asked for at all and was not refused or in vain. */
bool tn_egress_has_udp(struct tn_egress *e, uint64_t peer);
/* Called before (true) and after what one look at a socket of datagrams brings, so that the owner can send on together what
 * comes together. NULL: not called. */
void tn_egress_set_batch(struct tn_egress *e, void (*on_batch)(void *ctx, bool begins), void *ctx);
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
 * that this node routes (subnet.h), never by a proxy; FORWARD becomes it by its destination, and nobody asks for it. */
enum tn_egress_purpose { TN_EGRESS_FORWARD, TN_EGRESS_RESOLVER, TN_EGRESS_CHECK, TN_EGRESS_SUBNET };

/* Where a flow is to go and for whom. Borrowed during the call only. */
struct tn_egress_target {
    struct tn_addrport dst;
    /* The name for which proxied DNS lately gave this peer dst.ip, and only this one; NULL: none, or ambiguous. Lower
     * case, without a dot at the end. For rules by domain, and for proxies that are told names. */
    const char *name;
    uint64_t peer; /* its node ID: the limits per peer, sticky choice of a proxy, rules by source; 0: nobody */
    enum tn_egress_purpose purpose;
    const char *via; /* CHECK only: this proxy and no other, whatever the rules say; NULL: as they say */
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
    /* Health: OK while one proxy of each group works, else what was last wrong with one of the group's (OK at first,
     * after a proxied dial that succeeded, and after one for which the proxy reported on the destination). */
    enum tn_egress_fail last_proxy_fail;
};
void tn_egress_stats(const struct tn_egress *e, struct tn_egress_stats *out);

/* Dial latency: from the wish to the open connection. Upper bounds in milliseconds; the last bucket has none. */
enum { TN_EGRESS_BUCKETS = 12 };
extern const unsigned tn_egress_bucket_ms[TN_EGRESS_BUCKETS - 1];

enum tn_egress_proxy_state { TN_EGRESS_PROXY_UP, TN_EGRESS_PROXY_DOWN, TN_EGRESS_PROXY_TRYING, TN_EGRESS_PROXY_UNTRIED };
struct tn_egress_proxy_stats {
    const char *name, *group; /* borrowed until the loop turns */
    const struct tn_proxy *proxy;
    unsigned weight, flows, dials;
    enum tn_egress_proxy_state state;
    enum tn_egress_fail last_fail;
    uint64_t opened, bytes_up, bytes_down, failed[TN_EGRESS_FAIL_COUNT];
    uint64_t latency[TN_EGRESS_BUCKETS], latency_sum_us;
};
/* The proxies of the policy in force, in its order. Returns false beyond the last. */
bool tn_egress_proxy_at(const struct tn_egress *e, size_t i, struct tn_egress_proxy_stats *out);

struct tn_egress_peer_stats {
    uint64_t peer, opened, refused, bytes_up, bytes_down;
    unsigned flows, dials;
};
/* Every peer that ever dialed and was not forgotten. */
void tn_egress_each_peer(struct tn_egress *e, void (*fn)(void *arg, const struct tn_egress_peer_stats *s), void *arg);

/* Would the guard let this destination through? For tests and status. */
bool tn_egress_allowed(struct tn_egress *e, const struct tn_addrport *dst);

#endif
