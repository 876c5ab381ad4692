#include "tun/resolv.h"

#include "util/err.h"
#include "util/file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_LEN = 256, TEXT_MAX = 2048, MODE = 0644 };

static int beside(const char *path, const char *suffix, char out[PATH_LEN])
{
    return snprintf(out, PATH_LEN, "%s%s", path, suffix) < PATH_LEN ? 0 : TN_E_INVAL;
}

static int backup_of(const char *path, char out[PATH_LEN]) { return beside(path, ".before-tailnet", out); }

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static bool is_ours(const char *path)
{
    char *text;
    size_t len;
    if (tn_file_read(path, TN_RESOLV_MAX, &text, &len) != 0) return false;
    bool ours = strncmp(text, TN_RESOLV_MARK, strlen(TN_RESOLV_MARK)) == 0;
    free(text);
    return ours;
}

/* ---- reading ---- */

static void take_line(char *line, struct tn_resolv_facts *f)
{
    static const struct tn_ip service = {4, {100, 100, 100, 100}};
    char *rest = line, *word = strtok_r(line, " \t", &rest), *value;
    if (!word) return;
    if (strcmp(word, "nameserver") == 0 && (value = strtok_r(NULL, " \t", &rest)) && f->nservers < TN_RESOLV_SERVERS) {
        struct tn_addrport *s = &f->servers[f->nservers];
        s->port = 53;
        if (tn_ip_parse(value, &s->ip) == 0 && !tn_ip_eq(&s->ip, &service)) f->nservers++;
    } else if (strcmp(word, "search") == 0 || strcmp(word, "domain") == 0) { /* the last one counts */
        f->search[0] = '\0';
        for (size_t n = 0; (value = strtok_r(NULL, " \t", &rest));) {
            size_t len = strlen(value);
            if (n + len + 2 > sizeof f->search) break;
            n += (size_t)snprintf(f->search + n, sizeof f->search - n, "%s%s", n ? " " : "", value);
        }
    }
}

void tn_resolv_read(const char *path, struct tn_resolv_facts *out)
{
    char backup[PATH_LEN], *text = NULL, *rest;
    size_t len;
    *out = (struct tn_resolv_facts){0};
    bool ours = is_ours(path);
    if (ours && backup_of(path, backup) != 0) return;
    if (tn_file_read(ours ? backup : path, TN_RESOLV_MAX, &text, &len) != 0) return;
    rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) take_line(line, out);
    free(text);
}

void tn_resolv_behind_stub(struct tn_resolv_facts *f, const char *uplinks)
{
    static const struct tn_ip stubs[] = {{4, {127, 0, 0, 53}}, {4, {127, 0, 0, 54}}};
    struct tn_resolv_facts behind;
    bool stub = false;
    for (size_t i = 0; i < f->nservers; i++)
        stub |= tn_ip_eq(&f->servers[i].ip, &stubs[0]) || tn_ip_eq(&f->servers[i].ip, &stubs[1]);
    if (!stub || !exists(uplinks)) return;
    tn_resolv_read(uplinks, &behind); /* none: nobody is asked */
    memcpy(f->servers, behind.servers, sizeof f->servers);
    f->nservers = behind.nservers;
}

/* ---- writing ---- */

static int write_all(int fd, const char *text, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, text + done, len - done);
        if (n < 0) return -errno;
        done += (size_t)n;
    }
    return fsync(fd) == 0 ? 0 : -errno;
}

static int write_new(const char *path, int flags, const char *text, size_t len)
{
    int fd = open(path, flags | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, MODE);
    if (fd < 0) return -errno;
    int err = fchmod(fd, MODE) == 0 ? write_all(fd, text, len) : -errno;
    close(fd);
    return err;
}

/* The user's file under its other name, or a copy of it. */
static int put_aside(const char *path, const char *backup, bool as_copy)
{
    char *text;
    size_t len;
    if (!exists(path)) return 0; /* then there is none to give back */
    if (unlink(backup) != 0 && errno != ENOENT) return -errno;
    if (!as_copy && linkat(AT_FDCWD, path, AT_FDCWD, backup, 0) == 0) return 0;
    int err = tn_file_read(path, TN_RESOLV_MAX, &text, &len);
    if (err) return err;
    err = write_new(backup, O_CREAT | O_EXCL, text, len);
    free(text);
    return err;
}

/* A mount can't be replaced, only written. */
static int write_in_place(const char *path, const char *backup, const char *text, size_t len)
{
    struct stat a, b;
    bool same = stat(path, &a) == 0 && stat(backup, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
    int err = same ? put_aside(path, backup, true) : 0;
    return err ? err : write_new(path, O_TRUNC, text, len);
}

static int put_in_place(const char *path, const char *backup, const char *text, size_t len)
{
    char temporary[PATH_LEN];
    int err = beside(path, ".tailnet-new", temporary);
    if (err) return err;
    if (unlink(temporary) != 0 && errno != ENOENT) return -errno;
    err = write_new(temporary, O_CREAT | O_EXCL, text, len);
    if (!err && rename(temporary, path) != 0) err = -errno;
    if (err) (void)unlink(temporary);
    return err == -EBUSY ? write_in_place(path, backup, text, len) : err;
}

int tn_resolv_set(const char *path, const struct tn_ip *servers, size_t n, const char *search)
{
    char backup[PATH_LEN], text[TEXT_MAX], ip[TN_IP_STRLEN];
    int err = backup_of(path, backup);
    if (err) return err;
    int len = snprintf(text, sizeof text, "%s\n# The file that was here is %s and comes back at the end.\n", TN_RESOLV_MARK, backup);
    for (size_t i = 0; i < n && i < TN_RESOLV_SERVERS; i++)
        len += snprintf(text + len, sizeof text - (size_t)len, "nameserver %s\n", tn_ip_format(&servers[i], ip));
    if (*search) len += snprintf(text + len, sizeof text - (size_t)len, "search %s\n", search);
    if (len >= (int)sizeof text) return TN_E_TOOBIG;
    bool fresh = !is_ours(path);
    err = fresh ? put_aside(path, backup, false) : 0;
    if (err) return err;
    err = put_in_place(path, backup, text, (size_t)len);
    if (err && fresh && !is_ours(path)) (void)unlink(backup); /* the user's is still in place */
    return err;
}

int tn_resolv_restore(const char *path)
{
    char backup[PATH_LEN], *text;
    size_t len;
    int err = backup_of(path, backup);
    if (err) return err;
    bool ours = is_ours(path), aside = exists(backup);
    if (exists(path) && !ours) { /* somebody's newer one */
        if (aside) (void)unlink(backup);
        return 0;
    }
    if (!aside) return !ours || unlink(path) == 0 ? 0 : -errno;
    if (rename(backup, path) == 0) return 0;
    if (errno != EBUSY && errno != EXDEV) return -errno;
    err = tn_file_read(backup, TN_RESOLV_MAX, &text, &len);
    if (err) return err;
    err = write_new(path, O_TRUNC, text, len);
    free(text);
    if (!err) (void)unlink(backup);
    return err;
}
