/* The DERP client against a scripted server. Bytes of the boxes are checked against Go in test_go_server_info. */
#include "../../../src/path/derp_client.c"
#include "../../../src/path/derp_frames.c"
#include "fake.h"
#include "util/text.h"

struct bed {
    uint64_t seed;
    struct fake_net net;
    struct tn_derp_map *map;
    struct tn_node_private key;
    struct tn_node_public pub;
    struct tn_derp_client *c;
    uint64_t now_us;
    /* what the callbacks saw */
    unsigned packets, runs, ups, downs, gones, healths;
    int last_err;
    uint8_t reason;
    char text[256];
    uint8_t packet[TN_DERP_PACKET_MAX];
    size_t packet_len, segment; /* of the last run */
    struct tn_node_public from, gone;
};

static void on_pkts(void *ctx, struct tn_derp_client *c, const struct tn_node_public *from, uint8_t *packet, size_t len,
                    size_t segment, uint64_t now_us)
{
    struct bed *b = ctx;
    assert_true(len > 0 && segment > 0 && segment <= len);
    b->packets += (unsigned)((len + segment - 1) / segment);
    b->runs++;
    b->segment = segment;
    b->from = *from;
    b->packet_len = len;
    assert_true(len <= sizeof b->packet);
    memcpy(b->packet, packet, len);
    packet[0] ^= 0xff; /* it is ours to write to */
}
static void on_peer_gone(void *ctx, struct tn_derp_client *c, const struct tn_node_public *peer, uint8_t reason)
{
    struct bed *b = ctx;
    b->gones++;
    b->gone = *peer;
    b->reason = reason;
}
static void on_state_change(void *ctx, struct tn_derp_client *c, int err, const char *text, uint64_t now_us)
{
    struct bed *b = ctx;
    if (err) b->downs++;
    else b->ups++;
    b->last_err = err;
    snprintf(b->text, sizeof b->text, "%s", text);
}
static void on_health_text(void *ctx, struct tn_derp_client *c, const char *text)
{
    struct bed *b = ctx;
    b->healths++;
    snprintf(b->text, sizeof b->text, "%s", text);
}
static const struct tn_derp_client_callbacks bed_callbacks = {on_pkts, on_peer_gone, on_state_change, on_health_text};

static const char one_node[] = "{\"Regions\":{\"5\":{\"RegionCode\":\"fra\",\"Nodes\":["
                               "{\"Name\":\"5a\",\"HostName\":\"a.example\",\"IPv4\":\"192.0.2.1\",\"IPv6\":\"none\"}]}}}";
static const char three_nodes[] =
    "{\"Regions\":{\"5\":{\"RegionCode\":\"fra\",\"Nodes\":[{\"Name\":\"5a\",\"HostName\":\"a.example\",\"DERPPort\":8443},"
    "{\"Name\":\"5s\",\"HostName\":\"s.example\",\"STUNOnly\":true},{\"Name\":\"5b\",\"HostName\":\"b.example\"}]}}}";

static struct bed *bed_new(const char *map)
{
    struct bed *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->seed = 7;
    b->now_us = 1000 * SEC;
    fake_net_init(&b->net, &b->seed);
    tn_node_private_generate(&b->key, &b->net.rng);
    tn_node_public_of(&b->key, &b->pub);
    json_t *json = json_loads(map, 0, NULL);
    assert_int_equal(tn_derp_map_parse(json, NULL, &b->map), 0);
    json_decref(json);
    struct tn_derp_client_config config = {.key = &b->key, .public_key = &b->pub, .dialer = &b->net.dialer,
                                           .rng = &b->net.rng, .cb = &bed_callbacks, .ctx = b};
    assert_int_equal(tn_derp_client_new(&config, &b->map->regions[0], &b->c), 0);
    return b;
}

static void bed_free(struct bed *b)
{
    tn_derp_client_free(b->c);
    for (size_t i = 0; i < b->net.count; i++) assert_true(b->net.streams[i]->gone); /* nothing is left open */
    tn_derp_map_free(b->map);
    fake_net_fini(&b->net);
    free(b);
}

static void bed_timeout(struct bed *b)
{
    uint64_t at_us = tn_derp_client_next_deadline(b->c);
    assert_true(at_us != TN_NEVER);
    if (at_us > b->now_us) b->now_us = at_us;
    tn_derp_client_timeout(b->c, b->now_us);
}

