/* All latencies are kept, so that quantiles are exact: four bytes for each. */
#include "crowd.h"

#include <stdio.h>
#include <stdlib.h>

struct latencies delivered, served;

void latencies_add(struct latencies *latencies, uint64_t ns) {
    if (latencies->count == latencies->capacity) {
        latencies->capacity = latencies->capacity ? 2 * latencies->capacity : 65536;
        latencies->values = realloc(latencies->values,
                                    latencies->capacity * sizeof *latencies->values);
        if (latencies->values == NULL) fail("out of memory for latencies");
    }
    uint64_t us = ns / 1000;
    latencies->values[latencies->count++] = us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static int compare(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

static double quantile(const struct latencies *latencies, double share) {
    size_t at = (size_t)((double)latencies->count * share);
    if (at >= latencies->count) at = latencies->count - 1;
    return latencies->values[at] / 1e3;
}

void latencies_print(const char *name, struct latencies *latencies) {
    if (latencies->count == 0) {
        printf("\"%s\": null", name);
        return;
    }
    qsort(latencies->values, latencies->count, sizeof *latencies->values, compare);
    printf("\"%s\": {\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}", name,
           quantile(latencies, 0.5), quantile(latencies, 0.99), quantile(latencies, 1));
}
