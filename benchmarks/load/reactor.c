/* One epoll for streams and publishers. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define MOST_READY 512

uint64_t last_progress_ns;
static int poll_fd = -1;

void reactor_open(void) {
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0) fail("epoll_create1: %s", strerror(errno));
    last_progress_ns = now_ns();
}

static void control(int operation, struct source *source, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(poll_fd, operation, source->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

void reactor_add(struct source *source, uint32_t events) {
    control(EPOLL_CTL_ADD, source, events);
}

void reactor_modify(struct source *source, uint32_t events) {
    control(EPOLL_CTL_MOD, source, events);
}

void reactor_remove(struct source *source) {
    control(EPOLL_CTL_DEL, source, 0);
}

/* Handles what is ready; a source that a handler closes is not looked at again, because each
 * appears once per turn and closing takes it out of the epoll. */
void reactor_turn(int timeout_ms) {
    struct epoll_event ready[MOST_READY];
    int count = epoll_wait(poll_fd, ready, MOST_READY, timeout_ms);
    if (count < 0 && errno != EINTR) fail("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct source *source = ready[i].data.ptr;
        if (source->kind == CLIENT)
            client_ready(source, ready[i].events);
        else
            publisher_ready(source, ready[i].events);
    }
}

void reactor_rest(int milliseconds) {
    uint64_t end = now_ns() + (uint64_t)milliseconds * 1000000u;
    while (now_ns() < end) reactor_turn(10);
}

bool stalled(void) {
    return now_ns() - last_progress_ns > (uint64_t)options.stall_ms * 1000000u;
}

struct sockaddr_in server_address(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1)
        fail("%s is not an IPv4 address", options.host);
    return address;
}
