#include "wg/handshake.h"
#include "util/err.h"
#include "util/secret.h"

#include <string.h>

static const char construction[] = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
static const char identifier[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";

static void begin(struct tn_noise_sym *s, const struct tn_node_public *responder)
{
    tn_noise_init(s, construction);
    tn_noise_mix_hash(s, identifier, sizeof identifier - 1);
    tn_noise_mix_hash(s, responder->b, sizeof responder->b);
}

/* Mixes without a key coming out of it. */
static void mix_chain(struct tn_noise_sym *s, const uint8_t input[32])
{
    tn_noise_hkdf(s->ck, input, 32, s->ck, NULL, NULL);
}

static void mix_ephemeral(struct tn_noise_sym *s, const uint8_t pub[32])
{
    tn_noise_mix_hash(s, pub, 32);
    mix_chain(s, pub);
}

static int mix_dh(struct tn_noise_sym *s, const uint8_t private_key[32], const uint8_t public_key[32])
{
    uint8_t dh[32];
    int err = tn_x25519(dh, private_key, public_key);
    if (err == 0) mix_chain(s, dh);
    tn_wipe(dh, sizeof dh);
    return err;
}

/* The same, with the key for the next encrypted field. */
static int mix_dh_key(struct tn_noise_sym *s, const uint8_t private_key[32], const uint8_t public_key[32],
                      uint8_t key[32])
{
    uint8_t dh[32];
    int err = tn_x25519(dh, private_key, public_key);
    if (err == 0) tn_noise_mix_key(s, dh, sizeof dh, key);
    tn_wipe(dh, sizeof dh);
    return err;
}

static void new_ephemeral(const struct tn_rng *rng, uint8_t private_key[32], uint8_t public_key[32])
{
    struct tn_node_private fresh;
    tn_node_private_generate(&fresh, rng);
    memcpy(private_key, fresh.b, 32);
    tn_wipe(&fresh, sizeof fresh);
    tn_x25519_base(public_key, private_key);
}

int tn_wg_initiate(struct tn_wg_initiation *st, const struct tn_wg_identity *own, const struct tn_node_public *peer,
                   const uint8_t shared[32], const uint8_t timestamp[TN_WG_TAI_LEN], uint32_t sender,
                   const struct tn_rng *rng, uint8_t out[TN_WGMSG_INITIATION_LEN])
{
    struct tn_wgmsg_initiation m = {.sender = sender};
    struct tn_noise_sym *s = &st->sym;
    uint8_t key[32];
    begin(s, peer);
    new_ephemeral(rng, st->ephemeral, m.ephemeral);
    mix_ephemeral(s, m.ephemeral);
    int err = mix_dh_key(s, st->ephemeral, peer->b, key);
    if (err == 0) {
        tn_noise_encrypt(s, key, own->pub.b, sizeof own->pub.b, m.sealed_static);
        tn_noise_mix_key(s, shared, 32, key);
        tn_noise_encrypt(s, key, timestamp, TN_WG_TAI_LEN, m.sealed_timestamp);
        tn_wgmsg_put_initiation(out, &m);
    }
    tn_wipe(key, sizeof key);
    return err;
}

int tn_wg_read_static(struct tn_wg_reading *r, const struct tn_wg_identity *own, const struct tn_wgmsg_initiation *m)
{
    uint8_t key[32];
    begin(&r->sym, &own->pub);
    memcpy(r->ephemeral, m->ephemeral, sizeof r->ephemeral);
    mix_ephemeral(&r->sym, m->ephemeral);
    int err = mix_dh_key(&r->sym, own->key.b, m->ephemeral, key);
    if (err == 0) err = tn_noise_decrypt(&r->sym, key, m->sealed_static, sizeof m->sealed_static, r->from.b);
    tn_wipe(key, sizeof key);
    return err;
}

int tn_wg_read_timestamp(struct tn_wg_reading *r, const uint8_t shared[32], const struct tn_wgmsg_initiation *m)
{
    uint8_t key[32];
    tn_noise_mix_key(&r->sym, shared, 32, key);
    int err = tn_noise_decrypt(&r->sym, key, m->sealed_timestamp, sizeof m->sealed_timestamp, r->timestamp);
    tn_wipe(key, sizeof key);
    return err;
}

/* The pre-shared key is all zeros in a tailnet. */
static void mix_psk(struct tn_noise_sym *s, uint8_t key[32])
{
    static const uint8_t psk[32];
    uint8_t tau[32];
    tn_noise_hkdf(s->ck, psk, sizeof psk, s->ck, tau, key);
    tn_noise_mix_hash(s, tau, sizeof tau);
    tn_wipe(tau, sizeof tau);
}

int tn_wg_respond(struct tn_wg_reading *r, uint32_t sender, uint32_t receiver, const struct tn_rng *rng,
                  uint8_t out[TN_WGMSG_RESPONSE_LEN], struct tn_wg_keys *keys)
{
    struct tn_wgmsg_response m = {.sender = sender, .receiver = receiver};
    struct tn_noise_sym *s = &r->sym;
    uint8_t ephemeral[32], key[32];
    new_ephemeral(rng, ephemeral, m.ephemeral);
    mix_ephemeral(s, m.ephemeral);
    int err = mix_dh(s, ephemeral, r->ephemeral);
    if (err == 0) err = mix_dh(s, ephemeral, r->from.b);
    if (err == 0) {
        mix_psk(s, key);
        tn_noise_encrypt(s, key, NULL, 0, m.sealed_nothing);
        tn_noise_hkdf(s->ck, NULL, 0, keys->recv, keys->send, NULL);
        tn_wgmsg_put_response(out, &m);
    }
    tn_wipe(ephemeral, sizeof ephemeral);
    tn_wipe(key, sizeof key);
    tn_wipe(r, sizeof *r);
    return err;
}

int tn_wg_finish(const struct tn_wg_initiation *st, const struct tn_wg_identity *own,
                 const struct tn_wgmsg_response *m, struct tn_wg_keys *keys)
{
    struct tn_noise_sym s = st->sym;
    uint8_t key[32], nothing[1];
    mix_ephemeral(&s, m->ephemeral);
    int err = mix_dh(&s, st->ephemeral, m->ephemeral);
    if (err == 0) err = mix_dh(&s, own->key.b, m->ephemeral);
    if (err == 0) {
        mix_psk(&s, key);
        err = tn_noise_decrypt(&s, key, m->sealed_nothing, sizeof m->sealed_nothing, nothing);
        if (err == 0) tn_noise_hkdf(s.ck, NULL, 0, keys->send, keys->recv, NULL);
        tn_wipe(key, sizeof key);
    }
    tn_noise_wipe(&s);
    return err;
}
