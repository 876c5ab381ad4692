#include "util/file.h"
#include "util/err.h"
#include "util/secret.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int tn_file_read(const char *path, size_t max, char **out, size_t *len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    size_t cap = 4096, used = 0;
    char *mem = malloc(cap + 1);
    int err = mem ? 0 : TN_E_NOMEM;
    while (!err) {
        if (used == cap) { /* not realloc: it may leave a copy of a secret behind */
            char *more = used > max ? NULL : malloc(cap * 2 + 1);
            if (!more) {
                err = used > max ? TN_E_TOOBIG : TN_E_NOMEM;
                break;
            }
            memcpy(more, mem, used);
            tn_wipe(mem, used);
            free(mem);
            mem = more;
            cap *= 2;
        }
        ssize_t n = read(fd, mem + used, cap - used);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) err = -errno;
        if (n <= 0) break;
        used += (size_t)n;
    }
    if (!err && used > max) err = TN_E_TOOBIG;
    close(fd);
    if (err) {
        if (mem) tn_wipe(mem, used);
        free(mem);
        return err;
    }
    mem[used] = '\0';
    *out = mem;
    *len = used;
    return 0;
}

static int write_all(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        bytes += n;
        len -= (size_t)n;
    }
    return 0;
}

static int sync_directory_of(const char *path)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash) snprintf(dir, sizeof dir, ".");
    else snprintf(dir, sizeof dir, "%.*s", (int)(slash - path > 0 ? slash - path : 1), path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    int err = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return err;
}

int tn_file_replace(const char *path, const void *bytes, size_t len)
{
    char tmp[PATH_MAX];
    int n = snprintf(tmp, sizeof tmp, "%s.XXXXXX", path);
    if (n < 0 || n >= (int)sizeof tmp) return TN_E_TOOBIG;
    int fd = mkostemp(tmp, O_CLOEXEC); /* mode 0600 */
    if (fd < 0) return -errno;
    int err = write_all(fd, bytes, len);
    if (!err && fsync(fd) != 0) err = -errno;
    if (close(fd) != 0 && !err) err = -errno;
    if (!err && rename(tmp, path) != 0) err = -errno;
    if (err) {
        unlink(tmp);
        return err;
    }
    return sync_directory_of(path);
}

int tn_dir_make(const char *path)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part) return TN_E_INVAL;
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0700) != 0 && errno != EEXIST) return -errno;
    }
    struct stat st;
    if (stat(path, &st) != 0) return -errno;
    return S_ISDIR(st.st_mode) ? 0 : -ENOTDIR;
}

int tn_dir_lock(const char *dir, const char *name)
{
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || n >= (int)sizeof path) return TN_E_TOOBIG;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) { /* flock: per open file, so a second node of this process is refused too */
        int err = errno == EWOULDBLOCK ? TN_E_BUSY : -errno;
        close(fd);
        return err;
    }
    return fd;
}
