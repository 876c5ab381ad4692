/* The early payload: what a control server may say inside Noise before HTTP/2 begins (control/ts2021/conn.go).
 *
 *   ff ff ff 'T' 'S' | length u32 BE | JSON {"nodeKeyChallenge": "chalpub:..."}
 *
 * The first nine bytes decide: anything else is already HTTP/2. The node ignores the content, so it is skipped
 * without being kept; it may be cut by records and reads anywhere. */
#ifndef TN_CONTROL_EARLY_H
#define TN_CONTROL_EARLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TN_EARLY_HEADER = 9, TN_EARLY_MAX = 10 << 20 }; /* controlclient's own cap */

struct tn_early { /* zeroed at start */
    uint8_t head[TN_EARLY_HEADER];
    uint8_t have;
    bool done;
    uint32_t skip; /* payload bytes still to drop */
};

/* Bytes of HTTP/2, borrowed for the call. A non-zero return ends the input with that value. */
typedef int tn_early_rest(void *arg, const uint8_t *bytes, size_t len);

/* Plaintext as it comes. 0, TN_E_TOOBIG for a payload over the cap, or what rest returned. */
int tn_early_input(struct tn_early *e, const uint8_t *bytes, size_t len, tn_early_rest *rest, void *arg);

/* The server's side: the header before a payload of len bytes (at most TN_EARLY_MAX). */
void tn_early_header(uint8_t out[TN_EARLY_HEADER], uint32_t len);

#endif
