// The parallel region of every pass: each thread takes one group of tiles after the other.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "tiles/sums.h"

namespace manualbp {

// body(tile, first row, rows, into) for every tile; it returns the sum of the rows' errors. All of
// them together are returned. make(memory) makes a thread's tile in so many `numbers` of floats.
template <typename Make, typename Body>
double over_tiles(const Split& s, Accumulated& sums, int64_t numbers, Make make, Body body) {
  sums.begin(s);
  auto memory = floats({s.threads * numbers});
  float* start = memory.mutable_data_ptr<float>();
  std::atomic<int64_t> next{0};
  const auto work = [&](int64_t thread) {
    auto tile = make(start + thread * numbers);
    for (int64_t g; (g = next++) < s.groups;) {
      auto& group = sums.groups[g];
      int64_t since = 0;
      for (int64_t t = s.start(g); t < s.start(g + 1); ++t) {
        const int64_t row = t * s.tile, count = std::min(s.tile, s.rows - row);
        group.cost += body(tile, row, count, group.into);
        since += count * s.summed;
        group.into.first = false;
        if (sums.in_levels() && (since >= kLevel || t + 1 == s.start(g + 1))) {
          sums.level(g);
          group.into.first = true;
          since = 0;
        }
      }
    }
  };
  if (s.threads == 1) {
    work(0);
  } else {
    at::parallel_for(0, s.threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t thread = begin; thread < end; ++thread) work(thread);
    });
  }
  return sums.end();
}

}  // namespace manualbp
