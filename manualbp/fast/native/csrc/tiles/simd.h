// Rows of numbers, a register at a time.
//
// A Vec is one register: 16 floats with AVX512, 8 with AVX2. `a * b` of two of them multiplies
// number by number, so formulas read as they do for one number.
#pragma once
#include <ATen/cpu/vec/vec.h>

#include <cstdint>

namespace manualbp {

using Vec = at::vec::Vectorized<float>;

// A number in all places of a register.
inline Vec number(double value) { return Vec(static_cast<float>(value)); }

// body(i, count) for i = 0, Vec::size(), ...: count numbers from i on. Fewer than a register holds
// come last, if at all. Flatten: all of a body's formulas become one loop, without a call.
template <typename Body>
__attribute__((flatten)) inline void sweep(int64_t n, Body body) {
  int64_t i = 0;
  for (; i + Vec::size() <= n; i += Vec::size()) body(i, Vec::size());
  if (i < n) body(i, n - i);
}

inline Vec load(const float* from, int64_t count) {
  return count == Vec::size() ? Vec::loadu(from) : Vec::loadu(from, count);
}

inline void store(const Vec& value, float* to, int64_t count) {
  if (count == Vec::size()) {
    value.store(to);
  } else {
    value.store(to, count);
  }
}

// yes where mask holds, else no.
inline Vec where(const Vec& mask, const Vec& yes, const Vec& no) {
  return Vec::blendv(no, yes, mask);
}

// The numbers of a register added up, the first `count` of them.
inline float sum(const Vec& value, int64_t count = Vec::size()) {
  float parts[Vec::size()], total = 0;
  value.store(parts);
  for (int64_t i = 0; i < count; ++i) total += parts[i];
  return total;
}

}  // namespace manualbp
