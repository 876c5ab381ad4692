/* Reading ahead.
 *
 * A ring of slots, each with room for a message as UDP_GRO makes it of many datagrams, or several short ones. A slot is claimed
 * in order by the thread that reads into it, worked on by that thread beside others, and taken by the loop in order: whichever
 * thread is done first, nothing overtakes. The ring is the bound: what it has no room for waits in the socket's buffer, as ever.
 *
 * One thread at a time leads: it reads, or sleeps until there is something, then leaves the lead and works on what it has. The
 * others sleep. When what comes is more than the threads that are awake get done (the leader finds the next run without having
 * had to wait for it, several times), it wakes one, or asks the loop for one more; who finds the lead taken goes to sleep.
 *
 * The loop is woken when it can take a few slots, or there is nothing to read (or no room to) that could make them more: turn by
 * turn for each it would sleep, wake and acknowledge as often as there are messages, which costs it as much as all else it does with
 * them. It wakes the leader only when that found the ring full and half of it is free again. */
#include "path/udp_ahead.h"
#include "path/udp_in.h"
#include "util/err.h"
#include "util/thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    STACK = 1024 * 1024,    /* room, not memory; the thread-local variables of the whole program come out of it, too */
    MESSAGE = 64 * 1024,    /* the longest datagram, or what UDP_GRO makes of many */
    SLOT = 2 * MESSAGE,     /* begun with less than one in it, there is room for another */
    MESSAGES = 32,          /* short ones of a slot: as many that each are one datagram are half of the loop's batch */
    LINE = 64,              /* bytes that cores hand each other at a time */
    GATHER = 3,             /* slots. With one the loop uses a third more time per byte; four are no better */
    BEHIND = 4,             /* reads that did not have to wait: more than a message and what came while it was worked on */
};

struct message {
    struct tn_addrport from;
    uint32_t at, len, segment;
    bool good; /* a run, not something cut short */
};

struct slot {
    _Alignas(LINE) atomic_bool done; /* set by who worked on it, cleared by the loop */
    uint8_t *bytes;
    size_t used;
    unsigned n; /* the last may be a long one, the others are not */
    struct message message[MESSAGES];
};

struct tn_udp_ahead {
    struct tn_udp_ahead_config config;
    int fd[2], event;
    uint8_t *bytes;
    size_t nslots;
    void **local; /* of each thread */
    pthread_t *thread;
    size_t nthreads; /* the loop's */
    int at;          /* the loop's */
    unsigned begun;  /* the loop's: messages of the next slot that it has taken already */

    pthread_mutex_t mu;
    pthread_cond_t lead, left; /* for those without the lead; for the loop */
    bool led, over;            /* under mu */
    size_t asleep;             /* under mu */
    unsigned unawaited;        /* the leader's */
    atomic_bool reading, wants_thread;
    atomic_bool drained, waits_for_room; /* the leader sleeps; it does so for want of room */
    _Alignas(LINE) atomic_uint claimed; /* the leader's; wraps */
    _Alignas(LINE) atomic_uint taken;   /* the loop's; wraps */
    struct slot slot[];
};

/* ---- on a thread ---- */

static bool read_one(struct tn_udp_ahead *a, struct slot *s)
{
    _Alignas(struct cmsghdr) uint8_t control[TN_UDP_CONTROL];
    struct sockaddr_storage name;
    struct iovec iov = {s->bytes + s->used, MESSAGE};
    for (unsigned i = 0; i < 2; i++) {
        int fd = a->fd[(atomic_load_explicit(&a->claimed, memory_order_relaxed) + i) % 2]; /* both get their turn to be first */
        struct msghdr hdr = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &iov, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof control};
        ssize_t n = fd < 0 ? -1 : recvmsg(fd, &hdr, 0);
        if (n < 0) continue; /* drained; a pending ICMP error was taken by this call */
        struct message *m = &s->message[s->n++];
        size_t segment;
        *m = (struct message){.at = (uint32_t)s->used, .len = (uint32_t)n};
        m->good = tn_udp_in_parse(&hdr, (size_t)n, &m->from, &segment);
        m->segment = (uint32_t)segment;
        s->used += (size_t)n;
        return true;
    }
    return false;
}

static bool is_long(const struct message *m) { return m->good && m->len >= TN_UDP_AHEAD_LONG; }

static bool read_into(struct tn_udp_ahead *a, struct slot *s)
{
    s->used = s->n = 0;
    while (s->n < MESSAGES && s->used <= SLOT - MESSAGE && read_one(a, s))
        if (is_long(&s->message[s->n - 1])) break;
    return s->n > 0;
}

/* Sleeps until there is something to read and room for it, or somebody wants something else. */
static void await(struct tn_udp_ahead *a, bool room)
{
    struct pollfd p[] = {{a->event, POLLIN, 0}, {a->fd[0], POLLIN, 0}, {a->fd[1], POLLIN, 0}};
    uint64_t count;
    poll(p, room ? 3 : 1, -1);
    if (p[0].revents) (void)!read(a->event, &count, sizeof count);
}

