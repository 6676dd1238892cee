/* Stream clients: connect, get in, then look for records in what comes, or never read again. */
#include "load.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES 8192
#define READ_BYTES 65536
#define STALLED_BUFFER 4096 /* little, so that a server soon sees that nobody reads */

enum state { CONNECTING, HEAD, GREETING, OPEN, STALLED, CLOSED };

struct client {
    struct source source;
    enum state state;
    bool stalls;         /* does not read once it is in */
    uint32_t position;   /* in the common order: the next event it must get */
    size_t kept;         /* bytes that may be the beginning of a record */
    char tail[RECORD_BYTES - 1];
    char *head;          /* what came until it was in: a response's head, a greeting */
    size_t head_bytes;
};

struct counters counters;
struct histogram latencies;
uint32_t open_clients, stalled_clients;

static struct client *clients;
static int client_count, handshakes;
static char request[8192];
static int request_bytes;

extern const char *tag;

static void build_request(void) {
    /* The sample key of RFC 6455, section 1.3: one key, so that the C loop can answer with one
     * constant. */
    const char *upgrade = options.websocket
        ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        : "Accept: text/event-stream\r\n";
    request_bytes = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\n%s%s\r\n",
                             options.path, options.host, options.port, upgrade, options.headers);
    if (request_bytes >= (int)sizeof request) fail("the request is too long");
}

static void start_connecting(struct client *client, bool stalls) {
    struct sockaddr_in address = server_address();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket: %s", strerror(errno));
    int buffer = STALLED_BUFFER;
    if (stalls) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    *client = (struct client){.source = {.kind = CLIENT, .fd = fd}, .state = CONNECTING,
                              .stalls = stalls, .position = published};
    client->head = malloc(HEAD_BYTES);
    if (client->head == NULL) fail("out of memory");
    handshakes++;
    reactor_add(&client->source, EPOLLOUT);
}

static void end_client(struct client *client, const char *reason) {
    if (client->state != OPEN) fail("a client did not get in: %s", reason);
    faults.closed++;
    note_fault("client %d lost its stream: %s", (int)(client - clients), reason);
    close(client->source.fd);
    client->state = CLOSED;
    open_clients--;
}

/* New connections have room for what is sent here. */
static void send_all(struct client *client, const char *data, size_t bytes) {
    if (send(client->source.fd, data, bytes, MSG_NOSIGNAL) != (ssize_t)bytes)
        fail("sending a request: %s", strerror(errno));
}

static void send_request(struct client *client) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(client->source.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) fail("connect: %s", strerror(error));
    send_all(client, request, (size_t)request_bytes);
    client->state = HEAD;
    reactor_modify(&client->source, EPOLLIN);
}

/* Looks for records in `bytes` at `data`, which has room for the kept tail in front of it. */
static void scan(struct client *client, char *data, size_t bytes, uint64_t now) {
    char *start = data - client->kept, *end = data + bytes;
    uint64_t found = 0;
    memcpy(start, client->tail, client->kept);
    for (;;) {
        char *hit = memmem(start, (size_t)(end - start), tag, TAG_BYTES);
        if (hit == NULL || end - hit < RECORD_BYTES) break;
        uint32_t number = 0;
        for (int i = TAG_BYTES; i < RECORD_BYTES; i++)
            number = number * 10 + (uint32_t)(hit[i] - '0');
        histogram_add(&latencies, ledger_receive(&client->position, number, now));
        found++;
        start = hit + RECORD_BYTES;
    }
    client->kept = (size_t)(end - start);
    if (client->kept > sizeof client->tail) client->kept = sizeof client->tail;
    memcpy(client->tail, end - client->kept, client->kept);

    counters.reads++;
    counters.bytes += bytes;
    if (found) {
        counters.deliveries += found;
        counters.reads_with_events++;
        if (found > counters.most_events_in_a_read) counters.most_events_in_a_read = found;
        last_progress_ns = now;
    }
}

/* Sends the messages of options.messages, each as one masked text frame. */
static void send_messages(struct client *client) {
    static const unsigned char mask[] = {1, 2, 3, 4};
    for (int i = 0; i < options.message_count; i++) {
        const char *text = options.messages[i];
        size_t bytes = strlen(text), at = 0;
        unsigned char frame[HEAD_BYTES + 8];
        if (bytes > HEAD_BYTES) fail("a message is longer than %d bytes", HEAD_BYTES);
        frame[at++] = 0x81;
        if (bytes < 126) {
            frame[at++] = (unsigned char)(0x80 | bytes);
        } else {
            frame[at++] = 0x80 | 126;
            frame[at++] = (unsigned char)(bytes >> 8);
            frame[at++] = (unsigned char)bytes;
        }
        memcpy(frame + at, mask, sizeof mask);
        at += sizeof mask;
        for (size_t j = 0; j < bytes; j++) frame[at++] = (unsigned char)text[j] ^ mask[j % 4];
        send_all(client, (const char *)frame, at);
    }
}

