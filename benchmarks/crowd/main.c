/* Arguments in, one JSON object per line out: what became of the clients, then an answer for each
 * command. The commands, each a line of standard input:
 *
 *   say CLIENT TEXT          one client sends a WebSocket text message; no answer
 *   await WHAT COUNT MS      answers when so many records (or messages) are counted, or time is up
 *   reset                    forgets counts and latencies; no answer
 *
 * Exit code 0 when standard input ends; 2 if it could not do what it was told. */
#include "crowd.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define INPUT_BYTES (1 << 20)

struct options options = {.host = "127.0.0.1", .path = "/realtime/events", .patience_ms = 60000};

static char input[INPUT_BYTES + 1];
static size_t input_bytes;
static bool ended;

/* The `await` that is not answered yet; no command is taken meanwhile. */
static struct {
    const uint64_t *what; /* NULL: there is none */
    uint64_t count, deadline_ns;
} waiting;

static const struct option known[] = {
    {"host", required_argument, NULL, 'h'},      {"port", required_argument, NULL, 'p'},
    {"path", required_argument, NULL, 'g'},      {"transport", required_argument, NULL, 't'},
    {"header", required_argument, NULL, 'H'},    {"clients", required_argument, NULL, 'c'},
    {"patience-ms", required_argument, NULL, 'l'}, {NULL, 0, NULL, 0},
};

static uint64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

double own_cpu(void) { return (double)clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e9; }

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("crowd: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void add_header(const char *line) {
    size_t used = strlen(options.headers);
    if (used + strlen(line) + 3 > sizeof options.headers) fail("too many headers");
    sprintf(options.headers + used, "%s\r\n", line);
}

static void parse(int count, char **arguments) {
    int option;
    while ((option = getopt_long(count, arguments, "", known, NULL)) != -1) switch (option) {
        case 'h': options.host = optarg; break;
        case 'p': options.port = atoi(optarg); break;
        case 'g': options.path = optarg; break;
        case 't': options.websocket = strcmp(optarg, "websocket") == 0; break;
        case 'H': add_header(optarg); break;
        case 'c': options.clients = atoi(optarg); break;
        case 'l': options.patience_ms = atoi(optarg); break;
        default: exit(2);
    }
    if (options.port <= 0 || options.clients <= 0) fail("give --port and --clients");
}

static void answer(void) {
    printf("{");
    clients_print();
    printf("\"bytes\": %lu, \"reads\": %lu, \"records\": %lu, \"messages\": %lu, ",
           counters.bytes, counters.reads, counters.records, counters.messages);
    printf("\"now_ns\": %lu, \"cpu_seconds\": %.6f, ", now_ns(), own_cpu());
    latencies_print("delivered", &delivered);
    printf(", ");
    latencies_print("served", &served);
    printf("}\n");
    fflush(stdout);
}

static void obey(char *line) {
    char what[16];
    unsigned long count;
    int number, at;
    if (sscanf(line, "say %d %n", &number, &at) == 1) {
        clients_say(number, line + at, strlen(line + at));
    } else if (sscanf(line, "await %15s %lu %d", what, &count, &number) == 3) {
        waiting.what = strcmp(what, "messages") == 0 ? &counters.messages : &counters.records;
        waiting.count = count;
        waiting.deadline_ns = now_ns() + (uint64_t)number * 1000000u;
    } else if (strcmp(line, "reset") == 0) {
        memset(&counters, 0, sizeof counters);
        delivered.count = 0;
    } else {
        fail("what is %.100s?", line);
    }
}

static void obey_lines(void) {
    char *start = input, *end;
    while (waiting.what == NULL && (end = strchr(start, '\n')) != NULL) {
        *end = 0;
        obey(start);
        start = end + 1;
    }
    input_bytes -= (size_t)(start - input);
    memmove(input, start, input_bytes + 1);
}

void commands_ready(void) {
    if (input_bytes == INPUT_BYTES) {
        /* It stays readable until there is room again, which is when an `await` is answered. */
        if (waiting.what == NULL) fail("a command is too long");
        return;
    }
    ssize_t bytes = read(STDIN_FILENO, input + input_bytes, INPUT_BYTES - input_bytes);
    if (bytes < 0 && errno == EINTR) return;
    ended = bytes <= 0;
    if (ended) return;
    input_bytes += (size_t)bytes;
    input[input_bytes] = 0;
    obey_lines();
}

int main(int count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* does not outlive whoever measures */
    parse(count, arguments);
    clients_connect();
    answer();
    while (!ended) {
        clients_turn(waiting.what ? 10 : 1000);
        if (waiting.what && (*waiting.what >= waiting.count || now_ns() >= waiting.deadline_ns)) {
            waiting.what = NULL;
            answer();
            obey_lines();
        }
    }
    return 0;
}
