/* Proves that every client got every event, once, in one order.
 *
 * Events of several publishers race, so their common order is the server's to choose. The client
 * that is ahead writes it down; all others must see exactly that, and the order itself must keep
 * each publisher's own. A loss at the client that is ahead shows at the next one.
 */
#include "load.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MOST_PUBLISHERS 1024
#define MOST_NOTES 10

struct faults faults;
uint32_t published, completed;
uint64_t completed_span_ns;

static struct event *events;
static uint32_t capacity, ordered;
static uint32_t next_of_publisher[MOST_PUBLISHERS]; /* the lowest number that keeps its order */

char *new_tag(void) {
    static char tag[TAG_BYTES + 1];
    uint32_t random = 0;
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, &random, sizeof random) != sizeof random) fail("no random bytes");
    close(fd);
    snprintf(tag, sizeof tag, "@%06x:", random & 0xffffff);
    return tag;
}

void note_fault(const char *format, ...) {
    static int notes;
    if (notes++ >= MOST_NOTES) return;
    va_list arguments;
    va_start(arguments, format);
    fputs("load: fault: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

bool any_fault(void) {
    return faults.skipped || faults.late_or_repeated || faults.disordered || faults.unknown ||
           faults.closed || faults.publish_errors;
}

uint32_t ledger_publish(int publisher, uint32_t receivers, uint64_t sent_ns) {
    if (publisher >= MOST_PUBLISHERS) fail("at most %d publishers", MOST_PUBLISHERS);
    if (published == capacity) {
        capacity = capacity ? capacity * 2 : 4096;
        events = realloc(events, capacity * sizeof *events);
        if (events == NULL) fail("out of memory for %u events", capacity);
    }
    events[published] = (struct event){.sent_ns = sent_ns, .missing = receivers,
                                       .position = -1, .publisher = publisher};
    return published++;
}

static void append(struct event *event, uint32_t number) {
    event->position = (int32_t)ordered++;
    if (number < next_of_publisher[event->publisher]) {
        faults.disordered++;
        note_fault("event %u came after a later one of publisher %d", number, event->publisher);
    } else {
        next_of_publisher[event->publisher] = number + 1;
    }
}

/* Returns the latency in nanoseconds. */
uint64_t ledger_receive(uint32_t *client_position, uint32_t number, uint64_t now) {
    if (number >= published) {
        faults.unknown++;
        note_fault("event %u was never published", number);
        return 0;
    }
    struct event *event = &events[number];
    if (event->position < 0) {
        append(event, number);
        event->first_ns = now;
    }
    uint32_t position = (uint32_t)event->position;
    if (position > *client_position) {
        faults.skipped += position - *client_position;
        note_fault("a client got event %u and not the %u before it", number,
                   position - *client_position);
    }
    if (position < *client_position) {
        faults.late_or_repeated++;
        note_fault("a client got event %u late or twice", number);
    } else {
        *client_position = position + 1;
    }
    if (event->missing > 0 && --event->missing == 0) {
        completed++;
        completed_span_ns += now - event->first_ns;
    }
    return now - event->sent_ns;
}

uint64_t ledger_lost(void) {
    uint64_t lost = 0;
    for (uint32_t number = 0; number < published; number++) lost += events[number].missing;
    return lost;
}