static struct fake_stream *bed_up(struct bed *b)
{
    bed_timeout(b);
    fake_serve(&b->net, b->now_us);
    assert_true(tn_derp_client_up(b->c));
    return fake_last(&b->net);
}

static void send_frame(struct bed *b, struct fake_stream *f, const char *hex)
{
    uint8_t bytes[512];
    assert_true(strlen(hex) / 2 <= sizeof bytes);
    assert_int_equal(tn_hex_decode(hex, bytes, strlen(hex) / 2), 0);
    fake_data(f, bytes, strlen(hex) / 2, b->now_us);
}

#define KEY1 "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"

static void test_slow_start(void **state)
{
    struct bed *b = bed_new(one_node);
    tn_derp_client_set_home(b->c, true);
    bed_timeout(b);
    struct fake_stream *f = fake_last(&b->net);
    assert_true(f->tls);
    assert_string_equal(f->host, "a.example");
    assert_int_equal(f->port, 443);
    assert_int_equal(f->naddrs, 1);
    assert_int_equal(f->timeout_us, 10 * SEC);
    fake_open(f, b->now_us);
    static const char want[] = "GET /derp HTTP/1.1\r\nHost: a.example\r\nUser-Agent: tailnet\r\nConnection: Upgrade\r\n"
                               "Upgrade: DERP\r\n\r\n";
    assert_int_equal(tn_buf_len(&f->sent), sizeof want - 1);
    assert_memory_equal(tn_buf_data(&f->sent), want, sizeof want - 1);
    fake_serve(&b->net, b->now_us);
    assert_true(tn_derp_client_up(b->c));
    assert_int_equal(b->ups, 1);
    assert_memory_equal(f->client.b, b->pub.b, 32);
    assert_true(f->preferred);
    bed_free(b);
}

static void test_fast_start_is_one_write(void **state)
{
    struct bed *b = bed_new(one_node);
    b->net.fast = true;
    bed_timeout(b);
    struct fake_stream *f = fake_last(&b->net);
    fake_open(f, b->now_us);
    bool fast;
    struct tn_derp_frame frame;
    uint8_t mem[512], out[512];
    assert_true(fake_take_request(f, &fast, b->now_us));
    assert_true(fast);
    assert_true(fake_take_frame(f, &frame, mem, sizeof mem)); /* behind the request, before a byte came back */
    fake_check_client_info(f, &frame);
    fake_data(f, out, fake_greeting(&b->net, false, out, sizeof out), b->now_us);
    assert_false(tn_derp_client_up(b->c));
    fake_data(f, out, fake_server_info(f, out, sizeof out), b->now_us);
    assert_true(tn_derp_client_up(b->c));
    bed_free(b);
}

static void test_fast_start_answered_by_101(void **state)
{
    struct bed *b = bed_new(one_node);
    b->net.fast = true;
    bed_timeout(b);
    struct fake_stream *f = fake_last(&b->net);
    fake_open(f, b->now_us);
    bool fast;
    struct tn_derp_frame frame;
    uint8_t mem[512], out[512];
    assert_true(fake_take_request(f, &fast, b->now_us));
    assert_true(fake_take_frame(f, &frame, mem, sizeof mem));
    fake_check_client_info(f, &frame);
    size_t n = fake_greeting(&b->net, true, out, sizeof out);
    for (size_t i = 0; i < n; i++) fake_data(f, out + i, 1, b->now_us);
    fake_data(f, out, fake_server_info(f, out, sizeof out), b->now_us);
    assert_true(tn_derp_client_up(b->c));
    bed_free(b);
}

static void test_failed_fast_start_falls_back(void **state)
{
    struct bed *b = bed_new(one_node);
    b->net.fast = true;
    bed_timeout(b);
    fake_open(fake_last(&b->net), b->now_us);
    fake_data(fake_last(&b->net), "HTTP/1.1 400 Bad Request\r\n\r\n", 28, b->now_us);
    assert_true(fake_last(&b->net)->gone);
    assert_int_equal(b->last_err, TN_E_HTTP);
    bed_timeout(b);
    fake_open(fake_last(&b->net), b->now_us);
    bool fast;
    assert_true(fake_take_request(fake_last(&b->net), &fast, b->now_us));
    assert_false(fast);
    bed_free(b);
}

