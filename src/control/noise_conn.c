/* Message layouts (all lengths big-endian):
 *
 *   initiation  version 2 | 01 | 96 as 2 bytes | ephemeral 32 | sealed machine key 48 | tag 16
 *   response    02 | 48 as 2 bytes | ephemeral 32 | tag 16
 *   error       03 | length 2 | text            unauthenticated, only instead of a response
 *   record      04 | length 2 | ciphertext      nonce = 4 zero bytes, counter 8 big-endian; no associated data
 *
 * The prologue is "Tailscale Control Protocol v" and the version in decimal, so both ends agree on the version or the
 * first tag fails. A failed tag ends the connection: nothing after it can be trusted to be in order. */
#include "control/noise_conn.h"
#include "crypto/aead.h"
#include "crypto/noise.h"
#include "util/cursor.h"
#include "util/err.h"
#include "util/secret.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum message_type { MSG_INITIATION = 1, MSG_RESPONSE = 2, MSG_ERROR = 3, MSG_RECORD = 4 };
enum {
    KEY = 32,
    SEALED_KEY = KEY + TN_NOISE_TAG,
    INIT_PAYLOAD = KEY + SEALED_KEY + TN_NOISE_TAG,
    RESP_PAYLOAD = KEY + TN_NOISE_TAG,
    REFUSAL_MAX = 200, /* enough of a server's words for a log line */
};
_Static_assert(5 + INIT_PAYLOAD == TN_NOISE_INIT_LEN, "initiation layout");
_Static_assert(TN_NOISE_HEADER + RESP_PAYLOAD == TN_NOISE_RESP_LEN, "response layout");

enum conn_state { CONN_HANDSHAKE, CONN_OPEN, CONN_DEAD };

/* What only the handshake needs; freed when it ends. */
struct handshake {
    struct tn_noise_sym sym;
    struct tn_machine_private static_key, ephemeral;
};

struct direction {
    struct tn_aead *key;
    uint64_t counter;
};

struct tn_noise_conn {
    enum conn_state state;
    uint16_t version;
    struct tn_machine_public peer;
    struct handshake *hs; /* NULL once open */
    struct direction tx, rx;
    struct tn_buf partial; /* the beginning of a message; holds memory only while one is incomplete */
    char refusal[REFUSAL_MAX];
};

static void begin(struct tn_noise_sym *s, uint16_t version, const struct tn_machine_public *server)
{
    char prologue[48];
    int len = snprintf(prologue, sizeof prologue, "Tailscale Control Protocol v%u", version);
    tn_noise_init(s, "Noise_IK_25519_ChaChaPoly_BLAKE2s");
    tn_noise_mix_hash(s, prologue, (size_t)len);
    tn_noise_mix_hash(s, server->b, KEY);
}

/* MixKey(DH(ours, theirs)); the message key goes to key. */
static int mix_dh(struct tn_noise_sym *s, const uint8_t ours[KEY], const uint8_t theirs[KEY], uint8_t key[KEY])
{
    uint8_t shared[KEY];
    int err = tn_x25519(shared, ours, theirs);
    if (!err) tn_noise_mix_key(s, shared, sizeof shared, key);
    tn_wipe(shared, sizeof shared);
    return err;
}

static struct tn_noise_conn *conn_new(uint16_t version)
{
    struct tn_noise_conn *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->version = version;
    tn_buf_init(&c->partial, TN_NOISE_FRAME_MAX);
    c->hs = calloc(1, sizeof *c->hs);
    if (c->hs) return c;
    free(c);
    return NULL;
}

static void drop_handshake(struct tn_noise_conn *c)
{
    if (!c->hs) return;
    tn_wipe(c->hs, sizeof *c->hs);
    free(c->hs);
    c->hs = NULL;
}

static void drop_keys(struct tn_noise_conn *c)
{
    drop_handshake(c);
    tn_aead_free(c->tx.key);
    tn_aead_free(c->rx.key);
    c->tx.key = c->rx.key = NULL;
    tn_buf_fini(&c->partial);
}

void tn_noise_conn_free(struct tn_noise_conn *c)
{
    if (!c) return;
    drop_keys(c);
    tn_wipe(c, sizeof *c);
    free(c);
}

static int die(struct tn_noise_conn *c, int err)
{
    drop_keys(c);
    c->state = CONN_DEAD;
    return err;
}

