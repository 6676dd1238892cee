/* The limit that servers are compared with: accept, epoll and write(), nothing else.
 *
 * It sends the very frame that the server under test was seen to send, with the data of each POST
 * put in its place, by one write() per client. It does no routing, no JSON, no limits, no history.
 * Usage: loop TEMPLATE OFFSET LENGTH. The frame is the file TEMPLATE; its data stands at OFFSET
 * and has LENGTH bytes. Prints its port when it listens.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_BYTES 16384
#define BACKLOG 4096

struct peer {
    int fd;
    int place;       /* in `streams`; -1 until it is one */
    char *request;   /* NULL for streams */
    size_t have;
    char *unsent;    /* what the socket did not take yet */
    size_t unsent_bytes;
};

static const char SSE_HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    "Cache-Control: no-cache, no-store, must-revalidate\r\nX-Accel-Buffering: no\r\n"
    "Transfer-Encoding: chunked\r\n\r\n"
    "12\r\nretry: 1000\n: ok\n\n\r\n";
/* The answer to the sample key of RFC 6455, section 1.3, the only one our load client sends. */
static const char WEBSOCKET_HEAD[] =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char ACCEPTED[] = "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\n{}";
static const char REFUSED[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";

static int poll_fd;
static struct peer **streams;
static int stream_count, stream_capacity;
static char *frame;
static size_t frame_bytes, data_offset, data_bytes;

static void fail(const char *what) {
    fprintf(stderr, "loop: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void watch(int operation, struct peer *peer, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = peer};
    if (epoll_ctl(poll_fd, operation, peer->fd, &event) != 0) fail("epoll_ctl");
}

static void read_template(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) fail(path);
    frame = malloc(1 << 20);
    if (frame == NULL) fail("malloc");
    frame_bytes = fread(frame, 1, 1 << 20, file);
    fclose(file);
    if (data_offset + data_bytes > frame_bytes) fail("OFFSET and LENGTH do not fit the template");
}

/* Closing takes the descriptor out of the epoll; the caller looks at the peer no more. */
static void end(struct peer *peer) {
    if (peer->place >= 0) {
        streams[peer->place] = streams[--stream_count];
        streams[peer->place]->place = peer->place;
    }
    close(peer->fd);
    free(peer->request);
    free(peer->unsent);
    free(peer);
}

static void keep_unsent(struct peer *peer, const char *data, size_t bytes) {
    if (peer->unsent_bytes == 0) watch(EPOLL_CTL_MOD, peer, EPOLLIN | EPOLLOUT);
    peer->unsent = realloc(peer->unsent, peer->unsent_bytes + bytes);
    if (peer->unsent == NULL) fail("realloc");
    memcpy(peer->unsent + peer->unsent_bytes, data, bytes);
    peer->unsent_bytes += bytes;
}

/* A peer that is gone is ended when its reading says so. */
static void give(struct peer *peer, const char *data, size_t bytes) {
    if (peer->unsent_bytes == 0) {
        ssize_t written = write(peer->fd, data, bytes);
        if (written < 0 && errno != EAGAIN) return;
        if (written > 0) data += written, bytes -= (size_t)written;
        if (bytes == 0) return;
    }
    keep_unsent(peer, data, bytes);
}

static void give_unsent(struct peer *peer) {
    ssize_t written = write(peer->fd, peer->unsent, peer->unsent_bytes);
    if (written <= 0) return;
    peer->unsent_bytes -= (size_t)written;
    memmove(peer->unsent, peer->unsent + written, peer->unsent_bytes);
    if (peer->unsent_bytes == 0) watch(EPOLL_CTL_MOD, peer, EPOLLIN);
}

static void become_stream(struct peer *peer, const char *head, size_t bytes) {
    if (stream_count == stream_capacity) {
        stream_capacity = stream_capacity ? stream_capacity * 2 : 1024;
        streams = realloc(streams, (size_t)stream_capacity * sizeof *streams);
        if (streams == NULL) fail("realloc");
    }
    free(peer->request);
    peer->request = NULL;
    give(peer, head, bytes);
    peer->place = stream_count;
    streams[stream_count++] = peer;
}

/* Replies by send() so that the process's count of write() calls is that of the fan-out. */
static void publish(struct peer *peer, const char *body, size_t bytes) {
    const char *data = memmem(body, bytes, "\"data\":", 7);
    size_t behind = data ? bytes - (size_t)(data + 7 - body) : 0;
    if (data == NULL || behind != data_bytes + 1) {
        send(peer->fd, REFUSED, sizeof REFUSED - 1, MSG_NOSIGNAL);
        return;
    }
    send(peer->fd, ACCEPTED, sizeof ACCEPTED - 1, MSG_NOSIGNAL);
    memcpy(frame + data_offset, data + 7, data_bytes);
    for (int i = 0; i < stream_count; i++) give(streams[i], frame, frame_bytes);
}

static void take_request(struct peer *peer) {
    peer->request[peer->have] = 0;
    char *body = strstr(peer->request, "\r\n\r\n");
    if (body == NULL) return;
    body += 4;
    if (strncmp(peer->request, "POST ", 5) == 0) {
        char *length = strcasestr(peer->request, "\ncontent-length:");
        size_t wanted = length ? (size_t)atol(length + strlen("\ncontent-length:")) : 0;
        if (peer->have < (size_t)(body - peer->request) + wanted) return;
        publish(peer, body, wanted);
        peer->have = 0;
    } else if (strcasestr(peer->request, "\nupgrade: websocket")) {
        become_stream(peer, WEBSOCKET_HEAD, sizeof WEBSOCKET_HEAD - 1);
    } else {
        become_stream(peer, SSE_HEAD, sizeof SSE_HEAD - 1);
    }
}

static void read_from(struct peer *peer) {
    char ignored[4096];
    char *to = peer->request ? peer->request + peer->have : ignored;
    size_t room = peer->request ? REQUEST_BYTES - peer->have : sizeof ignored;
    ssize_t bytes = room ? recv(peer->fd, to, room, 0) : 0;
    if (bytes < 0 && errno == EAGAIN) return;
    if (bytes <= 0) {
        end(peer);
        return;
    }
    if (peer->request == NULL) return;
    peer->have += (size_t)bytes;
    take_request(peer);
}

static void accept_all(int listener) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct peer *peer = calloc(1, sizeof *peer);
        if (peer == NULL) fail("calloc");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        peer->fd = fd;
        peer->place = -1;
        peer->request = malloc(REQUEST_BYTES + 1);
        if (peer->request == NULL) fail("malloc");
        watch(EPOLL_CTL_ADD, peer, EPOLLIN);
    }
    if (errno != EAGAIN && errno != ECONNABORTED) fail("accept");
}

static int start_listening(void) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        fail("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event) != 0) fail("epoll_ctl");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

int main(int count, char **arguments) {
    struct epoll_event ready[512];
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* does not outlive whoever measures */
    signal(SIGPIPE, SIG_IGN);
    if (count != 4) {
        fputs("usage: loop TEMPLATE OFFSET LENGTH\n", stderr);
        return 2;
    }
    data_offset = (size_t)atol(arguments[2]);
    data_bytes = (size_t)atol(arguments[3]);
    read_template(arguments[1]);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    int listener = start_listening();
    for (;;) {
        int ready_count = epoll_wait(poll_fd, ready, 512, -1);
        for (int i = 0; i < ready_count; i++) {
            struct peer *peer = ready[i].data.ptr;
            if (peer == NULL) {
                accept_all(listener);
                continue;
            }
            if (ready[i].events & EPOLLOUT) give_unsent(peer);
            if (ready[i].events & ~(uint32_t)EPOLLOUT) read_from(peer);
        }
    }
}
