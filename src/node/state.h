/* What survives a restart: one JSON file, mode 0600, replaced atomically; and the lock that keeps others out.
 *
 * A file that can't be read or parsed is an error and stays as it is: keys are never overwritten by a guess. */
#ifndef TN_NODE_STATE_H
#define TN_NODE_STATE_H

#include "control/control.h"
#include "node/config.h"

struct tn_state {
    char *path;     /* NULL: nothing is kept */
    int lock_fd;    /* -1: none */
    struct tn_control_identity identity;
    char log_id[65]; /* 64 hex digits: Hostinfo.BackendLogID */
    /* Preferences as last saved; NULL or false: default. */
    char *login_server, *hostname, *exit_node;
    bool accept_routes;
    /* How often sessions at the proxies were rotated (egress.h): all together, and peers beside that, by node ID. */
    uint32_t exit_epoch;
    struct tn_state_epoch {
        uint64_t peer;
        uint32_t epoch;
    } *exit_epochs;
    size_t nexit_epochs;
};
enum { TN_STATE_EPOCHS_MAX = 4096 }; /* the one noted first gives way: some 100 KB of the file */

/* dir NULL: fresh keys, nothing kept. TN_E_BUSY: another node holds the directory; TN_E_STATE: the file is damaged; why gets
 * one line. On success keys are there (made and saved if there were none). */
int tn_state_open(struct tn_state *s, const char *dir, const struct tn_rng *rng, char why[200]);
void tn_state_close(struct tn_state *s); /* wipes, unlocks */
int tn_state_save(const struct tn_state *s);
/* Notes and saves it; peer 0: of all. TN_E_NOMEM, or why it could not be saved. */
int tn_state_set_epoch(struct tn_state *s, uint64_t peer, uint32_t epoch);
const char *tn_state_err_text(int err); /* why it could not be saved */
/* Fills what the configuration left unsaid from the state, then takes the result as the new preferences and saves them
 * if they changed. */
int tn_state_merge_prefs(struct tn_state *s, struct tn_config *c);

#endif