/* Split: the first key is client to server. */
static int split(struct tn_noise_conn *c, bool initiator)
{
    uint8_t k1[KEY], k2[KEY];
    tn_noise_hkdf(c->hs->sym.ck, NULL, 0, k1, k2, NULL);
    c->tx.key = tn_aead_new(TN_AEAD_OPENSSL, initiator ? k1 : k2);
    c->rx.key = tn_aead_new(TN_AEAD_OPENSSL, initiator ? k2 : k1);
    tn_wipe(k1, sizeof k1);
    tn_wipe(k2, sizeof k2);
    drop_handshake(c);
    if (!c->tx.key || !c->rx.key) return TN_E_NOMEM;
    c->state = CONN_OPEN;
    return 0;
}

/* e, es, s, ss */
static int write_initiation(struct tn_noise_conn *c, uint8_t init[TN_NOISE_INIT_LEN])
{
    struct tn_noise_sym *s = &c->hs->sym;
    struct tn_machine_public ephemeral, machine;
    uint8_t key[KEY];
    struct tn_wr w = tn_wr_init(init, TN_NOISE_INIT_LEN);
    tn_wr_be16(&w, c->version);
    tn_wr_u8(&w, MSG_INITIATION);
    tn_wr_be16(&w, INIT_PAYLOAD);

    begin(s, c->version, &c->peer);
    tn_machine_public_of(&c->hs->ephemeral, &ephemeral);
    tn_machine_public_of(&c->hs->static_key, &machine);
    tn_wr_bytes(&w, ephemeral.b, KEY);
    tn_noise_mix_hash(s, ephemeral.b, KEY);
    int err = mix_dh(s, c->hs->ephemeral.b, c->peer.b, key);
    if (!err) tn_noise_encrypt(s, key, machine.b, KEY, tn_wr_make(&w, SEALED_KEY));
    if (!err) err = mix_dh(s, c->hs->static_key.b, c->peer.b, key);
    if (!err) tn_noise_encrypt(s, key, NULL, 0, tn_wr_make(&w, TN_NOISE_TAG));
    tn_wipe(key, sizeof key);
    return err;
}

int tn_noise_conn_initiate(const struct tn_machine_private *machine, const struct tn_machine_public *server,
                           uint16_t version, const struct tn_rng *rng, uint8_t init[TN_NOISE_INIT_LEN],
                           struct tn_noise_conn **out)
{
    struct tn_noise_conn *c = conn_new(version);
    if (!c) return TN_E_NOMEM;
    c->peer = *server;
    c->hs->static_key = *machine;
    tn_machine_private_generate(&c->hs->ephemeral, rng);
    int err = write_initiation(c, init);
    if (err) tn_noise_conn_free(c);
    else *out = c;
    return err;
}

/* Reads e, es, s, ss; peer and their ephemeral are set only as far as the tags hold. */
static int read_initiation(struct tn_noise_conn *c, const uint8_t payload[INIT_PAYLOAD],
                           struct tn_machine_public *their_ephemeral)
{
    struct tn_noise_sym *s = &c->hs->sym;
    struct tn_machine_public server;
    uint8_t key[KEY], none[1];
    const uint8_t *sealed_key = payload + KEY, *tag = sealed_key + SEALED_KEY;
    tn_machine_public_of(&c->hs->static_key, &server);
    begin(s, c->version, &server);
    memcpy(their_ephemeral->b, payload, KEY);
    tn_noise_mix_hash(s, their_ephemeral->b, KEY);
    int err = mix_dh(s, c->hs->static_key.b, their_ephemeral->b, key);
    if (!err) err = tn_noise_decrypt(s, key, sealed_key, SEALED_KEY, c->peer.b);
    if (!err) err = mix_dh(s, c->hs->static_key.b, c->peer.b, key);
    if (!err) err = tn_noise_decrypt(s, key, tag, TN_NOISE_TAG, none);
    tn_wipe(key, sizeof key);
    return err;
}

/* e, ee, se */
static int write_response(struct tn_noise_conn *c, const struct tn_machine_public *their_ephemeral,
                          uint8_t resp[TN_NOISE_RESP_LEN])
{
    struct tn_noise_sym *s = &c->hs->sym;
    struct tn_machine_public ephemeral;
    uint8_t key[KEY];
    struct tn_wr w = tn_wr_init(resp, TN_NOISE_RESP_LEN);
    tn_wr_u8(&w, MSG_RESPONSE);
    tn_wr_be16(&w, RESP_PAYLOAD);
    tn_machine_public_of(&c->hs->ephemeral, &ephemeral);
    tn_wr_bytes(&w, ephemeral.b, KEY);
    tn_noise_mix_hash(s, ephemeral.b, KEY);
    int err = mix_dh(s, c->hs->ephemeral.b, their_ephemeral->b, key);
    if (!err) err = mix_dh(s, c->hs->ephemeral.b, c->peer.b, key);
    if (!err) tn_noise_encrypt(s, key, NULL, 0, tn_wr_make(&w, TN_NOISE_TAG));
    tn_wipe(key, sizeof key);
    return err ? err : split(c, false);
}

