/* What the parts of the DoH client share. doh.c owns queries, time and callbacks; doh_line.c whose turn it is; doh_conn.c the
 * egress connection and TLS; doh_h2.c the HTTP/2 session. The parts below never call answers: they set verdicts (tn_doh_verdict) or end
 * the connection (conn_err), and doh.c acts on both when the turn is over, so that no callback runs inside nghttp2 or
 * a read loop. */
#ifndef TN_DNS_DOH_INTERNAL_H
#define TN_DNS_DOH_INTERNAL_H

#include "dns/doh.h"
#include "util/buf.h"
#include "util/htable.h"
#include "util/list.h"

#include <nghttp2/nghttp2.h>

enum { TN_DOH_ATTEMPTS_MAX = 2 }; /* submissions of one query: a kept connection may die as it is used */

enum tn_doh_state { TN_DOH_CLOSED, TN_DOH_DIALING, TN_DOH_TLS, TN_DOH_OPEN };

struct tn_doh_line; /* a peer's (doh_line.c) */

struct tn_doh_query {
    struct tn_list link;   /* in doh->queries (oldest first, so nearest deadline first) or doh->finished */
    struct tn_hnode node;  /* in doh->streams while stream != 0 */
    struct tn_doh *doh;
    struct tn_doh_line *line; /* NULL once it is finished */
    struct tn_list waiting;   /* in its line's: those that wait, or those on streams */
    uint64_t deadline_us, progress; /* progress: the connection's count when the query was asked */
    uint8_t *query;        /* its ID zeroed */
    size_t len, sent;
    uint16_t id;
    unsigned attempts;
    int32_t stream;        /* 0: not on the connection */
    int status;            /* HTTP */
    bool type_ok, probed;
    struct tn_buf body;
    bool finished;         /* has a verdict and is in doh->finished */
    int err;               /* the verdict */
    void (*answer)(void *arg, int err, const uint8_t *bytes, size_t len);
    void *arg;
};

struct tn_doh {
    struct tn_doh_config config;
    struct tn_doh_url url;
    struct tn_list queries, finished;
    struct tn_htable streams;
    struct tn_htable lines;   /* by peer */
    struct tn_list turns;     /* of lines with somebody in them, the next one first */
    struct tn_list holders;   /* of lines with streams */
    size_t asked, count;      /* in queries; in either list */
    size_t body_bytes;        /* of all bodies */
    uint64_t last_ask_us, quiet_until_us;
    bool busy;                /* inside a turn: asks and cancels only change lists */
    int health;
    char health_text[160];
    /* The connection. */
    enum tn_doh_state state;
    enum tn_egress_mode mode; /* it was dialed under */
    struct tn_egress_conn *conn;
    struct tn_tls *tls;
    nghttp2_session *h2;
    bool settled;             /* the upstream has said how many streams it takes */
    uint64_t progress;        /* counts openings and reads: tells a slow upstream from a dead one */
    int want;                 /* events asked of the egress */
    int conn_err;             /* set: the connection is to be given up */
};

/* doh.c */
void tn_doh_verdict(struct tn_doh_query *q, int err);
void tn_doh_turn(struct tn_doh *d); /* after an event: acts on what it changed, then calls answers */
void tn_doh_set_health(struct tn_doh *d, int err, const char *text);

/* doh_line.c */
int tn_doh_line_enter(struct tn_doh_query *q, uint64_t peer); /* 0 or TN_E_NOMEM */
struct tn_doh_query *tn_doh_line_next(struct tn_doh *d);      /* whose turn it is; NULL: nobody's now. It stays in its line */
void tn_doh_line_took(struct tn_doh_query *q);  /* a stream */
void tn_doh_line_gave(struct tn_doh_query *q);  /* its stream back; again or leave follow */
void tn_doh_line_again(struct tn_doh_query *q); /* the first of its line once more */
void tn_doh_line_leave(struct tn_doh_query *q); /* it is over; without a stream */

/* doh_conn.c */
int tn_doh_conn_open(struct tn_doh *d);   /* 0 or why the dial was refused at once */
void tn_doh_conn_close(struct tn_doh *d); /* from any state; sends what a polite end needs if it can be sent now */
void tn_doh_conn_flush(struct tn_doh *d);

/* doh_h2.c */
int tn_doh_h2_new(struct tn_doh *d);
int tn_doh_h2_input(struct tn_doh *d, const uint8_t *bytes, size_t len); /* 0 or the connection's error */
int tn_doh_h2_output(struct tn_doh *d);                                  /* moves frames into the TLS engine */
size_t tn_doh_h2_streams(const struct tn_doh *d);                       /* that the upstream takes at once */
int tn_doh_h2_submit(struct tn_doh *d, struct tn_doh_query *q);
void tn_doh_h2_lost(struct tn_doh *d, struct tn_doh_query *q);   /* its stream is gone with the connection */
void tn_doh_h2_forget(struct tn_doh *d, struct tn_doh_query *q); /* takes it off its stream; the upstream is told */

#endif
