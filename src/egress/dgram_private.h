/* What the datagram units of this room share. See dgram.h for what it is, dgram.c for how flows find their sockets. */
#ifndef TN_EGRESS_DGRAM_PRIVATE_H
#define TN_EGRESS_DGRAM_PRIVATE_H

#include "egress/dgram.h"
#include "egress/dgramsock.h"
#include "util/htable.h"
#include "util/list.h"
#include "util/siphash.h"

/* A socket and the flows that go by it. */
struct tn_chan {
    struct tn_egress *e;
    struct tn_list all;     /* tn_dgrams.chans */
    struct tn_hnode by_src; /* HOST: in tn_dgrams.sources */
    struct tn_addrport src; /* HOST: the source it stands for */
    struct tn_dpeer *peer;
    struct tn_list flows;
    struct tn_assoc *assoc; /* NULL: HOST */
    int fd;                 /* -1: an association that is not open yet */
    uint8_t kind;           /* enum tn_dgram_kind */
    uint8_t family;         /* of the socket, which for 4via6 is not the source's */
    bool subnet;            /* its flows are none of the exit policy's business */
    bool listed;            /* HOST: in tn_dgrams.sources */
    bool dead;              /* to be freed when it is no more busy */
    unsigned busy;          /* being read from, sent to, or ended */
};

struct tn_dgram {
    struct tn_hnode node; /* tn_dgrams.flows, by channel and destination */
    struct tn_list link;  /* tn_chan.flows */
    struct tn_chan *chan;
    struct tn_addrport dst; /* where it really goes */
    bool via;               /* which for 4via6 is of the other family than what the owner calls it */
    const struct tn_dgram_events *ev;
    void *arg;
};

/* A peer that has channels. */
struct tn_dpeer {
    struct tn_hnode node;
    uint64_t id;
    unsigned nchans;
    struct tn_list assocs; /* the oldest first */
};

/* Datagrams of this turn for one channel, sent together when it is over. */
struct tn_dgram_out {
    struct tn_chan *chan; /* NULL: none */
    int count;
    bool flushing;
    size_t used;
    struct tn_dgram_item items[TN_DGRAM_WRITES];
    uint8_t heads[TN_DGRAM_WRITES][32];
    uint8_t bytes[64 * 1024];
};

struct tn_dgrams {
    struct tn_hashkey key; /* peers choose addresses and ports */
    struct tn_htable flows, sources, peers;
    struct tn_list chans, graveyard;
    unsigned nchans;
    struct tn_dgram_in *in; /* both only while there are channels */
    struct tn_dgram_out *out;
    bool by_proxy; /* UDP ASSOCIATE is wanted */
    struct tn_dgram_stats stats;
};

/* dgram.c */
void tn_dgrams_init(struct tn_egress *e);
void tn_dgrams_fini(struct tn_egress *e);           /* closes all; no callbacks */
void tn_dgrams_bury(struct tn_egress *e);           /* frees what was closed, when no event can name it any more */
void tn_dgrams_policy_changed(struct tn_egress *e); /* ends what the new policy has no place for */
int tn_chan_new(struct tn_egress *e, uint64_t peer, enum tn_dgram_kind kind, struct tn_chan **out);
void tn_chan_free(struct tn_chan *c); /* without flows */
int tn_chan_take_fd(struct tn_chan *c, int fd); /* 0, or a TN_EGRESS_FAIL and fd is closed */
void tn_chan_end(struct tn_chan *c, enum tn_egress_fail why); /* ends all its flows, which frees it */
void tn_dgram_end(struct tn_dgram *d, enum tn_egress_fail why); /* its owner is told; the channel stays */
struct tn_dpeer *tn_dpeer_find(struct tn_egress *e, uint64_t id);
struct tn_dgram *tn_dgram_find(struct tn_egress *e, const struct tn_chan *c, const struct tn_addrport *dst);

/* associate.c */
int tn_assoc_chan(struct tn_egress *e, const struct tn_dgram_key *k, struct tn_chan **out);
void tn_assoc_probe(struct tn_egress *e);
enum tn_relay tn_assoc_relay(const struct tn_egress *e); /* of the policy's proxies that could, the best */
void tn_assoc_hide(struct tn_assoc *a); /* no new flows */
bool tn_assoc_outlives(struct tn_assoc *a); /* may its flows stay under the new policy? New ones go elsewhere */
void tn_assoc_free(struct tn_assoc *a);
void tn_assoc_send(struct tn_chan *c, const struct tn_addrport *to, const void *bytes, size_t len);
/* False: dropped and counted. Else from, bytes and len become those of the datagram inside. */
bool tn_assoc_unwrap(const struct tn_chan *c, struct tn_addrport *from, const uint8_t **bytes, size_t *len);

/* dgram_io.c */
void tn_chan_ready(struct tn_chan *c);
void tn_chan_send(struct tn_chan *c, const struct tn_addrport *to, const void *head, size_t head_len, const void *bytes,
                  size_t len);
void tn_dgrams_flush(struct tn_egress *e);
bool tn_dgrams_pending(const struct tn_egress *e);

#endif
