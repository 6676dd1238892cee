/* Looks for records in the bytes of a stream, and counts the frames of a WebSocket by their heads
 * alone, so that compressed ones count, too. */
#include "crowd.h"

#include <string.h>

struct counters counters;

#define LAST_CHUNK "\r\n0\r\n\r\n"
#define LAST_CHUNK_BYTES 7

/* Returns whether an event stream ends here as a whole: a connection may well outlive its stream. One
 * that is broken off, so that its client comes back, ends with its connection. */
static bool scan(struct stream *stream, char *data, size_t bytes) {
    char *start = data - stream->kept, *end = data + bytes;
    uint64_t now = 0;
    memcpy(start, stream->tail, stream->kept);
    bool last = !options.websocket && end - start >= LAST_CHUNK_BYTES &&
                memcmp(end - LAST_CHUNK_BYTES, LAST_CHUNK, LAST_CHUNK_BYTES) == 0;
    for (;;) {
        char *hit = memmem(start, (size_t)(end - start), MARK, MARK_BYTES);
        if (hit == NULL || end - hit < RECORD_BYTES) break;
        uint64_t due = 0;
        for (int i = MARK_BYTES; i < RECORD_BYTES; i++) due = due * 10 + (uint64_t)(hit[i] - '0');
        if (now == 0) now = now_ns();
        if (due) latencies_add(&delivered, now > due ? now - due : 0); /* 0: nobody asks */
        counters.records++;
        start = hit + RECORD_BYTES;
    }
    stream->kept = (size_t)(end - start);
    if (stream->kept > sizeof stream->tail) stream->kept = sizeof stream->tail;
    memcpy(stream->tail, end - stream->kept, stream->kept);
    return last;
}

/* Servers' frames are not masked: two bytes, then two or eight more for longer payloads. */
static int count_frames(struct stream *stream, const uint8_t *data, size_t bytes) {
    int pings = 0;
    while (bytes) {
        if (stream->payload) {
            size_t skipped = stream->payload < bytes ? (size_t)stream->payload : bytes;
            stream->payload -= skipped;
            data += skipped;
            bytes -= skipped;
            continue;
        }
        stream->head[stream->have++] = *data++;
        bytes--;
        if (stream->have < 2) continue;
        int length = stream->head[1] & 0x7f;
        stream->need = length == 126 ? 4 : length == 127 ? 10 : 2;
        if (stream->have < stream->need) continue;
        uint64_t payload = stream->need == 2 ? (uint64_t)length : 0;
        for (int i = 2; i < stream->need; i++) payload = payload << 8 | stream->head[i];
        int opcode = stream->head[0] & 0x0f;
        counters.messages += opcode == 1 || opcode == 2;
        pings += opcode == 9;
        stream->payload = payload;
        stream->have = 0;
    }
    return pings;
}

int stream_take(struct stream *stream, char *data, size_t bytes) {
    counters.bytes += bytes;
    counters.reads++;
    int pings = options.websocket ? count_frames(stream, (const uint8_t *)data, bytes) : 0;
    return scan(stream, data, bytes) ? STREAM_ENDED : pings;
}