static void test_split_at_every_byte(void **state)
{
    for (int fast = 0; fast < 2; fast++) {
        for (size_t cut = 0; cut < 220; cut++) {
            struct bed *b = bed_new(one_node);
            uint8_t out[512], mem[512];
            struct tn_derp_frame frame;
            bool is_fast;
            b->net.fast = fast;
            bed_timeout(b);
            struct fake_stream *f = fake_last(&b->net);
            fake_open(f, b->now_us);
            assert_true(fake_take_request(f, &is_fast, b->now_us));
            size_t n = fake_greeting(&b->net, !fast, out, sizeof out), at = cut < n ? cut : n;
            if (fast) {
                assert_true(fake_take_frame(f, &frame, mem, sizeof mem));
                fake_check_client_info(f, &frame);
            }
            fake_data(f, out, at, b->now_us);
            fake_data(f, out + at, n - at, b->now_us);
            if (!fast) {
                assert_true(fake_take_frame(f, &frame, mem, sizeof mem));
                fake_check_client_info(f, &frame);
            }
            struct tn_wr w = tn_wr_init(out, sizeof out);
            w.p += fake_server_info(f, out, sizeof out);
            tn_derp_packet_put(&w, TN_DERP_RECV_PACKET, b->net.server_pub.b, (const uint8_t *)"hello", 5);
            n = tn_wr_len(&w);
            at = cut < n ? cut : n;
            fake_data(f, out, at, b->now_us);
            fake_data(f, out + at, n - at, b->now_us);
            assert_int_equal(b->ups, 1);
            assert_int_equal(b->packets, 1);
            assert_memory_equal(b->packet, "hello", 5);
            assert_memory_equal(b->from.b, b->net.server_pub.b, 32);
            bed_free(b);
        }
    }
}

/* Garbage at each step ends this connection and leads to a later retry, never to "up". */
static void test_garbage_at_every_step(void **state)
{
    static const struct { int step; const char *bytes; size_t len; int err; } rows[] = {
        {0, "HTTP/1.1 426 Upgrade Required\r\n\r\n", 33, TN_E_HTTP},
        {0, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 38, TN_E_HTTP},
        {0, "SSH-2.0-OpenSSH\r\n\r\n", 19, TN_E_MALFORMED},
        {0, "\0\0\0\0\0\0\r\n\r\n", 10, TN_E_MALFORMED},
        {1, "\x06\0\0\0\0", 5, TN_E_PROTO},                                /* a frame before the greeting */
        {1, "\x01\0\0\0\x04" "DERP", 9, TN_E_MALFORMED},                   /* too short */
        {1, "\x01\0\0\0\x28" "XXXXXXXX0123456789012345678901234567890123456789", 45, TN_E_MALFORMED},
        {1, "\x01\0\1\0\x29", 5, TN_E_TOOBIG},
        {1, "\x01\xff\xff\xff\xff", 5, TN_E_TOOBIG},
        {1, "\x01\0\0\0\x28" "DERP\xf0\x9f\x94\x91\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
         45, TN_E_CRYPTO},                                                     /* the low-order key 0 */
        {2, "\x03\0\0\0\x04" "abcd", 9, TN_E_MALFORMED},
        {2, "\x03\0\0\0\x30" "012345678901234567890123456789012345678901234567", 53, TN_E_CRYPTO},
        {2, "\x03\0\x01\0\x40", 5, TN_E_TOOBIG},
        {2, "\x05\0\x10\0\x01", 5, TN_E_TOOBIG},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bed *b = bed_new(one_node);
        uint8_t out[512];
        bed_timeout(b);
        struct fake_stream *f = fake_last(&b->net);
        fake_open(f, b->now_us);
        if (rows[i].step == 1) fake_data(f, "HTTP/1.1 101 x\r\n\r\n", 18, b->now_us);
        if (rows[i].step == 2) fake_data(f, out, fake_greeting(&b->net, true, out, sizeof out), b->now_us);
        fake_data(f, rows[i].bytes, rows[i].len, b->now_us);
        assert_true(f->gone);
        assert_int_equal(b->ups, 0);
        assert_int_equal(b->downs, 1);
        assert_int_equal(b->last_err, rows[i].err);
        uint64_t at_us = tn_derp_client_next_deadline(b->c);
        assert_true(at_us > b->now_us && at_us <= b->now_us + 5 * SEC);
        bed_free(b);
    }
}

