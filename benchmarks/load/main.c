/* Arguments in, one JSON object out. Exit code 0: every client got every event, once, in order;
 * 1: it did not; 2: the measurement could not be made. */
#include "load.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#define WARM_UP_CLIENTS 10

struct options options = {
    .host = "127.0.0.1", .path = "/realtime/events", .publish_path = "/realtime/broadcast",
    .content_type = "application/json", .phases = "single,burst,open", .clients = 100,
    .handshakes = 100, .publishers = 16, .in_flight = 64, .settle_ms = 500, .stall_ms = 10000,
    .seconds = 3, .open_rate = 20,
};
const char *tag;

static const struct option known[] = {
    {"host", required_argument, NULL, 'h'},       {"port", required_argument, NULL, 'p'},
    {"path", required_argument, NULL, 'g'},       {"publish-path", required_argument, NULL, 'P'},
    {"transport", required_argument, NULL, 't'},  {"header", required_argument, NULL, 'H'},
    {"clients", required_argument, NULL, 'c'},    {"handshakes", required_argument, NULL, 'a'},
    {"publishers", required_argument, NULL, 'k'}, {"in-flight", required_argument, NULL, 'f'},
    {"body", required_argument, NULL, 'b'},       {"phases", required_argument, NULL, 'm'},
    {"seconds", required_argument, NULL, 's'},    {"events", required_argument, NULL, 'e'},
    {"open-rate", required_argument, NULL, 'r'},  {"settle-ms", required_argument, NULL, 'S'},
    {"stall-ms", required_argument, NULL, 'l'},   {"server-pid", required_argument, NULL, 'i'},
    {"stalled", required_argument, NULL, 'n'},    {"content-type", required_argument, NULL, 'T'},
    {"ready", required_argument, NULL, 'R'},      {"message", required_argument, NULL, 'M'},
    {"publish-header", required_argument, NULL, 'U'},
    {NULL, 0, NULL, 0},
};

static void add_header(char headers[sizeof options.headers], const char *line) {
    size_t used = strlen(headers);
    if (used + strlen(line) + 3 > sizeof options.headers) fail("too many headers");
    sprintf(headers + used, "%s\r\n", line);
}

static void add_message(const char *text) {
    if (options.message_count == MOST_MESSAGES) fail("at most %d messages", MOST_MESSAGES);
    options.messages[options.message_count++] = text;
}

static int positive(const char *text) {
    int value = atoi(text);
    if (value <= 0) fail("%s is not a number above 0", text);
    return value;
}

static void parse(int count, char **arguments) {
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) switch (option) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = positive(optarg); break;
        case 'g': options.path = optarg; break;
        case 'P': options.publish_path = optarg; break;
        case 't':
            options.websocket = strcmp(optarg, "websocket") == 0;
            if (!options.websocket && strcmp(optarg, "sse") != 0) fail("sse or websocket");
            break;
        case 'H': add_header(options.headers, optarg); break;
        case 'U': add_header(options.publish_headers, optarg); break;
        case 'M': add_message(optarg); break;
        case 'R': options.ready = optarg; break;
        case 'T': options.content_type = optarg; break;
        case 'n': options.stalled = atoi(optarg); break;
        case 'c': options.clients = positive(optarg); break;
        case 'a': options.handshakes = positive(optarg); break;
        case 'k': options.publishers = positive(optarg); break;
        case 'f': options.in_flight = positive(optarg); break;
        case 'b': options.body = optarg; break;
        case 'm': options.phases = optarg; break;
        case 's': options.seconds = atof(optarg); break;
        case 'e': options.events = positive(optarg); break;
        case 'r': options.open_rate = positive(optarg); break;
        case 'S': options.settle_ms = positive(optarg); break;
        case 'l': options.stall_ms = positive(optarg); break;
        case 'i': options.server_pid = positive(optarg); break;
        default: exit(2);
    }
    if (options.port == 0) fail("--port is missing");
    if (options.body == NULL) fail("--body is missing");
    if (options.stalled < 0 || options.stalled >= options.clients)
        fail("--stalled leaves no client that reads");
}

/* What a server loads or allocates once is not counted to its first connections. */
static void warm_up(void) {
    connect_clients(options.clients < WARM_UP_CLIENTS ? options.clients : WARM_UP_CLIENTS, 0);
    close_clients();
    reactor_rest(options.settle_ms / 2);
}

static void measure_connections(void) {
    long rss = server_rss_kb();
    double cpu = server_cpu(), own = own_cpu();
    uint64_t start = now_ns();
    connect_clients(options.clients, options.stalled);
    double seconds = (double)(now_ns() - start) / 1e9;
    double cpu_used = server_cpu() - cpu, own_used = own_cpu() - own;
    reactor_rest(options.settle_ms);
    long rss_after = server_rss_kb();
    printf(" \"connect\": {\"seconds\": %.6f, \"client_cpu_seconds\": %.6f, ", seconds, own_used);
    if (cpu < 0)
        printf("\"server_cpu_seconds\": null, ");
    else
        printf("\"server_cpu_seconds\": %.6f, ", cpu_used);
    if (rss < 0 || rss_after < 0)
        printf("\"rss_kb_before\": null, \"rss_kb_after\": null},\n");
    else
        printf("\"rss_kb_before\": %ld, \"rss_kb_after\": %ld},\n", rss, rss_after);
}

int main(int count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* does not outlive whoever measures */
    parse(count, arguments);
    tag = new_tag();
    reactor_open();
    warm_up();
    printf("{\"client\": \"C\", \"clients\": %d, \"stalled\": %d, \"transport\": \"%s\",\n",
           options.clients, options.stalled, options.websocket ? "websocket" : "sse");
    measure_connections();
    prepare_publishers();
    printf(" \"phases\": [");
    run_phases();
    uint64_t lost = ledger_lost();
    printf("],\n \"faults\": {\"lost\": %lu, \"skipped\": %lu, \"late_or_repeated\": %lu, "
           "\"disordered\": %lu, \"unknown\": %lu, \"closed\": %lu, \"publish_errors\": %lu}}\n",
           lost, faults.skipped, faults.late_or_repeated, faults.disordered, faults.unknown,
           faults.closed, faults.publish_errors);
    return lost || any_fault() ? 1 : 0;
}