int tn_noise_conn_respond(const struct tn_machine_private *server, const struct tn_rng *rng, const void *init,
                          size_t len, uint8_t resp[TN_NOISE_RESP_LEN], struct tn_noise_conn **out)
{
    struct tn_rd r = tn_rd_init(init, len);
    uint16_t version = tn_rd_be16(&r);
    uint8_t type = tn_rd_u8(&r);
    uint16_t payload_len = tn_rd_be16(&r);
    const uint8_t *payload = tn_rd_take(&r, INIT_PAYLOAD);
    if (!tn_rd_done(&r) || type != MSG_INITIATION || payload_len != INIT_PAYLOAD) return TN_E_MALFORMED;

    struct tn_noise_conn *c = conn_new(version);
    if (!c) return TN_E_NOMEM;
    struct tn_machine_public their_ephemeral;
    c->hs->static_key = *server;
    tn_machine_private_generate(&c->hs->ephemeral, rng);
    int err = read_initiation(c, payload, &their_ephemeral);
    if (!err) err = write_response(c, &their_ephemeral, resp);
    if (err) tn_noise_conn_free(c);
    else *out = c;
    return err;
}

/* Reads e, ee, se. */
static int read_response(struct tn_noise_conn *c, const uint8_t *payload)
{
    struct tn_noise_sym *s = &c->hs->sym;
    uint8_t key[KEY], none[1];
    tn_noise_mix_hash(s, payload, KEY);
    int err = mix_dh(s, c->hs->ephemeral.b, payload, key);
    if (!err) err = mix_dh(s, c->hs->static_key.b, payload, key);
    if (!err) err = tn_noise_decrypt(s, key, payload + KEY, TN_NOISE_TAG, none);
    tn_wipe(key, sizeof key);
    return err ? err : split(c, true);
}

static void nonce_of(uint64_t counter, uint8_t nonce[TN_AEAD_NONCE])
{
    memset(nonce, 0, 4);
    tn_put_be64(nonce + 4, counter);
}

static int read_record(struct tn_noise_conn *c, const uint8_t *sealed, size_t len, tn_noise_plain *plain, void *arg)
{
    uint8_t nonce[TN_AEAD_NONCE], clear[TN_NOISE_PLAIN_MAX];
    if (len < TN_NOISE_TAG) return TN_E_PROTO;
    if (c->rx.counter == UINT64_MAX) return TN_E_LIMIT;
    nonce_of(c->rx.counter++, nonce);
    if (tn_aead_open(c->rx.key, nonce, NULL, 0, sealed, len, clear) != 0) return TN_E_CRYPTO;
    return len == TN_NOISE_TAG ? 0 : plain(arg, clear, len - TN_NOISE_TAG);
}

static int refused(struct tn_noise_conn *c, const uint8_t *text, size_t len)
{
    if (len >= sizeof c->refusal) len = sizeof c->refusal - 1;
    memcpy(c->refusal, text, len);
    c->refusal[len] = '\0';
    return TN_E_REFUSED;
}

/* The gate: judges a header before its payload is waited for, so that a length can't make us buffer. */
static int check_header(const struct tn_noise_conn *c, uint8_t type, size_t len)
{
    if (len > TN_NOISE_FRAME_MAX - TN_NOISE_HEADER) return TN_E_TOOBIG;
    if (c->state == CONN_OPEN) return type == MSG_RECORD ? 0 : TN_E_PROTO;
    if (type == MSG_ERROR) return 0;
    return type == MSG_RESPONSE && len == RESP_PAYLOAD ? 0 : TN_E_PROTO;
}

static int read_message(struct tn_noise_conn *c, const uint8_t *msg, tn_noise_plain *plain, void *arg)
{
    size_t len = tn_get_be16(msg + 1);
    const uint8_t *payload = msg + TN_NOISE_HEADER;
    if (c->state == CONN_OPEN) return read_record(c, payload, len, plain, arg);
    return msg[0] == MSG_ERROR ? refused(c, payload, len) : read_response(c, payload);
}

/* Length of the message whose beginning is given: what is known of it so far (header only, or all). */
static int message_len(const struct tn_noise_conn *c, const uint8_t *bytes, size_t len, size_t *need)
{
    *need = TN_NOISE_HEADER;
    if (len < TN_NOISE_HEADER) return 0;
    size_t payload = tn_get_be16(bytes + 1);
    *need += payload;
    return check_header(c, bytes[0], payload);
}

