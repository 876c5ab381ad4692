/* The ts2021 transport: Noise IK between a machine key and a control server's key, then records.
 *
 * An engine for both ends: the node initiates, the dev control server responds. Bytes in, bytes out; no I/O. The
 * initiation travels in the HTTP upgrade's header, so it is made and read whole; everything after it is a stream that
 * may be cut anywhere. Layouts and limits: control/controlbase/{messages,handshake,conn}.go of v1.102.5. */
#ifndef TN_CONTROL_NOISE_CONN_H
#define TN_CONTROL_NOISE_CONN_H

#include "crypto/keys.h"
#include "util/buf.h"
#include "util/rng.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TN_NOISE_INIT_LEN = 101,
    TN_NOISE_RESP_LEN = 51,
    TN_NOISE_FRAME_MAX = 4096, /* controlbase maxMessageSize, header included */
    TN_NOISE_HEADER = 3,
    TN_NOISE_PLAIN_MAX = TN_NOISE_FRAME_MAX - TN_NOISE_HEADER - 16,
};

struct tn_noise_conn;

/* Fresh ephemeral each time; init is what X-Tailscale-Handshake carries (in standard base64). version is the
 * capability version. TN_E_CRYPTO for a low-order server key, TN_E_NOMEM. */
int tn_noise_conn_initiate(const struct tn_machine_private *machine, const struct tn_machine_public *server,
                           uint16_t version, const struct tn_rng *rng, uint8_t init[TN_NOISE_INIT_LEN],
                           struct tn_noise_conn **out);

/* The server's side: reads a whole initiation and gives the response to send right behind the 101. Established at
 * once. TN_E_MALFORMED for another length or type, TN_E_CRYPTO when it was not made for this key, TN_E_NOMEM. */
int tn_noise_conn_respond(const struct tn_machine_private *server, const struct tn_rng *rng, const void *init,
                          size_t len, uint8_t resp[TN_NOISE_RESP_LEN], struct tn_noise_conn **out);
void tn_noise_conn_free(struct tn_noise_conn *c); /* wipes; NULL is fine */

/* Decrypted bytes, borrowed for the call, at most TN_NOISE_PLAIN_MAX at a time and never none. A non-zero return ends
 * the input at once with that value. Must not free the connection nor call its input. */
typedef int tn_noise_plain(void *arg, const uint8_t *bytes, size_t len);

/* Bytes from the network, from the first one after the 101. 0, or the connection is dead: TN_E_REFUSED (the server
 * sent an error message: tn_noise_conn_refusal), TN_E_PROTO (unexpected type or length), TN_E_TOOBIG, TN_E_CRYPTO,
 * TN_E_LIMIT (nonces used up), TN_E_NOMEM, what plain returned, and TN_E_CLOSED ever after. */
int tn_noise_conn_input(struct tn_noise_conn *c, const void *bytes, size_t len, tn_noise_plain *plain, void *arg);

/* Appends len bytes as records to out. 0, or the connection is dead (TN_E_TOOBIG: out is full). len 0 appends
 * nothing. TN_E_NOTCONN before the handshake is done. */
int tn_noise_conn_seal(struct tn_noise_conn *c, const void *bytes, size_t len, struct tn_buf *out);

bool tn_noise_conn_established(const struct tn_noise_conn *c);
uint16_t tn_noise_conn_version(const struct tn_noise_conn *c);
const struct tn_machine_public *tn_noise_conn_peer(const struct tn_noise_conn *c); /* their static key */
/* The server's unauthenticated words after TN_E_REFUSED (a hint for a log line, cut at some length); never NULL. */
const char *tn_noise_conn_refusal(const struct tn_noise_conn *c);

/* The server's way to say no instead of a response: an error message with this text. 0 or tn_buf_append's codes. */
int tn_noise_refuse(const char *text, struct tn_buf *out);

#endif
