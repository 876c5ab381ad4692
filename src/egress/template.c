/* Providers keep a session (an address of theirs) per user name: "customer-session-a8f3k2m9x1". So a peer gets a name of its
 * own that lasts, and that says nothing about it: a keyed hash, ten letters and digits of it (over 51 bits; providers take
 * 8 to 25).
 *
 *   {peer}   of the peer and its epoch: rotating the peer, or all, changes it
 *   {user}   of the peer's user: all devices of a user share it; rotating all changes it
 *   {epoch}  how often it was rotated, as a number */
#include "egress/template.h"

#include <stdio.h>
#include <stdlib.h>

int tn_template_match(const char *text, size_t len, size_t *used)
{
    static const struct {
        const char *word;
        int marker;
    } words[] = {{"{peer}", TN_TEMPLATE_PEER}, {"{user}", TN_TEMPLATE_USER}, {"{epoch}", TN_TEMPLATE_EPOCH}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i].word);
        if (len < n || memcmp(text, words[i].word, n) != 0) continue;
        *used = n;
        return words[i].marker;
    }
    return 0;
}

static size_t token(const struct tn_hashkey *key, int marker, uint64_t id, uint32_t epoch, char *out)
{
    static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    struct {
        uint64_t marker, id, epoch;
    } about = {(uint64_t)marker, id, epoch};
    uint64_t h = tn_siphash(key, &about, sizeof about);
    for (int i = 0; i < TN_TEMPLATE_TOKEN; i++, h /= 36) out[i] = digits[h % 36];
    return TN_TEMPLATE_TOKEN;
}

static size_t expand(int marker, const struct tn_hashkey *key, const struct tn_template_who *who, char *out)
{
    uint32_t epoch = who->epoch + who->peer_epoch;
    if (marker == TN_TEMPLATE_PEER) return token(key, marker, who->peer, epoch, out);
    if (marker == TN_TEMPLATE_USER) return token(key, marker, who->user, who->epoch, out);
    return (size_t)snprintf(out, TN_TEMPLATE_EPOCH_MAX + 1, "%u", epoch);
}

static struct tn_secret *fill(const struct tn_secret *s, const struct tn_hashkey *key, const struct tn_template_who *who)
{
    const char *in = tn_secret_bytes(s);
    size_t len = tn_secret_len(s), n = 0, cap = len * (TN_TEMPLATE_EPOCH_MAX + 1) + 1;
    char *text = malloc(cap);
    if (!text) return NULL;
    for (size_t i = 0; i < len; i++) {
        if (in[i] >= TN_TEMPLATE_PEER && in[i] <= TN_TEMPLATE_EPOCH) n += expand(in[i], key, who, text + n);
        else text[n++] = in[i];
    }
    struct tn_secret *out = tn_secret_new(text, n);
    tn_wipe(text, cap);
    free(text);
    return out;
}

struct tn_proxy *tn_template_fill(const struct tn_proxy *p, const struct tn_hashkey *key, const struct tn_template_who *who)
{
    struct tn_proxy *copy = calloc(1, sizeof *copy);
    if (!copy) return NULL;
    *copy = *p;
    copy->user = p->user ? fill(p->user, key, who) : NULL;
    copy->pass = p->pass ? fill(p->pass, key, who) : NULL;
    if (!copy->user == !p->user && !copy->pass == !p->pass) return copy;
    tn_proxy_free(copy);
    return NULL;
}
