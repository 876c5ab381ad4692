#include "dev/stunport.h"
#include "wire/stun.h"

#include <sys/socket.h>

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct tn_dev_stunport *p = handle->data;
    *buf = uv_buf_init(p->buf, sizeof p->buf);
}

/* uv_udp_try_send: an answer the socket does not take now is a lost datagram, not a queue. */
static void on_datagram(uv_udp_t *udp, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from, unsigned flags)
{
    struct tn_dev_stunport *p = udp->data;
    uint8_t txid[TN_STUN_TXID_LEN], answer[TN_STUN_RESPONSE_MAX];
    struct tn_addrport ap;
    if (n <= 0 || !from) return;
    if ((flags & UV_UDP_PARTIAL) || tn_addrport_from_sockaddr(from, &ap) != 0 ||
        tn_stun_request_parse((uint8_t *)buf->base, (size_t)n, txid) != 0) {
        p->ignored++;
        return;
    }
    uv_buf_t b = uv_buf_init((char *)answer, (unsigned)tn_stun_response_put(answer, txid, &ap));
    if (b.len && uv_udp_try_send(udp, &b, 1, from) > 0) p->answered++;
}

int tn_dev_stunport_open(uv_loop_t *loop, const struct tn_addrport *at, struct tn_dev_stunport *p,
                         struct tn_addrport *bound)
{
    struct sockaddr_storage ss;
    tn_addrport_to_sockaddr(at, &ss);
    int rc = uv_udp_init(loop, &p->udp);
    if (rc != 0) return rc;
    p->udp.data = p;
    p->open = true;
    rc = uv_udp_bind(&p->udp, (struct sockaddr *)&ss, 0);
    if (rc == 0) rc = uv_udp_recv_start(&p->udp, on_alloc, on_datagram);
    int len = sizeof ss;
    if (rc == 0) rc = uv_udp_getsockname(&p->udp, (struct sockaddr *)&ss, &len);
    return rc == 0 ? tn_addrport_from_sockaddr((struct sockaddr *)&ss, bound) : rc;
}

static void on_closed(uv_handle_t *handle)
{
    struct tn_dev_stunport *p = handle->data;
    p->closed(p->arg);
}

void tn_dev_stunport_close(struct tn_dev_stunport *p)
{
    p->open = false;
    uv_close((uv_handle_t *)&p->udp, on_closed);
}
