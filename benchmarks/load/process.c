/* Clocks, and what the kernel tells about the server's process. */
#include "load.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds_of(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) return -1;
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double own_cpu(void) { return seconds_of(CLOCK_PROCESS_CPUTIME_ID); }

/* The same time as utime + stime in /proc/PID/stat, in nanoseconds instead of ticks of 10 ms. */
double server_cpu(void) {
    clockid_t clock;
    if (options.server_pid <= 0 || clock_getcpuclockid(options.server_pid, &clock) != 0) return -1;
    return seconds_of(clock);
}

static long proc_field(const char *file, const char *field) {
    char path[64], line[256];
    long value = -1;
    if (options.server_pid <= 0) return -1;
    snprintf(path, sizeof path, "/proc/%d/%s", options.server_pid, file);
    FILE *stream = fopen(path, "r");
    if (stream == NULL) return -1;
    while (value < 0 && fgets(line, sizeof line, stream) != NULL)
        if (strncmp(line, field, strlen(field)) == 0) value = atol(line + strlen(field));
    fclose(stream);
    return value;
}

long server_rss_kb(void) { return proc_field("smaps_rollup", "Rss:"); }

void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}