static bool has_room(struct tn_udp_ahead *a)
{
    return atomic_load_explicit(&a->claimed, memory_order_relaxed) - atomic_load(&a->taken) < a->nslots;
}

/* Either this sees the room that the loop has made, or the loop sees that it is waited for. */
static bool found_full(struct tn_udp_ahead *a)
{
    if (has_room(a)) return false;
    atomic_store(&a->waits_for_room, true);
    return !has_room(a);
}

/* Wakes the loop if it can take something. */
static void tell(struct tn_udp_ahead *a)
{
    unsigned taken = atomic_load(&a->taken);
    if (atomic_load(&a->slot[taken % a->nslots].done)) a->config.wake(a->config.ctx);
}

/* The leader's turn: false when there is to be no more reading. */
static bool claim(struct tn_udp_ahead *a, unsigned *which)
{
    for (unsigned claimed = atomic_load_explicit(&a->claimed, memory_order_relaxed); atomic_load(&a->reading);) {
        bool room = !found_full(a);
        if (room && read_into(a, &a->slot[claimed % a->nslots])) {
            a->unawaited++;
            *which = claimed;
            atomic_store(&a->claimed, claimed + 1);
            return true;
        }
        a->unawaited = 0;
        atomic_store(&a->drained, true);
        tell(a);
        await(a, room);
        atomic_store(&a->drained, false);
        atomic_store(&a->waits_for_room, false);
    }
    return false;
}

static void work_on(struct tn_udp_ahead *a, void *local, unsigned which)
{
    unsigned i = which % a->nslots;
    struct slot *s = &a->slot[i];
    const struct message *last = &s->message[s->n - 1];
    if (is_long(last)) a->config.work(a->config.ctx, local, i, s->bytes + last->at, last->len, last->segment);
    atomic_store(&s->done, true);
    if (which + 1 - atomic_load(&a->taken) >= GATHER || atomic_load(&a->drained) || !atomic_load(&a->reading)) tell(a);
}

/* mu is held. False: it is over. */
static bool await_lead(struct tn_udp_ahead *a, void *local)
{
    while (!a->over && (a->led || !atomic_load(&a->reading))) {
        a->asleep++;
        a->config.rest(local); /* also when others go on: the session of its key may end while it sleeps */
        pthread_cond_wait(&a->lead, &a->mu);
        a->asleep--;
    }
    return !a->over;
}

/* mu is held. */
static void leave_lead(struct tn_udp_ahead *a)
{
    a->led = false;
    if (!atomic_load(&a->reading)) {
        pthread_cond_signal(&a->left);
    } else if (a->unawaited >= BEHIND) {
        a->unawaited = 0;
        if (a->asleep) pthread_cond_signal(&a->lead);
        else atomic_store_explicit(&a->wants_thread, true, memory_order_relaxed);
    }
}

struct start {
    struct tn_udp_ahead *a;
    void *local;
};

static void *run(void *arg)
{
    struct start start = *(struct start *)arg;
    struct tn_udp_ahead *a = start.a;
    free(arg);
    pthread_mutex_lock(&a->mu);
    while (await_lead(a, start.local)) {
        unsigned which;
        a->led = true;
        pthread_mutex_unlock(&a->mu);
        bool got = claim(a, &which);
        pthread_mutex_lock(&a->mu);
        leave_lead(a);
        pthread_mutex_unlock(&a->mu);
        if (got) work_on(a, start.local, which);
        pthread_mutex_lock(&a->mu);
    }
    pthread_mutex_unlock(&a->mu);
    return NULL;
}

/* ---- on the loop ---- */

static void nudge(struct tn_udp_ahead *a)
{
    uint64_t one = 1;
    (void)!write(a->event, &one, sizeof one);
}

/* As many slots as can be worked on, and as many again that wait for the loop: what is read ahead is not seen by congestion
 * control, and is to stay in the cache. */
static size_t slots_for(size_t threads)
{
    size_t n = 8;
    while (n < 2 * threads) n *= 2; /* a power of two: claimed and taken wrap */
    return n;
}
_Static_assert(2 * TN_WORKERS_MAX <= TN_UDP_AHEAD_SLOTS, "room for all");

static int map_slots(struct tn_udp_ahead *a)
{
    a->bytes = mmap(NULL, a->nslots * SLOT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a->bytes == MAP_FAILED) {
        a->bytes = NULL;
        return TN_E_NOMEM;
    }
    for (size_t i = 0; i < a->nslots; i++) a->slot[i].bytes = a->bytes + i * SLOT;
    return 0;
}

