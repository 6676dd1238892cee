/* Latencies in buckets that are 1/32 of their value wide, exact below 64 ns. */
#include "load.h"

void histogram_add(struct histogram *histogram, uint64_t ns) {
    uint64_t bucket = ns;
    if (ns >= 64) {
        int shift = 58 - __builtin_clzll(ns); /* leaves six significant bits: 32 to 63 */
        bucket = (uint64_t)(shift + 1) * 32 + (ns >> shift);
    }
    histogram->buckets[bucket]++;
    histogram->count++;
    if (ns > histogram->most) histogram->most = ns;
}

static double middle_of(uint64_t bucket) {
    if (bucket < 64) return (double)bucket;
    int shift = (int)(bucket / 32) - 2;
    return ((double)(bucket % 32) + 32.5) * (double)(1ull << shift);
}

double histogram_ms(const struct histogram *histogram, double quantile) {
    uint64_t wanted = (uint64_t)(quantile * (double)histogram->count), seen = 0;
    for (uint64_t bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        seen += histogram->buckets[bucket];
        if (seen > wanted) return middle_of(bucket) / 1e6;
    }
    return (double)histogram->most / 1e6;
}