static void test_server_info_not_json(void **state)
{
    static const char *const rows[] = {"", "[]", "7", "{", "{\"version\":2}x"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bed *b = bed_new(one_node);
        b->net.server_info = rows[i];
        bed_timeout(b);
        fake_serve(&b->net, b->now_us);
        assert_int_equal(b->ups, 0);
        assert_true(fake_last(&b->net)->gone);
        bed_free(b);
    }
}

/* A ServerInfo box sealed by Go's key.NodePrivate.SealTo (v1.102.5), opened with our side of the same keys. */
static void test_go_server_info(void **state)
{
    static const char a_priv[] = "0002030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f60";
    static const char b_pub[] = "493e82fc74464a59268817623d2053c5eb8e2cc4a988b4fee179ec6b010d531d";
    static const char box_hex[] =
        "76136c5758332375256884b31141282dfb84939fc01b04b922fc792304029875258db79690cfe9acc0db493a23eb28e0c8d6fc01c3b562dd"
        "3980d37103a451035246ca6f9f46520448049c1abcc6a4239575305256c9382fd8341f075995e1b6a39665b5e7b52a4aee6b355f4b3738d7"
        "9fd867";
    struct bed *b = bed_new(one_node);
    uint8_t box[256], pub[32];
    size_t len = strlen(box_hex) / 2;
    assert_int_equal(tn_hex_decode(a_priv, b->key.b, 32), 0);
    assert_int_equal(tn_hex_decode(b_pub, pub, 32), 0);
    assert_int_equal(tn_hex_decode(box_hex, box, len), 0);
    assert_int_equal(tn_box_shared_init(&b->c->shared, b->key.b, pub), 0);
    struct tn_derp_frame f = {.type = TN_DERP_SERVER_INFO, .body = box, .len = len, .data = box, .data_len = len};
    assert_int_equal(take_server_info(b->c, &f, b->now_us), 0);
    assert_true(b->c->rate == 1000 && b->c->burst == 2000);
    bed_free(b);
}

static void test_frames_while_up(void **state)
{
    struct bed *b = bed_new(one_node);
    struct fake_stream *f = bed_up(b);
    struct tn_derp_frame frame;
    uint8_t mem[512];
    send_frame(b, f, "0600000000");
    send_frame(b, f, "7700000003aabbcc");                   /* unknown: skipped */
    send_frame(b, f, "0800000002aabb");                     /* short: skipped */
    send_frame(b, f, "0500000010" "00112233445566778899aabbccddeeff"); /* 16 of 32 bytes */
    assert_int_equal(b->gones + b->packets, 0);
    send_frame(b, f, "0800000020" KEY1);
    assert_int_equal(b->gones, 1);
    assert_int_equal(b->gone.b[0], 0x40);
    assert_int_equal(b->reason, 0);
    send_frame(b, f, "0800000021" KEY1 "01");
    assert_int_equal(b->reason, 1);
    send_frame(b, f, "0800000021" KEY1 "77");               /* an unknown reason is a reason */
    assert_int_equal(b->gones, 3);
    send_frame(b, f, "1200000008" "0102030405060708");
    assert_true(fake_take_frame(f, &frame, mem, sizeof mem));
    assert_int_equal(frame.type, TN_DERP_PONG);
    assert_memory_equal(frame.data, "\1\2\3\4\5\6\7\10", 8);
    send_frame(b, f, "1400000003" "626164");
    assert_string_equal(b->text, "bad");
    send_frame(b, f, "1400000000");
    assert_string_equal(b->text, "");
    assert_int_equal(b->healths, 2);
    send_frame(b, f, "0500000020" KEY1);                    /* an empty datagram is none */
    assert_int_equal(b->packets, 0);
    assert_int_equal(b->downs, 0);
    bed_free(b);
}

/* Frames of datagrams, each of so many bytes of the value. */
static void put_packets(struct tn_wr *w, uint8_t key, uint8_t value, size_t len, unsigned count)
{
    uint8_t from[32] = {key}, bytes[64];
    assert_true(len <= sizeof bytes);
    memset(bytes, value, len);
    for (unsigned i = 0; i < count; i++) tn_derp_packet_put(w, TN_DERP_RECV_PACKET, from, bytes, len);
}

