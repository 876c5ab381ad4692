/* The key types of a tailnet and their text forms (types/key/{node,machine,disco}.go).
 *
 * Every kind is a type of its own, so that the compiler catches a disco key where a node key belongs. Private keys
 * are wiped by their owner (tn_wipe); only the state file writes their text form. */
#ifndef TN_CRYPTO_KEYS_H
#define TN_CRYPTO_KEYS_H

#include "util/rng.h"
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define TN_KEY_TYPE(name)                                                                                         \
    struct name {                                                                                                 \
        uint8_t b[32];                                                                                            \
    };
TN_KEY_TYPE(tn_node_private)
TN_KEY_TYPE(tn_node_public)
TN_KEY_TYPE(tn_machine_private)
TN_KEY_TYPE(tn_machine_public)
TN_KEY_TYPE(tn_disco_private)
TN_KEY_TYPE(tn_disco_public)
#undef TN_KEY_TYPE

enum { TN_KEY_STRLEN = 88 }; /* the longest text form below and its NUL */

/* Clamped X25519 keys. */
void tn_node_private_generate(struct tn_node_private *out, const struct tn_rng *rng);
void tn_machine_private_generate(struct tn_machine_private *out, const struct tn_rng *rng);
void tn_disco_private_generate(struct tn_disco_private *out, const struct tn_rng *rng);
void tn_node_public_of(const struct tn_node_private *key, struct tn_node_public *out);
void tn_machine_public_of(const struct tn_machine_private *key, struct tn_machine_public *out);
void tn_disco_public_of(const struct tn_disco_private *key, struct tn_disco_public *out);

/* "nodekey:", "mkey:", "discokey:", "privkey:" + 64 hex digits. Parsing takes either case and the exact length;
 * TN_E_MALFORMED otherwise. Formats return buf. */
const char *tn_node_public_format(const struct tn_node_public *k, char buf[TN_KEY_STRLEN]);
const char *tn_machine_public_format(const struct tn_machine_public *k, char buf[TN_KEY_STRLEN]);
const char *tn_disco_public_format(const struct tn_disco_public *k, char buf[TN_KEY_STRLEN]);
int tn_node_public_parse(const char *text, struct tn_node_public *out);
int tn_machine_public_parse(const char *text, struct tn_machine_public *out);
int tn_disco_public_parse(const char *text, struct tn_disco_public *out);
/* For the state file only. */
const char *tn_node_private_format(const struct tn_node_private *k, char buf[TN_KEY_STRLEN]);
const char *tn_machine_private_format(const struct tn_machine_private *k, char buf[TN_KEY_STRLEN]);
int tn_node_private_parse(const char *text, struct tn_node_private *out);
int tn_machine_private_parse(const char *text, struct tn_machine_private *out);
/* "[AbCdE]": the first five base64 characters, for log lines; buf has 8 bytes. */
const char *tn_node_public_short(const struct tn_node_public *k, char buf[8]);

/* Public keys are not secret: plain comparison. All zeros means "none". */
static inline bool tn_node_public_eq(const struct tn_node_public *a, const struct tn_node_public *b)
{
    return memcmp(a, b, 32) == 0;
}
static inline bool tn_disco_public_eq(const struct tn_disco_public *a, const struct tn_disco_public *b)
{
    return memcmp(a, b, 32) == 0;
}
bool tn_key_is_zero(const uint8_t key[32]); /* constant time */

#endif
