// How the tiles of points lay out their memory, and how many points they take.
#pragma once
#include <algorithm>
#include <cstdint>

namespace manualbp {

constexpr int64_t kCacheBytes = 3 << 18;  // of a core, for one tile
constexpr int64_t kMostRows = 256;        // of a product, where they are enough
constexpr int64_t kLeastPoints = 8;

// The points of a tile that takes so many floats for each, and so many rows of a product. One less
// than a multiple of 8: else values, z' and z'' of a point would lie whole pages apart, and a cache
// has few places for addresses that are equal in their last 12 bits.
inline int64_t points_in_cache(int64_t numbers, int64_t rows) {
  const int64_t most = std::min(kMostRows / rows, kCacheBytes / (4 * numbers));
  return std::max(most / kLeastPoints, int64_t(1)) * kLeastPoints - 1;
}

constexpr int64_t aligned(int64_t n) { return (n + 15) / 16 * 16; }  // to whole cache lines

// Hands out one piece of memory after the other.
struct Memory {
  explicit Memory(float* start) : next(start) {}
  float* operator()(int64_t count) {
    float* found = next;
    next += aligned(count);
    return found;
  }
  float* next;
};

// b in each of the first `points` rows, and 0 in the others: products are added to it.
inline void biases(const float* bias, int64_t points, int64_t rows, int64_t outputs, float* z) {
  const int64_t filled = bias ? points : 0;
  for (int64_t n = 0; n < filled; ++n) std::copy(bias, bias + outputs, z + n * outputs);
  std::fill(z + filled * outputs, z + rows * outputs, float(0));
}

}  // namespace manualbp
