/* The measurements, over the clients that are connected. */
#include "load.h"

#include <stdio.h>
#include <string.h>

#define WARM_UP_EVENTS 5

struct start {
    double server_cpu, own_cpu;
    uint64_t segments;
    uint32_t published, completed;
    uint64_t time_ns, span_ns;
};

static struct start begin(void) {
    memset(&counters, 0, sizeof counters);
    memset(&latencies, 0, sizeof latencies);
    last_progress_ns = now_ns();
    return (struct start){server_cpu(), own_cpu(), all_segments_received(), published, completed,
                          last_progress_ns, completed_span_ns};
}

static void print_phase(const char *name, const struct start *start, uint64_t end_ns) {
    double cpu = server_cpu();
    printf("\n  {\"name\": \"%s\", \"began\": %.6f, \"seconds\": %.6f, \"events\": %u, "
           "\"deliveries\": %lu,\n", name, (double)start->time_ns / 1e9,
           (double)(end_ns - start->time_ns) / 1e9, published - start->published,
           counters.deliveries);
    printf("   \"reads\": %lu, \"reads_with_events\": %lu, \"most_events_in_a_read\": %lu, "
           "\"bytes\": %lu,\n", counters.reads, counters.reads_with_events,
           counters.most_events_in_a_read, counters.bytes);
    printf("   \"p50_ms\": %.4f, \"p90_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, "
           "\"span_seconds\": %.6f,\n", histogram_ms(&latencies, 0.5),
           histogram_ms(&latencies, 0.9), histogram_ms(&latencies, 0.99),
           (double)latencies.most / 1e6, (double)(completed_span_ns - start->span_ns) / 1e9);
    printf("   \"client_cpu_seconds\": %.6f, \"server_cpu_seconds\": ", own_cpu() - start->own_cpu);
    if (cpu < 0) printf("null"); else printf("%.6f", cpu - start->server_cpu);
    printf(", \"segments\": %lu}", all_segments_received() - start->segments);
}

static bool time_is_up(const struct start *start) {
    if (options.events && published - start->published >= options.events) return true;
    return (double)(now_ns() - start->time_ns) / 1e9 >= options.seconds;
}

static bool given_up(void) { return faults.closed || faults.publish_errors || stalled(); }

/* Turns until all that was published has arrived everywhere and was replied to. */
static void settle(void) {
    while ((completed < published || !all_replied()) && !given_up()) reactor_turn(10);
}

/* The next event only after the last client has the one before. */
static uint64_t single(const struct start *start) {
    do {
        publish(0, 1);
        settle();
    } while (!time_is_up(start) && !given_up());
    return now_ns();
}

/* Events all the time, at most options.in_flight of them not yet everywhere. */
static uint64_t burst(const struct start *start) {
    bool more = true;
    while (more && !given_up()) {
        while ((more = !time_is_up(start)) &&
               published - completed < (uint32_t)options.in_flight &&
               publish(0, options.publishers)) {
        }
        if (more) reactor_turn(10);
    }
    settle();
    return now_ns();
}

/* Events by the clock. Latencies count from when an event was due, not from when it could be
 * sent, so that a server that falls behind cannot hide it. */
static uint64_t open_loop(const struct start *start) {
    uint64_t interval = (uint64_t)(1e9 / options.open_rate), due = start->time_ns;
    while (!time_is_up(start) && !given_up()) {
        uint64_t now = now_ns();
        if (now >= due && publish(due, options.publishers))
            due += interval;
        last_progress_ns = completed == published ? now : last_progress_ns;
        reactor_turn(due > now + 1000000 ? (int)((due - now) / 1000000) : now >= due ? 1 : 0);
    }
    settle();
    return now_ns();
}

static const struct {
    const char *name;
    uint64_t (*run)(const struct start *);
} phases[] = {{"single", single}, {"burst", burst}, {"open", open_loop}};

static void warm_up(void) {
    begin();
    for (int i = 0; i < WARM_UP_EVENTS && !given_up(); i++) {
        publish(0, 1);
        settle();
    }
}

void run_phases(void) {
    bool first = true;
    warm_up();
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        if (strstr(options.phases, phases[i].name) == NULL || given_up()) continue;
        send_pongs();
        reactor_rest(options.settle_ms); /* the server is done with the pongs, and at rest */
        struct start start = begin();
        uint64_t end = phases[i].run(&start);
        if (!first) printf(",");
        print_phase(phases[i].name, &start, end);
        first = false;
    }
}
