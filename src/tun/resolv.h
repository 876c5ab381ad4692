/* The host's resolver file (resolv.conf(5)), taken over and given back.
 *
 * What to do is told by the disk alone: a file of ours begins with MARK, and the user's waits beside it, in
 * PATH.before-tailnet, as the very file it was (another name for it, a link as a link), or as a copy where PATH is a mount of
 * its own, as in containers. So what a crash left is undone by whoever looks next, and a file that somebody else wrote
 * over ours is theirs: it stays. Blocking, as all small files here. */
#ifndef TN_TUN_RESOLV_H
#define TN_TUN_RESOLV_H

#include "util/ip.h"

#define TN_RESOLV_PATH "/etc/resolv.conf"
#define TN_RESOLV_UPLINKS "/run/systemd/resolve/resolv.conf"
#define TN_RESOLV_MARK "# Set by tailnet(1) for as long as it runs."

enum { TN_RESOLV_MAX = 64 * 1024, TN_RESOLV_SERVERS = 3, TN_RESOLV_SEARCH_MAX = 256 };

struct tn_resolv_facts {
    struct tn_addrport servers[TN_RESOLV_SERVERS];
    size_t nservers;
    char search[TN_RESOLV_SEARCH_MAX]; /* separated by spaces */
};

/* What the user's file says, whether it is in place or put aside. Ours is never read as such. */
void tn_resolv_read(const char *path, struct tn_resolv_facts *out);
/* Where the facts name systemd-resolved's stub (127.0.0.53 or .54), the servers behind it take its place, from the file that it
 * keeps of them: it reads PATH too, and would ask us what we asked it. */
void tn_resolv_behind_stub(struct tn_resolv_facts *f, const char *uplinks);
/* Puts the user's file aside, unless it is, and this one in place: nameserver lines and a search list. On an error nothing
 * has changed. */
int tn_resolv_set(const char *path, const struct tn_ip *servers, size_t n, const char *search);
/* The user's file back; nothing when there is nothing of ours. */
int tn_resolv_restore(const char *path);

#endif