static void expect_run(struct bed *b, unsigned runs, uint8_t key, uint8_t first, size_t len, size_t segment, uint8_t last)
{
    assert_int_equal(b->runs, runs);
    assert_int_equal(b->from.b[0], key);
    assert_int_equal(b->packet_len, len);
    assert_int_equal(b->segment, segment);
    assert_int_equal(b->packet[0], first);
    assert_int_equal(b->packet[len - 1], last);
}

static void test_datagrams_in_runs(void **state)
{
    struct bed *b = bed_new(one_node);
    struct fake_stream *f = bed_up(b);
    uint8_t bytes[2048];
    struct tn_wr w = tn_wr_init(bytes, sizeof bytes);
    put_packets(&w, 7, 1, 40, 3);
    put_packets(&w, 7, 2, 20, 1); /* shorter: the run's last */
    fake_data(f, bytes, tn_wr_len(&w), b->now_us);
    expect_run(b, 1, 7, 1, 140, 40, 2);

    w = tn_wr_init(bytes, sizeof bytes);
    put_packets(&w, 7, 3, 20, 1);
    put_packets(&w, 7, 4, 40, 1); /* longer than what came before */
    fake_data(f, bytes, tn_wr_len(&w), b->now_us);
    expect_run(b, 3, 7, 4, 40, 40, 4);

    w = tn_wr_init(bytes, sizeof bytes);
    put_packets(&w, 7, 5, 40, 2);
    put_packets(&w, 8, 6, 40, 2); /* another peer's */
    fake_data(f, bytes, tn_wr_len(&w), b->now_us);
    expect_run(b, 5, 8, 6, 80, 40, 6);

    w = tn_wr_init(bytes, sizeof bytes);
    put_packets(&w, 7, 7, 40, 2);
    tn_derp_peer_gone_put(&w, b->from.b, TN_DERP_GONE_DISCONNECTED); /* not before what was sent before it */
    put_packets(&w, 7, 8, 40, 1);
    size_t cut = tn_wr_len(&w) - 1;
    fake_data(f, bytes, cut, b->now_us);
    expect_run(b, 6, 7, 7, 80, 40, 7);
    assert_int_equal(b->gones, 1);
    fake_data(f, bytes + cut, 1, b->now_us);
    expect_run(b, 7, 7, 8, 40, 40, 8);
    assert_int_equal(b->packets, 4 + 2 + 4 + 3);
    bed_free(b);
}

static void test_large_frames(void **state)
{
    struct bed *b = bed_new(one_node);
    struct fake_stream *f = bed_up(b);
    size_t len = 5 + 32 + TN_DERP_PACKET_MAX;
    uint8_t *big = calloc(1, TN_DERP_FRAME_MAX + 16);
    assert_non_null(big);
    big[0] = TN_DERP_RECV_PACKET;
    tn_put_be32(big + 1, 32 + TN_DERP_PACKET_MAX);
    fake_data(f, big, len, b->now_us);
    assert_int_equal(b->packet_len, TN_DERP_PACKET_MAX);
    big[0] = 0x66; /* unknown and large: skipped without being kept */
    tn_put_be32(big + 1, TN_DERP_FRAME_MAX);
    for (size_t at = 0; at < TN_DERP_FRAME_MAX + 5;) {
        size_t n = TN_DERP_FRAME_MAX + 5 - at < 9000 ? TN_DERP_FRAME_MAX + 5 - at : 9000;
        fake_data(f, big + at, n, b->now_us);
        at += n;
        assert_true(b->c->in.cap <= TN_DERP_HEADER_LEN + TN_DERP_BUFFERED_MAX + TN_DERP_SLICE_MAX);
    }
    send_frame(b, f, "0500000021" KEY1 "aa");
    assert_int_equal(b->packets, 2);
    assert_int_equal(b->packet[0], 0xaa);
    send_frame(b, f, "0500100001");
    assert_int_equal(b->last_err, TN_E_TOOBIG);
    assert_true(f->gone);
    free(big);
    bed_free(b);
}

