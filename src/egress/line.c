/* A peer's line before the proxies.
 *
 * A proxy has room for so many handshakes at once, and somebody who wants thousands of them (a scanner, a crawler, a client whose
 * network came back) would take it all: others' dials then wait for the proxy behind his. So a peer asks for at most TN_LINE_ASKING
 * destinations at a time, and further dials of that peer wait here, in the order they came, without a socket. One leaves the line
 * when an earlier one has its answer, whatever that was, or when its own time is over. Other peers have lines of their own. */
#include "egress/private.h"

bool tn_line_may_ask(struct tn_egress_conn *c)
{
    struct tn_share *s = c->share;
    if (!s || c->asking) return true;
    if (s->asking >= TN_LINE_ASKING) return false;
    s->asking++;
    return c->asking = true;
}

int tn_line_wait(struct tn_egress_conn *c)
{
    if (tn_dial_arm(c, c->dialing->end_us) != 0) return TN_EGRESS_FAIL_FDS;
    tn_list_push_back(&c->share->line, &c->dialing->waiting);
    tn_conn_set_state(c, TN_CONN_WAITING);
    return 0;
}

/* Its turn is taken here, so that nobody comes in between, and used with its next step. */
void tn_line_asked(struct tn_egress_conn *c)
{
    if (!c->asking) return;
    c->asking = false;
    c->share->asking--;
    struct tn_list *first = tn_list_pop_front(&c->share->line);
    if (!first) return;
    struct tn_egress_conn *next = TN_CONTAINER(first, struct tn_dialing, waiting)->conn;
    (void)tn_line_may_ask(next);
    tn_run_queue(next);
}
