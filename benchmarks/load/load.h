/* The load client: N stream clients and K publishers in one thread over one epoll.
 *
 * Every event carries one record, TAG plus ten digits, somewhere in its data. Clients do not parse
 * SSE, WebSocket or what lies above: they look for records in the bytes that arrive, which costs
 * the same for all and leaves the CPU to the server under test.
 */
#ifndef LOAD_H
#define LOAD_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#define TAG_BYTES 8
#define DIGITS 10
#define RECORD_BYTES (TAG_BYTES + DIGITS)
#define RECORD_MARK "{record}"   /* where the record goes in a body: the command line's word */
#define MOST_MESSAGES 4
#define HISTOGRAM_BUCKETS (64 * 64)

struct options {
    const char *host, *path, *publish_path, *phases;
    const char *body, *content_type;   /* of a POST; the body has one RECORD_MARK in it */
    const char *ready;    /* what a stream must bring before it counts as open; NULL is nothing */
    const char *messages[MOST_MESSAGES];   /* sent on a WebSocket after the upgrade */
    int message_count;
    bool websocket;
    int port, clients, stalled, handshakes, publishers, in_flight;
    int settle_ms, stall_ms, server_pid;
    double seconds, open_rate;
    long events;          /* most events of a phase; 0 is no such limit */
    char headers[4096];   /* further lines of every request's head, each ended by CRLF */
    char publish_headers[4096];   /* and those of POSTs only */
};
extern struct options options;

/* ---- time and the server's process: process.c ---- */

uint64_t now_ns(void);
double own_cpu(void);
double server_cpu(void);      /* seconds; -1 if the process is not known */
long server_rss_kb(void);     /* -1 if not known */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* ---- latencies: histogram.c ---- */

struct histogram {
    uint64_t buckets[HISTOGRAM_BUCKETS];
    uint64_t count, most;
};
void histogram_add(struct histogram *histogram, uint64_t ns);
double histogram_ms(const struct histogram *histogram, double quantile);

/* ---- what was published and who has it: ledger.c ---- */

struct event {
    uint64_t sent_ns, first_ns;
    uint32_t missing;     /* clients that do not have it yet */
    int32_t position;     /* in the order that all clients must see; -1: nobody has it */
    int32_t publisher;
};

struct faults {
    uint64_t skipped;            /* a client got a later event first */
    uint64_t late_or_repeated;   /* a client got an event that it had, or had to have, before */
    uint64_t disordered;         /* two events of one publisher, not in the order they were sent */
    uint64_t unknown;            /* a record that was never published */
    uint64_t closed;             /* streams that the server ended */
    uint64_t publish_errors;     /* a reply other than 2xx, or none */
};
extern struct faults faults;
extern uint32_t published, completed;   /* events sent; events that every client has */
extern uint64_t completed_span_ns;      /* from the first to the last client, over all events */

char *new_tag(void);
uint32_t ledger_publish(int publisher, uint32_t receivers, uint64_t sent_ns);
uint64_t ledger_receive(uint32_t *client_position, uint32_t number, uint64_t now);
uint64_t ledger_lost(void);
void note_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool any_fault(void);

/* ---- the streams: clients.c ---- */

enum kind { CLIENT, PUBLISHER };

struct source {
    enum kind kind;
    int fd;
};

struct counters {
    uint64_t deliveries, reads, reads_with_events, most_events_in_a_read, bytes;
};
extern struct counters counters;
extern struct histogram latencies;
extern uint32_t open_clients;      /* those that read, so that get each event */
extern uint32_t stalled_clients;   /* those that got in and never read again */

void connect_clients(int count, int stalled_ones);
void close_clients(void);
void client_ready(struct source *source, uint32_t events);
void send_pongs(void);
uint64_t all_segments_received(void);

/* ---- one socket's counters: segments.c ---- */

uint32_t segments_received(int fd);   /* segments with data; 0 if not known */

/* ---- the POST connections: publishers.c ---- */

void prepare_publishers(void);
void publisher_ready(struct source *source, uint32_t events);
bool publish(uint64_t due_ns, int allowed);   /* false if the first `allowed` ones are busy */
bool all_replied(void);

/* ---- the loop: reactor.c ---- */

extern uint64_t last_progress_ns;

void reactor_open(void);
void reactor_add(struct source *source, uint32_t events);
void reactor_modify(struct source *source, uint32_t events);
void reactor_remove(struct source *source);
void reactor_turn(int timeout_ms);
void reactor_rest(int milliseconds);   /* handles what comes in the meantime */
bool stalled(void);
struct sockaddr_in server_address(void);

/* ---- the measurements: phases.c ---- */

void run_phases(void);   /* prints each as a JSON object, separated by commas */

#endif