static void test_silence_is_an_end(void **state)
{
    struct bed *b = bed_new(one_node);
    bed_up(b);
    uint64_t up_us = b->now_us;
    assert_true(tn_derp_client_next_deadline(b->c) == up_us + 120 * SEC);
    b->now_us += 60 * SEC;
    send_frame(b, fake_last(&b->net), "0600000000");
    assert_true(tn_derp_client_next_deadline(b->c) == up_us + 180 * SEC);
    send_frame(b, fake_last(&b->net), "06000000"); /* part of a frame is no sign of life */
    bed_timeout(b);
    assert_int_equal(b->last_err, TN_E_TIMEDOUT);
    bed_free(b);
}

static void test_reconnect_repeats_note_preferred(void **state)
{
    struct bed *b = bed_new(one_node);
    bed_up(b);
    assert_false(fake_last(&b->net)->preferred);
    tn_derp_client_set_home(b->c, true);
    fake_serve(&b->net, b->now_us);
    assert_true(fake_last(&b->net)->preferred);
    uint64_t generation = tn_derp_client_generation(b->c);
    fake_lose(fake_last(&b->net), TN_E_RESET, b->now_us);
    assert_int_equal(b->last_err, TN_E_RESET);
    assert_int_equal(tn_derp_client_failures(b->c), 1);
    bed_up(b);
    assert_int_equal(b->net.count, 2);
    assert_true(fake_last(&b->net)->preferred);
    assert_true(tn_derp_client_generation(b->c) != generation);
    assert_int_equal(tn_derp_client_failures(b->c), 0);
    bed_free(b);
}

static void test_backoff_grows_to_five_seconds(void **state)
{
    struct bed *b = bed_new(one_node);
    uint64_t longest_us = 0;
    b->net.dial_err = TN_E_NETUNREACH;
    for (int i = 0; i < 40; i++) {
        bed_timeout(b);
        uint64_t wait_us = tn_derp_client_next_deadline(b->c) - b->now_us;
        assert_true(wait_us >= 50 * MS && wait_us <= 5 * SEC);
        if (i == 0) assert_true(wait_us <= 100 * MS);
        if (i > 10) assert_true(wait_us >= 2500 * MS);
        if (wait_us > longest_us) longest_us = wait_us;
    }
    assert_int_equal(b->last_err, TN_E_NETUNREACH);
    assert_int_equal(b->downs, 40);
    assert_true(longest_us > 4 * SEC); /* jittered, not constant */
    bed_free(b);
}

/* A server that accepts and closes at once is not hammered: only a connection that lasted forgives. */
static void test_flapping_server_backs_off(void **state)
{
    struct bed *b = bed_new(one_node);
    for (int i = 0; i < 10; i++) {
        bed_up(b);
        fake_lose(fake_last(&b->net), TN_E_EOF, b->now_us);
    }
    assert_true(tn_derp_client_next_deadline(b->c) - b->now_us >= 2500 * MS);
    bed_up(b);
    b->now_us += 11 * SEC;
    fake_lose(fake_last(&b->net), TN_E_EOF, b->now_us);
    assert_true(tn_derp_client_next_deadline(b->c) - b->now_us <= 100 * MS);
    bed_free(b);
}

static void test_nodes_in_order(void **state)
{
    struct bed *b = bed_new(three_nodes);
    bed_timeout(b);
    struct fake_stream *f = fake_last(&b->net);
    assert_string_equal(f->host, "a.example");
    assert_int_equal(f->port, 8443);
    assert_int_equal(f->naddrs, 0); /* by name */
    assert_int_equal(f->timeout_us, 3 * SEC);
    b->now_us += 2 * SEC;
    fake_lose(f, TN_E_REFUSED, b->now_us);
    assert_int_equal(b->downs, 0); /* not over yet */
    f = fake_last(&b->net);
    assert_string_equal(f->host, "b.example"); /* the STUN-only node is skipped */
    assert_int_equal(f->timeout_us, 8 * SEC);  /* what is left of the ten */
    fake_open(f, b->now_us);
    const char *request = (const char *)tn_buf_data(&f->sent);
    assert_non_null(memmem(request, tn_buf_len(&f->sent), "Ideal-Node: 5a\r\n", 16));
    b->now_us += SEC;
    fake_lose(f, TN_E_RESET, b->now_us);
    assert_int_equal(b->downs, 1);
    assert_int_equal(b->last_err, TN_E_RESET);
    bed_timeout(b);
    assert_string_equal(fake_last(&b->net)->host, "a.example");
    bed_free(b);
}

