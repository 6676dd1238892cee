/* The clients: all connect() in one instant, and each asks for its stream as soon as it can. */
#include "crowd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_BYTES 2048
#define MOST_READY 512
#define MOST_TEXT_BYTES 65535

enum state { CONNECTING, HEAD, OPEN, GONE };

struct client {
    int fd;
    enum state state;
    uint64_t began_ns;
    size_t head_bytes;
    char *head;              /* what came before its response's head was whole */
    struct stream stream;
};

/* What became of the clients: each is in one of these, or still under way. */
static struct {
    int open, closed;        /* served; those whose stream the server has ended since */
    int refused, reset, cut; /* by connect(); by the server before its answer, with RST or FIN */
    int turned_away;         /* answered, but with another status */
} became;

static struct client *clients;
static int poll_fd, under_way;
static char request[8192];
static size_t request_bytes;
static uint64_t first_connect_ns, last_connect_ns, last_served_ns;

static void control(int operation, struct client *client, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(poll_fd, operation, client->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

static void build_request(void) {
    const char *kind = options.websocket
        ? "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        : "Accept: text/event-stream\r\n";
    int bytes = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s:%d\r\n%s%s\r\n",
                         options.path, options.host, options.port, kind, options.headers);
    if (bytes >= (int)sizeof request) fail("the request is too long");
    request_bytes = (size_t)bytes;
}

static void leave(struct client *client, int *outcome) {
    ++*outcome;
    if (client->state == OPEN)
        became.open--;
    else
        under_way--;
    client->state = GONE;
    free(client->head);
    client->head = NULL;
    close(client->fd);
}

static void start_connecting(struct client *client, const struct sockaddr_in *address) {
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0) fail("socket: %s", strerror(errno));
    client->state = CONNECTING;
    client->head = malloc(HEAD_BYTES + 1);
    if (client->head == NULL) fail("out of memory");
    client->began_ns = now_ns();
    under_way++;
    if (connect(client->fd, (const struct sockaddr *)address, sizeof *address) == 0 ||
        errno == EINPROGRESS)
        control(EPOLL_CTL_ADD, client, EPOLLOUT);
    else if (errno == ECONNREFUSED)
        leave(client, &became.refused);
    else
        fail("connect: %s", strerror(errno)); /* no ports are left, for one */
}

static void send_request(struct client *client) {
    int error = 0, one = 1;
    socklen_t size = sizeof error;
    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (!error) {
        setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (send(client->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes)
            error = errno;
    }
    if (error) {
        leave(client, error == ECONNREFUSED ? &became.refused : &became.reset);
        return;
    }
    client->state = HEAD;
    control(EPOLL_CTL_MOD, client, EPOLLIN);
}

static void send_frame(struct client *client, uint8_t opcode, const char *text, size_t bytes) {
    uint8_t frame[8 + MOST_TEXT_BYTES];
    size_t at = 0;
    frame[at++] = 0x80 | opcode;
    if (bytes < 126) {
        frame[at++] = (uint8_t)(0x80 | bytes);
    } else {
        frame[at++] = 0x80 | 126;
        frame[at++] = (uint8_t)(bytes >> 8);
        frame[at++] = (uint8_t)bytes;
    }
    memset(frame + at, 0, 4); /* masked with zeros */
    at += 4;
    memcpy(frame + at, text, bytes);
    at += bytes;
    for (size_t sent = 0; sent < at;) {
        ssize_t taken = send(client->fd, frame + sent, at - sent, MSG_NOSIGNAL);
        if (taken < 0 && errno != EAGAIN) return; /* its end shows when it is read */
        if (taken < 0) poll(&(struct pollfd){client->fd, POLLOUT, 0}, 1, 1000);
        sent += taken > 0 ? (size_t)taken : 0;
    }
}

static void take(struct client *client, char *data, size_t bytes) {
    int pings = stream_take(&client->stream, data, bytes);
    if (pings == STREAM_ENDED) {
        leave(client, &became.closed);
        return;
    }
    for (; pings > 0; pings--) send_frame(client, 10, "", 0);
}

static void read_head(struct client *client, char *data, size_t bytes) {
    size_t before = client->head_bytes;
    size_t copied = bytes < HEAD_BYTES - before ? bytes : HEAD_BYTES - before;
    memcpy(client->head + before, data, copied);
    client->head_bytes += copied;
    client->head[client->head_bytes] = 0;
    char *end = memmem(client->head, client->head_bytes, "\r\n\r\n", 4);
    int status = 0;
    if (end == NULL && client->head_bytes < HEAD_BYTES) return;
    /* An EventSource that is turned away for now gets 200, an error event, and no stream: what it
     * gets has a length. */
    const char *length = strcasestr(client->head, "\ncontent-length:");
    if (end == NULL || sscanf(client->head, "HTTP/1.%*d %d", &status) != 1 ||
        status != (options.websocket ? 101 : 200) || (length != NULL && length < end)) {
        leave(client, &became.turned_away);
        return;
    }
    size_t behind = (size_t)(end + 4 - client->head) - before;
    free(client->head);
    client->head = NULL;
    client->state = OPEN;
    under_way--;
    became.open++;
    last_served_ns = now_ns();
    latencies_add(&served, last_served_ns - client->began_ns);
    if (bytes > behind) take(client, data + behind, bytes - behind);
}

static void ready(struct client *client) {
    static char buffer[RECORD_BYTES + READ_BYTES];
    char *data = buffer + RECORD_BYTES;
    if (client->state == CONNECTING) {
        send_request(client);
        return;
    }
    ssize_t bytes = recv(client->fd, data, READ_BYTES, 0);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (bytes <= 0)
        leave(client, client->state == OPEN ? &became.closed
                      : bytes < 0           ? &became.reset
                                            : &became.cut);
    else if (client->state == HEAD)
        read_head(client, data, (size_t)bytes);
    else
        take(client, data, (size_t)bytes);
}

void clients_turn(int timeout_ms) {
    struct epoll_event events[MOST_READY];
    int count = epoll_wait(poll_fd, events, MOST_READY, timeout_ms);
    if (count < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        if (events[i].data.ptr == NULL)
            commands_ready();
        else
            ready(events[i].data.ptr);
    }
}

void clients_connect(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        fail("%s is not an IPv4 address", options.host);
    build_request();
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    clients = calloc((size_t)options.clients, sizeof *clients);
    if (poll_fd < 0 || clients == NULL) fail("no epoll, or out of memory");
    first_connect_ns = now_ns();
    for (int i = 0; i < options.clients; i++) start_connecting(&clients[i], &address);
    last_connect_ns = now_ns();
    uint64_t end = first_connect_ns + (uint64_t)options.patience_ms * 1000000u;
    while (under_way && now_ns() < end) clients_turn(100);
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &commands) != 0)
        fail("standard input must be a pipe: %s", strerror(errno));
}

void clients_say(int client, const char *text, size_t bytes) {
    if (client < 0 || client >= options.clients || bytes > MOST_TEXT_BYTES)
        fail("client %d cannot say %zu bytes", client, bytes);
    if (clients[client].state == OPEN) send_frame(&clients[client], 1, text, bytes);
}

void clients_print(void) {
    printf("\"open\": %d, \"closed\": %d, \"refused\": %d, \"reset\": %d, \"cut\": %d, "
           "\"turned_away\": %d, \"unanswered\": %d, \"first_connect_ns\": %lu, "
           "\"last_connect_ns\": %lu, \"last_served_ns\": %lu, ",
           became.open, became.closed, became.refused, became.reset, became.cut,
           became.turned_away, under_way, first_connect_ns, last_connect_ns, last_served_ns);
}
