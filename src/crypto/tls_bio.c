/* The BIO between OpenSSL and two tn_bufs: no copy to hand out ciphertext, and the memory goes when a buffer empties,
 * which OpenSSL's own memory BIOs do not do. */
#include "crypto/tls_internal.h"

#include <limits.h>
#include <string.h>

static int bio_read(BIO *bio, char *out, size_t cap, size_t *got)
{
    struct tn_tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    size_t n = tn_buf_len(&t->in);
    if (n == 0) {
        BIO_set_retry_read(bio);
        return 0;
    }
    if (n > cap) n = cap;
    memcpy(out, tn_buf_data(&t->in), n);
    tn_buf_consume(&t->in, n);
    *got = n;
    return 1;
}

static int bio_write(BIO *bio, const char *bytes, size_t len, size_t *put)
{
    struct tn_tls *t = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (tn_buf_append(&t->out, bytes, len) != 0) return 0;
    *put = len;
    return 1;
}

static long bio_ctrl(BIO *bio, int command, long num, void *ptr)
{
    (void)bio, (void)num, (void)ptr;
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_PUSH || command == BIO_CTRL_POP;
}

BIO_METHOD *tn_tls_bio_method_new(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "tn_buf");
    if (!m) return NULL;
    BIO_meth_set_read_ex(m, bio_read);
    BIO_meth_set_write_ex(m, bio_write);
    BIO_meth_set_ctrl(m, bio_ctrl);
    return m;
}

BIO *tn_tls_bio_new(BIO_METHOD *method, struct tn_tls *t)
{
    BIO *bio = BIO_new(method);
    if (!bio) return NULL;
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    return bio;
}
