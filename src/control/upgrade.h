/* One attempt to reach the control server at one port: dial, HTTP/1.1 upgrade to ts2021, Noise handshake; and, if
 * it was the one that won, the encrypted connection from then on (controlhttp/client.go tryURLUpgrade).
 *
 * TLS here is only a way through middleboxes: its certificate is not checked, since Noise authenticates the
 * server. */
#ifndef TN_CONTROL_UPGRADE_H
#define TN_CONTROL_UPGRADE_H

#include "control/weburl.h"
#include "crypto/keys.h"
#include "util/rng.h"
#include "util/stream.h"
#include <stddef.h>
#include <stdint.h>

struct tn_upgrade;

struct tn_upgrade_spec {
    const struct tn_dialer *dialer; /* outlives the attempt */
    const char *host;               /* dialed and named in SNI */
    const char *authority;          /* Host header */
    uint16_t port;
    bool tls;
    const struct tn_machine_private *machine;
    const struct tn_machine_public *server;
    uint16_t version;
    const struct tn_rng *rng;
    uint64_t timeout_us; /* for the dial; the whole attempt's time is its owner's */
};

struct tn_upgrade_events {
    void (*established)(void *arg, struct tn_upgrade *u, uint64_t now_us);
    /* Plaintext after that. Non-zero stops the input; the owner then closes. */
    int (*plain)(void *arg, const uint8_t *bytes, size_t len, uint64_t now_us);
    /* Failed or ended: text says more than err. Never inside tn_upgrade_start; the owner frees, at once or later. */
    void (*closed)(void *arg, struct tn_upgrade *u, int err, const char *text, uint64_t now_us);
};

int tn_upgrade_start(const struct tn_upgrade_spec *spec, const struct tn_upgrade_events *events, void *arg,
                     struct tn_upgrade **out);
/* Closes at once, no callback. Not from inside established or plain. NULL is fine. */
void tn_upgrade_free(struct tn_upgrade *u);
/* Encrypts into the pending output; tn_upgrade_flush hands it to the stream. 0 or a negative code. */
int tn_upgrade_send(struct tn_upgrade *u, const uint8_t *bytes, size_t len);
int tn_upgrade_flush(struct tn_upgrade *u);

#endif