/* Completes the message begun in c->partial. Sets *used; 1 when it is complete, 0 when more is needed, or an
 * error. */
static int fill_partial(struct tn_noise_conn *c, const uint8_t *bytes, size_t len, size_t *used)
{
    *used = 0;
    for (;;) {
        size_t have = tn_buf_len(&c->partial), need;
        int err = message_len(c, tn_buf_data(&c->partial), have, &need);
        if (err) return err;
        if (have >= TN_NOISE_HEADER && have == need) return 1;
        size_t take = need - have < len - *used ? need - have : len - *used;
        if (take == 0) return 0;
        err = tn_buf_append(&c->partial, bytes + *used, take);
        if (err) return err;
        *used += take;
    }
}

static int next_message(struct tn_noise_conn *c, const uint8_t *bytes, size_t len, size_t *used,
                        tn_noise_plain *plain, void *arg)
{
    size_t need;
    if (tn_buf_len(&c->partial) == 0) {
        int err = message_len(c, bytes, len, &need);
        if (err) return err;
        if (len >= TN_NOISE_HEADER && len >= need) {
            *used = need;
            return read_message(c, bytes, plain, arg);
        }
    }
    int full = fill_partial(c, bytes, len, used);
    if (full != 1) return full;
    int err = read_message(c, tn_buf_data(&c->partial), plain, arg);
    tn_buf_fini(&c->partial);
    return err;
}

int tn_noise_conn_input(struct tn_noise_conn *c, const void *bytes, size_t len, tn_noise_plain *plain, void *arg)
{
    const uint8_t *at = bytes;
    if (c->state == CONN_DEAD) return TN_E_CLOSED;
    while (len > 0) {
        size_t used = 0;
        int err = next_message(c, at, len, &used, plain, arg);
        if (err) return die(c, err);
        at += used;
        len -= used;
    }
    return 0;
}

static int seal_record(struct tn_noise_conn *c, const uint8_t *bytes, size_t len, struct tn_buf *out)
{
    uint8_t nonce[TN_AEAD_NONCE];
    size_t total = TN_NOISE_HEADER + len + TN_NOISE_TAG;
    if (c->tx.counter == UINT64_MAX) return TN_E_LIMIT;
    uint8_t *at = tn_buf_reserve(out, total);
    if (!at) return TN_E_TOOBIG;
    nonce_of(c->tx.counter++, nonce);
    at[0] = MSG_RECORD;
    tn_put_be16(at + 1, (uint16_t)(len + TN_NOISE_TAG));
    tn_aead_seal(c->tx.key, nonce, NULL, 0, bytes, len, at + TN_NOISE_HEADER);
    tn_buf_commit(out, total);
    return 0;
}

int tn_noise_conn_seal(struct tn_noise_conn *c, const void *bytes, size_t len, struct tn_buf *out)
{
    const uint8_t *at = bytes;
    if (c->state == CONN_HANDSHAKE) return TN_E_NOTCONN;
    if (c->state == CONN_DEAD) return TN_E_CLOSED;
    while (len > 0) {
        size_t n = len < TN_NOISE_PLAIN_MAX ? len : TN_NOISE_PLAIN_MAX;
        int err = seal_record(c, at, n, out);
        if (err) return die(c, err);
        at += n;
        len -= n;
    }
    return 0;
}

bool tn_noise_conn_established(const struct tn_noise_conn *c) { return c->state == CONN_OPEN; }
uint16_t tn_noise_conn_version(const struct tn_noise_conn *c) { return c->version; }
const struct tn_machine_public *tn_noise_conn_peer(const struct tn_noise_conn *c) { return &c->peer; }
const char *tn_noise_conn_refusal(const struct tn_noise_conn *c) { return c->refusal; }

int tn_noise_refuse(const char *text, struct tn_buf *out)
{
    size_t len = strlen(text);
    if (len > TN_NOISE_FRAME_MAX - TN_NOISE_HEADER) len = TN_NOISE_FRAME_MAX - TN_NOISE_HEADER;
    uint8_t *at = tn_buf_reserve(out, TN_NOISE_HEADER + len);
    if (!at) return TN_E_TOOBIG;
    at[0] = MSG_ERROR;
    tn_put_be16(at + 1, (uint16_t)len);
    memcpy(at + TN_NOISE_HEADER, text, len);
    tn_buf_commit(out, TN_NOISE_HEADER + len);
    return 0;
}
