/* Latencies in log-linear buckets; aionet/bench/histogram.py has the theory and reads what is counted here. */
#include "load.h"

void load_record(LoadHistogram *histogram, int64_t nanoseconds)
{
    int64_t value = nanoseconds < 0 ? 0 : nanoseconds;
    int bits = value == 0 ? 0 : 64 - __builtin_clzll((unsigned long long)value);
    int shift = bits - (LOAD_LINEAR_BITS + 1);
    histogram->counts[shift <= 0 ? value : ((int64_t)shift << LOAD_LINEAR_BITS) + (value >> shift)]++;
    if (histogram->count++ == 0 || value < histogram->minimum)
        histogram->minimum = value;
    if (value > histogram->maximum)
        histogram->maximum = value;
    histogram->total += (uint64_t)value;
}