static void test_connect_takes_at_most_ten_seconds(void **state)
{
    struct bed *b = bed_new(three_nodes);
    bed_timeout(b);
    uint64_t start_us = b->now_us;
    while (b->downs == 0) {
        struct fake_stream *f = fake_last(&b->net);
        if (!f->open) fake_open(f, b->now_us); /* opens and then says nothing */
        bed_timeout(b);
    }
    assert_int_equal(b->last_err, TN_E_TIMEDOUT);
    assert_true(b->now_us - start_us == 10 * SEC);
    assert_int_equal(b->net.count, 2);
    bed_free(b);
}

static void test_queue_drops_the_oldest(void **state)
{
    struct bed *b = bed_new(one_node);
    struct tn_derp_frame frame;
    uint8_t mem[512];
    struct fake_stream *f = bed_up(b);
    f->write_result = 1;
    for (int i = 0; i < 40; i++) {
        uint8_t byte = (uint8_t)i;
        tn_derp_client_send(b->c, &b->net.server_pub, &byte, 1, b->now_us);
    }
    assert_true(fake_take_frame(f, &frame, mem, sizeof mem)); /* the one that met the backlog */
    assert_int_equal(frame.data[0], 0);
    assert_false(fake_take_frame(f, &frame, mem, sizeof mem));
    send_frame(b, f, "12000000080102030405060708");            /* no pong piles up either */
    assert_int_equal(tn_buf_len(&f->sent), 0);
    fake_drain(f, b->now_us);
    for (int i = 8; i < 40; i++) {
        assert_true(fake_take_frame(f, &frame, mem, sizeof mem));
        assert_int_equal(frame.data[0], i);
    }
    assert_false(fake_take_frame(f, &frame, mem, sizeof mem));
    bed_free(b);
}

static void test_sends_wait_for_the_connect(void **state)
{
    struct bed *b = bed_new(one_node);
    uint8_t big[4000] = {3};
    tn_derp_client_send(b->c, &b->net.server_pub, (const uint8_t *)"one", 3, b->now_us);
    tn_derp_client_send(b->c, &b->net.server_pub, big, sizeof big, b->now_us);
    assert_int_equal(b->c->queued, 2);
    struct fake_stream *f = bed_up(b);
    assert_int_equal(f->sent_packets, 2);
    tn_derp_client_send(b->c, &b->net.server_pub, big, sizeof big, b->now_us); /* larger than the stack's frame */
    fake_serve(&b->net, b->now_us);
    assert_int_equal(f->sent_packets, 3);
    uint8_t *huge = calloc(1, TN_DERP_PACKET_MAX + 1);
    tn_derp_client_send(b->c, &b->net.server_pub, huge, TN_DERP_PACKET_MAX + 1, b->now_us);
    assert_int_equal(tn_buf_len(&f->sent), 0);
    free(huge);
    bed_free(b);
}

static void test_stale_queue_is_dropped(void **state)
{
    struct bed *b = bed_new(one_node);
    tn_derp_client_send(b->c, &b->net.server_pub, (const uint8_t *)"one", 3, b->now_us);
    bed_timeout(b);
    bed_timeout(b); /* ten seconds of no answer */
    assert_int_equal(b->last_err, TN_E_TIMEDOUT);
    assert_int_equal(b->c->queued, 0);
    bed_free(b);
}

static void test_rate_limit_drops(void **state)
{
    struct bed *b = bed_new(one_node);
    uint8_t packet[63] = {0}; /* 100 bytes with header and key */
    b->net.server_info = "{\"version\":2,\"TokenBucketBytesPerSecond\":1000,\"TokenBucketBytesBurst\":250}";
    struct fake_stream *f = bed_up(b);
    for (int i = 0; i < 5; i++) tn_derp_client_send(b->c, &b->net.server_pub, packet, sizeof packet, b->now_us);
    fake_serve(&b->net, b->now_us);
    assert_int_equal(f->sent_packets, 2); /* 250 bytes of burst */
    b->now_us += 50 * MS;
    tn_derp_client_send(b->c, &b->net.server_pub, packet, sizeof packet, b->now_us);
    fake_serve(&b->net, b->now_us);
    assert_int_equal(f->sent_packets, 3); /* 50 left, 50 more */
    b->now_us += 3600 * SEC;              /* idle time fills the bucket, not more */
    for (int i = 0; i < 5; i++) tn_derp_client_send(b->c, &b->net.server_pub, packet, sizeof packet, b->now_us);
    fake_serve(&b->net, b->now_us);
    assert_int_equal(f->sent_packets, 5);
    assert_int_equal(b->c->queued, 0);    /* dropped, not delayed */
    bed_free(b);
}

