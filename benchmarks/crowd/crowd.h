/* A crowd of stream clients in one thread over one epoll, told what to do on standard input.
 *
 * It connects all at once, says what became of each, and then reads, counts and obeys until its
 * standard input ends. Unlike the load client it publishes nothing, and clients that are turned
 * away are counted and do not end it.
 */
#ifndef CROWD_H
#define CROWD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MARK "@ns:"          /* before the time at which an event was due */
#define MARK_BYTES 4
#define DIGITS 19            /* of CLOCK_MONOTONIC in nanoseconds */
#define RECORD_BYTES (MARK_BYTES + DIGITS)
#define READ_BYTES 65536

struct options {
    const char *host, *path;
    bool websocket;
    int port, clients, patience_ms;
    char headers[4096];      /* further lines of a request's head, each ended by CRLF */
};
extern struct options options;

/* ---- clocks and the end: main.c ---- */

uint64_t now_ns(void);
double own_cpu(void);
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- what came in: stream.c ---- */

struct stream {
    uint8_t head[10];        /* of the WebSocket frame that has not begun its payload */
    int have, need;
    uint64_t payload;        /* bytes of it that are still to come */
    size_t kept;             /* bytes that may be the beginning of a record */
    char tail[RECORD_BYTES - 1];
};

struct counters {
    uint64_t bytes, reads, records, messages;   /* messages: data frames of a WebSocket */
};
extern struct counters counters;

/* Counts what is in `bytes` at `data`, which has RECORD_BYTES of room in front of it. Returns how
 * many pings are to be answered, or STREAM_ENDED. */
#define STREAM_ENDED (-1)
int stream_take(struct stream *stream, char *data, size_t bytes);

/* ---- latencies, in microseconds: latencies.c ---- */

struct latencies {
    uint32_t *values;
    size_t count, capacity;
};
extern struct latencies delivered, served;   /* of records; from connect() to being in */

void latencies_add(struct latencies *latencies, uint64_t ns);
void latencies_print(const char *name, struct latencies *latencies);

/* ---- the clients: clients.c ---- */

void clients_connect(void);          /* returns when each is in or has failed, or patience ends */
void clients_turn(int timeout_ms);   /* handles what has come; also a line of standard input */
void clients_say(int client, const char *text, size_t bytes);
void clients_print(void);            /* what became of them, as members of a JSON object */

/* ---- commands: main.c ---- */

void commands_ready(void);

#endif
