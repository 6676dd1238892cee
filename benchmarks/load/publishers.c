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

/* All events are one request that differs in its record's digits only. */
void prepare_publishers(void) {
    const char *mark = strstr(options.body, RECORD_MARK);
    if (mark == NULL) fail("--body has no " RECORD_MARK " in it");
    int before = (int)(mark - options.body);
    const char *behind = mark + strlen(RECORD_MARK);
    size_t body_bytes = (size_t)before + RECORD_BYTES + strlen(behind);
    size_t room = body_bytes + 2 * sizeof options.headers + 1024;
    request = malloc(room);
    publishers = calloc((size_t)options.publishers, sizeof *publishers);
    if (request == NULL || publishers == NULL) fail("out of memory");
    int head_bytes = snprintf(
        request, room,
        "POST %s HTTP/1.1\r\nHost: %s:%d\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s%s\r\n",
        options.publish_path, options.host, options.port, options.content_type, body_bytes,
        options.headers, options.publish_headers);
    request_bytes = (size_t)head_bytes + body_bytes;
    if (request_bytes >= room) fail("the publish request is too long");
    sprintf(request + head_bytes, "%.*s%s%0*d%s", before, options.body, tag, DIGITS, 0, behind);
    digits = request + head_bytes + before + TAG_BYTES;
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

/* Where the reply ends that begins with `head`, which is ended by `body`; NULL: not there yet. */
static const char *end_of_reply(const char *head, const char *body) {
    static const char last_chunk[] = "\r\n0\r\n\r\n";
    const char *length = strcasestr(head, "\ncontent-length:");
    if (length != NULL && length < body) {
        size_t bytes = (size_t)atol(length + strlen("\ncontent-length:"));
        return strlen(body) < bytes ? NULL : body + bytes;
    }
    const char *chunked = strcasestr(head, "\ntransfer-encoding: chunked");
    if (chunked == NULL || chunked > body) return body;
    const char *last = strstr(body - 2, last_chunk); /* an empty body is the last chunk alone */
    return last ? last + strlen(last_chunk) : NULL;
}

static void take_reply(struct publisher *publisher) {
    char *head = publisher->reply;
    head[publisher->have] = 0;
    char *end = strstr(head, "\r\n\r\n");
    if (end == NULL || end_of_reply(head, end + 4) == NULL) return;
    int status = 0;
    char *close = strcasestr(head, "\nconnection: close");
    if (sscanf(head, "HTTP/1.%*d %d", &status) != 1 || status < 200 || status > 299)
        publish_error(head);
    publisher->busy = false;
    publisher->have = 0;
    last_progress_ns = now_ns();
    if (close != NULL && close < end) reconnect(publisher);
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
