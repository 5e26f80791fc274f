// e^x and what is made of it, in a third of the time of a library's function that is right to the
// last bit. These are off by at most 2.2 units of it, by 0.3 in the mean.
#pragma once
#include "tiles/simd.h"

namespace manualbp {

struct Exponential {
  Vec power, less_one;  // e^x, e^x - 1
};

// Of x <= 0. With n the whole number next to x / ln 2 and r the rest, at most half of ln 2:
//     e^x = 2^n e^r,   e^r - 1 = r + r^2 / 2! + ... + r^7 / 7!
inline Exponential exponential(const Vec& x) {
  using at::vec::fmadd;
  using Int = at::vec::Vectorized<int32_t>;
  // Added to a number it leaves its whole part in the last bits, and 127 more: a power's exponent.
  const Vec to_bits = number(3 << 22) + number(127);
  const Vec least = at::vec::clamp_min(x, number(-88));  // 2^n is 0 there
  const Vec bits = fmadd(least, number(1.4426950408889634), to_bits);
  const Vec power = at::vec::cast<float>(at::vec::cast<int32_t>(bits) << Int(23));
  const Vec r = fmadd(bits - to_bits, number(-0.6931471805599453), least);
  Vec sum = number(1.0 / 5040);
  for (const double factorial : {720, 120, 24, 6, 2}) sum = fmadd(sum, r, number(1 / factorial));
  const Vec rest = fmadd(sum * r, r, r);
  return {fmadd(power, rest, power), fmadd(power, rest, power - number(1))};
}

// tanh |x| = 1 - 2 e / (1 + e) with e = e^(-2 |x|), and of a small x (1 - e) / (1 + e). It has the
// sign of x.
inline Vec tanh(const Vec& x) {
  const Vec size = x.abs(), large = size > number(0.55);
  const auto [e, less_one] = exponential(number(-2) * size);
  const Vec part = where(large, e + e, less_one) / (number(2) + less_one);
  return (where(large, number(1), number(0)) - part) | (x & number(-0.0));
}

}  // namespace manualbp
