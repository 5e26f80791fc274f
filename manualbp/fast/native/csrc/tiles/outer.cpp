#include "tiles/outer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "tiles/product.h"
#include "tiles/simd.h"

namespace manualbp {

namespace {

constexpr int64_t kVec = Vec::size();
// A block of C stays in registers: so many rows, and registers of columns. 24 of 32, or 12 of 16.
constexpr int kHigh = 6, kAcross = kVec == 16 ? 4 : 2;
constexpr int64_t kDeep = 128;    // rows that are added up there: their h stays in the first cache
constexpr int64_t kNarrow = 256;  // columns of h up to which brgemm with G^T takes longer

struct Block {
  int64_t R, O, I, apart;  // rows, columns of G and of C, and from one row of H to the next
  const float *G, *H;      // from the block's first column on
  float* C;
  int64_t last;  // columns of C in its last register
  bool add;
};

// C = sum_r g_r^T h_r. Unrolled, so that the compiler finds a register for every sum.
template <int high, int wide>
void block(const Block& b) {
  Vec sums[high][wide];
  const float *g = b.G, *h = b.H;
  const int64_t R = b.R, O = b.O, apart = b.apart;
#pragma GCC unroll 8
  for (int o = 0; o < high; ++o) {
#pragma GCC unroll 8
    for (int v = 0; v < wide; ++v) sums[o][v] = number(0);
  }
  for (int64_t r = 0; r < R; ++r, g += O, h += apart) {
    Vec row[wide];
#pragma GCC unroll 8
    for (int v = 0; v < wide; ++v) row[v] = Vec::loadu(h + v * kVec);
#pragma GCC unroll 8
    for (int o = 0; o < high; ++o) {
      const Vec each(g[o]);
#pragma GCC unroll 8
      for (int v = 0; v < wide; ++v) sums[o][v] = at::vec::fmadd(each, row[v], sums[o][v]);
    }
  }
#pragma GCC unroll 8
  for (int o = 0; o < high; ++o) {
#pragma GCC unroll 8
    for (int v = 0; v < wide; ++v) {
      const int64_t columns = v + 1 < wide ? kVec : b.last;
      float* to = b.C + o * b.I + v * kVec;
      store(b.add ? load(to, columns) + sums[o][v] : sums[o][v], to, columns);
    }
  }
}

// block<1, 1>, block<1, 2>, ...
constexpr auto kBlocks = []<size_t... i>(std::index_sequence<i...>) {
  return std::array{&block<i / kAcross + 1, i % kAcross + 1>...};
}(std::make_index_sequence<kHigh * kAcross>());

}  // namespace

void outer_products(int64_t R, int64_t O, int64_t I, const float* G, const float* H, float* turned,
                    float* C, bool add) {
  if (I > kNarrow) {
    transposed(G, R, O, O, turned, R);
    product(O, I, R, turned, R, H, I, C, I, add);
    return;
  }
  alignas(64) float copied[kDeep * kAcross * kVec];
  for (int64_t r = 0; r < R; r += kDeep) {
    const int64_t rows = std::min(kDeep, R - r);
    for (int64_t i = 0; i < I; i += kAcross * kVec) {
      const int64_t columns = std::min(kAcross * kVec, I - i), wide = (columns + kVec - 1) / kVec;
      const int64_t last = columns - (wide - 1) * kVec;
      const float* h = H + r * I + i;
      int64_t apart = I;
      if (last < kVec) {  // whole registers: what lies behind C's columns is not stored
        apart = wide * kVec;
        for (int64_t n = 0; n < rows; ++n, h += I) {
          for (int64_t v = 0; v < columns; v += kVec)
            load(h + v, std::min(kVec, columns - v)).store(copied + n * apart + v);
        }
        h = copied;
      }
      for (int64_t o = 0; o < O; o += kHigh) {
        const int64_t high = std::min<int64_t>(kHigh, O - o);
        kBlocks[(high - 1) * kAcross + wide - 1](
            {rows, O, I, apart, G + r * O + o, h, C + o * I + i, last, add || r > 0});
      }
    }
  }
}

}  // namespace manualbp