static void enter(struct client *client) {
    client->head_bytes = 0;
    free(client->head);
    client->head = NULL;
    handshakes--;
    if (client->stalls) {
        client->state = STALLED;
        stalled_clients++;
        reactor_remove(&client->source);
    } else {
        client->state = OPEN;
        open_clients++;
    }
}

/* The bytes behind the response's head; NULL: it has not ended. */
static char *behind_head(struct client *client) {
    char *end = memmem(client->head, client->head_bytes, "\r\n\r\n", 4);
    if (end == NULL || client->state == GREETING) return end ? end + 4 : NULL;
    int status = 0;
    client->head[client->head_bytes] = 0;
    if (sscanf(client->head, "HTTP/1.%*d %d", &status) != 1 ||
        status != (options.websocket ? 101 : 200))
        fail("GET %s was answered with %.200s", options.path, client->head);
    client->state = GREETING;
    send_messages(client);
    return end + 4;
}

static void read_head(struct client *client, char *data, size_t bytes, uint64_t now) {
    if (client->head_bytes + bytes >= HEAD_BYTES) fail("a response's head is too long");
    memcpy(client->head + client->head_bytes, data, bytes);
    client->head_bytes += bytes;
    char *rest = behind_head(client);
    if (rest == NULL) return;
    size_t behind = client->head_bytes - (size_t)(rest - client->head);
    if (options.ready != NULL) {
        char *found = memmem(rest, behind, options.ready, strlen(options.ready));
        if (found == NULL) return;
        behind -= (size_t)(found - rest) + strlen(options.ready);
    }
    enter(client);
    last_progress_ns = now;
    if (behind && client->state == OPEN) scan(client, data + bytes - behind, behind, now);
}

void client_ready(struct source *source, uint32_t events) {
    static char buffer[RECORD_BYTES + READ_BYTES];
    struct client *client = (struct client *)source;
    char *data = buffer + RECORD_BYTES;
    (void)events;
    if (client->state == CONNECTING) {
        send_request(client);
        return;
    }
    ssize_t bytes = recv(source->fd, data, READ_BYTES, 0);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (bytes <= 0)
        end_client(client, bytes ? strerror(errno) : "the server closed it");
    else if (client->state != OPEN)
        read_head(client, data, (size_t)bytes, now_ns());
    else
        scan(client, data, (size_t)bytes, now_ns());
}

/* Opens `count` streams, at most options.handshakes of them under way at a time; `stalled_ones` of them,
 * spread evenly, do not read what comes. */
void connect_clients(int count, int stalled_ones) {
    build_request();
    clients = calloc((size_t)count, sizeof *clients);
    if (clients == NULL) fail("out of memory");
    client_count = 0;
    last_progress_ns = now_ns();
    while (open_clients + stalled_clients < (uint32_t)count) {
        while (client_count < count && handshakes < options.handshakes) {
            int64_t i = client_count++;
            bool stalls = (i + 1) * stalled_ones / count > i * stalled_ones / count;
            start_connecting(&clients[i], stalls);
        }
        reactor_turn(100);
        if (faults.closed) fail("the server closed streams while others connected");
        if (stalled()) fail("only %u of %d clients got in", open_clients + stalled_clients, count);
    }
}

void close_clients(void) {
    for (int i = 0; i < client_count; i++)
        if (clients[i].state != CLOSED) close(clients[i].source.fd);
    free(clients);
    clients = NULL;
    client_count = 0;
    open_clients = stalled_clients = 0;
}

/* Shows the server that its peers live, between two measurements: an unasked, masked pong. */
void send_pongs(void) {
    static const char pong[] = {(char)0x8a, (char)0x80, 1, 2, 3, 4};
    if (!options.websocket) return;
    for (int i = 0; i < client_count; i++)
        if (clients[i].state != CLOSED)
            (void)!send(clients[i].source.fd, pong, sizeof pong, MSG_NOSIGNAL);
}

/* A server's write of less than 64 kB reaches a loopback client as one segment (TCP_NODELAY), so
 * this counts writes however they are made. */
uint64_t all_segments_received(void) {
    uint64_t sum = 0;
    for (int i = 0; i < client_count; i++)
        if (clients[i].state == OPEN) sum += segments_received(clients[i].source.fd);
    return sum;
}
