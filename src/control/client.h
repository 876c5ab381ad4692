/* The inside of the control client, shared by its parts: control.c (the public calls and the order of things),
 * login.c (register), poll.c (map stream), update.c (lite updates), ping.c (pings and c2n).
 *
 * Three loops, each with its own backoff, share one link: login until there is a usable node key, then the map
 * poll, and beside it updates. Every way in (public calls, timeouts, events of requests and of the link) is
 * bracketed by tn_client_enter and tn_client_leave; the outermost leave starts whatever is due and then tells the
 * owner what changed, so that callbacks never see a half-made step and may call back in. */
#ifndef TN_CONTROL_CLIENT_H
#define TN_CONTROL_CLIENT_H

#include "control/backoff.h"
#include "control/control.h"
#include "control/link.h"
#include "control/mapframe.h"
#include "control/netmap_merge.h"
#include "control/selfinfo.h"
#include "util/heap.h"

#define TN_CLIENT_SECONDS(n) ((uint64_t)(n) * 1000 * 1000)

enum {
    TN_CLIENT_TEXT = 320,
    TN_CLIENT_BODY_MAX = 1 << 20, /* register responses, as the Go client bounds them */
    TN_CLIENT_HELD_MAX = 16 << 20, /* messages that come while the server made us pause */
    TN_CLIENT_PINGS = 8,          /* pings of peers the server may have us do at once */
    TN_CLIENT_FETCHES = 4,        /* pings outside of Noise at once */
    TN_CLIENT_URLS = 32,          /* ping URLs remembered, to act on each once */
};

struct tn_login {
    bool wanted;      /* until it succeeds or fails for good */
    bool failed;      /* for good: waits for the owner */
    bool interactive; /* a person asked: the auth key is not used */
    bool renewing;    /* only because our key expired: moot when the server extends it */
    bool regen;       /* the next attempt makes a new node key */
    bool with_auth;   /* the next attempt carries the auth key */
    bool sent_auth;   /* the one under way does */
    bool try_old;     /* the saved state was amid a rotation: its old key may still be good */
    unsigned renewals; /* of an expired key in a row, without a netmap that has a valid one */
    unsigned regens;  /* keys made in a row because the server called the last one expired */
    char *followup;   /* the URL a person has to visit */
    char *told_url;   /* the last one given to the owner */
    struct tn_node_private trial; /* zero: none */
    struct tn_h2_req *req;
    int status;
    uint64_t retry_us; /* from a 429 */
    struct tn_buf body;
    struct tn_backoff backoff;
    uint64_t at_us, deadline_us;
};

struct tn_poll {
    struct tn_h2_req *req;
    int status;
    bool merged; /* the stream's first real response has come */
    struct tn_mapframe frames;
    struct tn_buf held; /* messages that came during a sleep, framed again */
    uint64_t sleep_us;  /* the server asked us to pause until then; 0: no */
    uint64_t watchdog_us;
    struct tn_backoff backoff;
    uint64_t at_us;
};

struct tn_update {
    uint64_t wanted, sent, acked; /* generations of what we tell */
    struct tn_h2_req *req;
    int status;
    struct tn_backoff backoff;
    uint64_t at_us, deadline_us;
};

struct tn_logout {
    bool under_way, answered;
    bool with_auth; /* the server would not take it without the auth key */
    void (*done)(void *ctx, int err);
    void *ctx;
    int status, err;
    struct tn_h2_req *req;
    struct tn_buf body;
    uint64_t deadline_us;
};

/* A ping that the owner does for the server. */
struct tn_ping_slot {
    uint64_t token; /* 0: free */
    char *url;
    bool noise;
    struct tn_ip ip;
    uint64_t expires_us;
};

struct tn_control {
    struct tn_control_config config;
    struct tn_weburl url;
    struct tn_link *link;
    struct tn_selfinfo self;
    struct tn_netmap *netmap;
    struct tn_node_private current; /* the key the map is polled with; zero: none */
    struct tn_control_identity saved;
    struct tn_login login;
    struct tn_poll poll;
    struct tn_update update;
    struct tn_logout logout;
    struct tn_ping_slot pings[TN_CLIENT_PINGS];
    struct tn_fetch *fetches[TN_CLIENT_FETCHES];
    uint64_t seen_urls[TN_CLIENT_URLS];
    size_t next_url;
    uint64_t next_token;
    struct tn_hashkey hash;
    bool started, logged_in, reconnecting;
    int64_t clock_delta_s; /* server's clock minus ours, where that is over a minute */
    uint64_t expiry_us;    /* when to look at key expiries again */
    char *popped_url;      /* the last PopBrowserURL */
    enum tn_control_state state;
    char text[TN_CLIENT_TEXT];
    bool tell_state;
    unsigned netmap_changes; /* to be told */
    unsigned depth;
    uint64_t now_us;
};

/* control.c */
void tn_client_enter(struct tn_control *c, uint64_t now_us);
void tn_client_leave(struct tn_control *c);
/* the state's text */
void tn_client_say(struct tn_control *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int64_t tn_client_wallclock(const struct tn_control *c);
int64_t tn_client_control_time(const struct tn_control *c);
/* Saves {node, old_node}; 0 or the owner's code. Nothing is called when it is already saved so. */
int tn_client_save(struct tn_control *c, const struct tn_node_private *node, const struct tn_node_private *old_node);
/* POSTs JSON over the link; takes the reference. lb: up to two node keys as hints. */
int tn_client_post(struct tn_control *c, const char *path, json_t *body_owned, const struct tn_node_private *lb0,
                   const struct tn_node_private *lb1, const struct tn_h2_events *events, struct tn_h2_req **out);
/* its public half, or zeros */
void tn_client_set_key(json_t *o, const char *name, const struct tn_node_private *key);
struct tn_netmap_sink tn_client_sink(struct tn_control *c);

/* login.c */
void tn_login_init(struct tn_control *c);
void tn_login_fini(struct tn_control *c);
void tn_login_begin(struct tn_control *c, bool regen);        /* a key is needed, without a person asking */
void tn_login_interactive(struct tn_control *c);
void tn_login_cancel(struct tn_control *c);                   /* drops the request and the goal */
void tn_login_run(struct tn_control *c);                      /* sends if it is time */
void tn_login_timeout(struct tn_control *c);
uint64_t tn_login_next(const struct tn_control *c);
void tn_logout_begin(struct tn_control *c, void (*done)(void *ctx, int err), void *ctx);
void tn_logout_run(struct tn_control *c);
void tn_logout_timeout(struct tn_control *c);

/* poll.c */
void tn_poll_cancel(struct tn_control *c);
void tn_poll_run(struct tn_control *c);
void tn_poll_timeout(struct tn_control *c);
uint64_t tn_poll_next(const struct tn_control *c);

/* update.c */
json_t *tn_update_request(struct tn_control *c, bool stream); /* a MapRequest */
void tn_update_want(struct tn_control *c);
void tn_update_cancel(struct tn_control *c);
void tn_update_run(struct tn_control *c);
void tn_update_timeout(struct tn_control *c);
uint64_t tn_update_next(const struct tn_control *c);

/* ping.c */
void tn_ping_handle(struct tn_control *c, const json_t *request);
void tn_ping_fini(struct tn_control *c);
void tn_ping_timeout(struct tn_control *c);
uint64_t tn_ping_next(const struct tn_control *c);

#endif
