/* A histogram of latencies, and how it is printed as a member of a JSON object.
 *
 * Each power of two has kSteps equal steps, so a percentile is off by 1.6 % at
 * most, and a sample costs a few instructions whatever its size. */
#ifndef BENCH_LATENCY_HISTOGRAM_H_
#define BENCH_LATENCY_HISTOGRAM_H_

#include <stdint.h>
#include <stdio.h>

enum {
  kStepBits = 6,
  kSteps = 1 << kStepBits,
  kBuckets = (64 - kStepBits + 1) * kSteps
};

struct histogram {
  uint64_t total, largest;
  uint32_t bucket[kBuckets];
};

static inline void histogram_add(struct histogram* histogram, uint64_t ns) {
  unsigned index = (unsigned)ns;
  if (ns >= kSteps) {
    unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - kStepBits;
    index = (shift + 1) * kSteps + (unsigned)(ns >> shift) - kSteps;
  }
  histogram->bucket[index]++;
  histogram->total++;
  if (ns > histogram->largest) histogram->largest = ns;
}

static inline void histogram_merge(struct histogram* into,
                                   const struct histogram* from) {
  for (int i = 0; i < kBuckets; i++) into->bucket[i] += from->bucket[i];
  into->total += from->total;
  if (from->largest > into->largest) into->largest = from->largest;
}

static inline double histogram_us(const struct histogram* histogram,
                                  double fraction) {
  uint64_t wanted = (uint64_t)(fraction * (double)histogram->total), seen = 0;
  for (unsigned i = 0; i < kBuckets; i++) {
    seen += histogram->bucket[i];
    if (seen <= wanted) continue;
    if (i < kSteps) return (double)i / 1e3;
    unsigned shift = i / kSteps - 1;
    return (double)((uint64_t)(i % kSteps + kSteps) << shift) / 1e3;
  }
  return (double)histogram->largest / 1e3;
}

static inline void print_histogram(const char* name,
                                   const struct histogram* histogram) {
  if (histogram->total == 0) {
    printf(", \"%s\": null", name);
    return;
  }
  printf(
      ", \"%s\": {\"p50\": %.2f, \"p99\": %.2f, \"p999\": %.2f, \"max\": %.2f}",
      name, histogram_us(histogram, 0.5), histogram_us(histogram, 0.99),
      histogram_us(histogram, 0.999), (double)histogram->largest / 1e3);
}

#endif
