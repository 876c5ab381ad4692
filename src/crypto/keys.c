#include "crypto/keys.h"
#include "crypto/noise.h"
#include "util/err.h"
#include "util/text.h"

static void generate(uint8_t key[32], const struct tn_rng *rng)
{
    tn_rng_fill(rng, key, 32);
    key[0] &= 248;
    key[31] = (uint8_t)((key[31] & 127) | 64);
}

void tn_node_private_generate(struct tn_node_private *out, const struct tn_rng *rng) { generate(out->b, rng); }
void tn_machine_private_generate(struct tn_machine_private *out, const struct tn_rng *rng) { generate(out->b, rng); }
void tn_disco_private_generate(struct tn_disco_private *out, const struct tn_rng *rng) { generate(out->b, rng); }

void tn_node_public_of(const struct tn_node_private *key, struct tn_node_public *out)
{
    tn_x25519_base(out->b, key->b);
}
void tn_machine_public_of(const struct tn_machine_private *key, struct tn_machine_public *out)
{
    tn_x25519_base(out->b, key->b);
}
void tn_disco_public_of(const struct tn_disco_private *key, struct tn_disco_public *out)
{
    tn_x25519_base(out->b, key->b);
}

static const char *format(const char *prefix, const uint8_t key[32], char buf[TN_KEY_STRLEN])
{
    size_t n = strlen(prefix);
    memcpy(buf, prefix, n);
    tn_hex_encode(key, 32, buf + n);
    return buf;
}

static int parse(const char *prefix, const char *text, uint8_t key[32])
{
    size_t n = strlen(prefix);
    if (strncmp(text, prefix, n) != 0) return TN_E_MALFORMED;
    return tn_hex_decode(text + n, key, 32);
}

static const char node_prefix[] = "nodekey:", machine_prefix[] = "mkey:", disco_prefix[] = "discokey:",
                  private_prefix[] = "privkey:";

const char *tn_node_public_format(const struct tn_node_public *k, char buf[TN_KEY_STRLEN])
{
    return format(node_prefix, k->b, buf);
}
const char *tn_machine_public_format(const struct tn_machine_public *k, char buf[TN_KEY_STRLEN])
{
    return format(machine_prefix, k->b, buf);
}
const char *tn_disco_public_format(const struct tn_disco_public *k, char buf[TN_KEY_STRLEN])
{
    return format(disco_prefix, k->b, buf);
}
const char *tn_node_private_format(const struct tn_node_private *k, char buf[TN_KEY_STRLEN])
{
    return format(private_prefix, k->b, buf);
}
const char *tn_machine_private_format(const struct tn_machine_private *k, char buf[TN_KEY_STRLEN])
{
    return format(private_prefix, k->b, buf);
}

int tn_node_public_parse(const char *text, struct tn_node_public *out) { return parse(node_prefix, text, out->b); }
int tn_machine_public_parse(const char *text, struct tn_machine_public *out)
{
    return parse(machine_prefix, text, out->b);
}
int tn_disco_public_parse(const char *text, struct tn_disco_public *out) { return parse(disco_prefix, text, out->b); }
int tn_node_private_parse(const char *text, struct tn_node_private *out)
{
    return parse(private_prefix, text, out->b);
}
int tn_machine_private_parse(const char *text, struct tn_machine_private *out)
{
    return parse(private_prefix, text, out->b);
}

const char *tn_node_public_short(const struct tn_node_public *k, char buf[8])
{
    char b64[TN_BASE64_LEN(32)];
    tn_base64_encode(TN_BASE64_STD, k->b, 32, b64);
    buf[0] = '[';
    memcpy(buf + 1, b64, 5);
    buf[6] = ']';
    buf[7] = '\0';
    return buf;
}

bool tn_key_is_zero(const uint8_t key[32])
{
    uint8_t any = 0;
    for (int i = 0; i < 32; i++) any |= key[i];
    return any == 0;
}
