/* A DoH upstream in memory: TLS by OpenSSL, HTTP/2 by nghttp2, with a certificate made on the spot for 192.0.2.53. */
#ifndef TEST_DOH_SERVER_H
#define TEST_DOH_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the server does with requests from now on. */
struct doh_behaviour {
    int status;              /* 0: never answers */
    const char *type;        /* content type of answers */
    bool other_question;     /* answers something else */
    bool not_dns;            /* the body is a line of text */
    size_t body_len;         /* != 0: the answer is padded to this length */
    bool refuse;             /* RST_STREAM REFUSED_STREAM */
    bool goaway;             /* GOAWAY instead of an answer, nothing processed */
    bool reset;              /* RST_STREAM after the header */
};

struct doh_server; /* one connection's server side */

/* Creates key and certificate; the certificate goes to path (PEM) for SSL_CERT_FILE. */
void doh_identity_make(const char *path);
void doh_identity_free(void);
struct doh_server *doh_server_new(const struct doh_behaviour *b, bool h2); /* b is read at each request */
void doh_server_free(struct doh_server *s);
void doh_server_input(struct doh_server *s, const void *bytes, size_t len);
size_t doh_server_output(struct doh_server *s, void *out, size_t cap);
/* Answers the requests held back while status was 0, newest first. */
void doh_server_answer_held(struct doh_server *s);
unsigned doh_server_requests(const struct doh_server *s);
unsigned doh_server_canceled(const struct doh_server *s);
unsigned doh_server_pings(const struct doh_server *s);
bool doh_server_said_goodbye(const struct doh_server *s); /* the client's GOAWAY or close_notify came */
const char *doh_server_complaint(const struct doh_server *s); /* what was wrong with a request, or NULL */

#endif