int tn_udp_ahead_new(const struct tn_udp_ahead_config *config, int fd4, int fd6, struct tn_udp_ahead **out)
{
    size_t n = slots_for(config->threads), size = sizeof(struct tn_udp_ahead) + n * sizeof(struct slot);
    struct tn_udp_ahead *a = aligned_alloc(LINE, (size + LINE - 1) / LINE * LINE);
    if (!a) return TN_E_NOMEM;
    *a = (struct tn_udp_ahead){.config = *config, .fd = {fd4, fd6}, .nslots = n, .at = -1, .event = -1};
    for (size_t i = 0; i < n; i++) a->slot[i] = (struct slot){0};
    pthread_mutex_init(&a->mu, NULL);
    pthread_cond_init(&a->lead, NULL);
    pthread_cond_init(&a->left, NULL);
    a->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int err = a->event < 0 ? -errno : map_slots(a);
    a->local = calloc(config->threads, sizeof *a->local);
    a->thread = calloc(config->threads, sizeof *a->thread);
    if (!err && (!a->local || !a->thread)) err = TN_E_NOMEM;
    if (err) tn_udp_ahead_free(a);
    else *out = a;
    return err;
}

static int add_thread(struct tn_udp_ahead *a)
{
    size_t i = a->nthreads;
    struct start *s = malloc(sizeof *s);
    if (!s) return TN_E_NOMEM;
    a->local[i] = a->config.make(a->config.ctx);
    *s = (struct start){a, a->local[i]};
    int err = a->local[i] ? tn_thread_start(&a->thread[i], run, s, STACK) : TN_E_NOMEM;
    if (!err) {
        a->nthreads++;
        return 0;
    }
    if (a->local[i]) a->config.unmake(a->local[i]);
    free(s);
    return err;
}

int tn_udp_ahead_begin(struct tn_udp_ahead *a)
{
    if (a->nthreads == 0) {
        int err = add_thread(a);
        if (err) return err;
    }
    pthread_mutex_lock(&a->mu);
    atomic_store(&a->reading, true);
    pthread_cond_signal(&a->lead);
    pthread_mutex_unlock(&a->mu);
    return 0;
}

void tn_udp_ahead_end(struct tn_udp_ahead *a)
{
    atomic_store(&a->reading, false);
    nudge(a);
    pthread_mutex_lock(&a->mu);
    pthread_cond_broadcast(&a->lead); /* let them rest */
    while (a->led) pthread_cond_wait(&a->left, &a->mu);
    pthread_mutex_unlock(&a->mu);
}

void tn_udp_ahead_free(struct tn_udp_ahead *a)
{
    if (!a) return;
    if (a->nthreads) tn_udp_ahead_end(a);
    pthread_mutex_lock(&a->mu);
    a->over = true;
    pthread_cond_broadcast(&a->lead);
    pthread_mutex_unlock(&a->mu);
    for (size_t i = 0; i < a->nthreads; i++) {
        pthread_join(a->thread[i], NULL);
        a->config.unmake(a->local[i]);
    }
    if (a->bytes) munmap(a->bytes, a->nslots * SLOT);
    if (a->event >= 0) close(a->event);
    pthread_cond_destroy(&a->lead);
    pthread_cond_destroy(&a->left);
    pthread_mutex_destroy(&a->mu);
    free(a->thread);
    free(a->local);
    free(a);
}

bool tn_udp_ahead_over(const struct tn_udp_ahead *a)
{
    return !atomic_load(&a->reading) && atomic_load(&a->claimed) == atomic_load(&a->taken);
}

int tn_udp_ahead_at(const struct tn_udp_ahead *a) { return a->at; }

static int hand_over(struct tn_udp_ahead *a, struct slot *s, const struct message *m, tn_udp_each *each, void *ctx)
{
    if (!m->good) return 1;
    a->at = is_long(m) ? (int)(s - a->slot) : -1;
    each(ctx, &m->from, s->bytes + m->at, m->len, m->segment);
    a->at = -1;
    return m->len ? (int)((m->len + m->segment - 1) / m->segment) : 1;
}

int tn_udp_ahead_take(struct tn_udp_ahead *a, int budget, tn_udp_each *each, void *ctx, size_t *longest)
{
    int total = 0;
    unsigned taken = atomic_load_explicit(&a->taken, memory_order_relaxed);
    if (atomic_load_explicit(&a->wants_thread, memory_order_relaxed)) {
        atomic_store_explicit(&a->wants_thread, false, memory_order_relaxed);
        /* Without, it is slower. Not tried again: a limit that is reached is not left by asking. */
        if (a->nthreads < a->config.threads && add_thread(a) != 0) a->config.threads = a->nthreads;
    }
    while (total < budget) {
        struct slot *s = &a->slot[taken % a->nslots];
        if (!atomic_load(&s->done)) break;
        const struct message *m = &s->message[a->begun++];
        if (m->len > *longest) *longest = m->len;
        total += hand_over(a, s, m, each, ctx);
        if (a->begun < s->n) continue;
        a->begun = 0;
        atomic_store_explicit(&s->done, false, memory_order_relaxed); /* storing taken publishes it */
        atomic_store(&a->taken, ++taken);
        if (!atomic_load(&a->waits_for_room)) continue;
        if (atomic_load_explicit(&a->claimed, memory_order_relaxed) - taken > a->nslots / 2) continue;
        atomic_store(&a->waits_for_room, false);
        nudge(a);
    }
    return total;
}

void tn_udp_ahead_trim(struct tn_udp_ahead *a)
{
    if (a) madvise(a->bytes, a->nslots * SLOT, MADV_DONTNEED);
}