static void test_restarting_says_when(void **state)
{
    struct bed *b = bed_new(one_node);
    struct fake_stream *f = bed_up(b);
    send_frame(b, f, "1500000008" "000009c4" "00002710");
    assert_int_equal(b->downs, 0); /* it only announces */
    fake_lose(f, TN_E_EOF, b->now_us);
    uint64_t wait_us = tn_derp_client_next_deadline(b->c) - b->now_us;
    assert_true(wait_us >= 2500 * MS && wait_us <= 2501 * MS);
    f = bed_up(b);
    send_frame(b, f, "1500000008" "ffffffff" "ffffffff");
    fake_lose(f, TN_E_EOF, b->now_us);
    assert_true(tn_derp_client_next_deadline(b->c) - b->now_us <= 5 * SEC);
    bed_free(b);
}

static void test_link_check(void **state)
{
    struct tn_ip mine = tn_ip4(192, 0, 2, 10), other = tn_ip4(192, 0, 2, 11);
    struct bed *b = bed_new(one_node);
    bed_up(b);
    tn_derp_client_check(b->c, &mine, 1, b->now_us);
    fake_serve(&b->net, b->now_us); /* answers the ping */
    assert_true(tn_derp_client_next_deadline(b->c) > b->now_us + 3 * SEC);
    tn_derp_client_check(b->c, &mine, 1, b->now_us);
    bed_timeout(b); /* no answer */
    assert_int_equal(b->last_err, TN_E_TIMEDOUT);
    bed_up(b);
    tn_derp_client_check(b->c, &other, 1, b->now_us); /* our address is gone */
    assert_false(tn_derp_client_up(b->c));
    assert_true(tn_derp_client_next_deadline(b->c) <= b->now_us);
    bed_free(b);
}

static void test_freed_at_any_step(void **state)
{
    for (int step = 0; step < 4; step++) {
        struct bed *b = bed_new(one_node);
        uint8_t out[512];
        if (step > 0) bed_timeout(b);
        if (step > 1) fake_open(fake_last(&b->net), b->now_us);
        if (step > 2) fake_data(fake_last(&b->net), out, fake_greeting(&b->net, true, out, sizeof out), b->now_us);
        bed_free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slow_start),
        cmocka_unit_test(test_fast_start_is_one_write),
        cmocka_unit_test(test_fast_start_answered_by_101),
        cmocka_unit_test(test_failed_fast_start_falls_back),
        cmocka_unit_test(test_split_at_every_byte),
        cmocka_unit_test(test_garbage_at_every_step),
        cmocka_unit_test(test_server_info_not_json),
        cmocka_unit_test(test_go_server_info),
        cmocka_unit_test(test_frames_while_up),
        cmocka_unit_test(test_datagrams_in_runs),
        cmocka_unit_test(test_large_frames),
        cmocka_unit_test(test_silence_is_an_end),
        cmocka_unit_test(test_reconnect_repeats_note_preferred),
        cmocka_unit_test(test_backoff_grows_to_five_seconds),
        cmocka_unit_test(test_flapping_server_backs_off),
        cmocka_unit_test(test_nodes_in_order),
        cmocka_unit_test(test_connect_takes_at_most_ten_seconds),
        cmocka_unit_test(test_queue_drops_the_oldest),
        cmocka_unit_test(test_sends_wait_for_the_connect),
        cmocka_unit_test(test_stale_queue_is_dropped),
        cmocka_unit_test(test_rate_limit_drops),
        cmocka_unit_test(test_restarting_says_when),
        cmocka_unit_test(test_link_check),
        cmocka_unit_test(test_freed_at_any_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
