/* Small files: bounded reads, atomic owner-only writes, a lock on a directory. Blocking: start-up and state saves. */
#ifndef TN_UTIL_FILE_H
#define TN_UTIL_FILE_H

#include <stddef.h>

/* Reads the whole file into *out (malloc'd, NUL-terminated beyond len; the caller frees, wiping it first if secret).
 * TN_E_NOENT, TN_E_ACCES, TN_E_TOOBIG (over max), TN_E_IO. */
int tn_file_read(const char *path, size_t max, char **out, size_t *len);
/* Writes mode 0600 to a temporary in the same directory, fsyncs, renames, fsyncs the directory. On failure the old
 * file is untouched. */
int tn_file_replace(const char *path, const void *bytes, size_t len);
/* mkdir -p with mode 0700 for what is missing. */
int tn_dir_make(const char *path);
/* Takes an exclusive lock on DIR/name (created 0600), held while the descriptor is open. TN_E_BUSY when another
 * process (or another node of this one) holds it. Returns the descriptor (close-on-exec) or a negative code. */
int tn_dir_lock(const char *dir, const char *name);

#endif
