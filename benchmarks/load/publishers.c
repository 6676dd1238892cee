/* Publishers: keep-alive POST connections, each with one request under way. */
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLY_BYTES 8192
#define LEAST_DATA_BYTES 40

struct publisher {
    struct source source;
    bool busy;
    size_t have;
    char reply[REPLY_BYTES + 1];
};

extern const char *tag;

static struct publisher *publishers;
static char *request;
static size_t request_bytes;
static char *digits; /* where the request holds the event's number */

static void open_connection(struct publisher *publisher) {
    struct sockaddr_in address = server_address();
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) fail("socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect: %s", strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    publisher->source = (struct source){.kind = PUBLISHER, .fd = fd};
    publisher->have = 0;
    reactor_add(&publisher->source, EPOLLIN);
}

static void reconnect(struct publisher *publisher) {
    close(publisher->source.fd);
    open_connection(publisher);
}

/* The body is {"type":"bench","data":{"n":"<record>","pad":"xx…"}}, its data as long as asked. */
void prepare_publishers(void) {
    int data = options.data_bytes < LEAST_DATA_BYTES ? LEAST_DATA_BYTES : options.data_bytes;
    char *body = malloc((size_t)data + 64);
    request = malloc((size_t)data + 8192);
    publishers = calloc((size_t)options.publishers, sizeof *publishers);
    if (body == NULL || request == NULL || publishers == NULL) fail("out of memory");
    int bytes = sprintf(body, "{\"type\":\"bench\",\"data\":{\"n\":\"%s%0*d\",\"pad\":\"",
                        tag, DIGITS, 0);
    int end = (int)strlen("{\"type\":\"bench\",\"data\":") + data - 2;
    while (bytes < end) body[bytes++] = 'x';
    strcpy(body + bytes, "\"}}");
    request_bytes = (size_t)snprintf(
        request, (size_t)data + 8192,
        "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\n%s\r\n%s",
        options.publish_path, options.host, options.port, strlen(body), options.headers, body);
    digits = strstr(request, tag) + TAG_BYTES;
    free(body);
    for (int i = 0; i < options.publishers; i++) open_connection(&publishers[i]);
}

static bool send_publish(struct publisher *publisher) {
    return send(publisher->source.fd, request, request_bytes, MSG_NOSIGNAL) ==
           (ssize_t)request_bytes;
}

bool publish(uint64_t due_ns, int allowed) {
    int i = 0;
    while (i < allowed && publishers[i].busy) i++;
    if (i == allowed) return false;
    char number[DIGITS + 1];
    uint64_t sent = due_ns ? due_ns : now_ns();
    snprintf(number, sizeof number, "%0*u", DIGITS, ledger_publish(i, open_clients, sent));
    memcpy(digits, number, DIGITS);
    if (!send_publish(&publishers[i])) {
        /* Servers end keep-alive connections after some requests; none is under way here. */
        reconnect(&publishers[i]);
        if (!send_publish(&publishers[i])) fail("publishing: %s", strerror(errno));
    }
    publishers[i].busy = true;
    return true;
}

bool all_replied(void) {
    for (int i = 0; i < options.publishers; i++)
        if (publishers[i].busy) return false;
    return true;
}

static void publish_error(const char *what) {
    faults.publish_errors++;
    note_fault("a publish was not accepted: %.200s", what);
}

static void take_reply(struct publisher *publisher) {
    publisher->reply[publisher->have] = 0;
    char *end = strstr(publisher->reply, "\r\n\r\n");
    if (end == NULL) return;
    *end = 0; /* keeps the searches below inside the head */
    char *length = strcasestr(publisher->reply, "\ncontent-length:");
    size_t whole = (size_t)(end + 4 - publisher->reply);
    if (length != NULL) whole += (size_t)atol(length + strlen("\ncontent-length:"));
    bool last = strcasestr(publisher->reply, "\nconnection: close") != NULL;
    if (publisher->have < whole) {
        *end = '\r';
        return;
    }
    int status = 0;
    if (sscanf(publisher->reply, "HTTP/1.%*d %d", &status) != 1 || status < 200 || status > 299)
        publish_error(publisher->reply);
    publisher->busy = false;
    publisher->have = 0;
    last_progress_ns = now_ns();
    if (last) reconnect(publisher);
}

void publisher_ready(struct source *source, uint32_t events) {
    struct publisher *publisher = (struct publisher *)source;
    (void)events;
    ssize_t bytes = recv(source->fd, publisher->reply + publisher->have,
                         REPLY_BYTES - publisher->have, 0);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (bytes <= 0) {
        if (publisher->busy) publish_error("the connection ended before the reply");
        publisher->busy = false;
        reconnect(publisher);
        return;
    }
    publisher->have += (size_t)bytes;
    take_reply(publisher);
}
