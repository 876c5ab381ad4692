/* The dev server's state directory (0700, files 0600, replaced atomically):
 *
 *   lock          held while a server runs
 *   keys.json     the control server's machine key, the DERP server's key
 *   derp.pem      TLS key and certificate
 *   auth-key      the reusable auth key
 *   nodes.json    the registry
 *
 * A missing file is made; an unreadable one stops the start and stays as it is. */
#ifndef TN_DEV_STATE_H
#define TN_DEV_STATE_H

#include "dev/registry.h"
#include "util/secret.h"

struct tn_dev_state {
    char *dir;
    int lock; /* -1: none */
    struct tn_machine_private machine;
    struct tn_node_private derp;
    struct tn_secret *auth_key;
    char *pem; /* TLS key and certificate; wiped on close */
    size_t pem_len;
};

/* ip: what the certificate must name. auth_key: given by the user, not stored; NULL: the directory's. On failure why
 * gets one line and nothing stays open. */
int tn_dev_state_open(struct tn_dev_state *s, const char *dir, const struct tn_ip *ip, const char *auth_key,
                      int64_t unix_s, const struct tn_rng *rng, char *why, size_t whylen);
void tn_dev_state_close(struct tn_dev_state *s); /* wipes */
/* Into an empty registry; a missing file is an empty tailnet. */
int tn_dev_state_load_nodes(const struct tn_dev_state *s, struct tn_dev_registry *r, char *why, size_t whylen);
int tn_dev_state_save_nodes(const struct tn_dev_state *s, const struct tn_dev_registry *r);

#endif
