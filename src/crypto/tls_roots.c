/* The trusted roots, found the way Go and curl do: SSL_CERT_FILE and SSL_CERT_DIR replace the default file and
 * directories; without them OpenSSL's compiled-in places count, then the places where distributions keep the bundle.
 *
 * A hashed directory is preferred to a bundle: OpenSSL reads from it only the root that a chain asks for, where a
 * bundle of 140 certificates takes 2-3 MB and 20 ms. A place named by the environment that can't be read is an error
 * of its own, since every later "unknown issuer" would hide it. */
#include "crypto/tls_internal.h"

#include <dirent.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const bundles[] = {
    "/etc/ssl/certs/ca-certificates.crt",                /* Debian, Arch, Alpine */
    "/etc/pki/tls/certs/ca-bundle.crt",                  /* Fedora */
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", /* RHEL */
    "/etc/ssl/ca-bundle.pem",                            /* SUSE */
    "/etc/ssl/cert.pem",
};
static const char *const dirs[] = {"/etc/ssl/certs", "/etc/pki/tls/certs"};

enum { SCAN_MAX = 4096 }; /* directory entries looked at for a hashed name; more is no certificate directory */

/* Does a name look like OpenSSL's "8 hex digits, dot, number"? */
static bool is_hashed_name(const char *name)
{
    return strlen(name) >= 10 && strspn(name, "0123456789abcdef") == 8 && name[8] == '.' && name[9] >= '0' &&
           name[9] <= '9';
}

static bool is_hashed_dir(const char *path)
{
    DIR *dir = opendir(path);
    if (!dir) return false;
    bool found = false;
    struct dirent *e;
    for (int i = 0; !found && i < SCAN_MAX && (e = readdir(dir)); i++) found = is_hashed_name(e->d_name);
    closedir(dir);
    return found;
}

/* The environment names a colon-separated list of hashed directories. */
static bool load_env_dir(X509_STORE *store, const char *list, char *error, size_t cap)
{
    if (X509_STORE_load_path(store, list) == 1) return true;
    snprintf(error, cap, "the directories in SSL_CERT_DIR can't be used");
    return false;
}

static bool load_env_file(X509_STORE *store, const char *path, char *error, size_t cap)
{
    if (X509_STORE_load_file(store, path) == 1) return true;
    snprintf(error, cap, "no certificates could be read from SSL_CERT_FILE (%.180s)", path);
    return false;
}

static bool load_default_dir(X509_STORE *store)
{
    const char *first = X509_get_default_cert_dir();
    if (is_hashed_dir(first)) return X509_STORE_load_path(store, first) == 1;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++)
        if (is_hashed_dir(dirs[i])) return X509_STORE_load_path(store, dirs[i]) == 1;
    return false;
}

static bool load_default_file(X509_STORE *store)
{
    const char *first = X509_get_default_cert_file();
    if (access(first, R_OK) == 0 && X509_STORE_load_file(store, first) == 1) return true;
    for (size_t i = 0; i < sizeof bundles / sizeof *bundles; i++)
        if (access(bundles[i], R_OK) == 0 && X509_STORE_load_file(store, bundles[i]) == 1) return true;
    return false;
}

static bool load(X509_STORE *store, char *error, size_t cap)
{
    const char *env_file = secure_getenv(X509_get_default_cert_file_env());
    const char *env_dir = secure_getenv(X509_get_default_cert_dir_env());
    bool any = false;
    if (env_file && *env_file) {
        if (!load_env_file(store, env_file, error, cap)) return false;
        any = true;
    }
    if (env_dir && *env_dir) {
        if (!load_env_dir(store, env_dir, error, cap)) return false;
        any = true;
    } else if (load_default_dir(store)) {
        any = true;
    }
    if (!any) any = load_default_file(store);
    if (!any) snprintf(error, cap, "no trusted roots on this system (ca-certificates not installed?)");
    return any;
}

X509_STORE *tn_tls_roots_load(char *error, size_t cap)
{
    X509_STORE *store = X509_STORE_new();
    if (!store) {
        snprintf(error, cap, "out of memory");
        return NULL;
    }
    bool ok = load(store, error, cap);
    ERR_clear_error();
    if (ok) return store;
    X509_STORE_free(store);
    return NULL;
}
