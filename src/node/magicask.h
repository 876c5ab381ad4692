/* One question of this host's to somebody else: to servers, one after the other, or to the exit node in use. */
#ifndef TN_NODE_MAGICASK_H
#define TN_NODE_MAGICASK_H

#include "node/node.h"

struct tn_magicask;

enum { TN_MAGICASK_QUERY_MAX = 1024 };

struct tn_magicask_config {
    struct tn_node *node;
    const uint8_t *query; /* copied; at most TN_MAGICASK_QUERY_MAX */
    size_t len;
    const struct tn_addrport *servers; /* copied, up to TN_MAGIC_SERVERS_MAX; none, and not exit: SERVFAIL */
    size_t nservers;
    bool exit; /* the exit node in use, and nobody else */
    bool tcp;  /* the client's way, and so that to servers: who came by UDP is told when an answer does not fit */
    /* An answer for the client, under the query's ID. Once, never before start returned, unless canceled; the ask is gone
     * then. */
    void (*done)(void *arg, const uint8_t *bytes, size_t len);
    void *arg;
};

struct tn_magicask *tn_magicask_start(const struct tn_magicask_config *config); /* NULL: no memory, or too long */
void tn_magicask_cancel(struct tn_magicask *a);
void tn_magicask_timeout(struct tn_magicask *a, uint64_t now_us);
uint64_t tn_magicask_deadline(const struct tn_magicask *a);

#endif
