/* Whose question goes on the connection next.
 *
 * Streams do not wait for each other, but an upstream takes only so many at once (a hundred, mostly), and one that waits for a slow
 * name's server holds its stream for seconds. Peers share the connection, so a peer with many such names would take all streams, and
 * everybody else's names would wait for its. So each peer has a line of its own, the lines take turns, and a peer that holds
 * some has its turn only while they are less than twice what it leaves free: alone it may hold two thirds, two such peers two fifths
 * each. Who has none finds one: when many came in a row and all are taken, whoever holds most gives up the one that it has held for
 * longest, and asks that once more in its turn. What one peer's names wait for is a stream of its own.
 *
 * On a connection that is one peer's (ways.h) nobody is kept out, and it may hold all. */
#include "dns/doh_internal.h"
#include "util/err.h"

#include <stdlib.h>

struct tn_doh_line {
    struct tn_hnode node;   /* in doh->lines */
    struct tn_list turn;    /* in doh->turns while somebody waits here */
    struct tn_list waiting; /* of queries, the oldest first */
    struct tn_list asked;   /* of those that are on streams, the longest first */
    struct tn_list holding; /* in doh->holders while there are such */
    uint64_t peer;
    unsigned held, queries; /* streams; and all that are not over */
};

/* Peers are numbered by the control server: spread is enough (the golden ratio's bits, the high ones of the product). */
static uint64_t hash_peer(uint64_t peer) { return peer * 0x9e3779b97f4a7c15ull >> 20; }

static bool same_peer(const struct tn_hnode *node, const void *key)
{
    return TN_CONTAINER(node, struct tn_doh_line, node)->peer == *(const uint64_t *)key;
}

static struct tn_doh_line *line_of(struct tn_doh *d, uint64_t peer)
{
    struct tn_hnode *node = tn_htable_find(&d->lines, hash_peer(peer), same_peer, &peer);
    if (node) return TN_CONTAINER(node, struct tn_doh_line, node);
    struct tn_doh_line *line = calloc(1, sizeof *line);
    if (!line) return NULL;
    line->peer = peer;
    tn_list_init(&line->turn);
    tn_list_init(&line->waiting);
    tn_list_init(&line->asked);
    tn_list_init(&line->holding);
    if (tn_htable_insert(&d->lines, &line->node, hash_peer(peer)) == 0) return line;
    free(line);
    return NULL;
}

static void expect_turn(struct tn_doh *d, struct tn_doh_line *line)
{
    if (tn_list_empty(&line->turn)) tn_list_push_back(&d->turns, &line->turn);
}

static void stop_waiting(struct tn_doh_query *q)
{
    tn_list_remove(&q->waiting);
    if (tn_list_empty(&q->line->waiting)) tn_list_remove(&q->line->turn);
}

int tn_doh_line_enter(struct tn_doh_query *q, uint64_t peer)
{
    q->line = line_of(q->doh, peer);
    if (!q->line) return TN_E_NOMEM;
    q->line->queries++;
    tn_list_push_back(&q->line->waiting, &q->waiting);
    expect_turn(q->doh, q->line);
    return 0;
}

/* The line's first one, and the line goes to the end of those that wait. */
static struct tn_doh_query *take_turn(struct tn_doh *d, struct tn_doh_line *line)
{
    tn_list_remove(&line->turn);
    tn_list_push_back(&d->turns, &line->turn);
    return TN_CONTAINER(line->waiting.next, struct tn_doh_query, waiting);
}

/* May this line have one of the vacant streams? */
static bool may_hold(const struct tn_doh *d, const struct tn_doh_line *line, size_t vacant)
{
    return vacant > 0 && (d->config.peer || line->held == 0 || line->held < 2 * (vacant - 1));
}

/* One for who has none. False when nobody has two. */
static bool take_back(struct tn_doh *d)
{
    struct tn_doh_line *most = NULL;
    TN_LIST_EACH(l, &d->holders) {
        struct tn_doh_line *line = TN_CONTAINER(l, struct tn_doh_line, holding);
        if (!most || line->held > most->held) most = line;
    }
    if (!most || most->held < 2) return false;
    struct tn_doh_query *q = TN_CONTAINER(most->asked.next, struct tn_doh_query, waiting);
    tn_doh_h2_forget(d, q);
    q->attempts--; /* it is no fault of the connection's */
    tn_doh_line_again(q);
    return true;
}

struct tn_doh_query *tn_doh_line_next(struct tn_doh *d)
{
    size_t streams = tn_doh_h2_streams(d), held = d->streams.count, vacant = streams > held ? streams - held : 0;
    TN_LIST_EACH(l, &d->turns) {
        struct tn_doh_line *line = TN_CONTAINER(l, struct tn_doh_line, turn);
        bool may = may_hold(d, line, vacant) || (line->held == 0 && held > 0 && held == streams && take_back(d));
        if (may) return take_turn(d, line);
    }
    return NULL;
}

void tn_doh_line_took(struct tn_doh_query *q)
{
    struct tn_doh_line *line = q->line;
    stop_waiting(q);
    tn_list_push_back(&line->asked, &q->waiting);
    if (line->held++ == 0) tn_list_push_back(&q->doh->holders, &line->holding);
}

void tn_doh_line_gave(struct tn_doh_query *q)
{
    struct tn_doh_line *line = q->line;
    tn_list_remove(&q->waiting);
    if (--line->held == 0) tn_list_remove(&line->holding);
}

void tn_doh_line_again(struct tn_doh_query *q)
{
    tn_list_push_front(&q->line->waiting, &q->waiting);
    expect_turn(q->doh, q->line);
}

void tn_doh_line_leave(struct tn_doh_query *q)
{
    struct tn_doh_line *line = q->line;
    if (!line) return;
    stop_waiting(q);
    q->line = NULL;
    if (--line->queries > 0) return;
    tn_list_remove(&line->holding); /* in it at the very end only, when streams end with everything */
    tn_htable_remove(&q->doh->lines, &line->node);
    free(line);
}
