/* The exit's egress as the node has it: made from the settings, changed while it runs. On the loop thread. */
#ifndef TN_NODE_EXIT_H
#define TN_NODE_EXIT_H

#include "node/node.h"

int tn_exit_new(struct tn_node *n); /* makes n->egress and gives it its policy */
/* Reads the settings anew (exitset.h, and the live ones of config.h) and puts them in force. 0, or an error with one line of why:
 * then exit traffic is off, and the live ones are as they were. cut: flows whose way the new settings do not have end. */
int tn_exit_reload(struct tn_node *n, bool cut, char why[200]);
/* These options together, put in force at once: all of them, or none (tn_config_change). TN_E_BUSY: a configuration file says
 * them. */
int tn_exit_set(struct tn_node *n, const struct tn_setting *settings, size_t count, bool cut, char why[200]);

/* New sessions at the proxies for this peer, or all (0), kept over a restart. TN_E_NOMEM. */
int tn_exit_rotate(struct tn_node *n, uint64_t peer);

/* exitlive.c: puts what has changed (enum tn_config_live) in force, but for the policy; before is what was. When it fails we
 * are no exit node. */
struct tn_exitlive_before {
    const struct tn_egress_route *routes;
    size_t nroutes;
};
void tn_exitlive_changed(struct tn_node *n, unsigned changed, const struct tn_exitlive_before *before, bool cut);

/* exitwatch.c: reloads when the configuration file, or a file that holds a secret of it, changes. */
int tn_exitwatch_new(struct tn_node *n);
void tn_exitwatch_free(struct tn_node *n);
void tn_exitwatch_again(struct tn_node *n); /* after a reload: other files may be named now */

/* proxytls.c */
extern const struct tn_egress_tls tn_proxytls_ops; /* without its ctx, which is a struct tn_tls_ctx */

#endif
